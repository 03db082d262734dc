"""
What retention has deleted.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.types import Moment, Total, serial, varchar
from tokenbudget_mw_alembic.steps import create_table, keep_rows

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}


def upgrade() -> None:
    """
    Make the tables.
    """
    create_table(
        "tokenbudget_purged_days",
        sa.Column("id", serial(), sa.Identity(), primary_key=True),
        sa.Column("day", Moment, nullable=False),
        sa.Column("account", varchar(255), nullable=False),
        sa.Column("model", varchar(255), nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", Total, nullable=False),
        sa.Column("output_tokens", Total, nullable=False),
        sa.Column("cache_read_tokens", Total, nullable=False),
        sa.Column("cache_write_tokens", Total, nullable=False),
        sa.Column("cache_write_1h_tokens", Total, nullable=False),
        sa.Column("reasoning_tokens", Total, nullable=False),
        sa.Column("cost_pico", Total, nullable=False),
        sa.UniqueConstraint("account", "day", "model", name="tokenbudget_purged_days_uq"),
        **_MYSQL,
    )
    create_table(
        "tokenbudget_purged_ranges",
        sa.Column("id", serial(), sa.Identity(), primary_key=True),
        sa.Column("instance_id", varchar(36), nullable=False),
        sa.Column("first_sequence", sa.BigInteger, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("instance_id", "first_sequence", name="tokenbudget_purged_ranges_uq"),
        **_MYSQL,
    )


def downgrade() -> None:
    """
    Drop the tables; the books of purged rows no longer close.
    """
    keep_rows({"tokenbudget_purged_days": "", "tokenbudget_purged_ranges": ""})
    for name in ("tokenbudget_purged_ranges", "tokenbudget_purged_days"):
        op.drop_table(name)
