"""
``tokenbudget-mw tariffs``: prices that are added, listed and ended from a shell, and hold in the app.
"""

from __future__ import annotations

import pytest

from tokenbudget_mw import Subject
from tokenbudget_mw.charging import charge
from tokenbudget_mw.database import books
from tokenbudget_mw.wiring import wire


@pytest.fixture
def tariffs(run, engine, sqlite_database):
    """
    Run the command on a database with our tables.
    """
    return lambda *argv: run("tariffs", *argv[:1], "--database", sqlite_database, *argv[1:])


def test_add_list_end(tariffs):
    """A tariff is listed from its beginning to its end, in dollars per million tokens."""
    added = tariffs("add", "my-gpt", "--input", "2.50", "--output", "10", "--from", "2026-01-01", "--json").json
    ended = tariffs("end", added["id"], "--at", "2026-07-01T12:00:00+02:00", "--json").json
    found = tariffs("list", "--json").json["tariffs"]

    assert added["id"] == "stored/my-gpt@2026-01-01"
    assert (added["input"], added["output"], added["cache_read"]) == ("2.5", "10", None)
    assert found == [ended]
    assert ended["valid_until"] == "2026-07-01T10:00:00Z"
    assert tariffs("list", "--at", "2026-07-02", "--json").json == {"tariffs": []}
    assert "stored/my-gpt@2026-01-01" in tariffs("list").out


def test_every_condition_can_be_said(tariffs):
    """Purpose, batch window, service tier, length of the prompt and every class of tokens are options."""
    classes = ("--input=1", "--output=2", "--cache-read=3", "--cache-write=4", "--cache-write-1h=5", "--reasoning=6")
    audio = ("--audio-input=7", "--audio-output=8")
    conditions = ("--purpose=batch", "--completion-window=24h", "--service-tier=flex", "--above-input=200k")

    added = tariffs("add", "m", *classes, *audio, *conditions, "--from=2026-01-01", "--until=2026-02-01", "--json").json

    assert added["id"] == "stored/m+batch+24h+flex+>200000@2026-01-01"
    assert [added[name] for name in ("cache_read", "cache_write", "cache_write_1h", "reasoning")] == [
        "3",
        "4",
        "5",
        "6",
    ]
    assert (added["audio_input"], added["audio_output"]) == ("7", "8")
    assert (added["above_input"], added["valid_until"]) == (200_000, "2026-02-01T00:00:00Z")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("add", "m", "--input", "x", "--output", "1"), "'x' is not a number"),
        (("add", "m", "--input", "1", "--output", "1", "--from", "soon"), "'valid_from' is a date"),
        (
            ("add", "m", "--input", "1", "--output", "1", "--until", "9999-12-31T23:00-02:00"),
            "lies outside the calendar",
        ),
        (("add", "m", "--input", "1", "--output", "1", "--currency", "EUR"), "no rate is known for EUR"),
        (
            ("add", "m", "--input", "1", "--output", "1", "--purpose", "batsh"),
            "unknown purpose 'batsh'; did you mean 'batch'?",
        ),
        (("list", "--at", "9999-12-31T23:00-02:00"), "is too far away"),
        (("end", "nobody"), "There is no tariff 'nobody'"),
        (("end", "nobody", "--at", "soon"), "'soon' is no date"),
    ],
)
def test_what_makes_no_sense_ends_with_2(tariffs, argv, message):
    """A wrong price, date, currency or id is told, and nothing is stored."""
    ran = tariffs(*argv)

    assert ran.code == 2
    assert message in ran.err
    assert tariffs("list", "--json").json == {"tariffs": []}


def test_a_tariff_holds_in_the_app(tariffs, engine, sqlite_database):
    """What a shell adds is charged by an app that is wired afterwards, and its id stands on the row."""
    added = tariffs("add", "my-own", "--input", "3", "--output", "5", "--from", "2020-01-01", "--json").json
    core = wire({"database": sqlite_database, "identify": "ip", "spool": "memory"})

    charge(core, Subject(key="k"), {"usage": {"prompt_tokens": 10, "completion_tokens": 2}}, model="my-own")
    core.close()

    from sqlalchemy import select

    from tokenbudget_mw.database.tables import usage

    with engine.connect() as connection:
        rows = connection.execute(select(usage.c.cost_pico, usage.c.price_id)).all()
    assert [tuple(row) for row in rows] == [(40_000_000, added["id"])]
    assert books.verify(engine).verified
