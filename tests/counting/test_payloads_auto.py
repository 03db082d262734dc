"""
Requests whose format no route names.
"""

from __future__ import annotations

import json

import pytest

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.counting.payloads.detection import format_of
from tokenbudget_mw.errors import PayloadError

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "openai.chat"),
        ("/openai/deployments/gpt/chat/completions/", "openai.chat"),
        ("/v1/completions", "openai.completions"),
        ("/v1/embeddings", "openai.embeddings"),
        ("/v1/responses", "openai.responses"),
        ("/V1/Messages\n", "anthropic.messages"),
        ("/v1beta/models/gemini-2.5-flash:streamGenerateContent", "gemini"),
        ("/v1/models/gemini-2.5-flash:generateContent", "gemini"),
        ("/v1/interactions", "gemini.interactions"),
        ("/v1beta/interactions", "gemini.interactions"),
        ("/v1beta1/projects/p/locations/global/interactions", "gemini.interactions"),
        ("/v1/decisions", "openai.responses"),
        ("/model/us.amazon.nova-pro-v1:0/converse-stream", "bedrock.converse"),
        ("/v1/messages/count_tokens", "anthropic.messages"),
        ("/v1/responses/input_tokens", "openai.responses"),
        ("/v2/chat", "cohere"),
        ("/api/generate", "ollama"),
        ("/mine", "openai.chat"),
    ],
)
def test_the_path_tells(path, name):
    """The path that a provider serves tells, whatever the body has."""
    assert format_of(path, b'{"contents": []}' if path != "/mine" else b"{}") == name


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"messages": MESSAGES}, "openai.chat"),
        ({"messages": MESSAGES, "system": "be brief"}, "anthropic.messages"),
        ({"messages": MESSAGES, "anthropic_version": "bedrock-2023-05-31"}, "anthropic.messages"),
        ({"messages": MESSAGES, "inferenceConfig": {"maxTokens": 9}, "system": []}, "bedrock.converse"),
        ({"messages": MESSAGES, "options": {"num_predict": 9}}, "ollama"),
        ({"messages": MESSAGES, "documents": ["d"]}, "cohere"),
        ({"contents": [{"parts": [{"text": "Hi"}]}]}, "gemini"),
        ({"prompt": "Hi"}, "openai.completions"),
        ({"prompt": "Hi", "keep_alive": "5m"}, "ollama"),
        ({"input": "Hi", "model": "text-embedding-3-small"}, "openai.embeddings"),
        ({"input": "Hi", "model": "gpt-5"}, "openai.responses"),
        ({"texts": ["Hi"]}, "cohere"),
        ({"message": "Hi", "chat_history": []}, "cohere"),
        ({}, "openai.chat"),
    ],
)
def test_the_fields_tell(fields, name):
    """Where the path does not tell, the fields do."""
    body = json.dumps(fields).encode()

    assert format_of("/llm", body) == name
    assert payloads.read("auto", body, path="/llm") == payloads.read(name, body, path="/llm")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"messages": ' + b"[" * 200_000])
def test_what_is_no_request_is_refused(body):
    """A body that is no JSON object is a 400, as in any format."""
    with pytest.raises(PayloadError):
        payloads.read("auto", body, path="/llm")


def test_a_long_body_is_known_by_its_path():
    """Of a body that is too long, the path still names the model."""
    found = payloads.bound(10**9, b"{", format="auto", path="/v1beta/models/gemini-2.5-flash:streamGenerateContent")

    assert (found.model, found.stream) == ("gemini-2.5-flash", True)
