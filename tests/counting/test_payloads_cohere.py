"""
Bodies of Cohere's version 2.
"""

from __future__ import annotations

import json

import pytest

from tokenbudget_mw.counting import payloads

TEXT = "The quick brown fox jumps over the lazy dog."


def read(path="/v2/chat", **fields):
    return payloads.read("cohere", json.dumps({"model": "command-a-03-2025", **fields}).encode(), path=path)


def test_what_a_request_asks_for():
    """Model, maximum and stream are read."""
    found = read(messages=[{"role": "user", "content": TEXT}], max_tokens=50, stream=True)

    assert (found.model, found.max_output, found.stream) == ("command-a-03-2025", 50, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": TEXT}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]},
        {"messages": [{"role": "assistant", "tool_plan": TEXT}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": TEXT}}]}]},
        {"messages": [{"role": "tool", "content": [{"type": "document", "document": {"data": TEXT}}]}]},
        {"documents": [TEXT]},
        {"documents": [{"id": "1", "data": {"title": TEXT}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": TEXT}}]},
        {"response_format": {"type": "json_object", "json_schema": {"description": TEXT}}},
        {"texts": [TEXT, ""]},
        {"inputs": [{"content": [{"type": "text", "text": TEXT}]}]},
    ],
)
def test_the_prompt_wherever_it_stands(fields):
    """Messages, documents, tools and what is to be embedded cost what they say."""
    assert 9 <= read(**fields).input.estimate - read().input.estimate <= 45


def test_version_1():
    """A chat of version 1 has its prompt in other fields."""
    text = "The quick brown fox jumps over the lazy dog."
    fields = {"message": text, "preamble": text, "chat_history": [{"role": "USER", "message": text}]}

    found = payloads.read("cohere", json.dumps({"model": "command-r"} | fields).encode(), path="/v1/chat").input

    assert 30 <= found.estimate <= found.upper <= 90


def test_embeddings_have_no_output():
    """The path says that there is no output; an image is no text."""
    found = read("/v2/embed", images=["data:image/jpeg;base64," + "/9j/" * 100_000])

    assert found.max_output == 0
    assert found.input.estimate < 2_000
