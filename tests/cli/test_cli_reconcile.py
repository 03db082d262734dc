"""
``tokenbudget-mw reconcile``: what a provider charges against what the books say.
"""

from __future__ import annotations

import pytest

from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.reconciling import InvoiceLine, read_invoice, reconcile
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord

DAY = 86_400_000_000
START = 1_700_006_400_000_000  # 2023-11-15T00:00Z
DOLLAR = 10**12


@pytest.fixture
def books(write):
    """
    Two days of two models, one of them under two spellings.
    """
    write(created_at_us=START, request_model="gpt-4o", cost_pico=DOLLAR)
    write(created_at_us=START + 1, request_model="openai/gpt-4o", cost_pico=DOLLAR // 2)
    write(created_at_us=START + DAY, request_model="gpt-4o", cost_pico=DOLLAR)
    write(created_at_us=START + DAY, request_model="claude-sonnet-4", cost_pico=3 * DOLLAR)
    write(created_at_us=START + 9 * DAY, request_model="gpt-4o", cost_pico=DOLLAR)


@pytest.fixture
def reconciled(run, books, tmp_path, sqlite_database):
    """
    Run the command on an invoice of the given lines.
    """

    def reconciled(*lines, argv=()):
        path = tmp_path / "invoice.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
        return run("reconcile", path, "--database", sqlite_database, *argv)

    return reconciled


HEAD = "Date, model,cost_usd,input_tokens,region"
RIGHT = ("2023-11-15,gpt-4o,$1.00,15,eu", "2023-11-15,GPT-4o,0.50,5,us", "2023-11-16,gpt-4o,1.004,,")


def test_an_invoice_that_agrees(reconciled):
    """Lines of a day and model add up, spellings are one, other columns and models outside the pattern are passed over."""
    ran = reconciled(HEAD, *RIGHT, argv=("--models", "*gpt-4o"))
    result = reconciled(HEAD, *RIGHT, argv=("--models", "*gpt-4o", "--json")).json

    assert ran.code == 0
    assert "3 lines of the invoice, 2023-11-15 to 2023-11-16, $2.504: the books agree, within $0.01" in ran.out
    assert result == {"lines": 3, "invoice_pico": 2_504_000_000_000, "reconciled": True, "differences": []}


def test_refused_requests_never_reached_the_provider(reconciled, write):
    """Requests are those that were not refused, and a pattern means a model by the name that both sides share."""
    write(created_at_us=START, request_model="gpt-4o", decision="refused", cost_pico=0, input_tokens=0, output_tokens=0)

    ran = reconciled("date,model,cost_usd,requests", "2023-11-15,gpt-4o,1.50,2", argv=("--models", "gpt-*"))

    assert (ran.code, ran.out.startswith("1 line of the invoice, ")) == (0, True)


def test_differences_are_listed_by_day_and_model(reconciled):
    """A cost above the tolerance, tokens that differ at all, and what only one side has, end with 1."""
    lines = ("2023-11-15,gpt-4o,1.489,21,", "2023-11-16,gpt-4o,1,,", "2023-11-16,o3,2,,")
    result = reconciled(HEAD, *lines, argv=("--json",)).json

    assert [tuple(difference.values()) for difference in result["differences"]] == [
        ("2023-11-15", "gpt-4o", "cost_pico", 1_500_000_000_000, 1_489_000_000_000),
        ("2023-11-15", "gpt-4o", "input_tokens", 20, 21),
        ("2023-11-16", "claude-sonnet-4", "cost_pico", 3 * DOLLAR, 0),
        ("2023-11-16", "o3", "cost_pico", 0, 2 * DOLLAR),
    ]
    ran = reconciled(HEAD, *lines)
    assert ran.code == 1
    assert "4 differences of more than $0.01." in ran.out
    assert "$0.011" in ran.out


@pytest.mark.parametrize(
    ("tolerance", "cost", "code"),
    [("$0.02", "1.48", 0), ("$0.02", "1.4799", 1), ("1%", "1.515", 0), ("1%", "1.5152", 1), ("0", "1.5", 0)],
)
def test_the_tolerance_is_dollars_or_percent(reconciled, tolerance, cost, code):
    """A difference as large as is allowed passes, a larger one does not."""
    assert reconciled(HEAD, f"2023-11-15,gpt-4o,{cost},,", argv=("--tolerance", tolerance)).code == code


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("date,model", "2023-11-15,m"), "no column 'cost_usd'"),
        ((), "no column 'date', 'model', 'cost_usd'"),
        ((HEAD, "15.11.2023,m,1,,"), "Line 2 of the invoice: '15.11.2023' is no day; write it like"),
        ((HEAD, "2023-11-32,m,1,,"), "Line 2 of the invoice: '2023-11-32' is no day"),
        ((HEAD, "9999-12-31,m,1,,"), "Line 2 of the invoice: '9999-12-31' is no day that has an end"),
        ((HEAD,), "The invoice has no line behind its head"),
        ((HEAD, RIGHT[0], "2023-11-15,m,many,,"), "Line 3 of the invoice: 'many' is not a number"),
        ((HEAD, "2023-11-15,m,1,1.5,"), "Line 2 of the invoice"),
        ((HEAD, "2023-11-15,,1,,"), "Line 2 of the invoice names no model"),
        ((HEAD, "2023-11-15,m"), "Line 2 of the invoice"),
        ((HEAD, '2023-11-15,m,"1234,50",,'), "Line 2 of the invoice: '1234,50' is not a number"),
        ((HEAD, '2023-11-15,m,"0,125",,'), "Line 2 of the invoice: '0,125' is not a number"),
        ((HEAD, "2023-11-15,m,1,234.50,,eu"), "Line 2 of the invoice has more values than its head has columns"),
        (
            ("usage_date_utc,model,cost_usd",),
            "no column 'date'. Its first line names the columns: date, model, cost_usd",
        ),
        (("usage_date_utc,model,cost_usd",), "it has 'usage_date_utc', 'model', 'cost_usd'."),
        (("date;model;cost_usd", "2023-11-15;m;1,50"), "have a semicolon between them. Save it with commas"),
        (("date\tmodel\tcost_usd",), "have a tab between them"),
        (("date,model,cost_usd,Cost_USD", "2023-11-15,m,1,2"), "has the column 'cost_usd' twice"),
        ((HEAD, '2023-11-15,m,1,,"eu', RIGHT[0], RIGHT[1]), "The invoice is no CSV from line 2 on: unexpected end"),
        ((HEAD, '2023-11-15,m,1,,"eu', *RIGHT * 2000), "The invoice is no CSV from line 2 on: field larger than"),
        ((HEAD, '2023-11-15,"5" screen",1,,'), "The invoice is no CSV from line 2 on: ',' expected after"),
    ],
)
def test_what_cannot_be_read_ends_with_2(reconciled, lines, message):
    """A missing column and a value without sense are told, with the line."""
    ran = reconciled(*lines)

    assert ran.code == 2
    assert message in ran.err


@pytest.mark.parametrize(
    "cost", ["1.5000000000000002", "1.4999999999999998224", "1.50000000000000000000000000000000000000"]
)
def test_costs_with_more_digits_than_the_books_keep(reconciled, cost):
    """What a provider prints of a float is rounded to the pico-dollar: 1.5, and not an error."""
    ran = reconciled(HEAD, f"2023-11-15,gpt-4o,{cost},,", argv=("--tolerance", "0", "--models", "gpt-4o"))

    assert (ran.code, "$1.50: the books agree" in ran.out) == (0, True)


def test_what_a_spreadsheet_leaves_behind_the_lines(reconciled):
    """Lines of commas alone, and a comma too much at the end of one, are nothing."""
    ran = reconciled("date,model,cost_usd", "2023-11-15,gpt-4o,1.50,", ",,", ",,,,")

    assert (ran.code, ran.out.startswith("1 line of the invoice")) == (0, True)


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_another_encoding_is_told(run, engine, sqlite_database, tmp_path, encoding):
    """A file as spreadsheets on Windows save it says how to save it."""
    path = tmp_path / "invoice.csv"
    path.write_text("date,model,cost_usd\n2023-11-15,modèle,1\n", encoding=encoding)

    ran = run("reconcile", path, "--database", sqlite_database)

    assert (ran.code, "it is no UTF-8 text. Save it as 'CSV UTF-8'." in ran.err) == (2, True)


@pytest.mark.parametrize("credit", ["-$0.25", "$-0.25", "-0.25"])
def test_a_credit_is_a_negative_line(reconciled, credit):
    """However it is signed, it comes off what the provider charges for the day and model."""
    ran = reconciled(HEAD, "2023-11-15,gpt-4o,1.75,,", f"2023-11-15,gpt-4o,{credit},,")

    assert (ran.code, "$1.50: the books agree" in ran.out) == (0, True)


@pytest.mark.parametrize("tolerance", ["much", "-1", "-1%"])
def test_a_tolerance_is_an_amount(reconciled, tolerance):
    """Anything else is refused."""
    ran = reconciled(HEAD, argv=(f"--tolerance={tolerance}",))

    assert ran.code == 2
    assert "--tolerance" in ran.err


def test_a_file_that_is_not_there(run, engine, sqlite_database):
    """It says so."""
    ran = run("reconcile", "nowhere.csv", "--database", sqlite_database)

    assert (ran.code, "Cannot read 'nowhere.csv': No such file" in ran.err) == (2, True)


def test_on_every_database(database_url):
    """The comparison is the same on SQLite, PostgreSQL and MySQL."""
    engine = open_engine(database_url)
    metadata.create_all(engine)
    record = UsageRecord(
        id="a", instance_id="b", sequence=1, created_at_us=START + DAY - 1, method="POST", path="/", request_model="m",
        input_tokens=7, cost_pico=3 * DOLLAR,
    )  # fmt: skip
    DatabaseSink(engine).write([record])
    invoice = read_invoice(["date,model,cost_usd,input_tokens,requests", "2023-11-15,m,3,7,2"])

    (found,) = reconcile(engine, invoice)
    engine.dispose()

    assert isinstance(invoice[0], InvoiceLine)
    assert (found.day, found.model, found.figure, found.ours, found.theirs) == ("2023-11-15", "m", "requests", 1, 2)
