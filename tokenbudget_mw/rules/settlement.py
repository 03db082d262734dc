"""
What a call is charged when it has ended, in whatever way it ended.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.values import Cost, Prompt, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbudget_mw.values import TokenCount

__all__ = [
    "DEFAULT_SETTLE",
    "ORPHANED",
    "ORPHAN_RULES",
    "REVIEWED",
    "SETTLE_RULES",
    "UNREAD",
    "Ending",
    "is_timeout",
    "outcome_of",
    "settled_usage",
]

DEFAULT_SETTLE: Mapping[str, str] = MappingProxyType(
    {
        "complete": "actual",
        "no_usage": "actual",
        "empty": "actual",
        "truncated": "partial",
        "budget_end": "partial",
        "client_gone": "partial",
        "client_gone_early": "input",
        "app_error": "refund",
        "app_error_late": "partial",
        "timeout": "refund",
        "redirected": "refund",
        "status_4xx": "refund",
        "status_5xx": "refund",
        "orphaned": "review",
    }
)
"""
Outcome of a call -> what it is charged.

``no_usage`` is a whole response without figures, ``empty`` one without output, ``truncated`` one that ended before its
format did, ``budget_end`` a stream that its route ends with the budget. ``client_gone_early`` is before the first byte of
the body, ``app_error`` before the response began, or without one, ``timeout`` an app that waited for its model in vain: it
raised a timeout before the first byte of the body, of which its framework may have made a 5xx, or answered 504.
``redirected`` is an answer of 300 to 399 where a model's was expected. ``orphaned`` is a call whose process died before it
ended.
"""

SETTLE_RULES = frozenset({"actual", "partial", "input", "reserved", "refund"})
"""
``actual`` and ``partial`` charge what the response says it used, or the text that passed; ``input`` the prompt alone;
``reserved`` all that was held; ``refund`` nothing. What a handler charges itself is charged under every rule.
"""

ORPHAN_RULES = frozenset({"reserved", "input", "refund", "review"})
"""What an orphaned call can be charged: nobody knows what became of it. ``review`` charges nothing until a person decides."""

ORPHANED, REVIEWED = "orphaned", "orphaned_review"
"""Outcome of an orphaned call, and what its row says while it waits for a decision."""

ORPHAN_AMOUNTS = ("orphan.input", "orphan.held_input", "orphan.held_output")
"""Tags of such a row: tokens of its prompt, and input and output tokens that were reserved."""

COUNTED = frozenset({"exact", "given"})
"""Ways of counting that look at the whole prompt."""

REDIRECT, CLIENT_ERROR, SERVER_ERROR, GATEWAY_TIMEOUT = 300, 400, 500, 504

NOTHING_USED = Usage(source="none", complete=False)

UNREAD = Usage(source="none")
"""The usage of a response that has figures as a rule, and could not be read."""


class Ending(msgspec.Struct, frozen=True, gc=False):
    """
    How a response ended.

    Attributes:
        status: Its status; None where it never began.

        has_body: Whether a byte of the body went out.

        is_whole: Whether the last message of the body went out.

        failed: Whether the app raised.

        client_gone: Whether the client went away before the end.

        timed_out: Whether what the app raised was a timeout, its framework's response to that included.
    """

    status: int | None
    has_body: bool = False
    is_whole: bool = False
    failed: bool = False
    client_gone: bool = False
    timed_out: bool = False


def is_timeout(error: BaseException) -> bool:
    """
    Tell whether *error* says that something took too long: Python's own, or that of a client's library, by its name.

    >>> is_timeout(TimeoutError()), is_timeout(ValueError())
    (True, False)
    """
    return any("Timeout" in kind.__name__ for kind in type(error).__mro__)


def outcome_of(ending: Ending, usage: Usage | None, *, has_output: bool = False) -> str:
    """
    Name the outcome: a key of `DEFAULT_SETTLE`.

    Args:
        ending: How the response ended.

        usage: What was read of it; None where nothing is read: its handler reports its usage, if there is any.

        has_output: Whether the request asks for output, so that an answer without any is an empty one.

    >>> outcome_of(Ending(200, has_body=True, is_whole=True), Usage())
    'complete'
    >>> outcome_of(Ending(200, has_body=True, client_gone=True), Usage(complete=False))
    'client_gone'
    """
    left = "client_gone" if ending.has_body else "client_gone_early"
    if ending.client_gone and not ending.is_whole:
        return left
    if ending.status is None or (ending.failed and not ending.is_whole):
        return _failure_of(ending)
    if ending.status >= CLIENT_ERROR:
        return _error_of(ending.status, timed_out=ending.timed_out)
    if usage is not None and ending.status >= REDIRECT:
        return "redirected"  # to a path with a slash more, as a rule, where the request is asked again
    if not ending.is_whole or (usage is not None and not usage.complete):
        # Starlette's BaseHTTPMiddleware makes a last piece for a client that has left
        return left if ending.client_gone else "truncated"
    return "complete" if usage is None else _completion_of(usage, has_output=has_output)


def _failure_of(ending: Ending) -> str:
    if ending.timed_out and not ending.has_body:
        return "timeout"
    return "app_error" if ending.status is None else "app_error_late"


def _error_of(status: int, *, timed_out: bool) -> str:
    if status < SERVER_ERROR:
        return "status_4xx"
    return "timeout" if status == GATEWAY_TIMEOUT or timed_out else "status_5xx"


def _completion_of(usage: Usage, *, has_output: bool) -> str:
    if usage.source == "none":
        return "no_usage"
    if has_output and not usage.output_tokens:
        return "empty"
    return "no_usage" if usage.source == "counted" else "complete"


def orphan_usage(rule: str, prompt: int, held_input: int, held_output: int) -> Usage:
    """
    Return what *rule* charges of a call of which only this is known: its prompt and what was held, in tokens.

    >>> orphan_usage("reserved", 90, 100, 500).output_tokens
    500
    """
    if rule == "reserved":
        return Usage(held_input, held_output, source="estimated", complete=False)
    if rule == "input":
        return Usage(prompt, source="estimated", complete=False)
    return NOTHING_USED


def settled_usage(rule: str, *, tapped: Usage | None, prompt: Prompt | None, reserved: Cost) -> Usage:
    """
    Say what a call is charged by *rule*.

    Args:
        rule: One of `SETTLE_RULES`.

        tapped: What the tap read; None or `UNREAD` where it could not read the response, which is then charged as reserved.

        prompt: What was asked; None where the request had no body to read.

        reserved: What was held.
    """
    if rule == "refund":
        return NOTHING_USED
    if tapped is not None and tapped.source == "none":
        tapped = None
    if prompt is None:
        return tapped if tapped is not None else Usage(source="none")
    if rule == "reserved" or (tapped is None and rule != "input"):
        # a response that nothing could read is charged as it was reserved: unknown is never zero
        return Usage(reserved.input_tokens, reserved.output_tokens, source="estimated", complete=False)
    if rule == "input" or tapped is None:
        return Usage(prompt.input.estimate, source="estimated", complete=False)
    # a stream that was cut may have told its input already, and not yet its output
    return tapped if tapped.input_tokens else _with_input(tapped, prompt.input)


def _with_input(usage: Usage, count: TokenCount) -> Usage:
    """
    Return *usage* with the prompt's tokens, and say so where they were not counted.
    """
    source = usage.source if count.method in COUNTED or not count.estimate else "estimated"
    return replace(usage, input_tokens=count.estimate, source=source)
