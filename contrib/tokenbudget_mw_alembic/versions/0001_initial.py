"""
Usage, ledger, balances and keys.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.types import Moment, Pico, text, varchar
from tokenbudget_mw_alembic.steps import create_index, create_table, keep_rows

revision = "0001"
down_revision = None
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
    _create_usage()
    _create_ledger()
    _create_balances()
    _create_keys()


def _create_usage() -> None:
    create_table(
        "tokenbudget_usage",
        sa.Column("id", varchar(36), primary_key=True),
        sa.Column("instance_id", varchar(36), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("method", varchar(16), nullable=False),
        sa.Column("path", varchar(512), nullable=False),
        sa.Column("route", varchar(255)),
        sa.Column("status", sa.Integer),
        sa.Column("duration_us", sa.BigInteger, nullable=False),
        sa.Column("first_byte_us", sa.BigInteger),
        sa.Column("request_model", varchar(255)),
        sa.Column("response_model", varchar(255)),
        sa.Column("provider", varchar(64)),
        sa.Column("response_type", varchar(64)),
        sa.Column("is_stream", sa.Boolean, nullable=False),
        sa.Column("server_address", varchar(255)),
        sa.Column("server_port", sa.Integer),
        sa.Column("key_id", varchar(128)),
        sa.Column("user_id", varchar(255)),
        sa.Column("team_id", varchar(255)),
        sa.Column("project_id", varchar(255)),
        sa.Column("tenant_id", varchar(255)),
        sa.Column("account", varchar(255)),
        sa.Column("plan", varchar(64)),
        sa.Column("access_source", varchar(32), nullable=False),
        sa.Column("purpose", varchar(32), nullable=False),
        sa.Column("origin", varchar(32), nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_1h_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("usage_source", varchar(16), nullable=False),
        sa.Column("cost_pico", sa.BigInteger, nullable=False),
        sa.Column("price_id", varchar(255)),
        sa.Column("price_kind", varchar(16), nullable=False),
        sa.Column("decision", varchar(32), nullable=False),
        sa.Column("limit_name", varchar(128)),
        sa.Column("settle_reason", varchar(32), nullable=False),
        sa.Column("correlation_id", varchar(128)),
        sa.Column("trace_id", varchar(64)),
        sa.Column("service_tier", varchar(64)),
        sa.Column("batch_id", varchar(128)),
        sa.Column("batch_request_id", varchar(128)),
        sa.Column("custom_id", varchar(255)),
        sa.Column("completion_window", varchar(16)),
        sa.Column("batch_created_at", Moment),
        sa.Column("batch_request_source", varchar(64)),
        sa.Column("tags", text(), nullable=False),
        sa.Column("write_id", varchar(36), nullable=False),
        sa.CheckConstraint("cost_pico >= 0", name="tokenbudget_usage_cost_ck"),
        sa.UniqueConstraint("instance_id", "sequence", name="tokenbudget_usage_event_uq"),
        sa.CheckConstraint(
            "input_tokens >= 0 AND output_tokens >= 0 AND cache_read_tokens >= 0 AND cache_write_tokens >= 0 AND cache_write_1h_tokens >= 0 AND reasoning_tokens >= 0",
            name="tokenbudget_usage_tokens_ck",
        ),
        **_MYSQL,
    )
    create_index("tokenbudget_usage_account_ix", "tokenbudget_usage", ["account", "created_at", "id"])
    create_index("tokenbudget_usage_created_ix", "tokenbudget_usage", ["created_at"])
    create_index("tokenbudget_usage_key_ix", "tokenbudget_usage", ["key_id", "created_at", "id"])


def _create_ledger() -> None:
    create_table(
        "tokenbudget_ledger",
        sa.Column("id", varchar(36), primary_key=True),
        sa.Column("account", varchar(255), nullable=False),
        sa.Column("contra", varchar(255), nullable=False),
        sa.Column("amount_pico", Pico, nullable=False),
        sa.Column("kind", varchar(16), nullable=False),
        sa.Column("source_id", varchar(384), nullable=False),
        sa.Column("write_id", varchar(36)),
        sa.Column("instance_id", varchar(36)),
        sa.Column("first_sequence", sa.BigInteger),
        sa.Column("last_sequence", sa.BigInteger),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("note", varchar(512)),
        sa.UniqueConstraint("source_id", name="tokenbudget_ledger_source_uq"),
        **_MYSQL,
    )
    create_index("tokenbudget_ledger_account_ix", "tokenbudget_ledger", ["account", "created_at", "id"])


def _create_balances() -> None:
    create_table(
        "tokenbudget_balances",
        sa.Column("account", varchar(255), primary_key=True),
        sa.Column("balance_pico", Pico, nullable=False),
        sa.Column("updated_at", Moment, nullable=False),
        **_MYSQL,
    )


def _create_keys() -> None:
    create_table(
        "tokenbudget_keys",
        sa.Column("kid", varchar(32), primary_key=True),
        sa.Column("digest", varchar(128), nullable=False),
        sa.Column("pepper_version", sa.Integer, nullable=False),
        sa.Column("last4", varchar(8), nullable=False),
        sa.Column("name", varchar(255), nullable=False),
        sa.Column("user_id", varchar(255)),
        sa.Column("team_id", varchar(255)),
        sa.Column("project_id", varchar(255)),
        sa.Column("tenant_id", varchar(255)),
        sa.Column("plan", varchar(64)),
        sa.Column("purpose", varchar(32), nullable=False),
        sa.Column("status", varchar(16), nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("expires_at", Moment),
        sa.Column("revoked_at", Moment),
        sa.Column("rotated_to", varchar(32)),
        sa.Column("last_used_at", Moment),
        sa.Column("tags", text(), nullable=False),
        **_MYSQL,
    )


def downgrade() -> None:
    """
    Drop the tables, with the books in them.
    """
    keep_rows({"tokenbudget_usage": "", "tokenbudget_ledger": "", "tokenbudget_keys": ""})
    for name in ("tokenbudget_keys", "tokenbudget_balances", "tokenbudget_ledger", "tokenbudget_usage"):
        op.drop_table(name)
