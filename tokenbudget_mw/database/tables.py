"""
The tables in the host's database. This `metadata` is the one truth of the schema; both migration chains are held to it.

No table refers to a table of the host: owners are ids in text, so the host may delete, rename and partition as it likes.
Every name starts with ``tokenbudget_``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy import text as sql_text

from tokenbudget_mw.database.types import Moment, Pico, Total, document, serial, text, varchar

__all__ = [
    "CHARGES", "FIGURES", "PREFIX", "PURGED", "REVENUE", "TOKENS", "balances", "corrections", "dead_letters",
    "grants", "keys", "latency_days", "latency_hours", "ledger", "metadata", "periods", "purged_days",
    "purged_ranges", "rollup_days", "rollup_hours", "rollup_subjects", "tariffs", "usage",
]  # fmt: skip

PREFIX = "tokenbudget_"

REVENUE = "revenue"
"""The account on the other side of usage entries."""

CHARGES = ("usage", "rerate", "repair")
"""Kinds of ledger entries that stand for usage rows, for corrections of their costs, or for what was missing of these."""

metadata = MetaData()

_MYSQL_TABLE: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}

TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
"""The classes of tokens, as columns."""

FIGURES = ("requests", "refused", "errors", *TOKENS, "duration_us", "cost_pico")
"""What a rollup adds up; *errors* are answers with a status of 500 and above."""


def _not_negative(table: str, what: str, *columns: str) -> CheckConstraint:
    condition = " AND ".join(f"{column} >= 0" for column in columns)
    return CheckConstraint(condition, name=f"tokenbudget_{table}_{what}_ck")


def _unpriced() -> dict[str, Any]:
    return {f"{dialect}_where": sql_text("price_kind <> 'known'") for dialect in ("postgresql", "sqlite")}


usage = Table(
    "tokenbudget_usage",
    metadata,
    Column("id", varchar(36), primary_key=True),
    Column("instance_id", varchar(36), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("method", varchar(16), nullable=False),
    Column("path", varchar(512), nullable=False),
    Column("route", varchar(255)),
    Column("status", Integer),
    Column("duration_us", BigInteger, nullable=False),
    Column("first_byte_us", BigInteger),
    Column("request_model", varchar(255)),
    Column("response_model", varchar(255)),
    Column("provider", varchar(64)),
    Column("response_type", varchar(64)),
    Column("is_stream", Boolean, nullable=False),
    Column("server_address", varchar(255)),
    Column("server_port", Integer),
    Column("key_id", varchar(128)),
    Column("user_id", varchar(255)),
    Column("team_id", varchar(255)),
    Column("project_id", varchar(255)),
    Column("tenant_id", varchar(255)),
    Column("account", varchar(255)),
    Column("plan", varchar(64)),
    Column("access_source", varchar(32), nullable=False),
    Column("purpose", varchar(32), nullable=False),
    Column("origin", varchar(32), nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in TOKENS),
    Column("usage_source", varchar(16), nullable=False),
    Column("cost_pico", BigInteger, nullable=False),
    Column("price_id", varchar(255)),
    Column("price_kind", varchar(16), nullable=False),
    Column("decision", varchar(32), nullable=False),
    Column("limit_name", varchar(128)),
    Column("settle_reason", varchar(32), nullable=False),
    Column("correlation_id", varchar(128)),
    Column("trace_id", varchar(64)),
    Column("service_tier", varchar(64)),
    Column("batch_id", varchar(128)),
    Column("batch_request_id", varchar(128)),
    Column("custom_id", varchar(255)),
    Column("completion_window", varchar(16)),
    Column("batch_created_at", Moment),
    Column("batch_request_source", varchar(64)),
    Column("tags", text(), nullable=False),
    Column("audio_input_tokens", BigInteger),
    Column("audio_output_tokens", BigInteger),
    Column("write_id", varchar(36), nullable=False),
    UniqueConstraint("instance_id", "sequence", name="tokenbudget_usage_event_uq"),
    Index("tokenbudget_usage_key_ix", "key_id", "created_at", "id"),
    Index("tokenbudget_usage_account_ix", "account", "created_at", "id"),
    Index("tokenbudget_usage_created_ix", "created_at"),
    # where a database knows partial indexes, a row that has its price costs nothing here
    Index("tokenbudget_usage_unpriced_ix", "price_kind", "created_at", **_unpriced()),
    _not_negative("usage", "tokens", *TOKENS),
    _not_negative("usage", "cost", "cost_pico"),
    **_MYSQL_TABLE,
)

# Append-only. One entry per account and write; a positive amount debits the account, a negative one credits it.
# The requests behind an entry are the usage rows of its account and write_id between its two sequences.
ledger = Table(
    "tokenbudget_ledger",
    metadata,
    Column("id", varchar(36), primary_key=True),
    Column("account", varchar(255), nullable=False),
    Column("contra", varchar(255), nullable=False),
    Column("amount_pico", Pico, nullable=False),
    Column("kind", varchar(16), nullable=False),
    Column("source_id", varchar(384), nullable=False),
    Column("write_id", varchar(36)),
    Column("instance_id", varchar(36)),
    Column("first_sequence", BigInteger),
    Column("last_sequence", BigInteger),
    Column("entries", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("note", varchar(512)),
    UniqueConstraint("source_id", name="tokenbudget_ledger_source_uq"),
    Index("tokenbudget_ledger_account_ix", "account", "created_at", "id"),
    **_MYSQL_TABLE,
)

# A cache of -sum(ledger) by account, kept in the same transaction; `books.verify` holds it to the ledger.
balances = Table(
    "tokenbudget_balances",
    metadata,
    Column("account", varchar(255), primary_key=True),
    Column("balance_pico", Pico, nullable=False),
    Column("updated_at", Moment, nullable=False),
    **_MYSQL_TABLE,
)

# Append-only. What was charged for a usage row after it was written, by a price that was not known then.
corrections = Table(
    "tokenbudget_corrections",
    metadata,
    Column("id", varchar(36), primary_key=True),
    Column("usage_id", varchar(36), nullable=False),
    Column("number", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("used_at", Moment, nullable=False),
    Column("account", varchar(255)),
    Column("key_id", varchar(128)),
    Column("model", varchar(255), nullable=False),
    Column("route", varchar(255)),
    Column("change_pico", BigInteger, nullable=False),
    Column("cost_pico", BigInteger, nullable=False),
    Column("price_id", varchar(255)),
    Column("write_id", varchar(36), nullable=False),
    Column("note", varchar(512)),
    UniqueConstraint("usage_id", "number", name="tokenbudget_corrections_uq"),
    Index("tokenbudget_correction_used_ix", "used_at"),
    **_MYSQL_TABLE,
)

# Money that was given for a time. The ledger has the entry of the same id, and one more once it has expired.
grants = Table(
    "tokenbudget_grants",
    metadata,
    Column("id", varchar(36), primary_key=True),
    Column("account", varchar(255), nullable=False),
    Column("amount_pico", Pico, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("expired_at", Moment),
    Column("unused_pico", Pico),
    Index("tokenbudget_grants_account_ix", "account"),
    Index("tokenbudget_grants_due_ix", "expired_at", "expires_at"),
    **_MYSQL_TABLE,
)

# Billing periods that are closed. A row is never changed; its digest covers its document and the digest of the one before.
periods = Table(
    "tokenbudget_periods",
    metadata,
    Column("id", varchar(36), primary_key=True),
    Column("account", varchar(255), nullable=False),
    Column("starts_at", Moment, nullable=False),
    Column("ends_at", Moment, nullable=False),
    Column("closed_at", Moment, nullable=False),
    Column("usage_pico", Pico, nullable=False),
    Column("refunds_pico", Pico, nullable=False),
    Column("remainder_pico", Pico, nullable=False),
    Column("document", document(), nullable=False),
    Column("digest", varchar(64), nullable=False),
    UniqueConstraint("account", "starts_at", name="tokenbudget_periods_uq"),
    **_MYSQL_TABLE,
)

keys = Table(
    "tokenbudget_keys",
    metadata,
    Column("kid", varchar(32), primary_key=True),
    Column("digest", varchar(128), nullable=False),
    Column("pepper_version", Integer, nullable=False),
    Column("last4", varchar(8), nullable=False),
    Column("name", varchar(255), nullable=False),
    Column("user_id", varchar(255)),
    Column("team_id", varchar(255)),
    Column("project_id", varchar(255)),
    Column("tenant_id", varchar(255)),
    Column("plan", varchar(64)),
    Column("purpose", varchar(32), nullable=False),
    Column("status", varchar(16), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("rotated_to", varchar(32)),
    Column("last_used_at", Moment),
    Column("tags", text(), nullable=False),
    Column("limits", text()),
    **_MYSQL_TABLE,
)

# Usage records that this database refused for good, until a person mends or drops them: ASCII JSON, which always fits.
dead_letters = Table(
    "tokenbudget_dead_letters",
    metadata,
    Column("id", varchar(36), primary_key=True),
    Column("kept_at", Moment, nullable=False),
    Column("error", varchar(64), nullable=False),
    Column("record", text(), nullable=False),
    Index("tokenbudget_dead_letters_ix", "kept_at", "id"),
    **_MYSQL_TABLE,
)

# Prices of the user's own, beside those of the settings. A row's end may be moved; nothing else of it ever changes.
tariffs = Table(
    "tokenbudget_tariffs",
    metadata,
    Column("id", varchar(255), primary_key=True),
    Column("model", varchar(128), nullable=False),
    Column("purpose", varchar(32)),
    Column("completion_window", varchar(16)),
    Column("service_tier", varchar(64)),
    Column("above_input", BigInteger, nullable=False),
    Column("input_pico", BigInteger, nullable=False),
    Column("output_pico", BigInteger, nullable=False),
    Column("cache_read_pico", BigInteger),
    Column("cache_write_pico", BigInteger),
    Column("cache_write_1h_pico", BigInteger),
    Column("reasoning_pico", BigInteger),
    Column("audio_input_pico", BigInteger),
    Column("audio_output_pico", BigInteger),
    Column("valid_from", Moment, nullable=False),
    Column("valid_until", Moment),
    Column("created_at", Moment, nullable=False),
    Column("note", varchar(512)),
    Index("tokenbudget_tariffs_model_ix", "model", "valid_from"),
    **_MYSQL_TABLE,
)


# -- rollups: usage added up, in the transaction that adds the rows. What a row does not have is the empty text here. ---


def _figures(*names: str) -> list[Column[Any]]:
    counts = {"requests", "refused", "errors"}
    return [Column(name, BigInteger if name in counts else Total, nullable=False) for name in names]


rollup_subjects = Table(
    "tokenbudget_rollup_subjects",
    metadata,
    Column("id", serial(), Identity(), primary_key=True),
    Column("day", Moment, nullable=False),
    Column("account", varchar(255), nullable=False),
    Column("key_id", varchar(128), nullable=False),
    Column("model", varchar(255), nullable=False),
    *_figures(*FIGURES),
    UniqueConstraint("account", "day", "key_id", "model", name="tokenbudget_rollup_subjects_uq"),
    Index("tokenbudget_rollup_key_ix", "key_id", "day"),
    Index("tokenbudget_rollup_day_ix", "day"),
    **_MYSQL_TABLE,
)

rollup_hours = Table(
    "tokenbudget_rollup_hours",
    metadata,
    Column("id", serial(), Identity(), primary_key=True),
    Column("hour", Moment, nullable=False),
    Column("model", varchar(255), nullable=False),
    Column("route", varchar(255), nullable=False),
    *_figures(*FIGURES),
    UniqueConstraint("hour", "model", "route", name="tokenbudget_rollup_hours_uq"),
    **_MYSQL_TABLE,
)

rollup_days = Table(
    "tokenbudget_rollup_days",
    metadata,
    Column("id", serial(), Identity(), primary_key=True),
    Column("day", Moment, nullable=False),
    Column("model", varchar(255), nullable=False),
    Column("route", varchar(255), nullable=False),
    *_figures(*FIGURES),
    UniqueConstraint("day", "model", "route", name="tokenbudget_rollup_days_uq"),
    **_MYSQL_TABLE,
)


# How many requests took how long: those that took up to *up_to_us*, and longer than the bound below (`latencies.BOUNDS`).
latency_hours = Table(
    "tokenbudget_latency_hours",
    metadata,
    Column("id", serial(), Identity(), primary_key=True),
    Column("hour", Moment, nullable=False),
    Column("route", varchar(255), nullable=False),
    Column("up_to_us", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    UniqueConstraint("hour", "route", "up_to_us", name="tokenbudget_latency_hours_uq"),
    **_MYSQL_TABLE,
)

latency_days = Table(
    "tokenbudget_latency_days",
    metadata,
    Column("id", serial(), Identity(), primary_key=True),
    Column("day", Moment, nullable=False),
    Column("route", varchar(255), nullable=False),
    Column("up_to_us", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    UniqueConstraint("day", "route", "up_to_us", name="tokenbudget_latency_days_uq"),
    **_MYSQL_TABLE,
)


# -- what retention has deleted: sums, so that the books still close, and events, so that none is written again ----------

PURGED = ("requests", *TOKENS, "cost_pico")
"""Figures that are kept of purged rows."""

purged_days = Table(
    "tokenbudget_purged_days",
    metadata,
    Column("id", serial(), Identity(), primary_key=True),
    Column("day", Moment, nullable=False),
    Column("account", varchar(255), nullable=False),
    Column("model", varchar(255), nullable=False),
    *_figures(*PURGED),
    UniqueConstraint("account", "day", "model", name="tokenbudget_purged_days_uq"),
    **_MYSQL_TABLE,
)

purged_ranges = Table(
    "tokenbudget_purged_ranges",
    metadata,
    Column("id", serial(), Identity(), primary_key=True),
    Column("instance_id", varchar(36), nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    UniqueConstraint("instance_id", "first_sequence", name="tokenbudget_purged_ranges_uq"),
    **_MYSQL_TABLE,
)
