"""
``tokenbudget-mw dead-letters``: from a record that was refused to a row.
"""

from __future__ import annotations

import json

import msgspec
import pytest
from sqlalchemy import insert, select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.letters import LetterStore
from tokenbudget_mw.values import UsageRecord

FIELDS = {"instance_id": "1" * 32, "created_at_us": 1_700_000_000_000_000, "method": "POST", "path": "/v1"}


@pytest.fixture
def letters(run, sqlite_database):
    """
    Run the command.
    """
    return lambda action, *argv: run("dead-letters", action, "--database", sqlite_database, *argv)


@pytest.fixture
def refuse(engine):
    """
    Keep a record as a dead letter, and return its id.
    """
    store = LetterStore(engine)

    def refuse(number=1, **fields):
        record = UsageRecord(id=f"{number:032x}", sequence=number, **(FIELDS | {"cost_pico": -5} | fields))
        known = {letter.id for letter in store.find()}
        store.keep(msgspec.structs.asdict(record), "PermanentSinkError")
        return next(letter.id for letter in store.find() if letter.id not in known)

    return refuse


def test_every_letter_is_listed_and_counted(run, letters, refuse, engine, sqlite_database):
    """The newest of many are not left out, and `doctor` counts all of them."""
    refuse()
    with engine.begin() as connection:
        row = dict(connection.execute(select(tables.dead_letters)).mappings().one())
        connection.execute(insert(tables.dead_letters), [row | {"id": f"{at:032}"} for at in range(1001)])

    assert len(letters("list", "--json").json["letters"]) == 1002
    assert "1,002 usage records could not be written" in run("doctor", "--database", sqlite_database).out


def test_t14_a_letter_is_looked_at_mended_and_replayed(letters, refuse, run, sqlite_database):
    """It is listed, shown whole, refused again as it is, written once mended, and then gone."""
    letter = refuse(account="tenant:acme", request_model="gpt-4o")

    listed, shown = letters("list").out, letters("show", letter[:8]).out
    refused = letters("replay", letter[:8])
    mended = letters(
        "mend", letter[:8], "--set", "cost_pico=12", "--set", "tags={}", "--set", "request_model=gpt-4o-mini"
    )
    written = letters("replay", "--all", "--json").json

    assert letter[:12] in listed
    assert "tenant:acme" in listed
    assert "cost_pico: -5" in shown
    assert (refused.code, "`cost_pico` takes whole numbers" in refused.out) == (1, True)
    assert mended.code == 0
    assert written == {"written": 1, "known": 0, "refused": 0}
    assert letters("list").out == "There are none.\n"
    usage = run("usage", "--database", sqlite_database, "--since", "2023-11-01", "--json").json
    assert (usage["lines"][0]["model"], usage["total"]["cost_pico"]) == ("gpt-4o-mini", 12)
    assert run("verify", "--database", sqlite_database).code == 0


def test_a_letter_is_dropped(letters, refuse):
    """Those that are named are forgotten, the others stay."""
    first, second = refuse(1), refuse(2)

    assert letters("drop", first).out == "1 dropped.\n"
    assert [each["id"] for each in letters("list", "--json").json["letters"]] == [second]


def test_letters_come_from_a_spools_file(letters, engine, tmp_path):
    """What went to the file while there was no table is loaded, once however often."""
    path = tmp_path / "dead-letters.jsonl"
    path.write_text(json.dumps({"error": "E", "record": {"id": "1", "path": "/\ud800"}}) + "\n")

    for _ in range(2):
        assert letters("load", path).code == 0
    assert len(letters("list", "--json").json["letters"]) == 1
    assert letters("list").code == 0


def test_a_line_that_was_torn_holds_up_no_other(letters, engine, tmp_path):
    """A process may be killed, or a disk fill up, in the midst of a letter: the others are loaded, and its line is named."""
    path = tmp_path / "dead-letters.jsonl"
    whole = [json.dumps({"error": "E", "record": {"id": str(number)}}) for number in range(2)]
    path.write_bytes(f"{whole[0]}\n{whole[1][:20]}".encode() + b"\xff\n" + f'["no letter"]\n{whole[1]}\n'.encode())

    ran = letters("load", path)

    assert ran.code == 1
    assert ran.out.splitlines() == [
        "Line 2 is no whole letter, and stays in the file alone.",
        "Line 3 is no whole letter, and stays in the file alone.",
        "2 loaded. The file stays; loading it again changes nothing.",
    ]
    assert len(letters("list", "--json").json["letters"]) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("load", __file__), "no line of it is a letter"),
        (("show", "zz"), "No letter begins with 'zz'"),
        (("replay",), "Give the ids"),
        (("mend", "{id}", "--set", "cost"), "'cost' is no change"),
        (("mend", "{id}", "--set", "cost=1"), "no field 'cost'"),
        (("load", "/nowhere"), "cannot be read (FileNotFoundError)"),
        (("show", ""), "Several letters begin with ''"),
    ],
)
def test_what_makes_no_sense_ends_with_2(letters, refuse, argv, message):
    """It says what is wrong, and changes nothing."""
    first = refuse(1)
    refuse(2)
    before = letters("list", "--json").out

    ran = letters(argv[0], *(word.format(id=first) for word in argv[1:]))

    assert (ran.code, message in ran.err) == (2, True), ran
    assert letters("list", "--json").out == before
