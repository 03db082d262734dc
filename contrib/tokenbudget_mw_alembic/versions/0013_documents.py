"""
Invoices of more than 64 KiB, on MySQL.
"""

from __future__ import annotations

from alembic import op

from tokenbudget_mw.database.types import document, text

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """
    Widen the column, where it has a bound.
    """
    if op.get_context().dialect.name in ("mysql", "mariadb"):
        op.alter_column("tokenbudget_periods", "document", type_=document(), existing_nullable=False)


def downgrade() -> None:
    """
    Narrow it again; an error where an invoice is longer.
    """
    if op.get_context().dialect.name in ("mysql", "mariadb"):
        op.alter_column("tokenbudget_periods", "document", type_=text(), existing_nullable=False)
