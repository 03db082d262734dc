"""
A request's body on its way to a prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbudget_mw.calls.forms import LateForm
from tokenbudget_mw.counting.payloads import has_forms
from tokenbudget_mw.counting.payloads.forms import check_form, is_form
from tokenbudget_mw.errors import PayloadError

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import Call

__all__ = ["length_of", "parse_body", "read_body"]

MOST_DIGITS = 15
"""Digits of a length that are read: a petabyte is more than anybody sends."""


def parse_body(call: Call, body: bytes) -> Any:
    """
    Do the first half of `read_body` with a whole *body*, and return what the second takes. Raises `PayloadError`.
    """
    _check_encoding(call)
    _check_form(call, body)
    return call.core.meter.parse(call.route, body, call.facts.path)


def read_body(call: Call, body: bytes, parsed: Any, *, is_whole: bool) -> None:
    """
    Take the prompt of *call* from its *body*, or from the head of that. Raises `PayloadError`.
    """
    meter, route, path = call.core.meter, call.route, call.facts.path
    if is_whole and not body:
        return
    _check_encoding(call)
    _check_form(call, body)
    if is_whole:
        call.prompt = meter.read_prompt(route, body, path, parsed)
        if route.count == "async":
            call.counting = meter.recount_aside(route, body, path, is_cancelled=call.is_refused)
    else:
        length = length_of(call.facts.header("content-length"))
        call.prompt = meter.bound_prompt(route, length, body, path)
        if body and has_forms(route.format or "", path):
            _read_on(call, body, length)


def length_of(text: str | None) -> int | None:
    """
    Return how many bytes the ``Content-Length`` *text* says; None where it is no number.

    >>> length_of("12"), length_of("0012"), length_of("9" * 5000), length_of("-1")
    (12, 12, 999999999999999, None)
    """
    # Python makes no number of thousands of digits, and no float of hundreds
    return int(text.lstrip("0")[:MOST_DIGITS] or "0") if text and text.isdecimal() else None


def _read_on(call: Call, head: bytes, length: int | None) -> None:
    """
    Read what comes behind the *head* of a form while it passes to the app.
    """
    if is_form(head):
        call.form = LateForm(call, head, length)
    elif (call.facts.header("content-type") or "").strip().lower().startswith("multipart/"):
        raise PayloadError("The body's Content-Type names a form, and the body does not begin with its boundary.")


def _check_form(call: Call, body: bytes) -> None:
    if is_form(body):
        check_form(body, tuple(call.facts.header_values("content-type")))


def _check_encoding(call: Call) -> None:
    encoding = next((name for name in call.facts.header_values("content-encoding") if name.lower() != "identity"), None)
    if encoding:
        message = f"Metered routes take bodies as they are, not encoded ({encoding[:32]!r}). Send it uncompressed."
        raise PayloadError(message, status=415)
