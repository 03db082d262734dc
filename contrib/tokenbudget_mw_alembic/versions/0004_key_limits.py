"""
Limits that a key has of its own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.types import text
from tokenbudget_mw_alembic.steps import add_column, keep_rows

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """
    Add the column.
    """
    add_column("tokenbudget_keys", sa.Column("limits", text()))


def downgrade() -> None:
    """
    Drop the column; keys have the limits of their plans again.
    """
    keep_rows({"tokenbudget_keys": "limits"})
    op.drop_column("tokenbudget_keys", "limits")
