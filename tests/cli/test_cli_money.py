"""
``tokenbudget-mw money`` and ``invoice``: what goes into an account, and what it owes.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tokenbudget_mw.database.rerating import Selection, rerate
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.values import Price

DAY = 86_400_000_000
START = 1_700_006_400_000_000  # 2023-11-15T00:00Z
DOLLAR = 10**12


@pytest.fixture
def money(run, engine, sqlite_database):
    """
    Run the command on a database with our tables.
    """
    return lambda *argv: run("money", *argv[:1], "--database", sqlite_database, *argv[1:])


def test_money_goes_in_once_by_its_key(money, run, sqlite_database):
    """Each of them is posted once, and the balance is told."""
    money("topup", "tenant:acme", "$25", "--key", "pay_1", "--note", "wire")
    again = money("topup", "tenant:acme", "25", "--key", "pay_1")
    money("refund", "tenant:acme", "0.50", "--key", "r1")
    money("adjust", "tenant:acme", "-1", "--key", "a1")
    granted = money("grant", "tenant:acme", "5", "--key", "g1", "--expires", "2999-01-01", "--json").json

    assert "posted it before" in again.out
    assert (granted["kind"], granted["balance_pico"]) == ("grant", 29_500_000_000_000)
    assert money("balance", "tenant:acme").out == "tenant:acme has $29.50, $5.00 of it granted for a time.\n"
    assert money("expire").out == "Nothing is to be taken back.\n"
    assert run("verify", "--database", sqlite_database).code == 0


def test_a_wrong_entry_is_reversed(money):
    """The balance is what it was, and a second time nothing is posted."""
    money("topup", "user:a", "25", "--key", "pay_1")
    first = money("reverse", "topup", "--key", "pay_1", "--note", "of another customer")
    again = money("reverse", "topup", "--key", "pay_1", "--json").json
    unknown = money("reverse", "refund", "--key", "pay_1")

    assert first.out == "Posted.\nuser:a has $0.00.\n"
    assert (again["is_new"], again["change_pico"], again["balance_pico"]) == (False, -25 * DOLLAR, 0)
    assert (unknown.code, "No refund was posted by this key" in unknown.err) == (2, True)


def test_a_key_used_for_something_else_is_told_in_dollars(money):
    """What the key has posted, and what was asked for, as they are typed."""
    money("topup", "user:a", "25", "--key", "pay_1")

    assert (
        "used for user:a and $25.00, not for user:a and $26.00" in money("topup", "user:a", "26", "--key", "pay_1").err
    )


@pytest.mark.parametrize("amount", ["-$5", "$-5", "-5", "-5.00", "-$ 5", "-0.5e1"])
def test_an_amount_below_zero_is_no_option(money, amount):
    """However it is signed, the account has five dollars less."""
    assert money("adjust", "tenant:acme", amount, "--key", "k", "--json").json["change_pico"] == -5 * DOLLAR


def test_thousands_below_zero_are_read(money):
    """As they are printed."""
    ran = money("adjust", "tenant:acme", "-$1,000.50", "--key", "k", "--json")

    assert ran.json["change_pico"] == -1_000_500_000_000_000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("topup", "user:a", "1$50", "--key", "k"), "'1$50' is no amount of dollars: '1$50' is not a number."),
        (("topup", "user:a", "1,5", "--key", "k"), "a comma stands between thousands, a point before decimals."),
        (("topup", "user:a", "0.0000000000001", "--key", "k"), "has more decimal places than can be held exactly."),
        (("topup", "user:a", "-$1", "--key", "k"), "'-$1' is not above 0. `adjust` takes money off an account."),
        (("topup", "a", "1", "--key", "k"), "'a' is no account; write it like tenant:acme."),
        (("topup", "project:x", "1", "--key", "k"), "Accounts begin with tenant:, team:, user:, key:."),
        (("topup", "user:a", "much", "--key", "k"), "'much' is no amount of dollars"),
        (("topup", "user:a", "-1", "--key", "k"), "'-1' is not above 0"),
        (("adjust", "user:a", "9300000", "--key", "k"), "more than the database can hold"),
        (("topup", "user:a", "1", "--key", " "), "idempotency key"),
        (("grant", "user:a", "1", "--key", "k", "--expires", "2020-01-01"), "ends after its beginning"),
        (("grant", "user:a", "1", "--key", "k", "--expires", "9999-12-31T23:00-02:00"), "is too far away"),
        (("balance", "a"), "'a' is no account; write it like tenant:acme."),
        (("topup", "user:a", "1"), "--key"),
    ],
)
def test_what_makes_no_sense_ends_with_2(money, argv, message):
    """It says what is wrong, and posts nothing."""
    ran = money(*argv)

    assert (ran.code, message in ran.err) == (2, True)
    assert money("balance", "user:a", "--json").json["balance_pico"] == 0


@pytest.fixture
def invoice(run, write, sqlite_database):
    """
    Run the command on the usage of a November.
    """
    write(created_at_us=START, cost_pico=3 * DOLLAR + 4, request_model="gpt-4o")
    write(created_at_us=START + DAY, cost_pico=DOLLAR, request_model="gpt-4o-mini")
    return lambda *argv: run("invoice", "key:k1", "--database", sqlite_database, *argv)


def test_an_invoice_reads_as_a_table(invoice):
    """Models, what is included, what rounding leaves over and what is due, in a line each."""
    lines = invoice("--month", "2023-11", "--included", "$2").out.splitlines()

    assert lines[0] == "key:k1, 2023-11-01 until 2023-12-01, a draft"
    assert [line.split()[0] for line in lines[2:]] == ["gpt-4o", "gpt-4o-mini", "usage", "included", "carried", "due"]
    assert [line.split()[-1] for line in lines[2:]] == [
        "$3.000000000004",
        "$1.00",
        "$4.000000000004",
        "-$2.00",
        "-$0.000000000004",
        "$2.00",
    ]


def test_an_invoice_is_csv_that_adds_up(invoice):
    """Models and amounts together are what is due."""
    rows = [*csv.DictReader(io.StringIO(invoice("--month", "2023-11", "--included", "2", "--csv").out))]

    from decimal import Decimal

    *parts, due = rows
    assert (due["line"], due["usd"]) == ("due", "2.00")
    assert sum(Decimal(part["usd"]) for part in parts) == Decimal("2.00")
    assert [part["model"] for part in parts[:2]] == ["gpt-4o", "gpt-4o-mini"]


def test_an_invoice_tells_of_models_without_a_price(invoice, write, engine):
    """What is charged nothing, or the ceiling, because no price is known is told beside the invoice, until it has one."""
    write(created_at_us=START, cost_pico=0, price_kind="unpriced", request_model="riddle")
    write(created_at_us=START, cost_pico=9, price_kind="ceiling", request_model="mystery")
    write(created_at_us=START - 30 * DAY, price_kind="ceiling", request_model="mystery")
    write(created_at_us=START, account="key:other", price_kind="ceiling", request_model="mystery")

    draft = invoice("--month", "2023-11", "--csv")
    assert "1 are charged nothing, 1 the ceiling" in draft.err
    assert "ceiling" not in draft.out
    assert invoice("--month", "2023-11", "--json").json["without_price"] == {"unpriced": 1, "ceiling": 1}
    assert invoice("--month", "2023-12").err == ""

    november = Selection(datetime(2023, 11, 1, tzinfo=UTC), datetime(2023, 12, 1, tzinfo=UTC), account="key:k1")
    tariffs = Tariffs(
        [Price("p", name, 1, 1) for name in ("riddle", "mystery", "gpt-4o")], lambda _: (), "flag", None, str
    )
    rerate(engine, tariffs, replace(november, unpriced=True), apply=True)
    assert invoice("--month", "2023-11").err == ""


def test_usage_before_the_first_period_is_told(invoice):
    """Whoever begins with a later period hears what no invoice will ask for."""
    ran = invoice("--from", "2023-11-16", "--until", "2023-12-01", "--close", "--json")

    assert ran.json["before_pico"] == 3 * DOLLAR + 4
    assert "Usage of $3.000000000004 lies before the first period, and stands on no invoice." in ran.err


def test_a_model_that_looks_like_a_formula_is_text(invoice, write):
    """A client may name a model so that a spreadsheet would work it out; the CSV says that it is text."""
    write(created_at_us=START, cost_pico=1, request_model="=1+1")

    assert ",'=1+1," in invoice("--month", "2023-11", "--csv").out


def test_a_closed_month_is_the_same_for_ever(invoice, write):
    """Closing gives the draft's figures with the moment of closing; usage of later changes nothing of it."""
    draft = invoice("--month", "2023-11", "--json").json
    closed = invoice("--month", "2023-11", "--close", "--json").json
    write(created_at_us=START, cost_pico=DOLLAR)

    assert draft["closed_at"] is None
    assert closed == {**draft, "closed_at": closed["closed_at"]}
    assert invoice("--month", "2023-11", "--json").json == closed
    assert invoice("--from", "2023-12-01", "--until", "2023-12-08", "--json").json["earlier_pico"] == DOLLAR


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "Give --month, or --from and --until."),
        (("--month", "2023-11", "--from", "2023-11-01"), "Give --month, or --from and --until."),
        (("--month", "November"), "'November' is no month"),
        (("--month", "9999-12"), "'9999-12' is no month"),
        (("--month", "2999-12", "--close"), "lies ahead"),
        (("--from", "2023-11-01T12:00", "--until", "2023-12-01"), "midnight UTC"),
    ],
)
def test_a_time_that_is_no_period_ends_with_2(invoice, argv, message):
    """It says why."""
    ran = invoice(*argv)

    assert (ran.code, message in ran.err) == (2, True)
