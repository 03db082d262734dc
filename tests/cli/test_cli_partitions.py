"""
``partitions``: from a plain table to one of partitions and what is done with them, by the commands alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tokenbudget_mw.cli import BAD_USE, OK
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.partitions.spans import span_of
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord


@pytest.fixture
def sink(postgres_database):
    """
    A sink in a PostgreSQL database with our tables.
    """
    engine = open_engine(postgres_database)
    metadata.create_all(engine)
    yield DatabaseSink(engine)
    engine.dispose()


def record(number, at):
    """
    Return a record of the moment *at*.
    """
    return UsageRecord(
        id=f"r{number}", instance_id="i", sequence=number, created_at_us=int(at.timestamp()) * 10**6, method="POST",
        path="/", account="tenant:acme", cost_pico=number,
    )  # fmt: skip


def test_a_life_in_partitions(run, sink, postgres_database):
    """
    Opt in, write, list, detach, attach, drop, make ahead: each says what it did, and the proof holds all the while.
    """
    now = datetime.now(UTC)
    name = span_of(now + timedelta(days=3), "day").name
    sink.write([record(1, now)])

    def partitions(*words):
        return run("partitions", *words, "--database", postgres_database, "--json")

    on = partitions("on", "--every", "day")
    sink.write([record(2, now + timedelta(days=3))])
    listed = partitions("list").json["partitions"]
    detached, attached, dropped = (partitions(action, name) for action in ("detach", "attach", "drop"))
    ahead = partitions("ahead", "--count", "20")
    verified = run("verify", "--database", postgres_database)

    assert (on.code, on.json["rows"]) == (OK, 1)
    assert {part["name"] for part in listed} >= {name, "tokenbudget_usage_before", "tokenbudget_usage_rest"}
    assert [done.json["rows"] for done in (detached, attached, dropped)] == [1, 1, 1]
    assert len(ahead.json["made"]) >= 4
    assert verified.code == OK, verified.out


def test_words_for_people(run, sink, postgres_database):
    """
    Without ``--json`` each answer is a sentence or a table.
    """
    database = "--database", postgres_database

    assert run("partitions", "list", *database).out == "There are none.\n"
    assert "has a partition a month from" in run("partitions", "on", *database).out
    assert run("partitions", "ahead", *database).out == "All of them are there.\n"
    assert run("partitions", "list", *database).out.startswith("partition ")
    assert "0 partitions" not in run("purge", "--older-than", "90d", *database).out


def test_partition_in_use_is_not_dropped(run, sink, postgres_database):
    """
    The partition to which rows of this moment go stays, with its rows, and it is said what deletes old ones.
    """
    database = "--database", postgres_database
    sink.write([record(1, datetime.now(UTC))])
    run("partitions", "on", *database)

    ran = run("partitions", "drop", "tokenbudget_usage_before", *database)

    assert (ran.code, "rows of this moment go there" in ran.err) == (BAD_USE, True)
    assert "on 1 row" in run("verify", *database).out.splitlines()[0]


def test_what_cannot_be_done_is_said(run, engine, sqlite_database):
    """
    Another database, a count below zero, no action: a sentence and the code of bad use.
    """
    database = "--database", sqlite_database

    for words in (["on"], ["list"], ["drop", "x"], ["ahead", "--count", "-1"], []):
        ran = run("partitions", *words, *database)
        assert (ran.code, bool(ran.err)) == (BAD_USE, True)
    for words in (["on"], ["drop", "x"], ["attach", "x"]):
        assert "Partitions are for PostgreSQL; this database is sqlite." in run("partitions", *words, *database).err
