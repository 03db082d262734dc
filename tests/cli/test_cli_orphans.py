"""
``tokenbudget-mw orphans``: what a call is charged whose process died, decided once by a person.
"""

from __future__ import annotations

import threading
import time

import pytest

from tokenbudget_mw.database.reviewing import decide, waiting
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.wiring import open_tariffs

HELD = {"orphan.input": "90", "orphan.held_input": "100", "orphan.held_output": "500"}
INPUT, OUTPUT = 2_500_000, 10_000_000  # gpt-4o, pico-dollars a token


@pytest.fixture
def orphans(run, sqlite_database):
    """
    Run the command.
    """
    return lambda action, *argv: run("orphans", action, "--database", sqlite_database, *argv)


@pytest.fixture
def orphan(write):
    """
    Write the row of a call that waits, and return its id.
    """

    def orphan(number=1, **fields):
        values = {
            "id": f"{number:032x}",
            "instance_id": "a" * 32 + "-o",
            "sequence": number,
            "created_at_us": int((time.time() - 60) * 1e6),
            "settle_reason": "orphaned_review",
            "usage_source": "none",
            "tags": HELD,
        }
        nothing = dict.fromkeys(("input_tokens", "output_tokens", "cost_pico"), 0)
        write(**(values | nothing | fields))
        return values["id"]

    return orphan


@pytest.mark.parametrize(
    ("how", "cost"),
    [
        (("--as", "reserved"), 100 * INPUT + 500 * OUTPUT),
        (("--as", "input"), 90 * INPUT),
        (("--as", "refund"), 0),
        (("--tokens", "88", "40"), 88 * INPUT + 40 * OUTPUT),
    ],
)
def test_a_decision_is_charged_once(orphans, orphan, run, sqlite_database, how, cost):
    """What is decided is in the books at the price of the call's moment, and the call waits no more."""
    row = orphan()

    listed = orphans("list").out
    first, again = orphans("settle", row, *how, "--json").json, orphans("settle", row, *how, "--json").json

    assert row in listed
    assert (first["settled"], first["cost_pico"]) == (1, cost)
    assert (again["settled"], again["not_waiting"]) == (0, [row])
    assert orphans("list").out == "None waits.\n"
    assert run("usage", "--database", sqlite_database, "--days", "2", "--json").json["total"]["cost_pico"] == cost
    assert run("verify", "--database", sqlite_database).code == 0


def test_rows_of_one_call_beyond_a_thousand_are_decided_each(orphans, orphan, run, sqlite_database):
    """What is decided of a row with the same number and another instance is charged, too."""
    orphan(1, sequence=7), orphan(2, sequence=7, instance_id="a" * 32 + "-o1")

    ran = orphans("settle", "--all", "--as", "input", "--json").json

    total = run("usage", "--database", sqlite_database, "--days", "2", "--json").json["total"]["cost_pico"]
    assert (ran["settled"], ran["cost_pico"], total) == (2, 2 * 90 * INPUT, 2 * 90 * INPUT)


def test_all_that_wait_are_settled(orphans, orphan, write):
    """`--all` takes those that wait, and no other row."""
    orphan(1), orphan(2, request_model="gpt-4o-mini")
    write(created_at_us=int(time.time() * 1e6))
    ran = orphans("settle", "--all", "--as", "input", "--json").json

    assert (ran["settled"], ran["cost_pico"]) == (2, 90 * INPUT + 90 * 150_000)


def test_two_that_decide_at_once_charge_once(orphan, engine, sqlite_database):
    """Of many decisions at the same moment, one holds."""
    orphan()
    tariffs: Tariffs = open_tariffs(Settings.from_mapping({"database": sqlite_database}), engine)
    (call,) = waiting(engine, since=call_began())
    barrier, done = threading.Barrier(4), []

    def race(rule):
        barrier.wait()
        done.append(decide(engine, call, tariffs=tariffs, rule=rule))

    threads = [threading.Thread(target=race, args=(rule,)) for rule in ("reserved", "refund", "input", "reserved")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [each.is_new for each in done].count(True) == 1
    assert waiting(engine, since=call_began()) == []


def call_began():
    """A moment before it."""
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) - timedelta(days=1)


def test_older_calls_are_found_by_their_date(orphans, orphan):
    """Those of the last 90 days are looked for, unless a date is given."""
    row = orphan(created_at_us=1_700_000_000_000_000)

    assert orphans("list").out == "None waits.\n"
    assert row in orphans("list", "--since", "2023-11-01").out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--as", "input"), "Give the ids of rows"),
        (("x", "--tokens", "-1", "2"), "not negative"),
        (("x",), "required"),
        (("x", "--as", "review"), "invalid choice"),
    ],
)
def test_what_makes_no_sense_ends_with_2(orphans, engine, argv, message):
    """It says what is wrong."""
    ran = orphans("settle", *argv)

    assert (ran.code, message in ran.err) == (2, True)


def test_the_doctor_tells_of_them(run, orphan, sqlite_database):
    """Calls that wait, and letters, are warnings."""
    orphan()

    assert "1 call of processes that died to be decided" in run("doctor", "--database", sqlite_database).out
