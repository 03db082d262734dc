"""
Two migration chains, one schema: that of `tokenbudget_mw.database.tables`, on every database.
"""

from __future__ import annotations

import subprocess
import sys
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest
from migration_rig import differences
from sqlalchemy import MetaData, insert, inspect, select, text
from sqlalchemy.exc import DatabaseError

import tokenbudget_mw_alembic
from tokenbudget_mw.database import books, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.fitting import new_rows
from tokenbudget_mw.database.keys import KeyStore
from tokenbudget_mw.database.rerating import Selection, rerate
from tokenbudget_mw.database.rows import COLUMNS, moment
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.settings.limits import Context
from tokenbudget_mw.settings.own_limits import OwnLimits
from tokenbudget_mw.values import Price, UsageRecord
from tokenbudget_mw_alembic import chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    Django = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["alembic", "django"])
def migrate(request: pytest.FixtureRequest, engine: Engine, django: Django) -> Callable[[], None]:
    """
    Run one of the chains to its end.
    """
    return lambda: run_chain(request.param, engine, django)


def run_chain(chain: str, engine: Engine, django: Django) -> None:
    if chain == "alembic":
        tokenbudget_mw_alembic.upgrade(engine)
    else:
        done = django("migrate", "--verbosity=0")
        assert (done.returncode, done.stderr) == (0, "")
        engine.dispose()  # SQLite's PRAGMAs answer from a connection's own memory of the schema


MYSQL_TYPES = """
SELECT column_name, column_type, collation_name FROM information_schema.columns
WHERE table_schema = DATABASE() AND table_name = :name ORDER BY ordinal_position
"""


def types(engine: Engine, table: str) -> list[tuple[str, ...]]:
    if engine.dialect.name != "mysql":
        return [(column["name"], repr(column["type"])) for column in inspect(engine).get_columns(table)]
    with engine.connect() as connection:  # SHOW CREATE TABLE leaves out what is the table's default
        return [tuple(row) for row in connection.execute(text(MYSQL_TYPES), {"name": table})]


def schema(engine: Engine) -> dict[str, Any]:
    """
    Return everything that the database says of our tables, in comparable form.
    """
    found, inspector = {}, inspect(engine)
    for name in tables.metadata.tables:
        indexes, unique = inspector.get_indexes(name), inspector.get_unique_constraints(name)
        found[name] = {
            "types": types(engine, name),
            "nullable": [(column["name"], column["nullable"]) for column in inspector.get_columns(name)],
            "key": inspector.get_pk_constraint(name)["constrained_columns"],
            "indexes": sorted((i["name"], tuple(i["column_names"]), bool(i["unique"])) for i in indexes),
            "unique": sorted((u["name"], tuple(u["column_names"])) for u in unique),
            "checks": sorted(str(check["name"]) for check in inspector.get_check_constraints(name)),
        }
        if engine.dialect.name == "sqlite":
            del found[name]["checks"]  # SQLAlchemy reads no name behind the quotes that Django writes
    return found


def test_each_chain_ends_at_the_schema(migrate: Callable[[], None], engine: Engine) -> None:
    """
    After a chain, Alembic sees no difference to the tables as declared, types compared.
    """
    migrate()

    assert differences(engine) == []


def test_a_difference_would_be_noticed(migrate: Callable[[], None], engine: Engine) -> None:
    """
    The comparison itself finds a column that is missing and an index that is.
    """
    migrate()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tokenbudget_balances DROP COLUMN updated_at"))
        on = " ON tokenbudget_usage" if engine.dialect.name == "mysql" else ""
        connection.execute(text(f"DROP INDEX tokenbudget_usage_created_ix{on}"))

    assert {difference[0] for difference in differences(engine)} == {"add_column", "add_index"}


def test_both_chains_make_the_same_tables(engine: Engine, django: Django) -> None:
    """
    Types with lengths and collations, nullability, keys, indexes and checks are equal, byte for byte.
    """
    run_chain("alembic", engine, django)
    by_alembic = schema(engine)
    everything = MetaData()
    everything.reflect(engine)
    everything.drop_all(engine)

    run_chain("django", engine, django)

    assert schema(engine) == by_alembic


@pytest.mark.parametrize("chain", ["alembic", "django"])
def test_rollups_are_filled_from_older_rows(engine: Engine, django: Django, chain: str) -> None:
    """
    Rows that an older version wrote are in the rollups after the upgrade, by the same days, hours and names.
    """
    if chain == "alembic":
        tokenbudget_mw_alembic.upgrade(engine, "0001")
    else:
        assert django("migrate", "tokenbudget_mw_django", "0001", "--verbosity=0").returncode == 0
        engine.dispose()
    hours = [0, 3_599_999_999, 3_600_000_000, 86_399_999_999, 86_400_000_000]
    records = [
        UsageRecord(
            id=f"r{at}",
            instance_id="i",
            sequence=at,
            created_at_us=1_760_054_400_000_000 + hour,
            method="POST",
            path="/",
            route=[None, "/chat"][at % 2],
            request_model=[None, "gpt-4o"][at % 2],
            status=[200, 500][at % 2],
            input_tokens=at,
            cost_pico=10**at,
        )
        for at, hour in enumerate(hours)
    ]
    with engine.begin() as connection:
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in new_rows(records, "w")]
        for row in rows:
            del row["audio_input_tokens"], row["audio_output_tokens"]  # columns of later
        connection.execute(insert(tables.usage), rows)

    run_chain(chain, engine, django)
    report = books.verify(engine)

    with engine.connect() as connection:
        starts = connection.scalars(select(tables.rollup_hours.c.hour).order_by(tables.rollup_hours.c.hour)).all()
    assert (report.verified, report.rollup_pico) == (True, 11111)
    assert [f"{start:%d %H:%M:%S.%f}" for start in starts] == [
        "10 00:00:00.000000",
        "10 00:00:00.000000",
        "10 01:00:00.000000",
        "10 23:00:00.000000",
        "11 00:00:00.000000",
    ]


@pytest.mark.parametrize("chain", ["alembic", "django"])
def test_rows_from_before_audio_live_on(engine: Engine, django: Django, chain: str) -> None:
    """
    Rows, and the writes of a version that knows no audio, are good before and after the upgrade, and are priced again.
    """
    if chain == "alembic":
        tokenbudget_mw_alembic.upgrade(engine, "0008")
    else:
        assert django("migrate", "tokenbudget_mw_django", "0008", "--verbosity=0").returncode == 0
        engine.dispose()
    columns = [column for column in COLUMNS if not column.startswith("audio_")]

    def write_as_before(number: int) -> None:
        record = UsageRecord(
            id=f"r{number}", instance_id="i", sequence=number, created_at_us=1, method="POST", path="/",
            request_model="m", input_tokens=3,
        )  # fmt: skip
        (row,) = [dict(zip(COLUMNS, row, strict=True)) for row in new_rows([record], "w")]
        with engine.begin() as connection:
            connection.execute(insert(tables.usage), {name: row[name] for name in columns})

    write_as_before(1)
    run_chain(chain, engine, django)
    write_as_before(2)

    tariffs = Tariffs([Price("p", "m", 5, 0, audio_input=9)], lambda _: (), "flag", Price("c", "*", 1, 1), str)
    report = rerate(engine, tariffs, Selection(moment(0), moment(10)))
    assert (report.rows, report.change_pico) == (2, 30)


@pytest.mark.parametrize("chain", ["alembic", "django"])
def test_keys_of_an_older_version_live_on(engine: Engine, django: Django, chain: str) -> None:
    """
    Keys that were made before the column for limits was there serve before and after the upgrade, which gives them none.
    """
    if chain == "alembic":
        tokenbudget_mw_alembic.upgrade(engine, "0003")
    else:
        assert django("migrate", "tokenbudget_mw_django", "0003", "--verbosity=0").returncode == 0
        engine.dispose()
    store = KeyStore(engine, "pepper", limits=OwnLimits(Context()))
    kid = store.create(tenant="acme").row.kid
    before = store.get(kid)

    run_chain(chain, engine, django)

    assert store.get(kid) == before
    assert store.set_limits(kid, ["9/minute"]).limits == '["9/minute"]'


def test_the_database_refuses_negative_numbers(migrate: Callable[[], None], engine: Engine) -> None:
    """
    Tokens and costs below zero are kept out by the database itself, whichever chain made it.
    """
    migrate()
    names = [column.name for column in tables.usage.columns if not column.nullable]
    values = {name: "'2025-01-01 00:00:00'" if name == "created_at" else "'1'" for name in names} | {
        "is_stream": "true"
    }

    def insert(**changed: str) -> None:
        row = values | changed
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"INSERT INTO tokenbudget_usage ({', '.join(row)}) VALUES ({', '.join(row.values())})"
            )

    for column in ("input_tokens", "reasoning_tokens", "cost_pico"):
        with pytest.raises(DatabaseError, match=r"(?i)check|constraint"):
            insert(**{column: "-1"})
    insert(input_tokens="0", reasoning_tokens="0", cost_pico="0")


def test_upgrade_is_repeatable_and_knows_where_it_is(engine: Engine) -> None:
    """
    The second run changes nothing, and the revision is kept in a table of our own.
    """
    before = tokenbudget_mw_alembic.current(engine)
    tokenbudget_mw_alembic.upgrade(engine)
    tokenbudget_mw_alembic.upgrade(engine)

    assert (before, tokenbudget_mw_alembic.current(engine)) == (None, tokenbudget_mw_alembic.head())
    assert set(inspect(engine).get_table_names()) == {*tables.metadata.tables, "tokenbudget_alembic_version"}


REPLICA = """
import sys
import tokenbudget_mw_alembic
from tokenbudget_mw.database.engine import open_engine

engine = open_engine(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
tokenbudget_mw_alembic.upgrade(engine)
"""


def test_replicas_upgrade_at_once(database_url: str) -> None:
    """
    Three processes that begin together all end well, whoever makes which step; the tables are those of one.
    """
    program = [sys.executable, "-c", REPLICA, database_url]
    replicas = [subprocess.Popen(program, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) for _ in range(3)]
    ready = [replica.stdout.readline() for replica in replicas if replica.stdout is not None]
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("go\n")
        replica.stdin.flush()
    ends = [(replica.communicate()[1], replica.returncode) for replica in replicas]

    engine = open_engine(database_url)
    found = differences(engine), tokenbudget_mw_alembic.current(engine)
    engine.dispose()
    assert ready == ["ready\n"] * 3
    assert ends == [("", 0)] * 3
    assert found == ([], tokenbudget_mw_alembic.head())


def test_a_table_that_is_nobodys_stays_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A table of our name that nobody is about to migrate is not waited for any longer than somebody may take.
    """
    monkeypatch.setattr(chain, "MOST_WAIT", 0.2)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE tokenbudget_grants (id INTEGER)"))

    with pytest.raises((DatabaseError, ConfigurationError), match="tokenbudget_grants"):
        tokenbudget_mw_alembic.upgrade(engine)
    assert tokenbudget_mw_alembic.current(engine) in (None, "0006")


def test_sql_is_shown_and_not_run(engine: Engine) -> None:
    """
    With *sql* the statements of this database come as text, and the database stays empty.
    """
    sql = tokenbudget_mw_alembic.upgrade(engine, sql=True)

    assert "CREATE TABLE tokenbudget_usage" in sql
    assert "INSERT INTO tokenbudget_alembic_version" in sql
    assert ("utf8mb4_bin" in sql) == (engine.dialect.name == "mysql")
    assert inspect(engine).get_table_names() == []


def test_shown_sql_makes_the_schema(engine: Engine) -> None:
    """
    Who runs the shown statements by hand is where the upgrade would have led.
    """
    sql = tokenbudget_mw_alembic.upgrade(engine, sql=True)
    with engine.begin() as connection:
        for statement in sql.split(";\n"):
            if statement.strip() and statement.strip() not in {"BEGIN", "COMMIT"}:
                connection.exec_driver_sql(statement)

    assert differences(engine) == []
    assert tokenbudget_mw_alembic.current(engine) == tokenbudget_mw_alembic.head()


def test_alembic_refuses_after_django(engine: Engine, django: Django) -> None:
    """
    Tables that Django made stay Django's.
    """
    run_chain("django", engine, django)

    with pytest.raises(ConfigurationError, match=r"manage\.py migrate tokenbudget_mw_django"):
        tokenbudget_mw_alembic.upgrade(engine)

    assert "tokenbudget_alembic_version" not in inspect(engine).get_table_names()


def test_django_refuses_after_alembic(engine: Engine, django: Django) -> None:
    """
    Tables that Alembic made stay Alembic's, and Django says how to live with that.
    """
    run_chain("alembic", engine, django)

    refused = django("migrate", "--verbosity=0")
    faked = django("migrate", "--verbosity=0", "--fake", "tokenbudget_mw_django")

    assert refused.returncode != 0
    assert "Alembic made the tokenbudget tables" in refused.stderr
    assert (faked.returncode, faked.stderr) == (0, "")
    assert differences(engine) == []


def test_alembic_passes_a_django_that_does_not_use_our_app(engine: Engine) -> None:
    """
    A database that some Django migrates is no obstacle by itself.
    """
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE django_migrations (id INTEGER, app VARCHAR(255), name VARCHAR(255))"))
        connection.execute(text("INSERT INTO django_migrations VALUES (1, 'auth', '0001_initial')"))

    tokenbudget_mw_alembic.upgrade(engine)

    assert tokenbudget_mw_alembic.current(engine) == tokenbudget_mw_alembic.head()
