"""
Request bodies: from the bytes of a request to what it asks of a model.

A new format is one function that adds a parsed body to a `Meter`, and one line in `FORMATS`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from tokenbudget_mw.counting.meter import BYTES_A_TOKEN, TooManyPartsError
from tokenbudget_mw.counting.models import normalise
from tokenbudget_mw.counting.payloads import (
    anthropic,
    bedrock,
    cohere,
    detection,
    fields,
    gemini,
    media,
    ollama,
    openai,
    openai_responses,
)
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.errors import ConfigurationError, PayloadError
from tokenbudget_mw.rules.routes import normalise as resolve_path
from tokenbudget_mw.values import Prompt, TokenCount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import msgspec

    from tokenbudget_mw.counting.learning import RatioEstimator
    from tokenbudget_mw.counting.meter import Meter

__all__ = ["FORMATS", "Format", "bound", "read"]

USUAL = Tokenizers()

_TWISTED = re.compile(r"[/\\](?:[/\\]|\.\.?(?:[/\\]|$))")

HEAD_BYTES = 16_384
"""How much of a body that is not read is searched for its model."""

MAX_CONTAINERS = 16_384
"""Most arrays and objects that are worth building; only the outermost fields of a body with more are read."""


NO_TARGET = fields.Target()
NOTHING = TokenCount(0, 0, exact=True, method="exact")


def _one(_request: Any) -> int:
    return 1


@dataclass(frozen=True, slots=True)
class Format:
    """
    How the bodies of one API endpoint are read.

    Attributes:
        decoder: Bytes to the request's struct.

        add: Adds the request's prompt to a meter.

        prompts: How many prompts a request has, each with an answer of its own.

        has_output: Whether its answers have output tokens.

        head: Bytes to the same struct without its prompt, for bodies that are not worth building.

        target: What the request's path says of it; None where it says nothing.
    """

    decoder: msgspec.json.Decoder[Any]
    add: Callable[[Any, Meter], None]
    prompts: Callable[[Any], int] = _one
    has_output: bool = True
    head: msgspec.json.Decoder[Any] = fields.OUTERMOST
    target: Callable[[str], fields.Target] | None = None


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "openai.chat": Format(openai.CHAT, openai.add_chat),
        "openai.completions": Format(openai.COMPLETION, openai.add_completion, openai.prompts_of),
        "openai.embeddings": Format(openai.EMBEDDING, openai.add_embedding, has_output=False),
        "openai.responses": Format(openai_responses.RESPONSES, openai_responses.add_responses),
        "anthropic.messages": Format(anthropic.MESSAGES, anthropic.add_messages),
        "bedrock.converse": Format(bedrock.CONVERSE, bedrock.add_converse, head=bedrock.HEAD, target=bedrock.target),
        "cohere": Format(cohere.REQUEST, cohere.add_request, target=cohere.target),
        "gemini": Format(gemini.GENERATE, gemini.add_generate, head=gemini.HEAD, target=gemini.target),
        "ollama": Format(ollama.REQUEST, ollama.add_request, head=ollama.HEAD, target=ollama.target),
    }
)


def read(
    format: str,  # noqa: A002 - the word that routes use
    body: bytes,
    *,
    path: str = "",
    tokenizers: Tokenizers = USUAL,
    count: Literal["full", "sample", "async", "off"] = "full",
    sample: float = 1.0,
    draw: float = 0.0,
    ratio: RatioEstimator | None = None,
) -> Prompt:
    """
    Return what *body* asks of a model.

    Args:
        format: Name in `FORMATS`, or ``auto``: by path and fields.

        body: The whole request body, content encoding undone.

        path: The request's path, decoded; some formats name the model there.

        tokenizers: What counts.

        count: ``full`` tokenises the prompt, ``sample`` a share of the requests, ``async`` and ``off`` none; texts that
            are not tokenised are estimated from their bytes, with their bytes as the upper bound.

        sample: That share, 0 to 1.

        draw: A random number from 0 to below 1, the request's own.

        ratio: What the route has learned, for ``sample`` and ``async``; counted requests teach it.

    Raises:
        PayloadError: The body is not a request of this format.

        ConfigurationError: There is no such format.
    """
    kind = FORMATS.get(detection.format_of(path, body) if format == detection.AUTO else format)
    if kind is None:
        raise ConfigurationError(f"Unknown format {format!r}. Known formats: {', '.join(FORMATS)}.")
    containers = _containers(body)
    is_crowded = containers > MAX_CONTAINERS
    request = fields.parse(kind.head if is_crowded else kind.decoder, body)
    target = _target(kind, path)
    request.model = target.model or request.model
    has_output = kind.has_output and target.has_output
    if is_crowded:
        tokens = _by_size(len(body), body, tokenizers.resolve(request.model).name)
        prompts = 1 if kind.prompts is _one else containers
    else:
        is_counted = count == "full" or (count == "sample" and draw < sample)
        learned = ratio if count in ("sample", "async") else None
        meter = tokenizers.meter(request.model, is_counted=is_counted, ratio=learned)
        tokens = _count(kind, request, meter, body)
        prompts = kind.prompts(request)
    answers = request.answers() * prompts
    return Prompt(
        request.model or None,
        tokens if target.has_input else NOTHING,
        fields.max_output(request, answers) if has_output else 0,
        target.stream or request.is_stream,
        fields.short_text(request.service_tier),
        fields.batch_fields(request),
        answers if has_output else 1,
    )


def bound(content_length: int | None, seen: bytes, *, format: str = "", path: str = "") -> Prompt:  # noqa: A002
    """
    Return what can be said of a body that is too long to be read.

    Its text has at most a token a byte. Images that it refers to are counted in what was seen of it.

    Args:
        content_length: The whole body's size in bytes, if the request tells it.

        seen: The body's beginning.

        format: Name in `FORMATS`, if the path may name the model.

        path: The request's path.
    """
    kind = FORMATS.get(detection.format_of(path) if format == detection.AUTO else format)
    target = NO_TARGET if kind is None else _target(kind, path)
    model = target.model or _model_in(seen[:HEAD_BYTES])
    size = max(content_length or 0, len(seen))
    return Prompt(model=model, input=_by_size(size, seen, normalise(model or "")), stream=target.stream)


def _target(kind: Format, path: str) -> fields.Target:
    if kind.target is None:
        return NO_TARGET
    if _TWISTED.search(path):
        path = resolve_path(path)  # as a server that resolves dots takes it: /models/cheap:x/../dear:x
    target = kind.target(path)
    if target.model is not None:
        fields.check_model(target.model)
    return target


def _count(kind: Format, request: Any, meter: Meter, body: bytes) -> TokenCount:
    try:
        kind.add(request, meter)
    except TooManyPartsError:
        return _by_size(len(body), body, meter.family.name)
    except RecursionError as exc:
        raise PayloadError("The body is nested too deeply.") from exc
    return meter.result()


def _by_size(size: int, seen: bytes, model: str) -> TokenCount:
    images = seen.count(b'"image')
    typical, most = map(max, media.ANTHROPIC_IMAGE, media.openai_image(model, None, None))
    estimate = math.ceil(size / BYTES_A_TOKEN["bytes"]) + images * typical
    return TokenCount(estimate, size + images * most, exact=False, method="bytes")


def _containers(body: bytes) -> int:
    """
    Return the most arrays and objects that *body* can have; 0 where it is too short to have many.
    """
    return 0 if len(body) <= MAX_CONTAINERS else body.count(b"[") + body.count(b"{")


# Possessive, and content with a string that the head cuts off: linear on any bytes.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{}\[\]:,]', re.DOTALL)


def _model_in(head: bytes) -> str | None:
    """
    Return the value of the outermost object's ``model`` in *head*, the beginning of a JSON text.

    Only the outermost: a name nested somewhere, or spelt inside a text, is not what the app will call.
    """
    depth = 0
    before = [b"", b""]
    for found in _TOKEN.finditer(head):
        token = found[0]
        if token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
        elif depth == 1 and before == [b'"model"', b":"] and len(token) > 1:
            return fields.model_name(token)
        before = [before[1], token]
    return None
