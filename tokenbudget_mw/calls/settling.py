"""
What a call that has ended is charged: its outcome, the rule that its route has for that, and what the rule comes to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.calls.recording import charges_of
from tokenbudget_mw.rules.settlement import DEFAULT_SETTLE, UNREAD, outcome_of, settled_usage
from tokenbudget_mw.values import NOTHING, Cost

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.calls.recording import Charge
    from tokenbudget_mw.rules.settlement import Ending
    from tokenbudget_mw.tapping.base import Tap
    from tokenbudget_mw.values import Usage

__all__ = ["asked_of", "charges_for", "outcome_for", "tap_for"]

READABLE = (bytes, bytearray, memoryview)
"""What a piece of a body may be; Starlette's may be a view of memory."""

STREAM_TYPES = frozenset({"text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream"})


def tap_for(call: Call) -> Tap | None:
    """
    Return what reads the response to *call*, which has begun; None where its handler says what it used.
    """
    route = call.route
    if route.format is None:
        return None
    model = call.prompt.model if call.prompt else None
    kind, coding = call.content_type or "", call.content_encoding
    return call.core.meter.open_tap(route.format, kind, coding, model, is_counted=route.count != "off")


def asked_of(call: Call, usage: Usage) -> str | None:
    """
    Return the model that *call* asks for, whose price *usage* has if the response names none.
    """
    if call.form is not None:
        return call.form.asked(usage)
    return call.prompt.model if call.prompt else None


def outcome_for(call: Call, ending: Ending, tapped: Usage | None, *, is_reported: bool) -> str:
    """
    Name the outcome of *call*.

    Args:
        call: The call.

        ending: How its response ended.

        tapped: What was read of it.

        is_reported: Whether its handler has charged what it used, so that nothing else counts.
    """
    if call.form is not None:
        call.form.tell()  # what passed of it last may say what was asked
    prompt = call.prompt
    if call.ended_by is not None:
        return "budget_end"
    read = None if is_reported else tapped
    if read is None and prompt is not None and not is_reported:
        read = UNREAD
    if call.timed_out:
        ending = replace(ending, timed_out=True)
    return outcome_of(ending, read, has_output=prompt is not None and prompt.max_output != 0)


def charges_for(call: Call, outcome: str, tapped: Usage | None) -> tuple[Charge, ...]:
    """
    Return what *call* is charged, by the rule that its route has for *outcome*.
    """
    prompt = call.prompt
    if tapped is not None and prompt is not None and tapped.source == "provider" and not prompt.input.exact:
        call.core.meter.learn(prompt.model, prompt.input, tapped.input_tokens)
    rule = call.route.settle.get(outcome, DEFAULT_SETTLE[outcome])
    usage = settled_usage(rule, tapped=tapped, prompt=prompt, reserved=_reserved(call))
    if usage.source == "none":
        return ()
    asked = asked_of(call, usage)
    if call.form is not None and prompt is not None:
        call.prompt = replace(prompt, model=asked)  # the row names the model whose price it has
    return charges_of(call, usage, asked)


def _reserved(call: Call) -> Cost:
    if call.form is not None and call.form.most is not None:
        return call.form.most
    if call.held:
        return call.held[0].cost
    # no limit applied, so nothing was held; what would have been is the same
    return NOTHING if call.prompt is None else call.request().upper
