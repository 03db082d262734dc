"""
Tables that are gone though their migrations have run, and tables that are there though nothing says what made them.
"""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, inspect, text

import tokenbudget_mw_alembic
from tokenbudget_mw.cli import main
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.gaps import gaps
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.errors import ConfigurationError


def run(engine: Engine, *statements: str) -> None:
    """
    Run *statements* on the database of *engine*.
    """
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "gone"),
    [
        ("DROP TABLE tokenbudget_grants", "tokenbudget_grants"),
        ("ALTER TABLE tokenbudget_usage DROP COLUMN audio_input_tokens", "tokenbudget_usage.audio_input_tokens"),
    ],
)
def test_what_somebody_has_dropped_is_told(
    engine: Engine, capsys: pytest.CaptureFixture[str], statement: str, gone: str
) -> None:
    """
    No migration makes it again, so neither command says that all is well, or that the other one would help.
    """
    tokenbudget_mw_alembic.upgrade(engine)
    run(engine, statement)
    url = engine.url.render_as_string(hide_password=False)

    codes = main(["migrate", "--database", url]), main(["doctor", "--database", url])

    out, err = capsys.readouterr()
    head = tokenbudget_mw_alembic.head()
    assert codes == (2, 1)
    assert f"{gone} is not in the database, though it is at {head}" in err
    assert f"{gone} is not in the database, though it is at {head}" in out
    assert "`tokenbudget-mw migrate` (Django" not in out


def test_gaps_are_looked_for_where_names_lead(postgres_database: str) -> None:
    """
    Tables lie behind the first schema of the path, where a schema was made for the role later on: they are found there.
    """
    first = open_engine(postgres_database)
    tokenbudget_mw_alembic.upgrade(first)
    run(first, "CREATE SCHEMA books")
    engine = open_engine(
        f"{postgres_database}{'&' if '?' in postgres_database else '?'}options=-csearch_path%3Dbooks,public"
    )

    with engine.connect() as connection:
        found = gaps(connection)

    code = main(["doctor", "--database", engine.url.render_as_string(hide_password=False)])
    first.dispose()
    engine.dispose()
    assert found == []
    assert code == 0


def test_tables_that_nothing_notes_are_told_at_once(engine: Engine) -> None:
    """
    Tables of `create_all`, or of a backup without the table of the version, are neither waited for nor to be dropped.
    """
    metadata.create_all(engine)

    with pytest.raises(ConfigurationError) as caught:
        tokenbudget_mw_alembic.upgrade(engine)
    statements = [part for part in str(caught.value).split("`") if part.startswith(("CREATE", "INSERT"))]
    run(engine, *statements)
    tokenbudget_mw_alembic.upgrade(engine)

    assert len(statements) == 2
    assert tokenbudget_mw_alembic.current(engine) == tokenbudget_mw_alembic.head()
    assert set(inspect(engine).get_table_names()) >= set(metadata.tables)


def test_what_is_in_the_way_is_told_on_sqlite_too(sqlite_database: str) -> None:
    """
    A step there is made as a whole, so nobody is waited for, and the error says more than the database's own.
    """
    engine = open_engine(sqlite_database)
    run(engine, "CREATE TABLE tokenbudget_grants (id INTEGER)")

    with pytest.raises(ConfigurationError, match=r"after revision 0006 .* tokenbudget_grants already exists.*Rename"):
        tokenbudget_mw_alembic.upgrade(engine)

    engine.dispose()
