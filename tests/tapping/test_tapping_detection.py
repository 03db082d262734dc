"""
Responses whose format no route names.
"""

# ruff: noqa: A002 - the words of the product

from __future__ import annotations

import json

import pytest
from recordings import RECORDINGS, Recording

from tokenbudget_mw import tapping
from tokenbudget_mw.tapping.detection import PEEK, format_of
from tokenbudget_mw.testing.provider import FakeProvider, Script
from tokenbudget_mw.values import Usage

ALL = pytest.mark.parametrize("recorded", RECORDINGS.values(), ids=list(RECORDINGS))


def read(data: bytes, type: str, *, size: int = 7) -> Usage:
    tap = tapping.open_tap("auto", content_type=type, count_text=lambda text: len(text.split()))
    assert tap is not None
    for at in range(0, len(data), size):
        tap.feed(data[at : at + size])
    return tap.usage()


@ALL
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_every_family_is_known(recorded: Recording, size: int) -> None:
    """Stream and body of every family are read as if the route had named its format."""
    assert read(recorded.stream, recorded.type, size=size) == recorded.usage
    assert read(recorded.stream, "", size=size) == recorded.usage
    assert read(json.dumps(recorded.body).encode(), "application/json", size=size) == recorded.usage
    assert read(json.dumps(recorded.body, indent=2).encode(), "application/json", size=size) == recorded.usage


CHAT = {"messages": [{"role": "user", "content": "how are you"}], "max_tokens": 3}
PATHS = {
    "openai.chat": "/v1/chat/completions",
    "openai.completions": "/v1/completions",
    "openai.embeddings": "/v1/embeddings",
    "anthropic.messages": "/v1/messages",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", PATHS)
def test_the_first_families_are_known(name: str, stream: bool) -> None:
    """So are OpenAI's older endpoints and Anthropic's messages."""
    fields = {**CHAT, "prompt": "two words", "input": "two words", "stream": stream and "embed" not in name}
    body = json.dumps(fields).encode()
    answer = FakeProvider(Script(usage="always")).answer(PATHS[name], body)
    data = b"".join(answer.chunks)

    found = read(data, dict(answer.headers)["content-type"])

    assert format_of(data[:PEEK]) == name
    assert (found.source, found.complete) == ("provider", True)


def test_a_compaction_is_a_response() -> None:
    """What OpenAI compacts a conversation to is known by its name, too."""
    usage = {"input_tokens": 100, "output_tokens": 30, "total_tokens": 130}
    body = {"id": "r", "object": "response.compaction", "output": [{"type": "compaction"}], "usage": usage}

    assert read(json.dumps(body).encode(), "application/json").input_tokens == 100


def test_signs_within_texts_do_not_mislead() -> None:
    """What a model says of other formats is text."""
    text = '{"candidates": [], "object": "response", "type": "message_start", "done": true}'
    body = {"message": text, "id": text, "object": "chat.completion", "choices": [{"message": {"content": text}}]}

    assert format_of(json.dumps(body).encode()) == "openai.chat"


@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_a_shape_of_nobody_is_text(size: int) -> None:
    """Of a response that no family knows, all words are output, and none is cut in two."""
    words = "three little words " * 2_000

    assert read(words.encode(), "text/plain", size=size) == Usage(output_tokens=6_000, source="counted")
    assert read(b"", "text/plain") == Usage(source="counted")


def test_an_error_is_no_answer() -> None:
    """An error used nothing, and is not complete."""
    found = read(b'{"error": {"message": "no such model, and many more words"}}', "application/json")

    assert (found.output_tokens, found.complete) == (0, False)
