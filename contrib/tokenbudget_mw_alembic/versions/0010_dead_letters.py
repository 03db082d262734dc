"""
Usage records that the database refused for good.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.types import Moment, text, varchar
from tokenbudget_mw_alembic.steps import create_index, create_table, keep_rows

revision = "0010"
down_revision = "0009"
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
        "tokenbudget_dead_letters",
        sa.Column("id", varchar(36), primary_key=True),
        sa.Column("kept_at", Moment, nullable=False),
        sa.Column("error", varchar(64), nullable=False),
        sa.Column("record", text(), nullable=False),
        **_MYSQL,
    )
    create_index("tokenbudget_dead_letters_ix", "tokenbudget_dead_letters", ["kept_at", "id"])


def downgrade() -> None:
    """
    Drop the table, and with it the usage that nobody has mended.
    """
    keep_rows({"tokenbudget_dead_letters": ""})
    op.drop_table("tokenbudget_dead_letters")
