"""
What tests of migrations ask: whether the tables are as declared, and a row as the first version wrote it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from tokenbudget_mw.database import tables

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["FIRST_ROW", "differences"]

FIRST_ROW = text("""
    INSERT INTO tokenbudget_usage (
        id, instance_id, sequence, created_at, method, path, duration_us, is_stream, access_source, purpose, origin,
        input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, reasoning_tokens,
        usage_source, cost_pico, price_kind, decision, settle_reason, tags, write_id
    ) VALUES (
        'r1', 'i', 1, '2026-01-01 10:00:00.000000', 'POST', '/', 1500, FALSE, 'x', 'x', 'x',
        10, 5, 0, 0, 0, 0, 'x', 7, 'known', 'admitted', 'complete', '{}', 'w'
    )
""")


def differences(engine: Engine) -> list[Any]:
    """
    Return how the tables differ from those that are declared, types compared.
    """

    def is_ours(name: str | None, type_: str, _parents: Any) -> bool:
        return type_ != "table" or name in tables.metadata.tables

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": is_ours})
        return list(compare_metadata(context, tables.metadata))
