"""
From an ended call to its usage records.
"""

from __future__ import annotations

import re
import struct
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.chance import chance
from tokenbudget_mw.rules.pricing import Priced, created_of, moment_of, price_usage
from tokenbudget_mw.rules.tariffs import is_cut
from tokenbudget_mw.units import nano_from_pico_ceil
from tokenbudget_mw.values import EMPTY_TAGS, Cost, Prompt, Subject, TokenCount, Usage, UsageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.values import Decision, Route

    Lengths = Callable[[str | None, int], Sequence[int]]

__all__ = [
    "LONGEST_METHOD",
    "LONGEST_PATH",
    "Charge",
    "charges_of",
    "cost_of",
    "decision_of",
    "id_of_row",
    "labels",
    "limit_of",
    "merge",
    "new_id",
    "origin_of",
    "provider_of",
    "records_of",
    "trail_of",
]

labels: ContextVar[Mapping[str, str]] = ContextVar("tokenbudget_labels", default=EMPTY_TAGS)
"""Labels of what is charged in this context; see `charging.tags`."""

TRACEPARENT = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2."""

LONGEST_ID = 128
LONGEST_METHOD, LONGEST_PATH = 16 + 1, 512 + 1
"""
Characters that are kept of each: one more than a row has, which then says that it was cut. A client may send a hundred times as
many, and records wait in memory for a database.
"""

MICRO = 1_000_000


class Charge(msgspec.Struct, frozen=True, gc=False):
    """
    One model call's usage and cost, inside a request.

    Attributes:
        usage: What it used.

        priced: What it cost.

        is_settled: Whether a reservation of its own has settled it.

        tags: Labels for its row: those of the context in which it was charged.
    """

    usage: Usage
    priced: Priced
    is_settled: bool = False
    tags: Mapping[str, str] = msgspec.field(default_factory=labels.get)


def charges_of(
    call: Call, usage: Usage, asked: str | None, model: str | None = None, *, is_settled: bool = False
) -> tuple[Charge, ...]:
    """
    Return the charges for what *call* used: one, and one more for each further model that had a part in it.

    Args:
        call: The call.

        usage: What it used.

        asked: Name of the model that was asked for: whose price it is if that of the response has none.

        model: Name that stands on the row where the response has none.

        is_settled: Whether a reservation of its own has settled it.
    """
    others = usage.others
    if others or (usage.model is None and model is not None):
        usage = replace(usage, model=usage.model or model, others=())
    moment = moment_of(call.payer, call.prompt, call.started_at)
    tariffs = call.core.tariffs
    own = Charge(usage, price_usage(tariffs, usage, moment, asked=asked), is_settled)
    if not others:
        return (own,)
    named = [replace(each, source=usage.source, complete=usage.complete, others=()) for each in others]
    # not at the price of the model that was asked: nobody asked that one for these
    return (own, *(Charge(each, price_usage(tariffs, each, moment, asked=None), is_settled) for each in named))


NOBODY = Subject(source="unauthenticated")
NO_PROMPT = Prompt(None, TokenCount(0, 0))
NO_CHARGE = Charge(Usage(source="none"), Priced())


def new_id(moment: float) -> str:
    """
    Return a new UUID of version 7 (RFC 9562, section 5.7), as 32 hexadecimal digits: ordered by *moment*, epoch seconds.
    """
    bits = chance.getrandbits(74)
    high = (int(moment * 1000) & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | bits >> 62
    return _two_words(high, _VARIANT | bits & _LOW).hex()


_two_words = struct.Struct(">QQ").pack
_VARIANT = 0b10 << 62
_LOW = (1 << 62) - 1


def records_of(
    call: Call, charges: Sequence[Charge], *, settle_reason: str, is_first: bool = True
) -> list[UsageRecord]:
    """
    Build the rows of *call*: one, and one more for each further model, price, or set of labels, that its handler charged.

    Args:
        call: The call.

        charges: What it used; empty for a call that used no model.

        settle_reason: The outcome, or why it was charged as it was.

        is_first: Whether the request's own row is among them (it takes the call's id).
    """
    merged = merge(charges, call.core.tariffs.lengths) if charges else (NO_CHARGE,)
    records: list[UsageRecord] = []
    for charge in merged:
        record_id = id_of_row(call.id, len(records)) if is_first else new_id(call.core.clock())
        records.append(_record(call, charge, settle_reason, record_id))
    return records


def id_of_row(call_id: str, place: int) -> str:
    """
    Return the id of the row at *place* among those of a call: the first takes the call's, and all are always the same.
    """
    return f"{int(call_id, 16) + place:032x}" if place else call_id


def merge(charges: Sequence[Charge], lengths: Lengths) -> Sequence[Charge]:
    """
    Return one charge for each model, tier, price and set of labels of *charges*, in their order; more where they are together
    as long as a prompt at another price, or where the price cuts a part of one: a row must cost the same when it is priced again.

    Args:
        charges: What was charged.

        lengths: See `Tariffs.lengths`.
    """
    if len(charges) == 1:
        return charges
    groups: dict[tuple[object, ...], list[Charge]] = {}
    for place, charge in enumerate(charges):
        usage, tags = charge.usage, frozenset(charge.tags.items())
        key = (usage.model, usage.service_tier, charge.priced.price_id, tags, place if is_cut(usage) else None)
        groups.setdefault(key, []).append(charge)
    parts = [part for group in groups.values() for part in _of_one_price(group, lengths)]
    return [part[0] if len(part) == 1 else _sum(part) for part in parts]


def _of_one_price(group: list[Charge], lengths: Lengths) -> list[list[Charge]]:
    """
    Cut *group* where the sum would be longer than a price holds.
    """
    model, total = group[0].usage.model, 0
    if len(lengths(model, sum(charge.usage.input_tokens for charge in group))) == 1:
        return [group]
    parts: list[list[Charge]] = []
    for charge in group:
        tokens = charge.usage.input_tokens
        total += tokens
        own, together = len(lengths(model, tokens)), len(lengths(model, total))
        if parts and own == together == len(lengths(model, parts[-1][0].usage.input_tokens)):
            parts[-1].append(charge)
        else:
            parts.append([charge])
            total = tokens
    return parts


def _sum(group: Sequence[Charge]) -> Charge:
    usages, first = [charge.usage for charge in group], group[0]
    usage = Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cache_read_tokens=sum(usage.cache_read_tokens for usage in usages),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in usages),
        cache_write_1h_tokens=sum(usage.cache_write_1h_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        model=first.usage.model,
        provider=first.usage.provider,
        service_tier=first.usage.service_tier,
        source=first.usage.source,
        complete=all(usage.complete for usage in usages),
        audio_input_tokens=sum(usage.audio_input_tokens for usage in usages),
        audio_output_tokens=sum(usage.audio_output_tokens for usage in usages),
    )
    total = sum(charge.priced.cost_pico for charge in group)
    return Charge(usage, Priced(total, first.priced.price_id, first.priced.kind), tags=first.tags)


def _record(call: Call, charge: Charge, settle_reason: str, record_id: str) -> UsageRecord:
    facts, subject, prompt = call.facts, call.subject or NOBODY, call.prompt or NO_PROMPT
    usage, priced, batch = charge.usage, charge.priced, prompt.batch
    server, (correlation, trace) = facts.server or (None, None), call.trail or trail_of(call)
    core, created = call.core, created_of(batch) if batch else None
    # by place: so many names in one call cost Python as much as a twentieth of a whole request
    return UsageRecord(
        record_id,
        core.spool.instance_id,
        core.spool.next_sequence(),
        int(call.started_at * MICRO),
        facts.method[:LONGEST_METHOD],
        facts.path[:LONGEST_PATH],
        call.route.path,
        call.status,
        int(call.duration * MICRO),
        None if call.first_byte is None else int(call.first_byte * MICRO),
        prompt.model,
        usage.model,
        usage.provider or provider_of(call.route),
        call.content_type,
        call.is_stream,
        server[0],
        server[1],
        subject.key,
        subject.user,
        subject.team,
        subject.project,
        subject.tenant,
        subject.account,
        call.plan,
        subject.source,
        subject.purpose,
        origin_of(subject.purpose, batch),
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
        usage.source,
        priced.cost_pico,
        priced.price_id,
        priced.kind,
        decision_of(call.decision),
        limit_of(call.ended_by or call.decision),
        settle_reason,
        correlation or call.id,
        trace,
        # a tier that was asked for and not confirmed has no say in the price, so it does not stand on a priced row
        usage.service_tier if usage.source != "none" else prompt.service_tier,
        batch.get("batch_id"),
        batch.get("batch_request_id"),
        batch.get("custom_id"),
        batch.get("completion_window"),
        None if created is None else int(created * MICRO),
        batch.get("batch_request_source"),
        {**call.tags, **charge.tags},
        usage.audio_input_tokens or None,
        usage.audio_output_tokens or None,
    )


def provider_of(route: Route) -> str | None:
    """
    Return the provider that the format of *route* names.
    """
    return route.format.partition(".")[0] if route.format else None


def origin_of(purpose: str, batch: Mapping[str, str]) -> str:
    """
    Say where a request comes from: a batch, a playground, or an app.
    """
    if purpose == "batch" or "batch_id" in batch:
        return "batch"
    return "frontend" if purpose == "playground" else "api"


def limit_of(decision: Decision | None) -> str | None:
    """
    Name the first limit that refused, or would have.
    """
    if decision is None or not (decision.refused_by or decision.would_refuse):
        return None
    return (*decision.refused_by, *decision.would_refuse)[0]


def decision_of(decision: Decision | None) -> str:
    """
    Say in a word what was decided.
    """
    if decision is None or not decision.admitted:
        return "refused"
    if decision.would_refuse:
        return "shadow_refused"
    return "degraded" if decision.degraded else "admitted"


def trail_of(call: Call) -> tuple[str | None, str | None]:
    """
    Return the request's own id, if it brings one, and the id of its trace (``traceparent``).
    """
    facts = call.facts
    text, trace = facts.header("x-request-id"), facts.header("traceparent")
    found = TRACEPARENT.match(trace) if trace else None
    call.trail = text[:LONGEST_ID] if text else None, found.group(1) if found else None
    return call.trail


def cost_of(charges: Iterable[Charge], *, requests: int = 0) -> Cost:
    """
    Add up what *charges* take from limits, beside *requests*.
    """
    input_tokens = output_tokens = pico = 0
    for charge in charges:
        input_tokens += charge.usage.input_tokens
        output_tokens += charge.usage.output_tokens
        pico += charge.priced.cost_pico
    return Cost(requests, input_tokens, output_tokens, nano_from_pico_ceil(pico), requests)
