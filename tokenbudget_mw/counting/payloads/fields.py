"""
What the bodies of all formats have in common: how they are parsed, checked and summed up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tokenbudget_mw.errors import PayloadError
from tokenbudget_mw.values import EMPTY_TAGS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_OUTPUT", "Request", "batch_fields", "max_output", "model_name", "parse", "short_text"]

MAX_OUTPUT = 2**31
"""Most output tokens that a request may allow, all its choices together."""

MAX_MODEL = 256
MAX_BATCH_FIELD = 256
BATCH_FIELDS = (
    "batch_id",
    "batch_request_id",
    "custom_id",
    "completion_window",
    "batch_created_at",
    "batch_request_source",
)
SIZE_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
CHOICE_FIELDS = ("n", "best_of")


class Request(msgspec.Struct):
    """
    The fields that every format may have. Unknown fields are skipped; of a field given twice the last one holds.
    """

    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    stream: Any = None
    service_tier: Any = None
    metadata: Any = None
    custom_id: Any = None


RequestT = TypeVar("RequestT", bound=Request)


def parse(decoder: msgspec.json.Decoder[RequestT], body: bytes) -> RequestT:
    """
    Return *body* as a request, checked.

    Raises:
        PayloadError: It is not JSON in UTF-8, or a field has a wrong type or value.
    """
    try:
        request = decoder.decode(body)
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        raise PayloadError(f"The body's {_named(param)} is wrong: {reason}.", param=param) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise PayloadError("The body is not JSON in UTF-8. Send a JSON object; NaN and Infinity are not JSON.") from exc
    except RecursionError as exc:
        raise PayloadError("The body is nested too deeply.") from exc
    _check_model(request.model)
    for field in SIZE_FIELDS:
        _check_range(field, getattr(request, field), 0)
    for field in CHOICE_FIELDS:
        _check_range(field, getattr(request, field), 1)
    return request


def max_output(request: Request, prompts: int = 1) -> int | None:
    """
    Return the most output tokens that *request* allows for its *prompts* prompts; None where it does not say.

    Raises:
        PayloadError: That is more than `MAX_OUTPUT`.
    """
    size = max(
        request.max_tokens or 0,
        request.max_completion_tokens or 0,
        request.max_output_tokens or 0,
    )
    if not size and request.max_tokens is request.max_completion_tokens is request.max_output_tokens is None:
        return None
    total = size * max(request.n or 1, request.best_of or 1) * prompts
    if total > MAX_OUTPUT:
        raise PayloadError(
            f"The body allows {total} output tokens in all its choices, more than {MAX_OUTPUT}.", param="n"
        )
    return total


def batch_fields(request: Request) -> Mapping[str, str]:
    """
    Return the batch fields among *request*'s metadata, cut to `MAX_BATCH_FIELD` characters.
    """
    found = {}
    if isinstance(request.metadata, dict):
        found = {field: text for field in BATCH_FIELDS if (text := short_text(request.metadata.get(field)))}
    if custom := short_text(request.custom_id):
        found.setdefault("custom_id", custom)
    return found or EMPTY_TAGS


def short_text(value: object) -> str | None:
    """
    Return *value*, cut to `MAX_BATCH_FIELD` characters, if it is a text that can be printed; else None.
    """
    return value[:MAX_BATCH_FIELD] if isinstance(value, str) and value and value.isprintable() else None


def model_name(token: bytes) -> str | None:
    """
    Return the model name that *token*, a JSON string, holds; None if it cannot be one.
    """
    try:
        name = msgspec.json.decode(token, type=str)
        _check_model(name)
    except (msgspec.DecodeError, UnicodeDecodeError, PayloadError):
        return None
    return name or None


def _check_model(model: str | None) -> None:
    if model is not None and (len(model) > MAX_MODEL or not model.isprintable()):
        raise PayloadError(
            f"The body's `model` must be at most {MAX_MODEL} printable characters; it has {len(model)}.", param="model"
        )


def _check_range(field: str, value: int | None, least: int) -> None:
    if value is not None and not least <= value <= MAX_OUTPUT:
        shown = value if abs(value) < 10**30 else "a huge number"
        raise PayloadError(f"The body's `{field}` must be from {least} to {MAX_OUTPUT}, not {shown}.", param=field)


def _named(param: str | None) -> str:
    return f"`{param}`" if param else "outermost value"
