"""
The command line itself: choosing a command, exit codes, what goes wrong and how it is said.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tokenbudget_mw.cli import BAD_USE, COMMANDS, OK, context


def test_help_lists_every_command(run):
    """The top help names all commands and what they do."""
    ran = run("--help")

    assert ran.code == OK
    for name, what in COMMANDS.items():
        assert name in ran.out
        assert what.split(",")[0] in ran.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run, command):
    """Each command has a help of its own."""
    ran = run(command, "--help")

    assert ran.code == OK
    assert f"tokenbudget-mw {command}" in ran.out


@pytest.mark.parametrize("argv", [[], ["unknown"], ["verify", "--unknown"], ["keys"], ["replay"]])
def test_bad_use_is_2(run, argv):
    """What cannot be understood ends with 2 and a word on stderr."""
    ran = run(*argv)

    assert ran.code == BAD_USE
    assert ran.out == ""
    assert "usage:" in ran.err


def test_the_version_is_told(run):
    """`--version` prints the package's version."""
    import tokenbudget_mw

    assert run("--version").out.strip() == f"tokenbudget-mw {tokenbudget_mw.__version__}"


def test_wrong_settings_are_said_plainly(run, tmp_path):
    """A wrong setting ends with 2, its path and a suggestion, and no traceback."""
    config = tmp_path / "budget.json"
    config.write_text('{"backend": "memory://", "planz": {}}')

    ran = run("verify", "--config", config)

    assert ran.code == BAD_USE
    assert "planz" in ran.err
    assert "plans" in ran.err
    assert "Traceback" not in ran.err


def test_missing_tables_name_the_command_that_makes_them(run, sqlite_database):
    """On a database without our tables a command says to migrate."""
    Path(make_url(sqlite_database).database).touch()

    ran = run("verify", "--database", sqlite_database)

    assert ran.code == BAD_USE
    assert "tokenbudget-mw migrate" in ran.err
    assert f"missing in {sqlite_database}" in ran.err
    assert ran.out == ""


def test_a_missing_file_is_told_and_not_made(run, tmp_path):
    """A database that is looked for in the wrong folder is named, and no empty one is left there."""
    ran = run("usage", "--database", f"sqlite:///{tmp_path}/books.db")

    assert (ran.code, f"There is no database '{tmp_path}/books.db'." in ran.err) == (2, True)
    assert not [*tmp_path.iterdir()]


def test_a_reader_that_goes_away_ends_it_quietly(sqlite_database):
    """Output into a pipe that nobody reads any more, as with `| head`, ends without a traceback."""
    command = [sys.executable, "-m", "tokenbudget_mw", "migrate", "--sql", "--database", sqlite_database]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        err = running.stderr.read()

    assert (running.returncode, err) == (2, b"")


def test_a_database_that_does_not_answer_is_said_without_its_password(run):
    """A refused connection is one sentence, and the password of the URL is not in it."""
    ran = run("verify", "--database", "postgresql://app:canary-secret@127.0.0.1:1/app")

    assert ran.code == BAD_USE
    assert "database cannot be used" in ran.err
    assert "canary-secret" not in ran.err + ran.out
    assert "Traceback" not in ran.err


def test_an_unknown_database_is_said_plainly(run):
    """A URL of no known database ends with 2."""
    ran = run("verify", "--database", "oracle://host/app")

    assert ran.code == BAD_USE
    assert "oracle" in ran.err


def test_a_fault_of_ours_is_not_hidden(run, monkeypatch):
    """What is neither settings nor database shows its traceback, and ends with 2: a 1 would say that the books disagree."""
    from tokenbudget_mw.cli import verify

    def broken(context):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(verify, "run", broken)

    told, ran = run("verify"), run("verify", "--json")

    assert (told.code, told.out, ran.code) == (BAD_USE, "", BAD_USE)
    assert "Traceback" in told.err
    assert ran.json == {"error": "ZeroDivisionError: of ours"}


def test_an_interrupt_ends_quietly(run, monkeypatch):
    """Ctrl-C ends with 2 and no traceback."""
    from tokenbudget_mw.cli import verify

    def interrupted(context):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "run", interrupted)

    assert run("verify").code == BAD_USE


def test_a_reader_that_goes_ends_it_quietly():
    """Where the output goes to a reader that has left, as ``| head`` does, it ends with 2 and says nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tokenbudget_mw", "check"]
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, text=True)
    os.close(writer)

    assert (ran.returncode, ran.stderr) == (BAD_USE, "")


def test_help_imports_no_command_and_no_driver():
    """Asking for help loads neither SQLAlchemy nor a tokenizer nor any command."""
    code = (
        "import sys; from tokenbudget_mw.cli import main; main(['--help']);"
        "bad = [name for name in ('sqlalchemy', 'tiktoken', 'fastapi', 'asyncio', 'tokenbudget_mw.cli.demo')"
        " if name in sys.modules]; sys.exit(','.join(bad) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr


class TestConfig:
    """
    Where settings come from.
    """

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.json", '{"backend": "memory://a"}'),
            ("a.json", '{"tokenbudget": {"backend": "memory://a"}, "other": 1}'),
            ("a.toml", 'backend = "memory://a"'),
            ("pyproject.toml", '[project]\nname = "x"\n[tool.tokenbudget]\nbackend = "memory://a"'),
        ],
    )
    def test_files_are_read(self, tmp_path, name, text):
        """JSON and TOML files hold the settings themselves or in a table of ours."""
        path = tmp_path / name
        path.write_text(text)

        assert context.read_config(str(path)) == {"backend": "memory://a"}

    def test_a_dict_in_a_module_is_read(self, tmp_path, monkeypatch):
        """`module:NAME` is imported, from the working directory too."""
        (tmp_path / "budget_settings_of_this_test.py").write_text("TOKENBUDGET = {'backend': 'memory://m'}")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))

        found = context.read_config("budget_settings_of_this_test:TOKENBUDGET")

        assert found == {"backend": "memory://m"}

    @pytest.mark.parametrize(
        ("source", "word"),
        [
            ("missing.toml", "No such file"),
            ("nonsense", "module:NAME"),
            ("no_such_module:X", "no_such_module"),
            ("json:NOPE", "NOPE"),
            ("json:dumps", "not a dict"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, run, source, word):
        """A bad source ends with 2 and says why."""
        ran = run("verify", "--config", source)

        assert ran.code == BAD_USE
        assert word in ran.err

    def test_a_broken_file_is_named(self, run, tmp_path):
        """A file that is no TOML is said to be none."""
        path = tmp_path / "broken.toml"
        path.write_text("a = ")

        assert "no TOML" in run("verify", "--config", path).err

    def test_flags_hold_before_the_environment(self, run, monkeypatch, engine, sqlite_database):
        """`--database` wins over TOKENBUDGET_DATABASE, which wins over nothing."""
        monkeypatch.setenv("TOKENBUDGET_DATABASE", "postgresql://127.0.0.1:1/nowhere")

        assert run("verify", "--database", sqlite_database).code == OK
        assert run("verify").code == BAD_USE

    def test_the_host_s_settings_and_engine_are_used(self, run, engine):
        """A host that runs the command hands over its settings and its open database, which stays open."""
        from tokenbudget_mw.settings import Settings

        host = Settings.from_mapping({"database": "postgresql://127.0.0.1:1/nowhere"})

        assert run("verify", settings=host, engine=engine).code == OK
        assert run("verify", settings=host).code == BAD_USE

    def test_a_flag_holds_before_the_host(self, run, engine, sqlite_database):
        """`--database` also wins over the host's settings, and leaves the others as they are."""
        from tokenbudget_mw.settings import Settings

        host = Settings.from_mapping({"database": "postgresql://127.0.0.1:1/nowhere"})

        assert run("verify", "--database", sqlite_database, settings=host).code == OK


def test_tables_are_laid_out():
    """Numbers stand to the right, texts to the left, nothing is a dash."""
    lines = context.table(("model", "rows"), [("gpt-4o", 1234), (None, 5)])

    assert lines == ["model    rows", "gpt-4o  1,234", "-           5"]
