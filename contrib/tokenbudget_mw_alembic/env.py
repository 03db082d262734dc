"""
Alembic's entry: configures it with the connection or the dialect that `chain.upgrade` has put into the config.
"""

from __future__ import annotations

from alembic import context

from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw_alembic.chain import VERSION_TABLE


def _run() -> None:
    attributes = context.config.attributes
    if context.is_offline_mode():
        context.configure(
            dialect_name=attributes["dialect"].name,
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            literal_binds=True,
            transaction_per_migration=True,
        )
    else:
        context.configure(
            connection=attributes["connection"],
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            transaction_per_migration=True,
        )
    with context.begin_transaction():
        context.run_migrations()


_run()
