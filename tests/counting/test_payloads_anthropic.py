"""
Bodies of Anthropic's API.
"""

from __future__ import annotations

import base64
import json
import struct

import pytest

from tokenbudget_mw.counting import payloads

HELLO = [{"role": "user", "content": "Hello, Claude"}]
WEATHER_TOOL = {
    "name": "get_weather",
    "description": "Get the current weather in a given location",
    "input_schema": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
        "required": ["location"],
    },
}


def read(**fields):
    body = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": HELLO} | fields
    return payloads.read("anthropic.messages", json.dumps(body).encode())


def test_the_documented_example_is_met():
    """System prompt and greeting of the documentation: 14 tokens by its token counting endpoint."""
    found = read(system="You are a scientist").input

    assert abs(found.estimate - 14) <= 1
    assert found.upper >= 14
    assert not found.exact


def test_the_documented_tool_example_is_met():
    """The weather tool of the documentation: 403 tokens by its token counting endpoint."""
    messages = [{"role": "user", "content": "What's the weather like in San Francisco?"}]

    found = read(messages=messages, tools=[WEATHER_TOOL]).input

    assert abs(found.estimate - 403) <= 0.06 * 403
    assert found.upper >= 403


def test_the_newer_tokenizer_costs_more():
    """The same body has about 30 % more tokens for models from 4.7 on."""
    text = [{"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 40}]

    old, new = (read(model=model, messages=text).input.estimate for model in ("claude-opus-4-6", "claude-opus-4-7"))

    assert 1.25 < new / old < 1.35


def test_blocks_cost_what_their_text_costs():
    """Text as a string and as blocks, in system and messages, is counted alike."""
    blocks = read(
        system=[{"type": "text", "text": "You are a scientist", "cache_control": {"type": "ephemeral"}}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello, Claude"}]}],
    )

    assert blocks.input == read(system="You are a scientist").input


def content(*blocks):
    return read(messages=[{"role": "user", "content": list(blocks)}]).input


def png(width, height):
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 6, 0, 0, 0)
    return base64.b64encode(head + b"\x00" * 3_000).decode()


@pytest.mark.parametrize(
    ("source", "tokens", "upper"),
    [
        ({"type": "url", "url": "https://example.com/a.png"}, 1_600, 4_800),
        ({"type": "base64", "media_type": "image/png", "data": png(200, 200)}, 54, 54),
        ({"type": "base64", "media_type": "image/png", "data": png(1_000, 1_000)}, 1_334, 1_334),
        ({"type": "base64", "media_type": "image/png", "data": png(8_000, 8_000)}, 1_600, 4_800),
        ({"type": "base64", "media_type": "image/jpeg", "data": "/9j/" * 100_000}, 1_600, 4_800),
        (None, 1_600, 4_800),
    ],
)
def test_images_cost_their_pixels(source, tokens, upper):
    """An image has width x height / 750 tokens; 1,600 where its size is unknown."""
    blank, found = content(), content({"type": "image", "source": source})

    assert (found.estimate - blank.estimate, found.upper - blank.upper) == (tokens, upper)


def test_sealed_thinking_is_held_for():
    """Thinking that is left out is read by the model all the same: its signature says how long it is."""
    found = content({"type": "thinking", "thinking": "", "signature": "A" * 6_000})

    assert 1_000 <= found.estimate < 1_050
    assert found.upper >= 6_000


@pytest.mark.parametrize("name", ["output_format", "output_config"])
def test_an_output_schema_costs(name):
    """The schema that an answer is to have is part of the prompt."""
    schema = {"type": "json_schema", "schema": {"description": "The quick brown fox jumps over the lazy dog."}}

    assert read(messages=[], **{name: schema}).input.estimate >= read(messages=[]).input.estimate + 12


def test_tool_use_and_result_cost():
    """What a tool was given and what it answered is part of the prompt."""
    used = content({"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"location": "Paris"}})
    answered = content({"type": "tool_result", "tool_use_id": "t1", "content": "15 degrees and sunny"})
    nested = content(
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "15 degrees and sunny"}]}
    )

    blank = content().estimate
    assert blank + 8 < used.estimate < blank + 25
    assert blank + 5 < answered.estimate < blank + 20
    assert nested == answered


def test_documents_cost_their_text():
    """A text document is read; one in base64 is a file, never its characters."""
    text = content({"type": "document", "title": "Title", "source": {"type": "text", "data": "A plain text. " * 50}})
    inner = content(
        {
            "type": "document",
            "source": {"type": "content", "content": [{"type": "text", "text": "A plain text. " * 50}]},
        }
    )
    pdf = content({"type": "document", "source": {"type": "base64", "data": "JVBERi0x" * 100_000}})

    assert 200 < inner.estimate < text.estimate < 400
    assert 3_000 < pdf.estimate < 3_100


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "Let me think about it for a while", "signature": "EqoB" * 500},
        {"type": "redacted_thinking", "data": "EqoB" * 10},
        {"type": "search_result", "title": "Found", "content": [{"type": "text", "text": "something"}]},
        {"type": None, "x": "some text here"},
        {"no": "type at all"},
        "a string among blocks",
        7,
    ],
)
def test_other_blocks_are_bounded(block):
    """Every block costs something and no block costs its bytes."""
    blank, found = content(), content(block)

    assert 1 <= found.estimate - blank.estimate < 40


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({"speed": "fast"}, "fast"),
        ({"speed": "standard", "inference_geo": "us", "service_tier": "auto"}, "us"),
        ({"speed": "fast", "inference_geo": "us"}, "fast-us"),
        ({"inference_geo": "global", "service_tier": "standard_only"}, "standard_only"),
        ({"speed": ["fast"], "inference_geo": {}}, None),
    ],
)
def test_what_costs_more_is_a_tier(fields, tier):
    """Fast mode and inference in the US alone are reserved at their own price."""
    found = read(messages=[{"role": "user", "content": "hi"}], **fields)

    assert found.service_tier == tier


def test_fields_of_the_request_are_read():
    """Model, output and stream of a request come through."""
    found = read(stream=True, service_tier="auto")

    assert (found.model, found.max_output, found.stream) == ("claude-sonnet-4-5", 100, True)
    assert found.service_tier == "auto"


SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{SONNET}"
VERTEX = "/v1/projects/p/locations/us-east5/publishers/anthropic/models"


@pytest.mark.parametrize(
    ("path", "model", "stream"),
    [
        (f"/model/{SONNET}/invoke", SONNET, False),
        (f"/model/{SONNET}/Invoke-With-Response-Stream/", SONNET, True),
        (f"/model/{ARN}/invoke", ARN, False),
        (f"{VERTEX}/claude-sonnet-4-5@20250929:rawPredict", "claude-sonnet-4-5@20250929", False),
        (f"{VERTEX}/claude-sonnet-4-5@20250929:streamRawPredict", "claude-sonnet-4-5@20250929", True),
        ("/v1/messages", None, False),
    ],
)
@pytest.mark.parametrize("format", ["anthropic.messages", "auto"])
def test_the_path_names_the_model(format, path, model, stream):  # noqa: A002
    """On Bedrock and Vertex AI the path names the model and asks for the stream."""
    body = {"anthropic_version": "any", "max_tokens": 100, "messages": HELLO}
    found = payloads.read(format, json.dumps(body).encode(), path=path)

    assert (found.model, found.stream, found.max_output) == (model, stream, 100)
    assert found.input.estimate > 3
    assert payloads.bound(10**9, b"{", format="anthropic.messages", path=path).model == model


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", f"{VERTEX}/count-tokens:rawPredict"])
@pytest.mark.parametrize("format", ["anthropic.messages", "auto"])
def test_counting_tokens_is_free(format, path):  # noqa: A002
    """To have a prompt counted costs nothing."""
    body = {"anthropic_version": "any", "model": "claude-sonnet-4-5", "messages": HELLO}
    found = payloads.read(format, json.dumps(body).encode(), path=path)

    assert (found.model, found.input.upper, found.max_output) == ("claude-sonnet-4-5", 0, 0)


@pytest.mark.parametrize("fields", [{"thread": {"type": "continue", "previous_message_id": "m"}}, {"container": "c"}])
def test_what_is_not_in_the_request_teaches_nothing(fields):
    """A conversation that Anthropic holds, and what a container brings, is read beside the texts."""
    messages = [{"role": "user", "content": "word " * 400}]

    assert read(messages=messages).input.base > 0
    assert read(messages=messages, **fields).input.base == 0


def test_fast_mode():
    """Fast mode is the tier that its price is for, so a reservation holds that price."""
    assert read(speed="fast", service_tier="auto").service_tier == "fast"
    assert read(speed="standard").service_tier is None
    assert read(speed=["fast"]).service_tier is None
