"""
What the bodies of all formats have in common: how they are parsed, checked and summed up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, TypeVar

import msgspec

from tokenbudget_mw.errors import PayloadError
from tokenbudget_mw.rules.tariffs import tier_of
from tokenbudget_mw.values import EMPTY_TAGS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_OUTPUT",
    "NO_TARGET",
    "OUTERMOST",
    "Choices",
    "Decoder",
    "Request",
    "Size",
    "Target",
    "batch_fields",
    "check_model",
    "max_output",
    "model_name",
    "parse",
    "short_text",
]

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

Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_OUTPUT)]
Most = Annotated[int, msgspec.Meta(ge=-2, le=MAX_OUTPUT)]
"""A maximum for servers that take -1 or -2 for none: llama.cpp, LM Studio."""

Choices = Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTPUT)]


class Request(msgspec.Struct):
    """
    The fields that every format may have. Unknown fields are skipped; of a field given twice the last one holds.
    """

    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL)] | None = None
    max_tokens: Most | None = None
    max_completion_tokens: Most | None = None
    max_output_tokens: Most | None = None
    n: Choices | None = None
    best_of: Choices | None = None
    stream: Any = None
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None
    metadata: Any = None
    custom_id: Any = None

    def sizes(self) -> tuple[int | None, ...]:
        """
        Return the maxima that it names for the output tokens of one answer; the largest holds.
        """
        return self.max_tokens, self.max_completion_tokens, self.max_output_tokens

    def answers(self) -> int:
        """
        Return how many answers it asks for, to each of its prompts.
        """
        return 1 if self.n is None and self.best_of is None else max(self.n or 1, self.best_of or 1)

    def tier(self) -> str | None:
        """
        Return the tier that it asks for, as the response will name it: OpenAI's ``fast`` is ``priority`` there.
        """
        asked = "priority" if self.service_tier == "fast" else self.service_tier
        return tier_of(self.speed, self.inference_geo) or short_text(asked)

    @property
    def is_stream(self) -> bool:
        """
        Whether it asks for a stream.
        """
        return self.stream is True


class Target(NamedTuple):
    """
    What the path of a request says of it, in formats whose paths say it.

    Attributes:
        model: Model that is asked; it holds over the body's.

        stream: Whether a stream is asked for.

        has_input: Whether its input is charged.

        has_output: Whether its answers have output tokens.
    """

    model: str | None = None
    stream: bool = False
    has_input: bool = True
    has_output: bool = True


NO_TARGET = Target()
RequestT_co = TypeVar("RequestT_co", bound=Request, covariant=True)


class Decoder(Protocol[RequestT_co]):
    """
    Makes a request of a body; raises what `msgspec` raises.
    """

    def decode(self, buf: bytes, /) -> RequestT_co:
        """
        Return the request that *buf* is.
        """
        ...


OUTERMOST = msgspec.json.Decoder(Request)
"""Reads what all formats have in common, and builds nothing else."""


def parse(decoder: Decoder[RequestT_co], body: bytes) -> RequestT_co:
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
    if request.model is not None and not request.model.isprintable():
        raise PayloadError("The body's `model` has characters that cannot be printed.", param="model")
    return request


def check_model(model: str) -> None:
    """
    Check the *model* that a path names.

    Raises:
        PayloadError: It is too long, or cannot be printed.
    """
    if len(model) > MAX_MODEL or not model.isprintable():
        raise PayloadError(
            f"The path's model must be at most {MAX_MODEL} characters that can be printed.", param="model"
        )


def max_output(request: Request, answers: int = 1) -> int | None:
    """
    Return the most output tokens that *request* allows for its *answers* answers; None where it does not say.

    Raises:
        PayloadError: That is more than `MAX_OUTPUT`.
    """
    largest = -1
    for size in request.sizes():
        if size is not None and size > largest:
            largest = size
    if largest < 0:
        return None
    total = largest * answers
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
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return name if name and len(name) <= MAX_MODEL and name.isprintable() else None


def _named(param: str | None) -> str:
    return f"`{param}`" if param else "outermost value"
