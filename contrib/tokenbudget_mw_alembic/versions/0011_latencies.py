"""
How many requests took how long, filled from the rows that are there.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.backfill import fill_latencies
from tokenbudget_mw.database.types import Moment, serial, varchar
from tokenbudget_mw_alembic.steps import create_table

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_MYSQL: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}


def upgrade() -> None:
    """
    Make the tables and fill them.
    """
    for start in ("hour", "day"):
        create_table(
            f"tokenbudget_latency_{start}s",
            sa.Column("id", serial(), sa.Identity(), primary_key=True),
            sa.Column(start, Moment, nullable=False),
            sa.Column("route", varchar(255), nullable=False),
            sa.Column("up_to_us", sa.BigInteger, nullable=False),
            sa.Column("requests", sa.BigInteger, nullable=False),
            sa.UniqueConstraint(start, "route", "up_to_us", name=f"tokenbudget_latency_{start}s_uq"),
            **_MYSQL,
        )
    for statement in fill_latencies(op.get_context().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    """
    Drop the tables.
    """
    for name in ("tokenbudget_latency_days", "tokenbudget_latency_hours"):
        op.drop_table(name)
