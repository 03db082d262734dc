"""
Rollups of usage, filled from the rows that are there.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.backfill import fill_rollups
from tokenbudget_mw.database.types import Moment, Total, serial, varchar
from tokenbudget_mw_alembic.steps import create_index, create_table

revision = "0002"
down_revision = "0001"
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
    subjects = "tokenbudget_rollup_subjects"
    _create(subjects, ("account", "day", "key_id", "model"), account=255, key_id=128, model=255)
    create_index("tokenbudget_rollup_key_ix", subjects, ["key_id", "day"])
    create_index("tokenbudget_rollup_day_ix", subjects, ["day"])
    _create("tokenbudget_rollup_hours", ("hour", "model", "route"), model=255, route=255)
    _create("tokenbudget_rollup_days", ("day", "model", "route"), model=255, route=255)
    for statement in fill_rollups(op.get_context().dialect.name):
        op.execute(statement)


def _create(name: str, unique: tuple[str, ...], **texts: int) -> None:
    create_table(
        name,
        sa.Column("id", serial(), sa.Identity(), primary_key=True),
        sa.Column("hour" if "hour" in unique else "day", Moment, nullable=False),
        *(sa.Column(text, varchar(length), nullable=False) for text, length in texts.items()),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", Total, nullable=False),
        sa.Column("output_tokens", Total, nullable=False),
        sa.Column("cache_read_tokens", Total, nullable=False),
        sa.Column("cache_write_tokens", Total, nullable=False),
        sa.Column("cache_write_1h_tokens", Total, nullable=False),
        sa.Column("reasoning_tokens", Total, nullable=False),
        sa.Column("duration_us", Total, nullable=False),
        sa.Column("cost_pico", Total, nullable=False),
        sa.UniqueConstraint(*unique, name=f"{name}_uq"),
        **_MYSQL,
    )


def downgrade() -> None:
    """
    Drop the rollups; the rows stay.
    """
    for name in ("tokenbudget_rollup_days", "tokenbudget_rollup_hours", "tokenbudget_rollup_subjects"):
        op.drop_table(name)
