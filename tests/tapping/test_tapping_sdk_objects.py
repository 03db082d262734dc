"""
Usage of what libraries and providers return in shapes of their own: frameworks' results, Bedrock's native bodies, Mistral's
side figures, Gemini's interactions.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from types import SimpleNamespace
from typing import Any

import pytest

from tokenbudget_mw.tapping import open_tap, read_response
from tokenbudget_mw.values import Usage

CHAT = {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}
INTERACTION = {
    "total_input_tokens": 90,
    "total_tool_use_tokens": 10,
    "total_cached_tokens": 50,
    "total_output_tokens": 7,
    "total_thought_tokens": 13,
    "total_tokens": 120,
    "input_tokens_by_modality": [{"modality": "text", "tokens": 70}, {"modality": "audio", "tokens": 20}],
    "output_tokens_by_modality": [{"modality": "audio", "tokens": 3}],
}
HEADERS = {
    "x-amzn-bedrock-input-token-count": "10",
    "x-amzn-bedrock-output-token-count": "20",
    "x-amzn-bedrock-cache-read-input-token-count": "3",
    "x-amzn-bedrock-cache-write-input-token-count": "2",
}
METRICS = {
    "inputTokenCount": 10,
    "outputTokenCount": 20,
    "cacheReadInputTokenCount": 3,
    "cacheWriteInputTokenCount": 2,
    "invocationLatency": 9,
}
HEARD = {"prompt_audio_seconds": 12, "prompt_tokens": 3, "completion_tokens": 41, "total_tokens": 419}

# response, what of its usage is not what a `Usage` has by itself
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mistral, transcription": (
        {"model": "voxtral", "text": "x", "usage": HEARD},
        {"input_tokens": 378, "output_tokens": 41, "audio_input_tokens": 375, "model": "voxtral", "provider": "openai"},
    ),
    "mistral, transcription with details": (
        {"usage": HEARD | {"prompt_tokens_details": {"cached_tokens": 368, "audio_tokens": 375}}},
        {
            "input_tokens": 378,
            "output_tokens": 41,
            "audio_input_tokens": 375,
            "cache_read_tokens": 368,
            "provider": "openai",
        },
    ),
    "mistral, spoken chat": (
        {"usage": CHAT | {"prompt_audio_seconds": 12}},
        {"input_tokens": 100, "output_tokens": 30, "provider": "openai"},
    ),
    "mistral, connectors": (
        {"usage": {"prompt_tokens": 188, "completion_tokens": 55, "total_tokens": 7355, "connector_tokens": 7112}},
        {"input_tokens": 7300, "output_tokens": 55, "provider": "openai"},
    ),
    "mistral, last event": (
        {"data": {"model": "mistral-large", "usage": CHAT}},
        {"input_tokens": 100, "output_tokens": 30, "model": "mistral-large", "provider": "openai"},
    ),
    "cohere, pictures": (
        {"embeddings": {"float": []}, "meta": {"billed_units": {"image_tokens": 500.0, "images": 1.0}}},
        {"input_tokens": 500, "provider": "cohere"},
    ),
    "cohere, pictures and texts": (
        {"meta": {"billed_units": {"input_tokens": 7.0, "image_tokens": 500.0}}},
        {"input_tokens": 507, "provider": "cohere"},
    ),
    "gemini, interaction": (
        {"id": "v1", "status": "completed", "model": "gemini-3.5-flash", "service_tier": "flex", "usage": INTERACTION},
        {
            "input_tokens": 100,
            "output_tokens": 20,
            "cache_read_tokens": 50,
            "reasoning_tokens": 13,
            "audio_input_tokens": 20,
            "audio_output_tokens": 3,
            "model": "gemini-3.5-flash",
            "provider": "google",
            "service_tier": "flex",
        },
    ),
    "gemini, last event of an interaction": (
        {
            "event_type": "interaction.completed",
            "interaction": {"agent": "deep-research", "service_tier": "flex", "usage": {"total_input_tokens": 9}},
        },
        {"input_tokens": 9, "model": "deep-research", "provider": "google", "service_tier": "flex"},
    ),
    "bedrock, llama": (
        {"generation": "x", "prompt_token_count": 10, "generation_token_count": 20, "stop_reason": "stop"},
        {"input_tokens": 10, "output_tokens": 20, "provider": "aws"},
    ),
    "bedrock, titan": (
        {"inputTextTokenCount": 10, "results": [{"tokenCount": 20}, {"tokenCount": 5}]},
        {"input_tokens": 10, "output_tokens": 25, "provider": "aws"},
    ),
    "bedrock, titan embeddings": (
        {"embedding": [0.1], "inputTextTokenCount": 10},
        {"input_tokens": 10, "provider": "aws"},
    ),
    "bedrock, nova": (
        {
            "usage": {
                "inputTokens": 10,
                "outputTokens": 20,
                "cacheReadInputTokenCount": 3,
                "cacheWriteInputTokenCount": 2,
            }
        },
        {"input_tokens": 15, "output_tokens": 20, "cache_read_tokens": 3, "cache_write_tokens": 2, "provider": "aws"},
    ),
    "bedrock, last piece of any model": (
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS},
        {"input_tokens": 15, "output_tokens": 20, "cache_read_tokens": 3, "cache_write_tokens": 2, "provider": "aws"},
    ),
    "bedrock, response of invoke_model": (
        {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": HEADERS}, "contentType": "application/json"},
        {"input_tokens": 15, "output_tokens": 20, "cache_read_tokens": 3, "cache_write_tokens": 2, "provider": "aws"},
    ),
    "pydantic-ai": (
        {
            "input_tokens": 100,
            "output_tokens": 30,
            "cache_read_tokens": 60,
            "cache_write_tokens": 10,
            "input_audio_tokens": 40,
            "output_audio_tokens": 8,
            "details": {"reasoning_tokens": 20},
        },
        {
            "input_tokens": 100,
            "output_tokens": 30,
            "cache_read_tokens": 60,
            "cache_write_tokens": 10,
            "audio_input_tokens": 40,
            "audio_output_tokens": 8,
            "reasoning_tokens": 20,
        },
    ),
    "langchain, raw beside parsed": (
        {
            "raw": {
                "response_metadata": {"model_name": "gpt-4o"},
                "usage_metadata": {"input_tokens": 9, "output_tokens": 4},
            }
        },
        {"input_tokens": 9, "output_tokens": 4, "model": "gpt-4o"},
    ),
    "llama-index": (
        {"message": {}, "raw": {"model": "gpt-4o", "usage": CHAT}},
        {"input_tokens": 100, "output_tokens": 30, "model": "gpt-4o", "provider": "openai"},
    ),
    "images, drawn and written": (
        {
            "data": [],
            "usage": {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210},
            "svg_usage": {"input_tokens": 9, "output_tokens": 700, "reasoning_tokens": 60, "model": "gpt-6-svg"},
        },
        {
            "input_tokens": 50,
            "output_tokens": 4160,
            "provider": "openai",
            "others": (
                Usage(input_tokens=9, output_tokens=700, reasoning_tokens=60, model="gpt-6-svg", provider="openai"),
            ),
        },
    ),
    "responses, drawn and written": (
        {
            "model": "gpt-6",
            "usage": {"input_tokens": 50, "output_tokens": 60, "total_tokens": 110},
            "output": [
                {"type": "message"},
                {
                    "type": "image_generation_call",
                    "svg_usage": {"input_tokens": 9, "output_tokens": 7, "model": "gpt-6-svg"},
                },
            ],
        },
        {
            "input_tokens": 50,
            "output_tokens": 60,
            "model": "gpt-6",
            "provider": "openai",
            "others": (Usage(input_tokens=9, output_tokens=7, model="gpt-6-svg", provider="openai"),),
        },
    ),
}


MAPPINGS = ("ResponseMetadata", "details")
"""What no library gives otherwise."""


def thing(value: Any) -> Any:
    """The same with attributes."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: item if name in MAPPINGS else thing(item) for name, item in value.items()})
    return [thing(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("made", [dict, thing])
@pytest.mark.parametrize("case", CASES)
def test_what_is_returned(case: str, made: Any) -> None:
    """Each is read in the one meaning, as a dict and as an object."""
    response, expected = CASES[case]

    assert read_response(made(response)) == Usage(**{"source": "reported"} | expected)


class Tier(enum.StrEnum):
    """How Google's SDK gives a tier."""

    FLEX = "flex"


def test_tier_of_an_enumeration_is_its_text() -> None:
    """A tier is looked up, and kept on rows, by its text."""
    found = read_response({"usage_metadata": {"prompt_token_count": 9, "traffic_type": Tier.FLEX}})

    assert type(found.service_tier) is str
    assert found.service_tier == "flex"


@dataclasses.dataclass
class RunResult:
    """The result of an agent, which tells its usage in a property, as that of pydantic-ai does."""

    output: str

    @property
    def usage(self) -> SimpleNamespace:
        """What the run used."""
        return SimpleNamespace(input_tokens=9, output_tokens=4, cache_read_tokens=0)


def test_usage_in_a_property() -> None:
    """A usage that is no field, but worked out, is read as well."""
    found = read_response(RunResult("x"))

    assert (found.input_tokens, found.output_tokens) == (9, 4)


TAPPED = {
    "mistral, connectors": "openai.chat",
    "mistral, transcription": "openai.audio",
    "cohere, pictures and texts": "cohere",
    "images, drawn and written": "openai.images",
}


@pytest.mark.parametrize("case", TAPPED)
def test_the_same_while_it_passes(case: str) -> None:
    """A response that passes is read like one that is reported."""
    response, expected = CASES[case]
    tap = open_tap(TAPPED[case], content_type="application/json")
    assert tap is not None
    tap.feed(json.dumps(response).encode())

    assert tap.usage() == Usage(**expected)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_what_was_written_stands_in_the_output(kind: str) -> None:
    """A vector image that the Responses API drew has a usage of its own in the output, whole or at the end of a stream."""
    drawn = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210}
    response, expected = CASES["responses, drawn and written"]
    response = response | {
        "object": "response",
        "status": "completed",
        "tools": [{"type": "image_generation", "model": "gpt-image-3"}],
        "tool_usage": {"image_gen": drawn},
    }
    body = json.dumps(response)
    tap = open_tap("openai.responses", content_type=kind)
    assert tap is not None
    if kind == "text/event-stream":
        body = f'event: response.completed\ndata: {{"type": "response.completed", "response": {body}}}\n\n'
    tap.feed(body.encode())

    others = (Usage(input_tokens=50, output_tokens=4160, model="gpt-image-3", provider="openai"), *expected["others"])
    assert tap.usage() == Usage(**expected | {"others": others})


def test_an_output_behind_the_usage_is_no_obstacle() -> None:
    """Of an event that is too long only the end is kept, whatever stands there."""
    ending = '"usage": {"input_tokens": 50, "output_tokens": 60}, "output": [{"type": "message"}]}}'
    body = f'data: {{"type": "response.completed", "response": {{"x": "{"A" * (1 << 20)}", {ending}\n\n'
    tap = open_tap("openai.responses", content_type="text/event-stream")
    assert tap is not None
    tap.feed(body.encode())

    assert (tap.usage().input_tokens, tap.usage().output_tokens) == (50, 60)
