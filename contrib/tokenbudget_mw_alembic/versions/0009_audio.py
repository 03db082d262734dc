"""
Tokens of audio on usage rows.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw_alembic.steps import add_column, keep_rows

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """
    Add the columns. They may be empty, so no row is rewritten.
    """
    for name in ("audio_input_tokens", "audio_output_tokens"):
        add_column("tokenbudget_usage", sa.Column(name, sa.BigInteger))


def downgrade() -> None:
    """
    Drop the columns; costs stay.
    """
    keep_rows({"tokenbudget_usage": "audio_input_tokens"})
    keep_rows({"tokenbudget_usage": "audio_output_tokens"})
    for name in ("audio_output_tokens", "audio_input_tokens"):
        op.drop_column("tokenbudget_usage", name)
