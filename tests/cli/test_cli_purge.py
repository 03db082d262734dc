"""
``purge``: old rows go, and the other commands still tell what they were.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from tokenbudget_mw.cli import BAD_USE, OK
from tokenbudget_mw.database.tables import usage
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord


@pytest.fixture
def aged(engine):
    """
    A request a day for ten days, the newest an hour ago.
    """
    newest = int((datetime.now(UTC) - timedelta(hours=1)).timestamp()) * 10**6
    records = [
        UsageRecord(
            id=f"r{day}",
            instance_id="i",
            sequence=10 - day,
            created_at_us=newest - day * 86_400_000_000,
            method="POST",
            path="/",
            response_model="gpt-4o",
            account="tenant:acme",
            key_id="k1",
            cost_pico=10**12,
        )
        for day in range(10)
    ]
    DatabaseSink(engine).write(records)


def test_purge_deletes_what_is_older(run, aged, engine, sqlite_database):
    """Rows older than the age are gone, and the command says how many."""
    ran = run("purge", "--older-than", "3d", "--database", sqlite_database)
    again = run("purge", "--older-than", "3 days", "--database", sqlite_database, "--json")

    with engine.connect() as connection:
        left = connection.scalar(select(func.count()).select_from(usage))
    assert (ran.code, again.code, left) == (OK, OK, 3)
    assert ran.out.startswith("7 rows from before ")
    assert (again.json["rows"], again.json["batches"]) == (0, 0)


@pytest.mark.parametrize("by", ["model", "day", "key", "account"])
def test_usage_of_purged_rows_is_still_told(run, aged, sqlite_database, by):
    """What was used is the same before and after, by whatever it is asked."""
    argv = "usage", "--by", by, "--days", "30", "--database", sqlite_database, "--json"
    before = run(*argv).json

    run("purge", "--older-than", "3d", "--database", sqlite_database)
    after = run(*argv).json

    assert before["total"]["cost_pico"] == 10 * 10**12
    assert (after["lines"], after["total"]) == (before["lines"], before["total"])


def test_usage_that_lacks_purged_rows_says_so(run, aged, sqlite_database):
    """Parts of days, and the routes of a key, are added up from rows: where some were deleted, that is told with the rest."""
    noon = (datetime.now(UTC) - timedelta(days=8)).strftime("%Y-%m-%dT00:00:01")
    argv = "usage", "--since", noon, "--database", sqlite_database
    before = run(*argv, "--json").json

    run("purge", "--older-than", "3d", "--database", sqlite_database)
    part, of_key = (
        run(*argv, "--json").json,
        run("usage", "--by", "route", "--key", "k1", "--database", sqlite_database),
    )

    assert (before["whole"], part["whole"]) == (True, False)
    assert part["total"]["requests"] < before["total"]["requests"]
    assert "so there was more" in run(*argv).out
    assert "so there was more" in of_key.out
    assert run("usage", "--days", "2", "--by", "route", "--key", "k1", "--database", sqlite_database, "--json").json[
        "whole"
    ]


def test_purged_books_are_verified(run, aged, sqlite_database):
    """`verify` closes the books with the sums of what was deleted, and says how much that was."""
    run("purge", "--older-than", "3d", "--database", sqlite_database)

    ran = run("verify", "--database", sqlite_database)
    result = run("verify", "--database", sqlite_database, "--json").json

    assert (ran.code, result["verified"]) == (OK, True)
    assert (result["rows"], result["purged"], result["purged_pico"]) == (3, 7, 7 * 10**12)
    assert "purged" in ran.out


@pytest.mark.parametrize("age", ["soon", "90", "12h", "0d", "999999999999d"])
def test_an_age_must_be_one(run, aged, sqlite_database, age):
    """No age, or one of less than a day, deletes nothing."""
    ran = run("purge", "--older-than", age, "--database", sqlite_database)

    assert ran.code == BAD_USE
    assert "--older-than" in ran.err
    assert run("verify", "--database", sqlite_database, "--json").json["rows"] == 10
