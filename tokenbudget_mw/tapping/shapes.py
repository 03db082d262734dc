"""
The providers' ``usage`` objects, read into the one meaning of `Usage`.

Each shape takes a mapping of decoded JSON and returns None where the headline figures are missing or are no figures:
a usage that we cannot trust is no usage. Details that make no sense are dropped, details that pass their total are cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from tokenbudget_mw.rules.tariffs import tier_of
from tokenbudget_mw.values import Usage

__all__ = [
    "anthropic",
    "authored",
    "bedrock",
    "cohere",
    "drawn",
    "figure",
    "gemini",
    "interaction",
    "ollama",
    "openai",
    "openai_responses",
]

MAX_FIGURE = 2**53 - 1
"""Largest figure that is believed: what JSON numbers carry exactly."""

Fields = Mapping[str, object]


def figure(value: object) -> int | None:
    """
    Return *value* if it is a whole, non-negative, sane number of tokens, else None.

    >>> figure(12), figure(True), figure(-1), figure("12"), figure(12.5), figure(2**53)
    (12, None, None, None, None, None)
    """
    if type(value) is int and 0 <= value <= MAX_FIGURE:
        return value
    return None


def openai(fields: Fields) -> Usage | None:
    """
    Read chat completions, completions, embeddings, and all who speak the same (vLLM, Groq, Mistral, DeepSeek, Moonshot, LiteLLM).
    """
    prompt = figure(fields.get("prompt_tokens"))
    output = _output(fields, "completion_tokens", prompt)
    if prompt is None or output is None:
        return None
    inputs = _details(fields, "prompt_tokens_details") or _cached(fields)
    outputs = _details(fields, "completion_tokens_details")
    more = (figure(fields.get("total_tokens")) or 0) - prompt - output
    if more > 0:
        if fields.get("connector_tokens") == more:
            prompt += more  # what Mistral's connectors found
        elif figure(fields.get("prompt_audio_seconds")):
            prompt, inputs = prompt + more, {**inputs, "audio_tokens": more}  # what Mistral's model heard
        elif more == outputs.get("reasoning_tokens") or not (inputs or outputs):
            output += more  # reasoning that stands in the total only: xAI's, and Gemini's, which gives no details
    found = _usage(prompt, output, inputs=inputs, outputs=outputs, provider="openai")
    tier = fields.get("service_tier")  # Mistral's; elsewhere it stands beside the usage
    return found if tier is None else replace(found, service_tier=_text(tier))


def openai_responses(fields: Fields) -> Usage | None:
    """
    Read the Responses API, whose cached tokens are part of ``input_tokens``.
    """
    prompt = figure(fields.get("input_tokens"))
    output = _output(fields, "output_tokens", prompt)
    if prompt is None or output is None:
        return None
    return _usage(
        prompt,
        output,
        inputs=_details(fields, "input_tokens_details") or _details(fields, "input_token_details"),  # of audio
        outputs=_details(fields, "output_tokens_details") or _details(fields, "output_token_details"),
        provider="openai",
    )


def drawn(tool_usage: object, tools: object) -> tuple[Usage, ...]:
    """
    Read what the Responses API's tool used that draws, another model: it stands in no usage. *tools* name the model.
    """
    images = _details({"tool_usage": tool_usage}, "tool_usage")
    images = _details(images, "image_gen")
    usage = openai_responses({**images, "input_tokens_details": _cached(images)})
    if usage is None or not usage.input_tokens + usage.output_tokens:
        return ()
    told = (entry for entry in _entries({"tools": tools}, "tools") if entry.get("type") == "image_generation")
    return (replace(usage, model=next((_text(entry.get("model")) for entry in told), None)),)


def authored(svg_usage: object) -> tuple[Usage, ...]:
    """
    Read what a model used that wrote OpenAI's vector images. It names itself, and stands in no other usage.
    """
    written = _details({"svg_usage": svg_usage}, "svg_usage")
    usage = openai_responses({**written, "output_tokens_details": written})
    return () if usage is None else (replace(usage, model=_text(written.get("model"))),)


def anthropic(fields: Fields) -> Usage | None:
    """
    Read Messages, whose ``input_tokens`` leave out what was read from and written to the cache, and all of whose figures
    leave out what it took to compact the conversation, what an advisor used, which is another model, and what a model had
    written when it declined and another took over.
    """
    found = _message(fields)
    if found is None:
        return None
    entries = _entries(fields, "iterations")
    served = next((_text(entry.get("model")) for entry in entries if entry.get("type") == "fallback_message"), None)
    others: list[Usage] = []
    for entry in entries:
        more = _message(entry)
        if more is None:
            continue
        if entry.get("type") == "compaction":
            sums = {name: getattr(found, name) + getattr(more, name) for name in _MESSAGE}
            found = replace(found, **sums)
        elif entry.get("type") == "advisor_message" or (more.output_tokens and _has_declined(entry, served)):
            others.append(replace(more, model=_text(entry.get("model"))))
    return replace(found, model=served, others=tuple(others)) if others or served else found


def _has_declined(entry: Fields, served: str | None) -> bool:
    """
    Say whether *entry* is of a model that declined before the one that *served* the answer.
    """
    model = _text(entry.get("model"))
    return entry.get("type") == "message" and None not in (served, model) and model != served


_MESSAGE = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")


def _message(fields: Fields) -> Usage | None:
    fresh, output = figure(fields.get("input_tokens")), figure(fields.get("output_tokens"))
    if fresh is None or output is None:
        return None
    read = figure(fields.get("cache_read_input_tokens")) or 0
    lifetimes = _details(fields, "cache_creation")
    hour = figure(lifetimes.get("ephemeral_1h_input_tokens")) or 0
    written = figure(fields.get("cache_creation_input_tokens"))
    if written is None:
        written = hour + (figure(lifetimes.get("ephemeral_5m_input_tokens")) or 0)
    thinking = figure(_details(fields, "output_tokens_details").get("thinking_tokens")) or 0
    return Usage(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour, written),
        reasoning_tokens=min(thinking, output),
        provider="anthropic",
        service_tier=tier_of(fields.get("speed"), fields.get("inference_geo")) or _text(fields.get("service_tier")),
    )


def gemini(fields: Fields) -> Usage | None:
    """
    Read ``usageMetadata``, whose thoughts stand outside the candidates (in the Live API, the response) and whose tool prompts
    outside the prompt.
    """
    prompt = figure(fields.get("promptTokenCount"))
    # left out where the answer is empty
    answer = figure(fields.get("candidatesTokenCount") or fields.get("responseTokenCount") or 0)
    if prompt is None or answer is None:
        return None
    thoughts = figure(fields.get("thoughtsTokenCount")) or 0
    tools = figure(fields.get("toolUsePromptTokenCount")) or 0
    spoken = _audio(fields, "candidatesTokensDetails") or _audio(fields, "responseTokensDetails")
    tiers = (fields.get(name) for name in ("serviceTier", "service_tier", "trafficType"))
    return Usage(
        input_tokens=prompt + tools,
        output_tokens=answer + thoughts,
        cache_read_tokens=min(figure(fields.get("cachedContentTokenCount")) or 0, prompt),
        reasoning_tokens=thoughts,
        provider="google",
        service_tier=next(filter(None, map(_text, tiers)), None),
        audio_input_tokens=min(_audio(fields, "promptTokensDetails"), prompt),
        audio_output_tokens=min(spoken, answer),
    )


def interaction(fields: Fields) -> Usage | None:
    """
    Read Gemini's interactions, whose thoughts stand outside the output and whose tools' prompts outside the input.
    """
    prompt, answer = figure(fields.get("total_input_tokens")), figure(fields.get("total_output_tokens") or 0)
    if prompt is None or answer is None:
        return None
    thoughts = figure(fields.get("total_thought_tokens")) or 0
    tools = figure(fields.get("total_tool_use_tokens")) or 0
    return Usage(
        input_tokens=prompt + tools,
        output_tokens=answer + thoughts,
        cache_read_tokens=min(figure(fields.get("total_cached_tokens")) or 0, prompt),
        reasoning_tokens=thoughts,
        provider="google",
        audio_input_tokens=min(_audio(fields, "input_tokens_by_modality", "tokens"), prompt),
        audio_output_tokens=min(_audio(fields, "output_tokens_by_modality", "tokens"), answer),
    )


def bedrock(fields: Fields) -> Usage | None:
    """
    Read Bedrock's Converse, whose ``inputTokens`` leave out the cache.
    """
    fresh, output = figure(fields.get("inputTokens")), figure(fields.get("outputTokens"))
    if fresh is None or output is None:
        return None
    read = figure(fields.get("cacheReadInputTokens")) or 0
    written = figure(fields.get("cacheWriteInputTokens")) or 0
    return Usage(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(_bedrock_hour(fields), written),
        provider="aws",
    )


def cohere(fields: Fields) -> Usage | None:
    """
    Read Cohere, which bills ``billed_units`` (whole numbers sent as floats), not ``tokens``; pictures stand beside the input.
    """
    billed = _details(fields, "billed_units")
    pictures = _whole(billed.get("image_tokens")) or 0
    texts, output = billed.get("input_tokens"), _whole(billed.get("output_tokens") or 0)
    prompt = _whole(0 if texts is None and pictures else texts)
    if prompt is None or output is None:
        return None
    prompt += pictures
    cached = _whole(fields.get("cached_tokens")) or 0
    return Usage(input_tokens=prompt, output_tokens=output, cache_read_tokens=min(cached, prompt), provider="cohere")


def ollama(fields: Fields) -> Usage | None:
    """
    Read Ollama's own API, which leaves ``prompt_eval_count`` out when the whole prompt was cached.
    """
    output, prompt = fields.get("eval_count"), fields.get("prompt_eval_count")
    if output is None and prompt is None:
        return None
    output, prompt = figure(output or 0), figure(prompt or 0)
    if output is None or prompt is None:
        return None
    return Usage(input_tokens=prompt, output_tokens=output, provider="ollama")


_WRITTEN = ("cache_write_tokens", "created_cache_tokens", "cache_creation_tokens")
"""What was written to a cache, in the words of OpenAI, vLLM and LiteLLM."""

_LONG = (
    ("cache_write_tokens_details", "ttl_12h_tokens"),
    ("cache_creation_token_details", "ephemeral_1h_input_tokens"),
)
"""Where OpenAI and LiteLLM say what of it was written for the longer lifetime."""


def _long(inputs: Fields, written: int) -> int:
    return min(written, sum(figure(_details(inputs, name).get(field)) or 0 for name, field in _LONG)) if written else 0


def _usage(prompt: int, output: int, *, inputs: Fields, outputs: Fields, provider: str) -> Usage:
    if not (inputs or outputs):
        return Usage(input_tokens=prompt, output_tokens=output, provider=provider)
    read = _part(inputs.get("cached_tokens"), prompt)
    written = _part(next(filter(None, map(inputs.get, _WRITTEN)), 0), prompt - read)
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=_long(inputs, written),
        reasoning_tokens=_part(outputs.get("reasoning_tokens"), output),
        provider=provider,
        audio_input_tokens=_part(inputs.get("audio_tokens"), prompt),
        audio_output_tokens=_part(outputs.get("audio_tokens"), output),
    )


def _part(value: object, whole: int) -> int:
    """
    Return the figure *value*, at most *whole*; 0 where it is none.
    """
    if type(value) is int and 0 < value <= MAX_FIGURE:
        return min(value, whole)
    return 0


def _output(fields: Fields, name: str, prompt: int | None) -> int | None:
    """
    Return the output figure; where it is left out (embeddings), what the total adds to the prompt.
    """
    value = fields.get(name)
    if value is not None:
        return figure(value)
    total = figure(fields.get("total_tokens"))
    return 0 if total is None or prompt is None else max(total - prompt, 0)


def _bedrock_hour(fields: Fields) -> int:
    return sum(
        figure(entry.get("inputTokens")) or 0 for entry in _entries(fields, "cacheDetails") if entry.get("ttl") == "1h"
    )


def _audio(fields: Fields, name: str, told: str = "tokenCount") -> int:
    """
    Add up what Gemini's entries in *name* tell of audio, as *told*; interactions write the modality in small letters.
    """
    entries = (entry for entry in _entries(fields, name) if entry.get("modality") in ("AUDIO", "audio"))
    return sum(figure(entry.get(told)) or 0 for entry in entries)


def _cached(fields: Fields) -> Fields:
    """
    Return what was read from a cache as OpenAI has it, where it stands beside the headline: DeepSeek's and Moonshot's.
    """
    cached = fields.get("prompt_cache_hit_tokens", fields.get("cached_tokens"))
    return {} if cached is None else {"cached_tokens": cached}


def _details(fields: Fields, name: str) -> Fields:
    value = fields.get(name)
    # None first: to ask an abstract class takes longer than all the rest
    return {} if value is None or not isinstance(value, Mapping) else value


def _entries(fields: Fields, name: str) -> list[Fields]:
    value = fields.get(name)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list | tuple) else []


def _whole(value: object) -> int | None:
    if type(value) is float and value.is_integer():
        return figure(int(value))
    return figure(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
