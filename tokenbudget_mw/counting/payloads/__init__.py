"""
Request bodies: from the bytes of a request to what it asks of a model.

A new format is one function that adds a parsed body to a `Meter`, and one line in `FORMATS`.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tokenbudget_mw.counting.meter import BYTES_A_TOKEN, TooManyPartsError
from tokenbudget_mw.counting.models import normalise
from tokenbudget_mw.counting.payloads import (
    anthropic,
    bedrock,
    cohere,
    detection,
    fields,
    forms,
    gemini,
    gemini_interactions,
    media,
    ollama,
    openai,
    openai_media,
    openai_responses,
    parts,
)
from tokenbudget_mw.counting.payloads.spoken import has_escapes, hides_words
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.errors import ConfigurationError, PayloadError
from tokenbudget_mw.rules.routes import normalise as resolve_path
from tokenbudget_mw.values import EMPTY_TAGS, Prompt, TokenCount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbudget_mw.counting.learning import RatioEstimator
    from tokenbudget_mw.counting.meter import Meter

__all__ = ["FORMATS", "Format", "Parsed", "bound", "has_forms", "parse", "parse_form", "read"]

USUAL = Tokenizers()

LONG, FEW = 1_000_000, 8
"""Bytes of a body that is long, and images that its bound may have too many."""

_TWISTED = re.compile(r"[/\\](?:[/\\]|\.\.?(?:[/\\]|$))")

HEAD_BYTES = 16_384
"""How much of a body that is not read is searched for its model."""

MAX_CONTAINERS = 16_384
"""Most arrays and objects that are worth building; only the outermost fields of a body with more are read."""


SPARSE_BYTES, BYTES_A_BOUND = 4_096, 8
"""A body of more bytes, and of more for each token of its bound, may say more than its format knows of."""

MORE, KEYS = 1.5, 256
"""What is written in a body beside its prompt, at most: the keys, the roles."""

MOST_SCALARS = 65_536
"""Most commas of a body that is built whole."""

LEARNING = ("sample", "async")
"""Ways to count that estimate prompts from what counted ones have taught."""

NOTHING = TokenCount(0, 0, exact=True, method="exact")


@dataclass(frozen=True, slots=True)
class Format:
    """
    How the bodies of one API endpoint are read.

    Attributes:
        decoder: Bytes to the request's struct.

        add: Adds the request's prompt to a meter.

        prompts: How many prompts a request has, each with an answer of its own; None where it is always one.

        has_output: Whether its answers have output tokens.

        head: Bytes to the same struct without its prompt, for bodies that are not worth building.

        target: What the request's path says of it; None where it says nothing.

        by_size: Bounds a form of so many bytes that is too long to be read, in formats that have forms.

        reading: What makes the request of a form that has been read, in these.
    """

    decoder: fields.Decoder[Any]
    add: Callable[[Any, Meter], None]
    prompts: Callable[[Any], int] | None = None
    has_output: bool = True
    head: fields.Decoder[Any] = fields.OUTERMOST
    target: Callable[[str], fields.Target] | None = None
    by_size: Callable[[int], TokenCount] | None = None
    reading: Callable[[forms.Form], fields.Decoder[Any]] | None = None


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "openai.chat": Format(openai.CHAT, openai.add_chat, target=openai.target),
        "openai.completions": Format(openai.COMPLETION, openai.add_completion, openai.prompts_of, target=openai.target),
        "openai.embeddings": Format(openai.EMBEDDING, openai.add_embedding, has_output=False, target=openai.target),
        "openai.responses": Format(
            openai_responses.RESPONSES, openai_responses.add_responses, target=openai_responses.target
        ),
        "openai.images": Format(
            openai_media.IMAGES,
            openai_media.add_media,
            target=openai.target,
            by_size=openai_media.images_by_size,
            reading=openai_media.IMAGES.reading,
        ),
        "openai.audio": Format(
            openai_media.AUDIO,
            openai_media.add_media,
            target=openai.target,
            by_size=openai_media.audio_by_size,
            reading=openai_media.AUDIO.reading,
        ),
        "anthropic.messages": Format(anthropic.MESSAGES, anthropic.add_messages, target=anthropic.target),
        "bedrock.converse": Format(bedrock.CONVERSE, bedrock.add_converse, head=bedrock.HEAD, target=bedrock.target),
        "cohere": Format(cohere.REQUEST, cohere.add_request, target=cohere.target),
        "gemini": Format(gemini.GENERATE, gemini.add_generate, head=gemini.HEAD, target=gemini.target),
        "gemini.interactions": Format(
            gemini_interactions.INTERACTION, gemini_interactions.add_interaction, head=gemini_interactions.HEAD
        ),
        "ollama": Format(ollama.REQUEST, ollama.add_request, head=ollama.HEAD, target=ollama.target),
    }
)


Parsed = tuple[Format, Any, int]
"""
A body that is parsed and not counted yet: its format, its fields (only the outermost ones where it has more than
`MAX_CONTAINERS`), and the most arrays and objects that it can have, 0 where it is too short to have many.
"""


def parse(format: str, body: bytes, path: str = "") -> Parsed:  # noqa: A002
    """
    Do the first half of what `read` does with the same arguments, for whoever does something else between the halves.

    Raises:
        PayloadError: The body is not a request of this format.

        ConfigurationError: There is no such format.
    """
    kind = FORMATS.get(format) or _detected(format, path, body)
    containers = 0 if len(body) <= MAX_CONTAINERS or forms.is_form(body) else _containers(body)
    return kind, fields.parse(kind.head if containers > MAX_CONTAINERS else kind.decoder, body), containers


def has_forms(format: str, path: str = "") -> bool:  # noqa: A002
    """
    Tell whether bodies of *format* may be forms.
    """
    kind = _known(format, path)
    return kind is not None and kind.reading is not None


def parse_form(format: str, form: forms.Form, path: str = "") -> Parsed:  # noqa: A002
    """
    Do what `parse` does with a *form* that was read while it passed, of a format that has forms.

    Raises:
        PayloadError: It is not a request of this format.
    """
    kind = _known(format, path)
    if kind is None or kind.reading is None:
        raise ConfigurationError(f"Bodies of the format {format!r} are no forms.")
    return kind, fields.parse(kind.reading(form), b""), 0


def read(
    format: str,  # noqa: A002 - the word that routes use
    body: bytes,
    *,
    path: str = "",
    parsed: Parsed | None = None,
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

        parsed: What `parse` has made of it already, if it has.

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
    kind, request, containers = parsed or parse(format, body, path)
    target = fields.NO_TARGET
    if kind.target is not None:
        target = _target(kind.target, path)
        request.model = target.model or request.model
    if containers > MAX_CONTAINERS:
        tokens, prompts = _by_size(len(body), body, tokenizers.resolve(request.model).name), containers
    else:
        is_counted = count == "full" or (count == "sample" and draw < sample)
        meter = tokenizers.meter(request.model, is_counted, ratio if count in LEARNING else None)
        tokens, prompts = _counted(kind, request, meter, body), 0
    return _prompt(kind, request, target, tokens, prompts)


def _prompt(kind: Format, request: Any, target: fields.Target, tokens: TokenCount, prompts: int) -> Prompt:
    """
    Return what *request* asks for with a prompt of *tokens*; how many *prompts* it has is looked up where that is 0.
    """
    has_output = kind.has_output and target.has_output
    answers = request.answers()
    if kind.prompts is not None:
        answers *= prompts or kind.prompts(request)
    return Prompt(
        request.model or None,
        tokens if target.has_input else NOTHING,
        fields.max_output(request, answers) if has_output else 0,
        request.is_stream or target.stream,
        request.tier() if request.service_tier or request.speed or request.inference_geo else None,
        EMPTY_TAGS if request.metadata is None and request.custom_id is None else fields.batch_fields(request),
        answers if has_output else 1,
    )


def _counted(kind: Format, request: Any, meter: Meter, body: bytes) -> TokenCount:
    try:
        kind.add(request, meter)
        tokens = meter.result()
    except TooManyPartsError:
        tokens = _by_size(len(body), body, meter.family.name)
    except RecursionError as exc:
        raise PayloadError("The body is nested too deeply.") from exc
    if len(body) > SPARSE_BYTES and len(body) > tokens.upper * BYTES_A_BOUND and _says_more(body, meter):
        return _sparse(body, tokens, meter.again())
    return tokens


def _detected(format: str, path: str, body: bytes) -> Format:  # noqa: A002
    kind = FORMATS.get(detection.format_of(path, body)) if format == detection.AUTO else None
    if kind is None:
        raise ConfigurationError(f"Unknown format {format!r}. Known formats: {', '.join(FORMATS)}.")
    return kind


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
    kind = _known(format, path)
    target = fields.NO_TARGET if kind is None or kind.target is None else _target(kind.target, path)
    size = max(content_length or 0, len(seen))
    if kind is not None and kind.by_size is not None and forms.is_form(seen):
        model = target.model or fields.short_text(
            forms.plain_form(seen, ("model",), is_whole=False).fields.get("model")
        )
        return Prompt(model, kind.by_size(size))
    model = target.model or _model_in(seen[:HEAD_BYTES])
    return Prompt(model=model, input=_by_size(size, seen, normalise(model or "")), stream=target.stream)


def _known(format: str, path: str) -> Format | None:  # noqa: A002
    return FORMATS.get(detection.format_of(path) if format == detection.AUTO else format)


def _target(read_path: Callable[[str], fields.Target], path: str) -> fields.Target:
    if ("//" in path or "/." in path or "\\" in path) and _TWISTED.search(path):  # looked for first: that takes a tenth
        path = resolve_path(path)  # as a server that resolves dots takes it: /models/cheap:x/../dear:x
    target = read_path(path)
    if target.model is not None:
        fields.check_model(target.model)
    return target


def _by_size(size: int, seen: bytes, model: str) -> TokenCount:
    files = len(_FILES.findall(seen))
    images = _images(seen)
    typical, most = map(max, media.ANTHROPIC_IMAGE, media.openai_image(model, None, None))
    estimate = math.ceil(size / BYTES_A_TOKEN["bytes"]) + images * typical + files * media.FILE_TOKENS[0]
    return TokenCount(estimate, size + images * most + files * media.FILE_TOKENS[1], exact=False, method="bytes")


def _images(seen: bytes) -> int:
    named = seen.count(b'"image')
    if not has_escapes(seen):
        return named
    # letters that need no escape hide what an object is: each may be an image. To look for them takes a millisecond a
    # megabyte: not where a few more change nothing
    objects = max(seen.count(b"{"), named)
    is_hidden = (len(seen) > LONG and objects <= FEW) or hides_words(seen)
    return objects if is_hidden else named


_FILES = re.compile(
    rb'"type"\s*:\s*"(?:input_)?(?:document|file|video)(?:_url)?"|"file_?[dD]ata"\s*:\s*\{|"(?:document|video)"\s*:\s*\{'
)


def _says_more(body: bytes, meter: Meter) -> bool:
    """
    Say whether more than half of *body*, a form apart, is not what *meter* was given; an escaped letter is one of six bytes.
    """
    more = 0 if forms.is_form(body) else len(body) - 2 * meter.seen
    # there are no fewer backslashes than escaped letters, and a single byte is counted in a third of the time
    return more > 0 and (more > 5 * body.count(b"\\") or more > 5 * body.count(b"\\u"))


def _sparse(body: bytes, tokens: TokenCount, meter: Meter) -> TokenCount:
    """
    Return *tokens*, or all that is written in *body* where that is much more: some servers read fields that the format does
    not know, or know by another case.
    """
    written = None
    if body.count(b",") <= MOST_SCALARS:
        # what cannot be built here, a lenient decoder may build
        with contextlib.suppress(TooManyPartsError, ValueError, RecursionError):
            parts.add_written(meter, msgspec.json.decode(body))
            written = meter.result()
    if written is None:
        written = _by_size(len(body), body, meter.family.name)
    if written.upper <= tokens.upper * MORE + KEYS:
        return tokens
    return TokenCount(max(tokens.estimate, written.estimate), written.upper, exact=False, method=written.method)


def _containers(body: bytes) -> int:
    """
    Return the most arrays and objects that *body* can have.
    """
    return body.count(b"[") + body.count(b"{")


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
