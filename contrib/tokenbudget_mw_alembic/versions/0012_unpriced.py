"""
An index of the rows without a price of their own. It is made while the table is in use.
"""

from __future__ import annotations

from alembic import op

from tokenbudget_mw.database import online_indexes

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INDEX = online_indexes.OnlineIndex(
    "tokenbudget_usage_unpriced_ix", "tokenbudget_usage", ("price_kind", "created_at"), "price_kind <> 'known'"
)


def upgrade() -> None:
    """
    Make the index.
    """
    context = op.get_context()
    if context.as_sql:  # for an empty database
        op.execute(INDEX.sql(context.dialect.name))
        return
    with context.autocommit_block():
        online_indexes.create(online_indexes.runner(op.get_bind()), context.dialect.name, INDEX)


def downgrade() -> None:
    """
    Drop the index.
    """
    op.drop_index(INDEX.name, INDEX.table)
