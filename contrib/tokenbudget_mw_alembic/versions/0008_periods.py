"""
Billing periods that are closed.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.types import Moment, Pico, text, varchar
from tokenbudget_mw_alembic.steps import create_table, keep_rows

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}


def upgrade() -> None:
    """
    Make the table.
    """
    create_table(
        "tokenbudget_periods",
        sa.Column("id", varchar(36), primary_key=True),
        sa.Column("account", varchar(255), nullable=False),
        sa.Column("starts_at", Moment, nullable=False),
        sa.Column("ends_at", Moment, nullable=False),
        sa.Column("closed_at", Moment, nullable=False),
        sa.Column("usage_pico", Pico, nullable=False),
        sa.Column("refunds_pico", Pico, nullable=False),
        sa.Column("remainder_pico", Pico, nullable=False),
        sa.Column("document", text(), nullable=False),
        sa.Column("digest", varchar(64), nullable=False),
        sa.UniqueConstraint("account", "starts_at", name="tokenbudget_periods_uq"),
        **_MYSQL,
    )


def downgrade() -> None:
    """
    Drop the table, and with it what was invoiced.
    """
    keep_rows({"tokenbudget_periods": ""})
    op.drop_table("tokenbudget_periods")
