"""
Money that was given for a time.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.types import Moment, Pico, varchar
from tokenbudget_mw_alembic.steps import create_index, create_table, keep_rows

revision = "0007"
down_revision = "0006"
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
        "tokenbudget_grants",
        sa.Column("id", varchar(36), primary_key=True),
        sa.Column("account", varchar(255), nullable=False),
        sa.Column("amount_pico", Pico, nullable=False),
        sa.Column("expires_at", Moment, nullable=False),
        sa.Column("expired_at", Moment),
        sa.Column("unused_pico", Pico),
        **_MYSQL,
    )
    create_index("tokenbudget_grants_account_ix", "tokenbudget_grants", ["account"])
    create_index("tokenbudget_grants_due_ix", "tokenbudget_grants", ["expired_at", "expires_at"])


def downgrade() -> None:
    """
    Drop the table; grants that have not expired stay for ever.
    """
    keep_rows({"tokenbudget_grants": ""})
    op.drop_table("tokenbudget_grants")
