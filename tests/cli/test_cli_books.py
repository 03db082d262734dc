"""
``migrate``, ``verify`` and ``usage``: the books from the outside.
"""

from __future__ import annotations

import pytest
from sqlalchemy import delete, inspect, select, update

from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.tables import ledger, metadata, usage

DAY = 86_400_000_000
START = 1_700_006_400_000_000  # 2023-11-15T00:00Z


def test_migrate_makes_the_tables_and_then_nothing(run, sqlite_database):
    """The first run creates every table, the second changes nothing, and both say so."""
    first = run("migrate", "--database", sqlite_database, "--json").json
    second = run("migrate", "--database", sqlite_database)

    assert first["before"] is None
    assert first["changed"] is True
    assert f"at {first['after']} already" in second.out
    engine = open_engine(sqlite_database)
    assert set(metadata.tables) <= set(inspect(engine).get_table_names())
    engine.dispose()
    assert run("verify", "--database", sqlite_database).code == 0


def test_migrate_sql_prints_statements_and_runs_none(run, sqlite_database):
    """`--sql` shows what would be run and leaves the database alone."""
    ran = run("migrate", "--database", sqlite_database, "--sql")

    assert ran.code == 0
    assert "CREATE TABLE tokenbudget_usage" in ran.out
    assert run("verify", "--database", sqlite_database).code == 2


def test_verify_adds_up_good_books(run, write, sqlite_database):
    """Good books end with 0, and the sums are those of the rows."""
    for cost in (75, 25):
        write(cost_pico=cost)
    write(cost_pico=7, account=None, key_id=None)
    nothing = {"decision": "refused", "cost_pico": 0, "input_tokens": 0, "output_tokens": 0}
    write(**nothing, limit_name="tokens-minute", status=429)
    write(**nothing, status=400)

    ran = run("verify", "--database", sqlite_database)
    result = run("verify", "--database", sqlite_database, "--json").json

    assert ran.code == 0
    assert "The books agree." in ran.out
    assert result["verified"] is True
    assert (result["rows"], result["tokens"], result["cost_pico"]) == (5, 45, 107)
    assert (result["admitted"], result["refused"]) == (3, {"tokens-minute": 1, "status 400": 1})
    assert (result["ledger_pico"], result["balance_pico"], result["unowned_pico"]) == (100, -100, 7)


@pytest.mark.parametrize("tamper", [update(usage).values(cost_pico=1), delete(ledger)])
def test_verify_finds_tampered_books(run, write, engine, sqlite_database, tamper):
    """A changed row and a missing entry end with 1 and a line that names the account."""
    write()
    with engine.begin() as connection:
        connection.execute(tamper)

    ran = run("verify", "--database", sqlite_database)
    result = run("verify", "--database", sqlite_database, "--json").json

    assert ran.code == 1
    assert "NOT agree" in ran.out
    assert "key:k1" in ran.out
    assert result["verified"] is False
    assert result["differences"][0]["account"] == "key:k1"


@pytest.fixture
def traffic(write):
    """
    Three days of usage of two keys and two models.
    """
    write(created_at_us=START, cost_pico=10**12, key_id="k1", request_model="gpt-4o")
    write(created_at_us=START + DAY - 1, cost_pico=1, key_id="k2", response_model="gpt-4o-2024-08-06")
    write(created_at_us=START + DAY, cost_pico=5, key_id="k2", request_model="gpt-4o")
    write(created_at_us=START + 2 * DAY, decision="refused", cost_pico=0, input_tokens=0, output_tokens=0, key_id="k1")


def span(run, sqlite_database, *argv):
    since = ("--since", "2023-11-15", "--until", "2023-11-18")
    return run("usage", "--database", sqlite_database, *since, *argv)


def test_usage_adds_up_by_model(run, traffic, sqlite_database):
    """Lines are named by the model that answered, else by the one that was asked for; the dearest first."""
    result = span(run, sqlite_database, "--json").json

    lines = [(line["model"], line["requests"], line["refused"], line["cost_pico"]) for line in result["lines"]]
    assert lines == [("gpt-4o", 3, 1, 10**12 + 5), ("gpt-4o-2024-08-06", 1, 0, 1)]
    assert result["total"] == {
        "requests": 4,
        "refused": 1,
        "input_tokens": 30,
        "output_tokens": 15,
        "cost_pico": 10**12 + 6,
    }


def test_usage_adds_up_by_day(run, traffic, sqlite_database):
    """Days begin at midnight UTC, to the microsecond, and stand in order."""
    result = span(run, sqlite_database, "--by", "day", "--json").json

    assert [(line["day"], line["requests"]) for line in result["lines"]] == [
        ("2023-11-15", 2),
        ("2023-11-16", 1),
        ("2023-11-17", 1),
    ]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("--by", "key"), {"k1": 2, "k2": 2}),
        (("--by", "key", "--key", "k2"), {"k2": 2}),
        (("--by", "account"), {"key:k1": 4}),
        (("--by", "route"), {None: 4}),
    ],
)
def test_usage_groups_and_filters(run, traffic, sqlite_database, argv, expected):
    """Every grouping has its lines, and `--key` leaves the others out."""
    result = span(run, sqlite_database, *argv, "--json").json

    group = argv[1]
    assert {line[group]: line["requests"] for line in result["lines"]} == expected


def test_usage_takes_moments_within_a_day(run, traffic, sqlite_database):
    """A span may begin and end within days; its end is not included."""
    argv = ("--since", "2023-11-15T00:00:01", "--until", "2023-11-16", "--json")

    assert run("usage", "--database", sqlite_database, *argv).json["total"]["requests"] == 1


def test_usage_asks_for_no_day_that_has_no_rows(run, traffic, sqlite_database):
    """A span of thousands of years that begins within a day takes no longer than its rows do, in days of its own zone."""
    argv = ("--since", "0002-01-01T00:00+05:30", "--until", "9998-01-01T12:00", "--by", "day", "--json")

    ran = run("usage", "--database", sqlite_database, *argv)

    assert [line["day"] for line in ran.json["lines"]] == ["2023-11-15", "2023-11-16", "2023-11-17"]


def test_usage_reads_as_a_table(run, traffic, sqlite_database):
    """Without --json there is a line for each, and a total with the exact money."""
    lines = span(run, sqlite_database).out.splitlines()

    assert lines[0].split() == ["model", "requests", "refused", "input", "tokens", "output", "tokens", "cost"]
    assert lines[-1].endswith("$1.000000000006")


def test_usage_of_nothing(run, engine, sqlite_database):
    """Without rows it says so, and ends with 0."""
    ran = run("usage", "--database", sqlite_database)

    assert ran.code == 0
    assert "Nothing was used" in ran.out


def test_usage_refuses_what_is_no_date(run, engine, sqlite_database):
    """A date that cannot be read ends with 2."""
    ran = run("usage", "--database", sqlite_database, "--since", "yesterday")

    assert ran.code == 2
    assert "--since" in ran.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--days", "0"), "--days: 0 is no number of days"),
        (("--days", "99999999999"), "--days: 99999999999 is no number of days"),
        (("--since", "2026-05-02", "--until", "2026-05-01"), "--until does not lie after --since."),
        (("--since", "0001-01-01T00:00+14:00"), "is too far away"),
        (("--until", "9999-12-31T23:59"), "is too far away"),
    ],
)
def test_usage_refuses_what_is_no_time(run, engine, sqlite_database, argv, message):
    """A time that holds no moment, or too many, ends with 2 and says so."""
    ran = run("usage", "--database", sqlite_database, *argv)

    assert (ran.code, message in ran.err) == (2, True)


def test_the_books_read_the_same_on_every_database(run, database_url):
    """Migrate, verify and usage run on SQLite, PostgreSQL and MySQL."""
    from tokenbudget_mw.database.writer import DatabaseSink
    from tokenbudget_mw.values import UsageRecord

    assert run("migrate", "--database", database_url).code == 0
    engine = open_engine(database_url)
    record = UsageRecord(
        id="a" * 32,
        instance_id="b" * 32,
        sequence=1,
        created_at_us=START,
        method="POST",
        path="/",
        request_model="gpt-4o",
        account="key:k",
        cost_pico=3,
        input_tokens=2,
    )
    DatabaseSink(engine).write([record])
    engine.dispose()

    assert run("verify", "--database", database_url, "--json").json["cost_pico"] == 3
    result = span(run, database_url, "--by", "day", "--json").json
    assert result["lines"] == [
        {"day": "2023-11-15", "requests": 1, "refused": 0, "input_tokens": 2, "output_tokens": 0, "cost_pico": 3}
    ]
    assert run("doctor", "--database", database_url).code == 0


def test_rerate_shows_then_posts(run, write, engine, sqlite_database):
    """Rows without a price are shown with what they would cost, then posted; usage and verify tell the same."""
    write(created_at_us=START, request_model="mine", cost_pico=0, price_kind="unpriced")
    write(created_at_us=START, request_model="else", cost_pico=3, price_kind="ceiling")
    add = ("--input", "1", "--output", "2", "--from", "2023-01-01")
    assert run("tariffs", "add", "mine", *add, "--database", sqlite_database).code == 0
    argv = ("rerate", "--database", sqlite_database, "--since", "2023-11-15", "--unpriced")

    shown = run(*argv)
    posted = run(*argv, "--apply", "--json").json
    again = run(*argv, "--apply", "--json").json

    assert "Nothing was posted; --apply does it." in shown.out
    assert "1 still has no price" in shown.out
    assert posted == {
        "applied": True,
        "rows": 2,
        "changed": 1,
        "unpriced": 1,
        "change_pico": 20 * 10**6,
        "accounts": {"key:k1": 20 * 10**6},
    }
    assert (again["changed"], again["accounts"]) == (0, {})
    verified = run("verify", "--database", sqlite_database, "--json").json
    assert (verified["verified"], verified["corrected_pico"]) == (True, 20 * 10**6)
    for argv in (("--by", "model"), ("--by", "model", "--key", "k1"), ("--by", "route"), ("--by", "account")):
        whole = span(run, sqlite_database, *argv, "--json").json
        part = run("usage", "--database", sqlite_database, *argv, "--since", "2023-11-14T23:59", "--json").json
        assert whole["total"]["cost_pico"] == part["total"]["cost_pico"] == 20 * 10**6 + 3


@pytest.mark.parametrize("command", ["rerate", "usage"])
def test_a_time_that_ends_before_it_begins_is_refused(run, engine, sqlite_database, command):
    """Nothing is looked at, and it says why."""
    ran = run(command, "--database", sqlite_database, "--since", "2023-11-15", "--until", "2023-11-14")

    assert (ran.code, ran.err.splitlines()[-1]) == (2, "--until does not lie after --since.")


def test_verify_finds_and_repairs_on_every_database(run, database_url):
    """A tampered row, a missing entry and a wrong balance: each is listed under its day, and put right by entries only."""
    from tokenbudget_mw.database.tables import balances
    from tokenbudget_mw.database.writer import DatabaseSink
    from tokenbudget_mw.values import UsageRecord

    def day(number):
        common = {"id": f"r{number}", "sequence": number, "created_at_us": START + number * DAY, "input_tokens": 10}
        given = {"method": "POST", "path": "/", "request_model": "m", "account": f"tenant:t{number}"}
        return UsageRecord(instance_id="b" * 32, cost_pico=100, **common, **given)

    assert run("migrate", "--database", database_url).code == 0
    engine = open_engine(database_url)
    for number in (1, 2, 3):
        DatabaseSink(engine).write([day(number)])
    with engine.begin() as connection:
        connection.execute(update(usage).where(usage.c.account == "tenant:t1").values(cost_pico=90, input_tokens=11))
        connection.execute(delete(ledger).where(ledger.c.account == "tenant:t2"))
        connection.execute(update(balances).where(balances.c.account == "tenant:t3").values(balance_pico=5))
        kept = set(connection.execute(select(ledger)).all())

    found = run("verify", "--database", database_url)
    differences = run("verify", "--database", database_url, "--json").json["differences"]
    repaired = run("verify", "--database", database_url, "--repair", "--note", "ticket 4", "--json").json
    with engine.connect() as connection:
        entries = set(connection.execute(select(ledger)).all())
    engine.dispose()

    told = [
        (each["kind"], each["day"], each["account"], each["expected_pico"], each["found_pico"]) for each in differences
    ]
    assert found.code == 1
    assert [line for line in found.out.splitlines() if line.startswith("  ") and line[2] != " "] == [
        "  of no day",
        "  2023-11-16",
        "  2023-11-17",
    ]
    assert sorted(told) == [
        ("balance", "", "tenant:t2", 0, -100),
        ("balance", "", "tenant:t3", -100, 5),
        ("entry", "2023-11-16", "tenant:t1", 90, 100),
        ("entry", "2023-11-17", "tenant:t2", 100, None),
        ("rollup", "2023-11-16", "", 11, 10),
        ("rollup", "2023-11-16", "", 90, 100),
    ]
    assert repaired["verified"] is True
    assert kept < entries
    assert {(entry.kind, entry.account, entry.amount_pico, entry.note) for entry in entries - kept} == {
        ("repair", "tenant:t1", -10, "ticket 4"),
        ("repair", "tenant:t2", 100, "ticket 4"),
    }
    assert (repaired["ledger_pico"], repaired["balance_pico"]) == (290, -290)


def test_verify_repairs_when_told_to(run, write, engine, sqlite_database):
    """Differences stand under their days; with --repair entries are posted, and the books agree again."""
    write(created_at_us=START)
    write(created_at_us=START + DAY)
    with engine.begin() as connection:
        connection.execute(delete(ledger))

    found = run("verify", "--database", sqlite_database)
    repaired = run("verify", "--database", sqlite_database, "--repair", "--note", "ticket 4")
    again = run("verify", "--database", sqlite_database, "--repair", "--json").json

    assert found.code == 1
    assert "\n  2023-11-15\n    entry of key:k1 of write" in found.out
    assert "\n  2023-11-16\n    entry of key:k1 of write" in found.out
    assert repaired.code == 0
    assert "Repaired: 2 entries of $0.00000000015 posted" in repaired.out
    assert repaired.out.endswith("The books agree.\n")
    assert again["verified"] is True
    assert "repaired" not in again
