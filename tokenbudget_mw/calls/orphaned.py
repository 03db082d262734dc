"""
What becomes of a call whose process died: rows by the rule that its route had for that, and counters that know of them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.calls.recording import Charge, cost_of, id_of_row, merge, origin_of
from tokenbudget_mw.rules.pricing import Priced, created_of, moment_of, price_usage
from tokenbudget_mw.rules.settlement import NOTHING_USED, ORPHAN_AMOUNTS, ORPHANED, REVIEWED, orphan_usage
from tokenbudget_mw.values import EMPTY_TAGS, Charged, Held, Prompt, Subject, TokenCount, UsageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenbudget_mw.rules.tariffs import Tariffs
    from tokenbudget_mw.values import Cost, Opened, Orphan

__all__ = ["SUFFIX", "Executor", "rows_of", "subject_of"]

log = logging.getLogger("tokenbudget_mw")

SUFFIX = "-o"
"""Behind the instance id of a dead process it names its orphans: their numbers are not those of its records."""

MOST_ROWS = 1000
"""Numbers of calls are so far apart. Of a call that leaves more rows, each further thousand has an instance id of its own."""

MICRO = 1_000_000


class Executor:
    """
    Writes the rows of orphans and moves the counters. See `accounting.inheritance.Heir`.

    Args:
        tariffs: Prices; an orphan is priced as of when its call began.

        take: Moves the counters of a subject by what one model call cost: (orphan, cost, model).
    """

    def __init__(self, tariffs: Tariffs, take: Callable[[Orphan, Cost, str | None], object]) -> None:
        self._tariffs = tariffs
        self._take = take

    def records_of(self, orphan: Orphan) -> list[UsageRecord]:
        """
        Return the rows of *orphan*.
        """
        return rows_of(orphan, self._tariffs)

    def take_over(self, orphans: Sequence[Orphan]) -> None:
        """
        Charge the counters of those who pay for *orphans*. What the backend does not hear, the books know.
        """
        try:
            for orphan in orphans:
                for charge in _charges(orphan, self._tariffs):
                    if charge.usage.source != "none":
                        self._take(orphan, cost_of([charge]), charge.usage.model or orphan.opened.model)
        except Exception as exc:  # noqa: BLE001 - the rows are written: whatever a backend raises must not bring them again
            log.warning("The backend was not told of all orphaned calls (%s); the books have them.", type(exc).__name__)


def rows_of(orphan: Orphan, tariffs: Tariffs) -> list[UsageRecord]:
    """
    Return the rows of *orphan*: what its handler had charged, and what the rule makes of what it still held.
    """
    charges = _charges(orphan, tariffs)
    known = [charge for charge in charges if ORPHAN_AMOUNTS[0] not in charge.tags]
    waiting = [
        charge for charge in charges if ORPHAN_AMOUNTS[0] in charge.tags
    ]  # a row each: each is decided on its own
    merged = merge(known, tariffs.lengths) if known else ()
    return [_row(orphan, charge, place) for place, charge in enumerate((*merged, *waiting))]


def subject_of(opened: Opened) -> Subject:
    """
    Return who pays for the call that *opened* begins.
    """
    return Subject(
        key=opened.key_id,
        user=opened.user_id,
        team=opened.team_id,
        project=opened.project_id,
        tenant=opened.tenant_id,
        plan=opened.plan,
        purpose=opened.purpose,
        source=opened.access_source,
    )


def _charges(orphan: Orphan, tariffs: Tariffs) -> list[Charge]:
    """
    Return what *orphan* is charged, in the order in which its call would have recorded it.
    """
    opened = orphan.opened
    done = {mark.instead_of for mark in orphan.others if isinstance(mark, Charged)}
    left = [mark for mark in orphan.others if not (isinstance(mark, Held) and mark.place in done)]
    if not left:
        return [_decided(orphan, opened, tariffs)]
    return [
        _decided(orphan, mark, tariffs) if isinstance(mark, Held) else _known(mark)
        for mark in sorted(left, key=lambda mark: mark.place)
    ]


def _known(mark: Charged) -> Charge:
    return Charge(mark.usage, Priced(mark.cost_pico, mark.price_id, mark.price_kind), tags=mark.tags or EMPTY_TAGS)


def _decided(orphan: Orphan, mark: Opened | Held, tariffs: Tariffs) -> Charge:
    opened, amounts = orphan.opened, (mark.input_tokens, mark.held_input, mark.held_output)
    model = mark.model if isinstance(mark, Held) else None  # a response that nobody saw has named none
    if not any(amounts):
        return Charge(NOTHING_USED, Priced(), tags=EMPTY_TAGS)
    if opened.rule == "review":
        tags = {name: str(amount) for name, amount in zip(ORPHAN_AMOUNTS, amounts, strict=True)}
        return Charge(replace(NOTHING_USED, model=model), Priced(), tags=tags)
    usage = replace(orphan_usage(opened.rule, *amounts), model=model)
    moment = moment_of(subject_of(opened), _prompt_of(opened), opened.created_at_us / MICRO)
    return Charge(usage, price_usage(tariffs, usage, moment, asked=mark.model), tags=EMPTY_TAGS)


def _prompt_of(opened: Opened) -> Prompt:
    tokens = TokenCount(opened.input_tokens, opened.held_input)
    return Prompt(opened.model, tokens, service_tier=opened.service_tier, batch=opened.batch or EMPTY_TAGS)


def _row(orphan: Orphan, charge: Charge, place: int) -> UsageRecord:
    opened, usage, priced = orphan.opened, charge.usage, charge.priced
    subject, batch = subject_of(opened), opened.batch or {}
    created = created_of(batch) if batch else None
    further, number = divmod(place, MOST_ROWS)
    return UsageRecord(
        id=id_of_row(opened.call_id, place),
        instance_id=f"{orphan.instance_id}{SUFFIX}{further or ''}",
        sequence=orphan.number * MOST_ROWS + number,
        created_at_us=opened.created_at_us,
        method=opened.method,
        path=opened.path,
        route=opened.route,
        request_model=opened.model,
        response_model=usage.model,
        provider=usage.provider or opened.provider,
        server_address=opened.server_address,
        server_port=opened.server_port,
        key_id=subject.key,
        user_id=subject.user,
        team_id=subject.team,
        project_id=subject.project,
        tenant_id=subject.tenant,
        account=subject.account,
        plan=subject.plan,
        access_source=subject.source,
        purpose=subject.purpose,
        origin=origin_of(subject.purpose, batch),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_source=usage.source,
        cost_pico=priced.cost_pico,
        price_id=priced.price_id,
        price_kind=priced.kind,
        decision=opened.decision,
        limit_name=opened.limit_name,
        settle_reason=REVIEWED if ORPHAN_AMOUNTS[0] in charge.tags else ORPHANED,
        correlation_id=opened.correlation_id or opened.call_id,
        trace_id=opened.trace_id,
        service_tier=usage.service_tier,
        batch_id=batch.get("batch_id"),
        batch_request_id=batch.get("batch_request_id"),
        custom_id=batch.get("custom_id"),
        completion_window=batch.get("completion_window"),
        batch_created_at_us=None if created is None else int(created * MICRO),
        batch_request_source=batch.get("batch_request_source"),
        tags=dict(charge.tags),
        audio_input_tokens=usage.audio_input_tokens or None,
        audio_output_tokens=usage.audio_output_tokens or None,
    )
