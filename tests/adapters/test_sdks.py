"""The official OpenAI and Anthropic SDKs see an API that behaves."""

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from adapter_servers import Server, serving

CHAT: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 40}
MESSAGE: Any = {"model": "claude-opus-5", "messages": CHAT["messages"], "max_tokens": 40}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The FastAPI host on uvicorn."""
    with serving("uvicorn", "fastapi_host", tmp_path_factory.mktemp("sdks")) as running:
        yield running


def options(server: Server, subject: str, prefix: str = "") -> dict[str, Any]:
    """What every client is made with."""
    base = f"http://127.0.0.1:{server.port}{prefix}"
    return {"base_url": base, "api_key": "unused", "default_headers": {"x-subject": subject}, "max_retries": 0}


def test_openai_unary_and_stream(server: Server) -> None:
    """The OpenAI client gets whole answers and streams through the middleware."""
    with openai.OpenAI(**options(server, "openai", "/v1")) as client:
        unary = client.chat.completions.create(**CHAT)
        stream = client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)

    assert unary.usage is not None
    assert unary.usage.completion_tokens == 12
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_openai_async(server: Server) -> None:
    """The async OpenAI client, too."""

    async def run() -> int:
        async with openai.AsyncOpenAI(**options(server, "openai-async", "/v1")) as client:
            unary = await client.chat.completions.create(**CHAT)
            stream = await client.chat.completions.create(**CHAT, stream=True)
            texts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            assert "".join(texts) == unary.choices[0].message.content
            return unary.usage.completion_tokens if unary.usage else 0

    assert asyncio.run(run()) == 12


def test_openai_refusal(server: Server) -> None:
    """A refused call raises the OpenAI SDK's rate-limit error with our message, code and wait."""
    with openai.OpenAI(**options(server, "openai-tight:tight", "/v1")) as client:
        client.chat.completions.create(**CHAT)
        client.chat.completions.create(**CHAT)
        with pytest.raises(openai.RateLimitError, match="requests-minute") as caught:
            client.chat.completions.create(**CHAT)

    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.type == "rate_limit_error"
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 61


def test_openai_spent_money_is_not_retried(server: Server) -> None:
    """A refusal that only money can end is asked for once, however many retries the client has."""
    with openai.OpenAI(**options(server, "openai-poor:poor", "/v1") | {"max_retries": 5}) as client:
        for _ in range(5):
            client.chat.completions.create(**CHAT)
        # $0.001, less five calls of $0.0001275, is less than the $0.0004 that 40 tokens of output may cost
        with pytest.raises(openai.RateLimitError, match="money-month") as caught:
            client.chat.completions.create(**CHAT)

    assert caught.value.response.headers["x-should-retry"] == "false"
    # the oldest client does not count its attempts; `test_sdk_refusals` does
    assert caught.value.response.request.headers.get("x-stainless-retry-count", "0") == "0"
    assert caught.value.code == "budget_exceeded"


def test_openai_unknown_caller(server: Server) -> None:
    """A caller that nobody knows gets the SDK's authentication error."""
    unknown = options(server, "", "/v1") | {"default_headers": {}}
    with openai.OpenAI(**unknown) as client, pytest.raises(openai.AuthenticationError, match="credentials"):
        client.chat.completions.create(**CHAT)


def test_anthropic_unary_and_stream(server: Server) -> None:
    """The Anthropic client gets whole answers and streams through the middleware."""
    with anthropic.Anthropic(**options(server, "anthropic")) as client:
        unary = client.messages.create(**MESSAGE)
        with client.messages.stream(**MESSAGE) as stream:
            final = stream.get_final_message()

    assert unary.usage.output_tokens == 12
    assert final.usage.output_tokens == 12


def test_anthropic_async(server: Server) -> None:
    """The async Anthropic client, too."""

    async def run() -> list[int]:
        async with anthropic.AsyncAnthropic(**options(server, "anthropic-async")) as client:
            unary = await client.messages.create(**MESSAGE)
            async with client.messages.stream(**MESSAGE) as stream:
                final = await stream.get_final_message()
            return [unary.usage.output_tokens, final.usage.output_tokens]

    assert asyncio.run(run()) == [12, 12]


def test_anthropic_refusal(server: Server) -> None:
    """A refused call raises the Anthropic SDK's rate-limit error with our message."""
    with anthropic.Anthropic(**options(server, "anthropic-tight:tight")) as client:
        client.messages.create(**MESSAGE)
        client.messages.create(**MESSAGE)
        with pytest.raises(anthropic.RateLimitError, match="requests-minute") as caught:
            client.messages.create(**MESSAGE)

    body: Any = caught.value.body
    assert body["error"]["type"] == "rate_limit_error"
