"""
Prices of the user's own.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.types import Moment, varchar
from tokenbudget_mw_alembic.steps import create_index, create_table, keep_rows

revision = "0005"
down_revision = "0004"
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
        "tokenbudget_tariffs",
        sa.Column("id", varchar(255), primary_key=True),
        sa.Column("model", varchar(128), nullable=False),
        sa.Column("purpose", varchar(32)),
        sa.Column("completion_window", varchar(16)),
        sa.Column("service_tier", varchar(64)),
        sa.Column("above_input", sa.BigInteger, nullable=False),
        sa.Column("input_pico", sa.BigInteger, nullable=False),
        sa.Column("output_pico", sa.BigInteger, nullable=False),
        sa.Column("cache_read_pico", sa.BigInteger),
        sa.Column("cache_write_pico", sa.BigInteger),
        sa.Column("cache_write_1h_pico", sa.BigInteger),
        sa.Column("reasoning_pico", sa.BigInteger),
        sa.Column("audio_input_pico", sa.BigInteger),
        sa.Column("audio_output_pico", sa.BigInteger),
        sa.Column("valid_from", Moment, nullable=False),
        sa.Column("valid_until", Moment),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("note", varchar(512)),
        **_MYSQL,
    )
    create_index("tokenbudget_tariffs_model_ix", "tokenbudget_tariffs", ["model", "valid_from"])


def downgrade() -> None:
    """
    Drop the table; only the settings' prices and the price book are left.
    """
    keep_rows({"tokenbudget_tariffs": ""})
    op.drop_table("tokenbudget_tariffs")
