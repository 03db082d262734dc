"""
How a refusal looks to the client: status, headers and a body that its SDK understands.

Official SDKs sleep for whatever ``Retry-After`` says, or retry without end; so a wait that is long, or that money alone
can end, is marked ``x-should-retry: false``, which OpenAI's and Anthropic's obey.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from tokenbudget_mw.errors import BudgetExceeded, CredentialError, PayloadError, RefusedError, UnpricedModelError
from tokenbudget_mw.values import Decision

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenbudget_mw.values import Limit, Tally

__all__ = ["IETF", "LIMIT_HEADERS", "Refusal", "decision_of_error", "limit_headers", "render"]

LONGEST_RETRY = 65.0
"""
Seconds up to which a client is told to wait and try again: a minute's window with its coarsest slot, and some travel.
The shortest cap among the official SDKs is two minutes.
"""

NANO_PER_MICRO = 1000
MOST_INTEGER = 999_999_999_999_999
"""Largest Integer of a structured field (RFC 9651, section 3.3.1)."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_CODES = {"limit": "rate_limit_exceeded", "money": "budget_exceeded", "credits": "insufficient_quota"}
_PROBLEMS = {
    429: "https://iana.org/assignments/http-problem-types#quota-exceeded",
    503: "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A response that says no.

    Attributes:
        status: HTTP status.

        headers: Lower-case names and values.

        body: JSON bytes.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def decision_of_error(error: RefusedError) -> Decision:
    """
    Turn what ends a request (its credentials, body, price, a reservation refused) into the decision that refuses it.
    """
    if isinstance(error, BudgetExceeded):
        return error.decision
    if isinstance(error, CredentialError):
        # the key table is away, not the key wrong: worth another try
        wait = 1.0 if error.status == HTTPStatus.SERVICE_UNAVAILABLE else None
        return Decision(admitted=False, code=error.code, status=error.status, message=str(error), retry_after=wait)
    if isinstance(error, PayloadError):
        return Decision(admitted=False, code="invalid_body", status=error.status, message=str(error))
    if isinstance(error, UnpricedModelError):
        return Decision(admitted=False, code="unpriced_model", status=400, message=str(error))
    raise error


def render(
    decision: Decision, *, style: str, request_id: str, limits: Iterable[tuple[str, str]] | None = None
) -> Refusal:
    """
    Build the response to a refused request.

    Args:
        decision: The refusal.

        style: ``openai``, ``anthropic``, ``problem`` (RFC 9457), or ``hybrid``: one body that all of them read.

        request_id: Id for the client to quote.

        limits: Headers that tell where the limits stand; those of `limit_headers` by default.
    """
    kind = "application/problem+json" if style == "problem" else "application/json"
    body = msgspec.json.encode(_BODIES.get(style, _hybrid)(decision, request_id))
    headers = [("content-type", kind), ("content-length", str(len(body))), ("cache-control", "no-store")]
    headers += [("x-request-id", request_id), *_retry_headers(decision)]
    headers += limit_headers(decision.tallies) if limits is None else limits
    if decision.status == HTTPStatus.UNAUTHORIZED:
        headers.append(("www-authenticate", 'Bearer realm="tokenbudget"'))
    return Refusal(decision.status, tuple(headers), body)


def _retry_headers(decision: Decision) -> list[tuple[str, str]]:
    if decision.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return [("x-should-retry", "false")]
    wait = decision.retry_after
    headers = [] if wait is None else [("retry-after", str(max(1, math.ceil(wait))))]
    if wait is None or wait > LONGEST_RETRY or decision.code == "money":
        return [*headers, ("x-should-retry", "false")]
    return [*headers, ("retry-after-ms", str(max(1, math.ceil(wait * 1000))))]


def _openai(decision: Decision, request_id: str) -> dict[str, Any]:
    del request_id
    return {
        "error": {
            "message": decision.message,
            "type": _TYPES.get(decision.status, "invalid_request_error"),
            "param": None,
            "code": _CODES.get(decision.code, decision.code),
        }
    }


def _anthropic(decision: Decision, request_id: str) -> dict[str, Any]:
    kind = _TYPES.get(decision.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": decision.message}, "request_id": request_id}


def _problem(decision: Decision, request_id: str) -> dict[str, Any]:
    return {
        "type": _PROBLEMS.get(decision.status, "about:blank"),
        "title": HTTPStatus(decision.status).phrase,
        "status": decision.status,
        "detail": decision.message,
        "instance": f"urn:uuid:{request_id}",
        "violated-policies": list(decision.refused_by),
    }


def _hybrid(decision: Decision, request_id: str) -> dict[str, Any]:
    problem = _problem(decision, request_id)
    # the top-level `type` belongs to Anthropic's shape; everything else of the three stands side by side
    return problem | _openai(decision, request_id) | {"type": "error", "request_id": request_id}


_BODIES = {"openai": _openai, "anthropic": _anthropic, "problem": _problem}


IETF = ("ietf",)
"""The usual styles of limit headers."""

LIMIT_HEADERS = ("ratelimit-policy", "ratelimit")
"""What `limit_headers` may return."""


def limit_headers(tallies: Sequence[Tally]) -> list[tuple[str, str]]:
    """
    Return ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-10) for the enforced limits.

    Money is given in micro-dollars, since the fields hold integers.
    """
    policies: list[str] = []
    states: list[str] = []
    for tally in tallies:
        limit, state = tally.limit, tally.state
        if limit.mode == "enforce":
            _, name, policy = _worded.get(id(limit)) or _word(limit)
            remaining = state.remaining
            if limit.unit == "money" or remaining > MOST_INTEGER:
                remaining = _whole(limit, remaining)
            policies.append(policy)
            states.append(f"{name};r={remaining};t={math.ceil(state.reset)}")
    return [("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(states))] if policies else []


_WORDED_MOST = 1024
_worded: dict[int, tuple[Limit, str, str]] = {}
"""Limits by their id, with their names and policies as the fields have them: to hash a limit takes longer than the rest."""


def _word(limit: Limit) -> tuple[Limit, str, str]:
    words = (limit, _string(limit.name), _policy(limit))
    if len(_worded) >= _WORDED_MOST:
        _worded.clear()
    _worded[id(limit)] = words  # the limit is kept beside its words, so that its id is not used again
    return words


def _string(text: str) -> str:
    r"""
    Return *text* as a string of a structured field (RFC 9651, section 3.3.3), which takes ASCII alone: all else as in a URL.

    >>> print(_string('a "big" one'), _string("Büro\r\n"))
    "a \"big\" one" "B%C3%BCro%0D%0A"
    """
    plain = "".join([each if " " <= each <= "~" else quote(each, errors="replace") for each in text])
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _policy(limit: Limit) -> str:
    item = f"{_string(limit.name)};q={_whole(limit, limit.amount)}"
    seconds = _PERIODS.get(limit.window.period or "", limit.window.seconds) if limit.window else None
    if seconds is not None:
        item += f";w={max(1, math.ceil(seconds))}"
    unit = _UNITS.get(limit.unit)
    return item if unit is None else f"{item};{unit}"


_PERIODS = {"hour": 3600, "day": 86400, "week": 604800, "month": 2678400, "quarter": 7948800, "year": 31622400}
"""Longest length of each calendar period, in seconds: a client that trusts ``w`` never counts on too much."""

_UNITS = {
    "concurrent": 'qu="concurrent-requests"',
    "tokens": 'tokenbudget-unit="tokens"',
    "input_tokens": 'tokenbudget-unit="input-tokens"',
    "output_tokens": 'tokenbudget-unit="output-tokens"',
    "money": 'tokenbudget-unit="micro-usd"',
}


def _whole(limit: Limit, amount: int) -> int:
    return min(amount // NANO_PER_MICRO if limit.unit == "money" else amount, MOST_INTEGER)
