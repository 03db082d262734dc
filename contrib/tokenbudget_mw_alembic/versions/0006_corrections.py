"""
What rows cost more or less than was charged at first.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.types import Moment, varchar
from tokenbudget_mw_alembic.steps import create_index, create_table, keep_rows

revision = "0006"
down_revision = "0005"
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
        "tokenbudget_corrections",
        sa.Column("id", varchar(36), primary_key=True),
        sa.Column("usage_id", varchar(36), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("used_at", Moment, nullable=False),
        sa.Column("account", varchar(255)),
        sa.Column("key_id", varchar(128)),
        sa.Column("model", varchar(255), nullable=False),
        sa.Column("route", varchar(255)),
        sa.Column("change_pico", sa.BigInteger, nullable=False),
        sa.Column("cost_pico", sa.BigInteger, nullable=False),
        sa.Column("price_id", varchar(255)),
        sa.Column("write_id", varchar(36), nullable=False),
        sa.Column("note", varchar(512)),
        sa.UniqueConstraint("usage_id", "number", name="tokenbudget_corrections_uq"),
        **_MYSQL,
    )
    create_index("tokenbudget_correction_used_ix", "tokenbudget_corrections", ["used_at"])


def downgrade() -> None:
    """
    Drop the table; the books of corrected rows no longer close.
    """
    keep_rows({"tokenbudget_corrections": ""})
    op.drop_table("tokenbudget_corrections")
