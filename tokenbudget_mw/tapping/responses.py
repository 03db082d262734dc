"""
Usage of a response object that a handler got from a provider's SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.tapping import invoked, shapes
from tokenbudget_mw.values import Usage

__all__ = ["read_response"]

Fields = Mapping[str, object]

_CONTAINERS = ("usage", "usage_metadata", "usageMetadata", "meta", invoked.METRICS)
_EVENTS = ("response", "metadata", "delta", "x_groq", "data", "interaction", "raw")
"""
Where the last event of a stream has what a whole response has (OpenAI's Responses, Bedrock, Cohere, Groq, Mistral, Gemini's
interactions), and frameworks what the provider answered (LlamaIndex, LangChain beside what it parsed).
"""

_NO_FIELDS = (str, bytes, int, float, list, tuple)
"""Types of values without fields: a tuple, because a union is made anew wherever it is written."""

_MODELS = ("model", "model_version", "modelVersion", "response_model", "model_name", "agent")
"""An interaction of Gemini's that no model was asked for names the agent."""

_AROUND = ("response", "response_metadata", "data", "interaction", "raw")
"""Where model and tier stand if not beside the usage: in events, in LangChain's messages, in what a framework was answered."""

_GEMINI = {
    "prompt_token_count": "promptTokenCount",
    "candidates_token_count": "candidatesTokenCount",
    "thoughts_token_count": "thoughtsTokenCount",
    "tool_use_prompt_token_count": "toolUsePromptTokenCount",
    "cached_content_token_count": "cachedContentTokenCount",
    "candidates_tokens_details": "candidatesTokensDetails",
    "response_token_count": "responseTokenCount",
    "response_tokens_details": "responseTokensDetails",
    "token_count": "tokenCount",
    "traffic_type": "trafficType",
}
"""Python's spelling of Gemini's fields -> the wire's."""

_NAMES = _GEMINI | invoked.NAMES

_GEMINI_PROMPT = "promptTokensDetails"
"""What Python spells as OpenAI's object of another meaning; Gemini's is a list."""

_NESTED = (
    "billed_units",
    "cacheDetails",
    "cache_creation",
    "cache_creation_token_details",
    "candidates_tokens_details",
    "completion_tokens_details",
    "image_gen",
    "input_token_details",
    "input_tokens_by_modality",
    "input_tokens_details",
    "iterations",
    "output_token_details",
    "output_tokens_by_modality",
    "output_tokens_details",
    "prompt_tokens_details",
    "response_tokens_details",
    "results",
)
"""Fields of a usage that hold further figures."""

_OWN = (
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
)
_LANGCHAIN_SIDES: tuple[dict[str, str], ...] = tuple(
    {f"{tier}{name}": own for tier in ("", "flex_", "priority_") for name, own in names.items()}
    for names in (
        {
            "cache_read": "cache_read_tokens",
            "cache_creation": "cache_write_tokens",
            "ephemeral_5m_input_tokens": "cache_write_tokens",
            "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
            "audio": "audio_input_tokens",
        },
        {"reasoning": "reasoning_tokens", "audio": "audio_output_tokens"},
    )
)
_LANGCHAIN = frozenset(name for names in _LANGCHAIN_SIDES for name in names)
"""LangChain's details of the input and of the output -> this package's own names; a tier may stand before them."""

_PYDANTIC = {"audio_input_tokens": "input_audio_tokens", "audio_output_tokens": "output_audio_tokens"}
"""This package's own names -> those of pydantic-ai, where they differ."""

_COUNTS = ("input_tokens", "output_tokens", *_OWN)


def read_response(response: object, *, format: str | None = None) -> Usage:  # noqa: A002 - the settings' own word
    """
    Read the usage of *response*.

    Args:
        response: A response object of any provider's SDK, its dict, its ``usage`` alone, or a `Usage`. Known are OpenAI
            (chat, responses, embeddings, realtime) and all who speak the same, Anthropic, Gemini, also live, Bedrock, Cohere,
            Ollama, results of LangChain, LlamaIndex, pydantic-ai and OpenAI's agents, and plain
            ``{"input_tokens": 12, "output_tokens": 34}`` with this package's own names.

        format: Format of the response where its fields do not tell, a name in `tapping.FAMILIES`.

    Returns:
        The usage, with source ``reported``.

    Raises:
        TypeError: *response* is no object that has fields.

        ValueError: There are no token figures in it, or a `Usage` holds senseless ones.

    >>> read_response({"input_tokens": 12, "output_tokens": 34}).output_tokens
    34
    """
    if isinstance(response, Usage):
        return _checked(response)
    found = _fields(response)
    if found is None:
        raise TypeError(
            f"Cannot read usage from {type(response).__name__!r}. Pass the provider's response object, its dict, or Usage(...)."
        )
    usage = next(filter(None, (_read(part, format) for part in _candidates(found, response))), None)
    if usage is None:
        known = ", ".join(dict.fromkeys(name for name, _ in _SHAPES))
        raise ValueError(
            f"No token figures in {type(response).__name__!r}: looked in it and in its {', '.join(_CONTAINERS)} for "
            f"{known}, as whole numbers from 0. A stream has them in its last chunk only; else pass Usage(...)."
        )
    return replace(
        usage,
        model=usage.model or _model(found),
        service_tier=_plain_text(_tier(found) or usage.service_tier),
        source="reported",
        others=usage.others + _drawn(found),
    )


def _checked(usage: Usage) -> Usage:
    for name in _COUNTS:
        if shapes.figure(getattr(usage, name)) is None:
            raise ValueError(f"Usage.{name} is {getattr(usage, name)!r}. Pass a whole number of tokens, 0 or more.")
    return replace(usage, source="reported", others=tuple(map(_checked, usage.others)))


def _candidates(found: Fields, response: object) -> Iterator[Fields]:
    """
    Yield the places where figures may stand: the named containers first, then those of an event, the object itself, and
    last what is no field of it.
    """
    yield from _containers(found)
    for name in _EVENTS:
        if (part := _fields(found.get(name))) is not None:
            yield from (*_containers(part), part)
    yield found
    yield invoked.headed(found)
    yield _worked_out(response)


def _containers(found: Fields) -> list[Fields]:
    parts = [_fields(found[name]) for name in _CONTAINERS if found.get(name) is not None]
    return [part for part in parts if part]


def _worked_out(response: object) -> Fields:
    """
    Return the usage that *response* tells in a property, as the results of pydantic-ai's agents do.
    """
    told = response.usage if isinstance(getattr(type(response), "usage", None), property) else None  # type: ignore[attr-defined]
    return _fields(told) or {}


def _read(part: Fields, format: str | None) -> Usage | None:  # noqa: A002 - the settings' own word
    part = _within(part)
    if format == "anthropic.messages":
        return shapes.anthropic(part)
    if "input_tokens" in part and any(part.get(name) is not None for name in _OWN):
        return _own(part)
    found = (shape(part) for name, shape in _SHAPES if name in part)
    return next((usage for usage in found if usage is not None), None)


def _plain(part: Fields) -> Usage | None:
    """
    Read ``input_tokens`` and ``output_tokens``: OpenAI's Responses or LangChain, if their other fields are there, else nobody's.
    """
    details = [_details(part, name) for name in ("input_token_details", "output_token_details")]
    if any(name in _LANGCHAIN for each in details for name in each):
        return _own({**part, **_langchain(details)})
    usage = shapes.openai_responses(part)
    is_openai = "input_tokens_details" in part or "total_tokens" in part
    return usage if usage is None or is_openai else replace(usage, provider=None)


def _langchain(details: list[Fields]) -> Fields:
    """
    Return what LangChain says of a cache, of reasoning and audio by this package's own names.
    """
    found: dict[str, int] = {}
    for names, each in zip(_LANGCHAIN_SIDES, details, strict=True):
        for name, value in each.items():
            own = names.get(name)
            for written in (own, "cache_write_tokens" if own == "cache_write_1h_tokens" else None):
                if written is not None:
                    found[written] = found.get(written, 0) + (shapes.figure(value) or 0)
    return found


def _details(part: Fields, name: str) -> Fields:
    value = part.get(name)
    return value if isinstance(value, Mapping) else {}


def _own(part: Fields) -> Usage | None:
    """
    Read this package's own names: all input in ``input_tokens``, all output in ``output_tokens``.
    """
    base = shapes.openai_responses(part)
    if base is None:
        return None
    told = {**_details(part, "details"), **{own: part.get(name) for own, name in _PYDANTIC.items()}, **part}
    read, written, hour, reasoning, heard, spoken = (shapes.figure(told.get(name)) or 0 for name in _OWN)
    read = min(read, base.input_tokens)
    written = min(written, base.input_tokens - read)
    return replace(
        base,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour, written),
        reasoning_tokens=min(reasoning, base.output_tokens),
        audio_input_tokens=min(heard, base.input_tokens),
        audio_output_tokens=min(spoken, base.output_tokens),
        provider=None,
    )


def _fields(value: object) -> Fields | None:
    """
    Return the fields of a mapping, a pydantic model, a dataclass, a struct or a plain object, without its private ones.
    """
    if value is None or isinstance(value, _NO_FIELDS):
        return None
    if isinstance(value, Mapping):  # takes longer to tell, and most values are none
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    attributes = {**getattr(value, "__dict__", {}), **(getattr(value, "__pydantic_extra__", None) or {})}
    return {name: item for name, item in attributes.items() if not name.startswith("_")} or None


def _opened(name: str, value: object) -> tuple[str, object]:
    """
    Return the wire's *name* and its *value*: the fields of it where it holds further figures.
    """
    wire = _NAMES.get(name, name)
    if name not in _NESTED:
        return wire, value
    if isinstance(value, list | tuple):
        entries = [_within(_fields(entry) or {}) for entry in value]
        return _GEMINI_PROMPT if name == "prompt_tokens_details" else wire, entries
    inner = _fields(value)
    return wire, value if inner is None else _within(inner)


def _within(found: Fields) -> Fields:
    return dict([_opened(name, value) for name, value in found.items()])


def _model(found: Fields) -> str | None:
    for name in _MODELS:
        if isinstance(value := found.get(name), str) and value:
            return value
    inner = (_fields(found.get(name)) for name in _AROUND)
    return next((known for part in inner if part is not None and (known := _model(part))), None)


def _drawn(found: Fields) -> tuple[Usage, ...]:
    """
    Return what the models used that drew for OpenAI's Responses, whose last event has the response in it, and that wrote
    vector images.
    """
    others: tuple[Usage, ...] = ()
    for part in filter(None, (found, _fields(found.get("response")))):
        if (used := _fields(part.get("tool_usage"))) is not None:
            tools = part.get("tools")
            others += shapes.drawn(
                _within(used), [_fields(tool) for tool in tools] if isinstance(tools, list) else None
            )
        items = part.get("output")
        for item in (part, *(map(_fields, items) if isinstance(items, list) else ())):
            if item is not None and item.get("svg_usage") is not None:
                others += shapes.authored(_fields(item["svg_usage"]))
    return others


def _tier(found: Fields) -> str | None:
    """
    Return the tier that served the response, wherever it stands: Bedrock has an object around it.
    """
    around = _fields(found.get("serviceTier")) or {}
    if isinstance(tier := found.get("service_tier") or around.get("type"), str):
        return tier
    inner = (_fields(found.get(name)) for name in (*_AROUND, "metadata"))
    return next((known for part in inner if part is not None and (known := _tier(part))), None)


def _plain_text(tier: str | None) -> str | None:
    return None if tier is None else str.__str__(tier)  # Google's SDK has an enumeration of texts


_SHAPES: tuple[tuple[str, Callable[[Fields], Usage | None]], ...] = (
    ("generation_token_count", invoked.llama),
    ("prompt_tokens", shapes.openai),
    ("promptTokenCount", shapes.gemini),
    ("inputTokens", shapes.bedrock),
    ("inputTextTokenCount", invoked.titan),
    ("total_input_tokens", shapes.interaction),
    ("billed_units", shapes.cohere),
    ("cache_read_input_tokens", shapes.anthropic),
    ("cache_creation_input_tokens", shapes.anthropic),
    ("input_tokens", _plain),
    ("eval_count", shapes.ollama),
    ("prompt_eval_count", shapes.ollama),
)
"""A field that only one shape has -> the shape; the first one whose figures are sane decides."""
