"""
Back, across from one chain to the other, and beside a newer version: nothing is lost, and whoever stops says why.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from alembic import command
from migration_rig import FIRST_ROW, differences
from sqlalchemy import text

import tokenbudget_mw_alembic
from tokenbudget_mw.cli import main
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw_alembic import chain

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

    Django = Callable[..., subprocess.CompletedProcess[str]]

LETTER = text("INSERT INTO tokenbudget_dead_letters VALUES ('d1', '2026-01-01 10:00:00.000000', 'x', '{}')")


def count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT COUNT(*) FROM {table}")))


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_django_goes_back_over_no_rows_that_are_nowhere_else(engine: Engine, django: Django) -> None:
    """
    What can be made anew goes; where the only copy of something would go, the step stops, names it, and has done nothing.
    """
    assert django("migrate", "--verbosity=0").returncode == 0
    run(engine, FIRST_ROW.text, LETTER.text, "UPDATE tokenbudget_usage SET audio_input_tokens = 7")
    engine.dispose()

    refused = django("migrate", "tokenbudget_mw_django", "0008", "--verbosity=0")
    letters = count(engine, "tokenbudget_dead_letters")
    run(engine, "DELETE FROM tokenbudget_dead_letters")
    engine.dispose()
    again = django("migrate", "tokenbudget_mw_django", "0008", "--verbosity=0")

    assert (refused.returncode, letters) == (1, 1)
    assert "1 rows of tokenbudget_dead_letters. An older version runs on newer tables" in refused.stderr
    assert "audio_input_tokens of 1 rows of tokenbudget_usage" in again.stderr
    assert django("migrate", "--verbosity=0").returncode == 0
    engine.dispose()
    assert differences(engine) == []
    assert count(engine, "tokenbudget_latency_hours") == 1


def test_alembic_goes_back_over_no_rows_that_are_nowhere_else(engine: Engine) -> None:
    """
    The same of Alembic, for whoever drives it by hand.
    """
    tokenbudget_mw_alembic.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(LETTER)
    config = chain._config(io.StringIO())

    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(ConfigurationError, match="1 rows of tokenbudget_dead_letters"):
            command.downgrade(config, "0008")

    assert count(engine, "tokenbudget_dead_letters") == 1
    assert tokenbudget_mw_alembic.current(engine) == "0010"


def test_tables_that_alembic_keeps_stay_its_own_though_django_was_told(engine: Engine, django: Django) -> None:
    """
    After ``--fake``, Alembic goes on, and Django's next migration stops; once the version table is dropped, Django goes on.
    """
    tokenbudget_mw_alembic.upgrade(engine, "0010")
    engine.dispose()
    assert django("migrate", "tokenbudget_mw_django", "0010", "--fake", "--verbosity=0").returncode == 0

    refused = django("migrate", "--verbosity=0")
    tokenbudget_mw_alembic.upgrade(engine, "0011")
    engine.dispose()
    assert django("migrate", "tokenbudget_mw_django", "0011", "--fake", "--verbosity=0").returncode == 0
    run(engine, "DROP TABLE tokenbudget_alembic_version")
    engine.dispose()
    taken_over = django("migrate", "--verbosity=0")

    assert "Alembic keeps them" in refused.stderr
    assert (taken_over.returncode, taken_over.stderr) == (0, "")
    engine.dispose()
    assert differences(engine) == []
    with pytest.raises(ConfigurationError, match=r"manage\.py migrate tokenbudget_mw_django"):
        tokenbudget_mw_alembic.upgrade(engine)


def test_an_old_replica_lets_newer_tables_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    While a new version is rolled out, a replica of the old one may start, migrate and be examined as ever.
    """
    url = f"sqlite:///{tmp_path}/books.db"
    main(["migrate", "--database", url])
    engine = open_engine(url)
    run(engine, "UPDATE tokenbudget_alembic_version SET version_num = '9999'")
    engine.dispose()
    capsys.readouterr()

    ended = main(["migrate", "--database", url])
    told = capsys.readouterr().out
    main(["doctor", "--database", url])

    assert ended == 0
    assert "at 9999, which a newer version has made" in told
    assert "ok       database  the schema is at 9999" in capsys.readouterr().out
