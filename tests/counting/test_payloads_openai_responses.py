"""
Bodies of OpenAI's Responses API.
"""

from __future__ import annotations

import json

import pytest

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.errors import PayloadError

TEXT = "The quick brown fox jumps over the lazy dog."


def read(**fields):
    return payloads.read("openai.responses", json.dumps({"model": "gpt-4o", **fields}).encode())


def tokens(**fields):
    return read(**fields).input.estimate


def test_what_a_request_asks_for():
    """Model, maximum, stream and tier are read."""
    found = read(input=TEXT, max_output_tokens=50, stream=True, service_tier="flex")

    assert (found.model, found.max_output, found.stream, found.service_tier) == ("gpt-4o", 50, True, "flex")
    assert not found.input.exact


def test_a_text_is_a_message():
    """A text as input costs what it costs as a message, with or without its type."""
    message = {"role": "user", "content": TEXT}

    assert tokens(input=TEXT) == tokens(input=[message]) == tokens(input=[{"type": "message", **message}])
    assert tokens(input=TEXT) == tokens(input=[{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}])
    assert tokens(input=TEXT) == tokens(input=TEXT, previous_response_id="resp_1")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "name": "find", "arguments": TEXT},
        {"type": "function_call_output", "call_id": "c", "output": TEXT},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": TEXT}]},
        {"type": "custom_tool_call", "name": "find", "input": TEXT},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": TEXT}]},
        {"type": "mcp_approval_response", "reason": TEXT},
        TEXT,
    ],
)
def test_every_item_costs_its_text(item):
    """What a model said, called and was answered is part of the prompt."""
    text = tokens(input=TEXT) - tokens(input="")

    assert text <= tokens(input=[item]) - tokens(input=[]) <= text + 20


@pytest.mark.parametrize(
    "fields",
    [
        {"instructions": TEXT},
        {"instructions": [{"role": "developer", "content": TEXT}]},
        {"tools": [{"type": "function", "name": "find", "description": TEXT, "parameters": {"type": "object"}}]},
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"description": TEXT}}}},
        {"prompt": {"id": "pmpt_1", "variables": {"city": TEXT}}},
    ],
)
def test_what_stands_around_the_input_costs(fields):
    """Instructions, tools, a schema and a template's variables are part of the prompt."""
    assert tokens(input=TEXT, **fields) - tokens(input=TEXT) >= tokens(input=TEXT) - tokens(input="") - 2


def test_sealed_reasoning_is_no_text():
    """Encrypted reasoning is bounded by its size, never tokenised."""
    found = read(input=[{"type": "reasoning", "encrypted_content": "gAAAA" * 1_000}]).input

    assert found.estimate < 1_000 < found.upper <= 5_100


def test_an_image_costs_its_tiles():
    """An image is not the characters of its base64."""
    image = {"type": "input_image", "image_url": "data:image/jpeg;base64," + "/9j/" * 50_000}

    assert tokens(input=[{"role": "user", "content": [image]}]) < 2_000


def test_counting_tokens_is_free():
    """To have an input counted costs nothing."""
    body = json.dumps({"model": "gpt-4o", "input": TEXT}).encode()
    found = payloads.read("openai.responses", body, path="/v1/responses/input_tokens")

    assert (found.model, found.input.upper, found.max_output) == ("gpt-4o", 0, 0)


@pytest.mark.parametrize("field", ["input", "instructions"])
def test_what_is_no_input_is_refused(field):
    """A number is no input, and the refusal says so."""
    with pytest.raises(PayloadError) as refused:
        read(**{field: 5})

    assert refused.value.param == field


def test_questions_are_input():
    """What decisions are asked is read beside the input."""
    asked = [{"type": "predicate", "name": "late", "predicate": TEXT}]

    assert tokens(input="hi", questions=asked) >= tokens(input="hi") + 9
