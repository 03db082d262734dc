"""
``tokenbudget-mw export``: usage rows for other programs.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from query_plans import plan, scans

from tokenbudget_mw.database import exporting
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.exporting import COLUMNS, page, rows_of
from tokenbudget_mw.database.rerating import Selection, rerate
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.values import Price, UsageRecord

DAY = timedelta(days=1)
START = datetime(2023, 11, 15, tzinfo=UTC)
US = 1_000_000


def at(moment):
    return {"created_at_us": int(moment.timestamp()) * US}


def test_csv_tells_every_column_of_the_time(run, write, sqlite_database):
    """From the first moment to just before the last, oldest first; costs are exact dollars."""
    write(**at(START - timedelta(seconds=1)))
    write(**at(START + DAY), cost_pico=7)
    write(**at(START), cost_pico=10**12 + 1, tags={"feature": "search"})
    write(**at(START + 2 * DAY))

    span = ("--since", "2023-11-15", "--until", "2023-11-17")
    rows = list(csv.DictReader(io.StringIO(run("export", *span, "--database", sqlite_database).out)))

    assert tuple(rows[0]) == (*COLUMNS, "cost_usd")
    assert [(row["created_at"], row["cost_usd"]) for row in rows] == [
        ("2023-11-15T00:00:00+00:00", "1.000000000001"),
        ("2023-11-16T00:00:00+00:00", "0.000000000007"),
    ]
    assert json.loads(rows[0]["tags"]) == {"feature": "search"}


def test_rows_are_chosen_by_their_owner(run, write, sqlite_database):
    """Of an account, a key, a user, a project; together, all of them must fit."""
    write(**at(START), key_id="k1", account="tenant:a", user_id="u1", project_id="p1")
    write(**at(START), key_id="k2", account="tenant:a", user_id="u1", project_id="p2")
    write(**at(START), key_id="k3", account="tenant:b", user_id="u2", project_id="p1")

    def keys(*argv):
        out = run("export", "--since", "2023-11-15", "--format", "jsonl", "--database", sqlite_database, *argv).out
        return [json.loads(line)["key_id"] for line in out.splitlines()]

    assert keys() == ["k1", "k2", "k3"]
    assert keys("--account", "tenant:a") == ["k1", "k2"]
    assert keys("--project", "p1") == ["k1", "k3"]
    assert keys("--project", "p1", "--user", "u1") == ["k1"]
    assert keys("--key", "nobody") == []


@pytest.mark.parametrize(
    "name", ["=cmd()", "+1+1", "-2+3", "@sum", "\tx", "\n=cmd()", "\uff1dcmd()", "\uff0b1", "\uff0d1", "\uff20sum"]
)
def test_no_cell_is_a_formula(run, write, sqlite_database, name):
    """What a client has chosen does nothing in a spreadsheet; numbers below zero stay numbers, and JSON tells it as it is."""
    write(**at(START), request_model=name)
    argv = ("export", "--since", "2023-11-15", "--database", sqlite_database)

    (row,) = csv.DictReader(io.StringIO(run(*argv).out))
    line = json.loads(run(*argv, "--format", "jsonl").out)

    assert row["request_model"] == f"'{name}"
    assert line["request_model"] == name
    assert (line["tags"], line["is_stream"]) == ({}, False)


def test_a_time_that_ends_before_it_begins_ends_with_2(run, engine, sqlite_database):
    """It says why, and prints nothing."""
    argv = ("--since", "2023-11-15", "--until", "2023-11-15")
    ran = run("export", *argv, "--database", sqlite_database)

    assert (ran.code, ran.out, ran.err.splitlines()[-1]) == (2, "", "--until does not lie after --since.")


def test_pages_miss_nothing_on_every_database(database_url, monkeypatch):
    """Rows of one moment at the border of a page come once; a corrected row tells its cost and the correction."""
    monkeypatch.setattr(exporting, "PAGE", 3)
    engine = open_engine(database_url)
    metadata.create_all(engine)
    common = {"instance_id": "b" * 32, "method": "POST", "path": "/", "request_model": "m", "account": "tenant:a"}
    moments = [START, START, START, START, START, START + DAY, START + DAY]
    records = [
        UsageRecord(id=f"r{number}", sequence=number, cost_pico=3, input_tokens=1, **at(moment), **common)
        for number, moment in enumerate(moments, 1)
    ]
    DatabaseSink(engine).write(records)
    cheaper = Tariffs([Price("p", "m", 1, 1)], lambda _: (), "flag", Price("c", "*", 1, 1), str)
    rerate(engine, cheaper, Selection(START + DAY, START + 2 * DAY), apply=True)

    rows = list(rows_of(engine, START, START + 2 * DAY, account="tenant:a"))
    with engine.connect() as connection:
        pages = [
            page(START, START + DAY, owner, after)
            for owner in ({}, {"account": "tenant:a"}, {"key_id": "k"})
            for after in (None, (START, "r3"))
        ]
        plans = [plan(connection, wanted) for wanted in pages]
    engine.dispose()

    assert [row["id"] for row in rows] == [record.id for record in records]
    assert [(row["cost_pico"], row["corrected_pico"]) for row in rows] == [(3, 0)] * 5 + [(3, -2)] * 2
    assert {row["created_at"] for row in rows} == {START, START + DAY}
    assert [found for found in plans if scans(found)] == []
