"""
Providers that speak OpenAI's chat format, each in its own accent.
"""

# ruff: noqa: A002 - the words of the product

from __future__ import annotations

import json

import pytest

from tokenbudget_mw import tapping
from tokenbudget_mw.values import Usage

FIGURES = {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}


def read(*chunks: bytes, type: str = "text/event-stream") -> Usage:
    tap = tapping.open_tap("openai.chat", content_type=type, count_text=lambda text: len(text.split()))
    assert tap is not None
    for chunk in chunks:
        tap.feed(chunk)
    return tap.usage()


def sse(*events: dict, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join(lines + ["data: [DONE]\n\n"] * done).encode()


def chunk(delta: dict, finish: str | None = None, **more: object) -> dict:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def groq(events: list[dict]) -> bytes:
    """Usage in an object of its own, on the last chunk with choices; the first one has an id there."""
    times = {"queue_time": 0.1, "prompt_time": 0.01, "completion_time": 0.2, "total_time": 0.21}
    first = chunk({"role": "assistant", "content": ""}, x_groq={"id": "req"})
    last = chunk({}, "stop", x_groq={"id": "req", "usage": {**FIGURES, **times}})
    return sse(first, *events, last)


def mistral(events: list[dict]) -> bytes:
    """Usage on the last chunk with choices, unasked for."""
    return sse(*events, chunk({"content": ""}, "stop", usage={**FIGURES, "prompt_audio_seconds": None}))


def vllm(events: list[dict]) -> bytes:
    """Usage on every chunk, details null."""
    nulls = {"prompt_tokens_details": None}
    counts = [{**each, "usage": {**FIGURES, "completion_tokens": n, **nulls}} for n, each in enumerate(events)]
    return sse(
        *counts, chunk({}, "stop", usage=FIGURES | nulls), {"model": "m", "choices": [], "usage": FIGURES | nulls}
    )


def azure(events: list[dict]) -> bytes:
    """A first chunk without choices or model that tells of filters; usage last, without choices."""
    first = {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}], "usage": None}
    return sse(first, *events, chunk({}, "stop", usage=None), {"model": "m", "choices": [], "usage": FIGURES})


@pytest.mark.parametrize("accent", [groq, mistral, vllm, azure])
class TestAccents:
    EVENTS = [chunk({"content": 'one "usage" '}), chunk({"reasoning_content": "two "})] * 3

    def test_every_boundary(self, accent) -> None:
        """The figures are found, wherever the stream is cut."""
        data = accent(self.EVENTS)
        expected = Usage(100, 30, model="m", provider="openai")

        assert {read(data[:at], data[at:]) for at in range(len(data))} == {expected}
        assert read(*(bytes([byte]) for byte in data)) == expected

    def test_amid_other_events(self, accent) -> None:
        """They are found though the stream is long."""
        data = accent(self.EVENTS * 500)

        assert read(*(data[at : at + 997] for at in range(0, len(data), 997))) == Usage(
            100, 30, model="m", provider="openai"
        )


def test_mistral_content_in_parts() -> None:
    """Thinking and text in parts are counted, streamed and whole."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "let me "}]},
        {"type": "text", "text": "say two"},
    ]
    body = {"choices": [{"message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}]}

    assert read(sse(chunk({"content": parts}))).output_tokens == 4
    assert read(json.dumps(body).encode(), type="application/json").output_tokens == 4


def test_vllm_reasoning() -> None:
    """Reasoning counts under either of its names."""
    found = read(
        sse(chunk({"reasoning": "one two "}), chunk({"reasoning_content": "three "}), chunk({"content": "four"}))
    )

    assert found.output_tokens == 4


def test_vllm_cache_classes() -> None:
    """Cached and newly cached tokens are parts of the prompt."""
    usage = FIGURES | {
        "prompt_tokens_details": {"cached_tokens": 60, "created_cache_tokens": 20, "multimodal_tokens": {"image": 5}}
    }

    found = read(sse({"model": "m", "choices": [], "usage": usage}))

    assert (found.input_tokens, found.cache_read_tokens, found.cache_write_tokens) == (100, 60, 20)


def test_deepseek_cache() -> None:
    """DeepSeek's cache hits are tokens read from the cache."""
    usage = FIGURES | {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}

    assert read(sse({"model": "m", "choices": [], "usage": usage})).cache_read_tokens == 64


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"total_tokens": 170, "completion_tokens_details": {"reasoning_tokens": 40}}, (70, 40)),
        ({"total_tokens": 170}, (70, 0)),
        ({"total_tokens": 170, "prompt_tokens_details": {"cached_tokens": 40}}, (30, 0)),
        ({"completion_tokens_details": {"reasoning_tokens": 40}}, (30, 30)),
    ],
    ids=["xai", "gemini", "what was cached stands in the total", "a detail that passes its total"],
)
def test_reasoning_that_stands_in_the_total_only(usage: dict, expected: tuple[int, int]) -> None:
    """xAI counts reasoning apart from the completion, and Gemini's compatible API does not say where it counts it."""
    answer = {"model": "m", "choices": [], "usage": FIGURES | usage}

    for found in (read(sse(answer)), read(json.dumps(answer).encode(), type="application/json")):
        assert (found.input_tokens, found.output_tokens, found.reasoning_tokens) == (100, *expected)


def test_moonshot_usage_in_the_choice() -> None:
    """Moonshot has the usage in the choice that ends, unasked for."""
    last = chunk({}, "stop")
    last["choices"][0]["usage"] = FIGURES

    found = read(sse(chunk({"content": "one"}), last))

    assert (found.input_tokens, found.output_tokens, found.source) == (100, 30, "provider")


def test_mistral_tier_in_the_usage() -> None:
    """Mistral says in the usage which tier has served the request."""
    usage = {**FIGURES, "service_tier": "priority"}

    assert read(sse(chunk({}, "stop", usage=usage))).service_tier == "priority"
    assert tapping.read_response({"usage": usage}).service_tier == "priority"


def test_llama_cpp_timings() -> None:
    """Of llama.cpp's timings the figures are read, where they tell what was cached; a usage goes before them."""
    timings = {"cache_n": 60, "prompt_n": 40, "prompt_ms": 1.5, "predicted_n": 30}
    older = {name: value for name, value in timings.items() if name != "cache_n"}

    found = read(sse(chunk({"content": "one"}), chunk({}, "stop", timings=timings)))
    asked = read(
        sse(chunk({}, "stop", timings=timings), {"model": "m", "choices": [], "usage": {**FIGURES, "prompt_tokens": 9}})
    )

    assert (found.input_tokens, found.output_tokens, found.cache_read_tokens) == (100, 30, 60)
    assert asked.input_tokens == 9
    assert read(sse(chunk({"content": "one"}), chunk({}, "stop", timings=older))).source == "counted"


def test_groq_error_within_the_stream() -> None:
    """An error event ends a stream that is not complete."""
    data = (
        sse(chunk({"content": "one "}), done=False) + b'event: error\ndata: {"error":{"message":"over capacity"}}\n\n'
    )

    assert not read(data).complete
    assert not read(sse(chunk({"content": "one "}), chunk({}, "stop", x_groq={"error": "over_capacity"}))).complete
