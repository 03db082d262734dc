"""
The response to a call that is refused, and the headers of one that is not: as the settings want them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from tokenbudget_mw.rules import refusals
from tokenbudget_mw.rules.messages import reword
from tokenbudget_mw.rules.vendor_headers import VENDOR_HEADERS, anthropic_headers, openai_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.values import Decision, Facts, Route, Tally

__all__ = ["EXPOSE", "RESPONSE_HEADERS", "Unmetered", "headers_for", "refusal_for"]

log = logging.getLogger("tokenbudget_mw")

EXPOSE = "access-control-expose-headers"
RESPONSE_HEADERS = (*refusals.LIMIT_HEADERS, *VENDOR_HEADERS, EXPOSE)
"""All that `headers_for` may return."""

FINAL = range(200, 600)
"""Statuses of responses; those below tell of one to come."""

BROKEN = frozenset("\r\n\0")
"""What no header has in it (RFC 9110, section 5.5), and not every server looks."""

_RETRY_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry", "x-request-id")


@dataclass(frozen=True, slots=True)
class Unmetered:
    """
    A request that is refused and has no call: one to an endpoint with limits of its own that no route covers.
    """

    id: str
    core: Core
    facts: Facts
    route: Route


def headers_for(call: Call, tallies: Sequence[Tally]) -> list[tuple[str, str]]:
    """
    Return the headers that tell the client where its limits stand.
    """
    settings = call.core.settings
    # the usual settings first: this is asked once a request
    if settings.limit_headers is refusals.IETF and not settings.cors_origins:
        return refusals.limit_headers(tallies)
    headers = _limit_headers(call, tallies)
    if headers and _origin_of(call) is not None:
        headers.append((EXPOSE, ", ".join([name for name, _ in headers])))
    return headers


def _limit_headers(call: Call | Unmetered, tallies: Sequence[Tally]) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    vendor = (call.route.format or "").partition(".")[0]
    for style in call.core.settings.limit_headers:
        wanted = vendor if style == "auto" else style
        if wanted == "ietf":
            headers += refusals.limit_headers(tallies)
        elif wanted == "openai":
            headers += openai_headers(tallies)
        elif wanted == "anthropic":
            headers += anthropic_headers(tallies, call.core.clock())
    return list(dict.fromkeys(headers))


def refusal_for(call: Call | Unmetered, decision: Decision) -> Refusal:
    """
    Build the response to *call*, refused by *decision*.
    """
    settings = call.core.settings
    language = None
    if settings.messages:
        found = reword(settings.messages, decision, call.facts.header("accept-language") or "")
        if found is not None:
            decision = msgspec.structs.replace(decision, message=found[0])
            language = found[1]
    limits = _limit_headers(call, decision.tallies)
    refusal = refusals.render(decision, style=_style(call), request_id=call.id, limits=limits)
    extra = [] if language is None else [("content-language", language)]
    extra += _cors_headers(call, refusal)
    if extra:
        refusal = replace(refusal, headers=(*refusal.headers, *extra))
    return refusal if call.core.render_refusal is None else _own(call, refusal, decision)


def _style(call: Call | Unmetered) -> str:
    style = call.core.settings.refusals
    if style != "auto":
        return style
    if call.route.format is None and "application/problem+json" in (call.facts.header("accept") or ""):
        return "problem"
    return "hybrid"


def _cors_headers(call: Call | Unmetered, refusal: Refusal) -> list[tuple[str, str]]:
    origin = _origin_of(call)
    if origin is None:
        return []
    limits = (*refusals.LIMIT_HEADERS, *VENDOR_HEADERS)
    exposed = [name for name, _ in refusal.headers if name in _RETRY_HEADERS or name in limits]
    headers = [("access-control-allow-origin", origin), (EXPOSE, ", ".join(exposed))]
    # a script that sends cookies reads nothing without; for `*` browsers take it for nothing (Fetch, "CORS check")
    named = [("access-control-allow-credentials", "true"), ("vary", "Origin")]
    return headers if origin == "*" else headers + named


def _origin_of(call: Call | Unmetered) -> str | None:
    """
    Return the origin whose scripts may read the response; None where the request comes of none, or of one that may not.
    """
    allowed = call.core.settings.cors_origins
    if not allowed:
        return None
    origin = call.facts.header("origin")
    if not origin:
        return None
    if "*" in allowed:
        return "*"
    return origin if origin.lower() in allowed else None


def _own(call: Call | Unmetered, refusal: Refusal, decision: Decision) -> Refusal:
    """
    Return the host's own rendering; the usual one where its function has none, or fails.
    """
    try:
        found = call.core.render_refusal(refusal, decision, call.facts)  # type: ignore[misc]
        if found is None:
            return refusal
        if isinstance(found, refusals.Refusal):
            return _sendable(found)
    except Exception:
        log.exception("`render_refusal` has failed; the usual refusal is sent")
        return refusal
    log.error("`render_refusal` gave a %s, not a Refusal; the usual refusal is sent", type(found).__name__)
    return refusal


def _sendable(found: Refusal) -> Refusal:
    """
    Return *found* with the length of its body. Raises where it is nothing that a server sends.
    """
    status, body = int(found.status), b"".join((found.body,))  # which takes no text, as `bytes` takes a number
    if status not in FINAL:
        raise ValueError(f"A refusal's status is one of a response, 200 to 599, not {status}.")
    headers = [(name.lower(), value) for name, value in found.headers if name.lower() != "content-length"]
    for name, value in headers:
        name.encode("ascii")
        value.encode("latin-1")
        if not BROKEN.isdisjoint(name + value):
            raise ValueError(f"The header {name!r} has a line break in it.")
    return replace(found, status=status, body=body, headers=(*headers, ("content-length", str(len(body)))))
