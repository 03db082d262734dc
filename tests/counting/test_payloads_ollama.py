"""
Bodies of Ollama's own API.
"""

from __future__ import annotations

import json

import pytest

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.errors import PayloadError

TEXT = "The quick brown fox jumps over the lazy dog."


def read(path="/api/chat", **fields):
    return payloads.read("ollama", json.dumps({"model": "llama3.2", **fields}).encode(), path=path)


def tokens(**fields):
    return read(**fields).input.estimate


def test_it_streams_unless_it_says_no():
    """Ollama streams where the request does not say."""
    assert [read(**fields).stream for fields in ({}, {"stream": True}, {"stream": False})] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "most"),
    [({"num_predict": 50}, 50), ({"num_predict": -1}, None), ({"num_predict": -2}, None), ({}, None), (None, None)],
)
def test_the_maximum_stands_among_the_options(options, most):
    """A negative maximum is none; a number of choices is nothing to Ollama."""
    assert read(options=options, n=3).max_output == most
    assert read(options=options, messages=[{"content": [{}] * 20_000}]).max_output == most


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": TEXT}]},
        {"messages": [{"role": "assistant", "thinking": TEXT}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"q": TEXT}}}]}]},
        {"prompt": TEXT},
        {"prompt": "", "suffix": TEXT},
        {"system": TEXT},
        {"input": TEXT},
        {"input": [TEXT, ""]},
        {"format": {"description": TEXT}},
        {"tools": [{"type": "function", "function": {"name": "f", "description": TEXT}}]},
        {"context": [7] * 10},
    ],
)
def test_the_prompt_wherever_it_stands(fields):
    """Messages, prompts, inputs, tools and a context of tokens cost what they say."""
    assert 9 <= tokens(**fields) - tokens() <= 40


def test_images_are_no_text():
    """An image costs about what vision models take for one, in a message and beside a prompt."""
    image = "/9j/" * 100_000

    assert tokens(messages=[{"content": "", "images": [image]}]) - tokens(messages=[{"content": ""}]) == 600
    assert tokens(prompt="", images=[image, image]) - tokens(prompt="") == 1_200


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/api/Embed/"])
def test_embeddings_have_no_output(path):
    """The path says that there is no output."""
    assert read(path, input=TEXT).max_output == 0


@pytest.mark.parametrize("field", ["prompt", "input", "messages", "context"])
def test_what_is_no_prompt_is_refused(field):
    """A wrong type is a 400 that names the field."""
    with pytest.raises(PayloadError) as refused:
        read(**{field: 5})

    assert refused.value.param == field
