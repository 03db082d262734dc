"""
Orphaned calls that wait for a decision: found, and charged by a row of their own.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import select, update

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.rows import EPOCH, moment
from tokenbudget_mw.database.types import Moment
from tokenbudget_mw.database.writers import Write, find_writer
from tokenbudget_mw.rules.pricing import Moment as PriceMoment
from tokenbudget_mw.rules.pricing import Priced, price_usage
from tokenbudget_mw.rules.settlement import ORPHAN_AMOUNTS, ORPHANED, REVIEWED, orphan_usage
from tokenbudget_mw.values import Usage, UsageRecord

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.rules.tariffs import Tariffs

__all__ = ["DECIDED", "Decided", "Waiting", "decide", "waiting"]

DECIDED = "-d"
"""Behind the instance id of a dead process it names what was decided of its orphans."""

MICRO = timedelta(microseconds=1)

# found by their moments, which have an index; few rows of these times have the reason
_MOST = 10_000


class Waiting(msgspec.Struct, frozen=True):
    """
    A call that waits for a decision.

    Attributes:
        record: Its row.

        input_tokens: Best guess of its prompt, in tokens.

        held_input: Input tokens that were reserved.

        held_output: Output tokens that were reserved.
    """

    record: UsageRecord
    input_tokens: int
    held_input: int
    held_output: int


class Decided(msgspec.Struct, frozen=True):
    """
    What became of one.

    Attributes:
        id: Of the row that waited.

        cost_pico: What is charged now, in pico-dollars.

        is_new: Whether this decided it; else somebody had before.
    """

    id: str
    cost_pico: int
    is_new: bool


def waiting(engine: Engine, *, since: datetime, ids: Sequence[str] = ()) -> list[Waiting]:
    """
    Return the calls from *since* on that wait, the oldest first; of *ids*, where some are given.
    """
    usage = tables.usage
    wanted = select(usage).where(usage.c.created_at >= since, usage.c.settle_reason == REVIEWED)
    if ids:
        wanted = wanted.where(usage.c.id.in_(ids))
    with reader(engine).connect() as connection:
        rows = connection.execute(wanted.order_by(usage.c.created_at, usage.c.id).limit(_MOST)).mappings().all()
    return [_waiting(dict(row)) for row in rows]


def decide(
    engine: Engine,
    call: Waiting,
    *,
    tariffs: Tariffs,
    rule: str = "",
    usage: Usage | None = None,
    clock: Callable[[], float] = time.time,
) -> Decided:
    """
    Charge *call*, once: by a *rule* of `rules.settlement.ORPHAN_RULES`, or *usage* that the provider's invoice tells.

    What is charged is a row of its own with the call's moment and price; the one that waited says that it does no more.
    """
    row = call.record
    used = orphan_usage(rule, call.input_tokens, call.held_input, call.held_output) if usage is None else usage
    when = PriceMoment(row.created_at_us / 1e6, row.purpose, row.completion_window)
    priced = price_usage(tariffs, used, when, asked=row.response_model or row.request_model)
    table = tables.usage
    with engine.begin() as connection:
        still = table.c.id == row.id, table.c.settle_reason == REVIEWED
        is_new = connection.execute(update(table).where(*still).values(settle_reason=ORPHANED)).rowcount > 0
        if is_new and used.source != "none":
            write = Write(uuid.uuid4().hex, moment(int(clock() * 1_000_000)), [_charged(row, used, priced)])
            find_writer(engine.dialect.name)(write)(connection)
    return Decided(row.id, priced.cost_pico, is_new)


def _charged(row: UsageRecord, usage: Usage, priced: Priced) -> UsageRecord:
    return msgspec.structs.replace(
        row,
        id=hashlib.md5(f"decided:{row.id}".encode(), usedforsecurity=False).hexdigest(),
        instance_id=f"{row.instance_id[:32]}{DECIDED}{row.instance_id[34:]}",  # "-o" is "-d" now
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        usage_source=usage.source,
        cost_pico=priced.cost_pico,
        price_id=priced.price_id,
        price_kind=priced.kind,
        settle_reason=ORPHANED,
        tags={"orphan": row.id},
    )


def _waiting(row: dict[str, Any]) -> Waiting:
    fields: dict[str, Any] = {}
    for column in tables.usage.columns:
        value = row[column.name]
        if column.name == "write_id":
            continue
        if isinstance(column.type, Moment):
            fields[f"{column.name}_us"] = None if value is None else (value - EPOCH) // MICRO
        else:
            fields[column.name] = value
    tags = fields["tags"] = json.loads(fields["tags"])
    return Waiting(UsageRecord(**fields), *(int(tags.get(name, 0)) for name in ORPHAN_AMOUNTS))
