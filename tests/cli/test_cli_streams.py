"""
The command line where streams are closed, full, gone or of another encoding, and where somebody presses Ctrl-C.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tokenbudget_mw.cli import BAD_USE, COMMANDS, OK

NAME = "Zürich-日本"
START = "2023-11-14"


@pytest.fixture
def shell(engine, sqlite_database):
    """Run a command in a process of its own, on the database of `engine`."""

    def shell(*argv, **options):
        command = [sys.executable, "-m", "tokenbudget_mw", *argv, "--database", sqlite_database]
        environ = {**os.environ, **options.pop("environ", {})}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.run(command, check=False, env=environ, **options)

    return shell


def closed(number):
    """A way to start a process whose file *number* is closed, as ``>&-`` does."""
    return {"preexec_fn": lambda: os.close(number)}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_name_that_the_terminal_lacks_is_escaped(shell, write, encoding):
    """A table is shown whole on a terminal that is not UTF-8, with what it cannot show escaped."""
    write(account=f"tenant:{NAME}")

    ran = shell("usage", "--by", "account", "--since", START, environ={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})

    assert (ran.returncode, ran.stderr) == (OK, b"")
    assert rb"\u65e5\u672c" in ran.stdout
    assert b"total" in ran.stdout


@pytest.mark.parametrize(
    "argv",
    [("export", "--since", START), ("invoice", f"tenant:{NAME}", "--month", "2023-11", "--csv")],
    ids=lambda argv: argv[0],
)
def test_csv_is_utf8_wherever_it_is_made(shell, write, argv):
    """A file for other programs is the same from a terminal of any encoding."""
    write(account=f"tenant:{NAME}")

    told = {shell(*argv, environ={"PYTHONIOENCODING": encoding}).stdout for encoding in ("utf-8", "ascii", "latin-1")}

    assert len(told) == 1
    assert f"tenant:{NAME}" in told.pop().decode()


@pytest.mark.parametrize("argv", [("usage",), ("usage", "--json"), ("export", "--since", START), ("verify",)])
def test_a_full_disk_is_told(shell, write, argv):
    """Output that cannot be written ends with 2 and a sentence, never as if it were whole."""
    write()

    with Path("/dev/full").open("wb") as full:
        ran = shell(*argv, stdout=full)

    assert ran.returncode == BAD_USE
    assert ran.stderr == b"The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize("argv", [("usage",), ("export", "--since", START), ("verify", "--json")])
def test_a_closed_stdout_takes_nothing(shell, write, argv):
    """Whoever closes the output wants the exit code alone."""
    write()

    ran = shell(*argv, **closed(1))

    assert (ran.returncode, ran.stderr) == (OK, b"")


def test_a_closed_stderr_leaves_stdout_to_the_result(shell):
    """An error goes to nobody rather than into the answer."""
    ran = shell("usage", "--days", "0", **closed(2))

    assert (ran.returncode, ran.stdout) == (BAD_USE, b"")


@pytest.mark.parametrize("argv", [["--help"], ["usage", "--help"], ["--version"]])
def test_help_for_a_reader_that_has_gone_is_quiet(argv):
    """``--help | head`` ends without a word of Python's."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tokenbudget_mw", *argv]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, env=environ)
    os.close(writer)

    assert (ran.returncode, ran.stderr) == (BAD_USE, b"")


@pytest.mark.parametrize(
    "argv",
    [("money", "balance", "tenant:\udcff"), ("keys", "create", "--name", "\udcff"), ("usage", "--key", "\udcff")],
)
def test_an_argument_that_is_no_text_is_refused(run, sqlite_database, argv):
    """Bytes that the locale cannot read are no name of anybody: nothing is looked up or written by them."""
    ran = run(*argv, "--database", sqlite_database)

    assert (ran.code, ran.out) == (BAD_USE, "")
    assert f"{argv[-1]!r} is no text in this locale's encoding." in ran.err


def test_an_interrupt_while_a_command_loads_is_quiet(run, monkeypatch):
    """Ctrl-C before the command begins ends as it does later."""
    from tokenbudget_mw.cli import verify

    def interrupted(parser):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "add_arguments", interrupted)

    ran = run("verify")

    assert (ran.code, ran.err) == (BAD_USE, "Interrupted.\n")


# -- answers for programs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("usage", "--json", "--days", "0"), "--days"),
        (("usage", "--json", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("verify", "--json", "--database", "sqlite:////nowhere/books.db"), "There is no database"),
        (("verify", "--json", "--database", "postgresql://app:canary-secret@127.0.0.1:1/app"), "cannot be used"),
        (("doctor", "--json", "--config", "missing.toml"), "No such file"),
        (("money", "balance", "nobody", "--json"), "is no account"),
    ],
)
def test_an_error_is_json_too(run, argv, word):
    """With ``--json`` the output is one object, whatever happens; the words for people are beside it."""
    ran = run(*argv)

    assert ran.code == BAD_USE
    assert list(ran.json) == ["error"]
    assert word in ran.json["error"]
    assert word in ran.err
    assert "canary-secret" not in ran.out + ran.err


def test_migrate_prints_its_statements_as_json(run, sqlite_database):
    """``--sql --json`` is one object, too."""
    assert (
        "CREATE TABLE tokenbudget_usage" in run("migrate", "--sql", "--json", "--database", sqlite_database).json["sql"]
    )


NOTHING = [
    ("check",),
    ("dead-letters", "list"),
    ("dead-letters", "replay", "--all"),
    ("doctor",),
    ("invoice", "tenant:a", "--month", "2026-01"),
    ("keys", "list"),
    ("money", "balance", "tenant:a"),
    ("money", "expire"),
    ("orphans", "list"),
    ("orphans", "settle", "--all", "--as", "refund"),
    ("purge", "--older-than", "90d"),
    ("rerate", "--since", "2026-01-01"),
    ("tariffs", "list"),
    ("usage",),
    ("verify",),
]


@pytest.mark.parametrize("argv", NOTHING, ids=" ".join)
def test_nothing_is_json_too(run, engine, sqlite_database, argv):
    """On an empty database every answer is one strict JSON object, and nothing else is printed."""
    source = () if argv == ("check",) else ("--database", sqlite_database)

    ran = run(*argv, "--json", *source)

    assert isinstance(json.loads(ran.out, parse_constant=pytest.fail), dict)
    assert ran.err == ""


def test_every_command_is_looked_at():
    """A new command is one that either prints JSON on an empty database, or needs more than that."""
    more = {"count", "demo", "explain", "export", "migrate", "partitions", "reconcile", "replay"}

    assert {argv[0] for argv in NOTHING} | more == set(COMMANDS)


# -- names that clients choose ----------------------------------------------------------------------------------------

HOSTILE = "gpt\x1b]0;owned\x07\r\nThe books agree.\x9b2J\u202e\u2028"
ESCAPED = r"gpt\x1b]0;owned\x07\x0d\x0aThe books agree.\x9b2J\u202e\u2028"


@pytest.mark.parametrize("argv", [("usage", "--since", START), ("invoice", "key:k1", "--month", "2023-11")])
def test_no_name_steers_the_terminal(run, write, sqlite_database, argv):
    """What a client calls its model is shown in one line, without its control characters, and JSON tells it as it is."""
    write(request_model=HOSTILE)

    told = run(*argv, "--database", sqlite_database).out
    lines = run(*argv, "--json", "--database", sqlite_database).json

    (line,) = [line for line in told.split("\n") if "gpt" in line]
    assert line.startswith(ESCAPED)
    assert HOSTILE in [each["model"] for each in lines.get("lines") or lines["items"]]


def test_no_line_of_the_doctor_is_a_client_s(run, write, sqlite_database):
    """Nor is a model without a price told in more than a line."""
    write(request_model=HOSTILE, price_kind="unpriced", created_at_us=int(time.time() * 1e6))

    told = run("doctor", "--database", sqlite_database).out

    assert "\x1b" not in told
    assert not [line for line in told.splitlines() if line.startswith("The books agree.")]


def test_csv_keeps_every_character(run, write, sqlite_database):
    """A file is for programs: lines and controls inside of a field stay as they are."""
    write(request_model=HOSTILE)

    told = run("invoice", "key:k1", "--month", "2023-11", "--csv", "--database", sqlite_database).out

    assert HOSTILE in [row["model"] for row in csv.DictReader(io.StringIO(told, newline=""))]
