"""
The official SDKs understand how a stream is ended with its budget.
"""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from wsgi_rig import Rig

from tokenbudget_mw.testing.provider import FakeProvider, Script

ROUTES = {
    "/v1/chat/completions": "openai.chat",
    "/v1/responses": "openai.responses",
    "/v1/messages": "anthropic.messages",
}
MESSAGES: Any = [{"role": "user", "content": "hello"}]


def chatty(environ: dict[str, Any], start_response: Any) -> Any:
    """A provider of 1,000 words, whatever maximum the request names."""
    body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    data = json.dumps({name: value for name, value in body.items() if name != "max_tokens"}).encode()
    inner = environ | {"wsgi.input": BytesIO(data), "CONTENT_LENGTH": str(len(data))}
    return FakeProvider(Script(output_tokens=1000)).wsgi(inner, start_response)


def transport(how: str) -> dict[str, Any]:
    """What a client is made with: a provider of 1,000 words behind the middleware, and 100 tokens a minute."""
    given = {
        "routes": [{"path": path, "format": name, "on_budget_end": how} for path, name in ROUTES.items()],
        "plans": {"one": ["100 tokens/minute"]},
        "output_reserve": 32,
        "identify": "ip",
        "unknown_price": "flag",
    }
    rig = Rig(chatty, **given)
    client = httpx2.Client(transport=httpx2.WSGITransport(rig.middleware, remote_addr="203.0.113.7"))
    return {"http_client": client, "api_key": "unused", "max_retries": 0}


def openai_client(how: str) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://test/v1", **transport(how))


def test_openai_chat_finishes() -> None:
    """A chat ends at its length."""
    with openai_client("finish") as client:
        chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))

    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].id == chunks[0].id
    assert 50 < len(chunks) < 100


def test_openai_chat_helper_finishes() -> None:
    """So it does for the helper that gathers the stream."""
    with (
        openai_client("finish") as client,
        client.chat.completions.stream(model="gpt-4o", messages=MESSAGES) as stream,
        pytest.raises(openai.LengthFinishReasonError),
    ):
        stream.get_final_completion()


def test_openai_chat_fails() -> None:
    """An error is raised with its message."""
    with openai_client("error") as client:
        stream = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="Limit 'tokens-minute' reached") as caught:
            list(stream)

    assert caught.value.code == "budget_exceeded"


def test_openai_responses_finishes() -> None:
    """A response is incomplete, under its own id, and says why."""
    with openai_client("finish") as client:
        events = list(client.responses.create(model="gpt-4o", input="hello", stream=True))

    last: Any = events[-1]
    assert (last.type, last.response.status, last.response.id) == ("response.incomplete", "incomplete", "resp_fake")
    assert last.response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("how", ["finish", "error"])
def test_anthropic(how: str) -> None:
    """A message stops at its maximum; an error is raised with its message."""
    with anthropic.Anthropic(base_url="http://test", **transport(how)) as client:
        asked: Any = {"model": "claude-opus-5", "messages": MESSAGES, "max_tokens": 32}
        with client.messages.stream(**asked) as stream:
            if how == "error":
                with pytest.raises(anthropic.APIStatusError, match="Limit 'tokens-minute' reached"):
                    stream.get_final_message()
                return
            final = stream.get_final_message()

    assert final.stop_reason == "max_tokens"
    assert 32 <= final.usage.output_tokens <= 100
    assert final.content[0].type == "text"
