"""
``manage.py sqlmigrate`` prints what a migration does, and does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import inspect

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from sqlalchemy import Engine

    Django = Callable[..., subprocess.CompletedProcess[str]]

INDEX = "tokenbudget_usage_unpriced_ix"


def test_printed_migrations_are_whole_and_not_run(engine: Engine, django: Django) -> None:
    """
    Also where they have run: a table, a column and an index that are there are printed all the same; one that is not stays away.
    """
    assert django("migrate", "tokenbudget_mw_django", "0011", "--verbosity=0").returncode == 0

    printed = {
        number: django("sqlmigrate", "tokenbudget_mw_django", number).stdout for number in ("0004", "0007", "0012")
    }
    indexes = [index["name"] for index in inspect(engine).get_indexes("tokenbudget_usage")]

    assert "ADD COLUMN" in printed["0004"]
    assert "CREATE TABLE" in printed["0007"]
    assert f"CREATE INDEX {'CONCURRENTLY ' * (engine.dialect.name == 'postgresql')}{INDEX}" in printed["0012"]
    assert INDEX not in indexes
