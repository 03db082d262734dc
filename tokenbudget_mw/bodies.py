"""
A request's body on its way to a prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbudget_mw.errors import PayloadError

if TYPE_CHECKING:
    from tokenbudget_mw.call import Call

__all__ = ["parse_body", "read_body"]


def parse_body(call: Call, body: bytes) -> Any:
    """
    Do the first half of `read_body` with a whole *body*, and return what the second takes. Raises `PayloadError`.
    """
    _check_encoding(call)
    return call.core.meter.parse(call.route, body, call.facts.path)


def read_body(call: Call, body: bytes, parsed: Any, *, is_whole: bool) -> None:
    """
    Take the prompt of *call* from its *body*, or from the head of that. Raises `PayloadError`.
    """
    meter, route, path = call.core.meter, call.route, call.facts.path
    if is_whole and not body:
        return
    _check_encoding(call)
    if is_whole:
        call.prompt = meter.read_prompt(route, body, path, parsed)
        if route.count == "async":
            call.counting = meter.recount_aside(route, body, path, is_cancelled=call.is_refused)
    else:
        length = call.facts.header("content-length") or ""
        call.prompt = meter.bound_prompt(route, int(length) if length.isdecimal() else None, body, path)


def _check_encoding(call: Call) -> None:
    encoding = call.facts.header("content-encoding")
    if encoding and encoding.lower() != "identity":
        message = f"Metered routes take bodies as they are, not encoded ({encoding[:32]!r}). Send it uncompressed."
        raise PayloadError(message, status=415)
