"""
Makes the calls of `sdk_cases` with the official Python SDKs, sync and async, and says what they made of the answers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
from sdk_cases import RETRIES

MESSAGES: Any = [{"role": "user", "content": "one two three"}]
SDKS: dict[str, tuple[Any, ...]] = {
    "openai": (openai.OpenAI, openai.AsyncOpenAI, openai.DefaultHttpxClient, openai.DefaultAsyncHttpxClient),
    "anthropic": (
        anthropic.Anthropic,
        anthropic.AsyncAnthropic,
        anthropic.DefaultHttpxClient,
        anthropic.DefaultAsyncHttpxClient,
    ),
}
"""Clients, sync and async, and what they talk HTTP with. That is told of no certificates, which take it long to read."""


def call_all(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    Make the calls of *jobs* with the sync clients, each in a thread.
    """
    with ThreadPoolExecutor(len(jobs)) as threads:
        return dict(zip((job["id"] for job in jobs), threads.map(_run, jobs), strict=True))


def acall_all(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    Make the calls of *jobs* with the async clients, all on one loop.
    """

    async def run() -> list[Any]:
        return await asyncio.gather(*map(_arun, jobs))

    return dict(zip((job["id"] for job in jobs), asyncio.run(run()), strict=True))


def _options(job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    library = job["library"].partition("-")[0]
    base = f"{job['base']}/v1" if library == "openai" else job["base"]
    return library, {
        "api_key": job["key"],
        "base_url": base,
        "default_headers": {"x-case": job["id"]},
        "max_retries": RETRIES,
        # theirs is five seconds to connect, which fifty clients that are made on one loop may take: a retry is lost to it
        "timeout": 60.0,
    }


def _asked(library: str, job: dict[str, Any]) -> dict[str, Any]:
    most = {"max_tokens": job["max"] or 40} if library == "anthropic" or job["max"] else {}
    stream: dict[str, Any] = {"stream": True} if job["style"] == "stream" else {}
    if stream and library == "openai":
        stream["stream_options"] = {"include_usage": True}
    return {"model": job["model"], "messages": MESSAGES, **most, **stream}


def _run(job: dict[str, Any]) -> dict[str, Any]:
    library, options = _options(job)
    seen = _Seen()
    with SDKS[library][0](**options, http_client=SDKS[library][2](verify=False)) as client:
        resource = client.chat.completions if library == "openai" else client.messages
        try:
            for _ in range(job["calls"] - 1):
                resource.create(**_asked(library, job | {"style": "unary"}))
            if job["style"] == "raw":
                raw = resource.with_raw_response.create(**_asked(library, job))
                seen.take_raw(raw, raw.parse())
            elif job["style"] == "stream":
                for event in resource.create(**_asked(library, job)):
                    seen.take(event)
            else:
                seen.take_whole(resource.create(**_asked(library, job)))
        except (openai.APIError, anthropic.APIError) as error:
            return told(error)
    return {"ok": seen.found}


async def _arun(job: dict[str, Any]) -> dict[str, Any]:
    library, options = _options(job)
    seen = _Seen()
    async with SDKS[library][1](**options, http_client=SDKS[library][3](verify=False)) as client:
        resource = client.chat.completions if library == "openai" else client.messages
        try:
            for _ in range(job["calls"] - 1):
                await resource.create(**_asked(library, job | {"style": "unary"}))
            if job["style"] == "raw":
                raw = await resource.with_raw_response.create(**_asked(library, job))
                parsed = raw.parse()
                seen.take_raw(raw, await parsed if inspect.isawaitable(parsed) else parsed)
            elif job["style"] == "stream":
                async for event in await resource.create(**_asked(library, job)):
                    seen.take(event)
            else:
                seen.take_whole(await resource.create(**_asked(library, job)))
        except (openai.APIError, anthropic.APIError) as error:
            return told(error)
    return {"ok": seen.found}


class _Seen:
    """
    What a call gave.
    """

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"output": None, "finish": None}

    def take_whole(self, answer: Any) -> None:
        usage = answer.usage
        self.found["output"] = getattr(usage, "completion_tokens", None) or getattr(usage, "output_tokens", None)

    def take_raw(self, raw: Any, answer: Any) -> None:
        self.take_whole(answer)
        self.found["limits"] = raw.headers["ratelimit"]

    def take(self, event: Any) -> None:
        if getattr(event, "choices", None):
            self.found["finish"] = event.choices[0].finish_reason or self.found["finish"]
        elif event_delta := getattr(event, "delta", None):
            self.found["finish"] = getattr(event_delta, "stop_reason", None) or self.found["finish"]
        if getattr(event, "usage", None):
            self.take_whole(event)


def told(error: Any) -> dict[str, Any]:
    """
    What an SDK's exception says.
    """
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error", body)
    return {
        "error": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "code": inner.get("code"),
        "type": inner.get("type"),
        "message": str(error),
    }
