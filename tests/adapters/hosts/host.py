"""What all hosts of the adapter contract share: settings, the fake provider, and what their handlers do."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from tokenbudget_mw.calls.call import Call, current
from tokenbudget_mw.testing.provider import Answer, FakeProvider
from tokenbudget_mw.values import Facts, Subject

SETTINGS: dict[str, Any] = {
    "database": os.environ.get("CONTRACT_DATABASE", "sqlite:///contract.db"),
    "backend": os.environ.get("CONTRACT_BACKEND", "memory://"),
    "identify": "host.subject_of",
    "routes": [
        {"path": "/v1/chat/completions", "format": "openai.chat"},
        {"path": "/v1/messages", "format": "anthropic.messages"},
        {"path": "/assistant/*"},
    ],
    "exempt": ["/flush"],
    "default_plan": "free",
    "plans": {
        "free": ["1000 requests/minute", "1M tokens/minute"],
        "tight": ["2 requests/minute"],
        "tokens": ["500 tokens/minute"],
        "poor": ["$0.001/month"],
        "one": ["1 concurrent", "1M tokens/minute"],
        "shade": {"limits": ["1 request/minute"], "mode": "shadow"},
        **json.loads(os.environ.get("CONTRACT_PLANS", "{}")),
    },
}
PROVIDER = FakeProvider()


def subject_of(facts: Facts) -> Subject | None:
    """Read the subject out of a header, as ``key`` or ``key:plan``."""
    header = facts.header("x-subject")
    if header is None:
        return None
    key, _, plan = header.partition(":")
    return Subject(key=key, plan=plan or None, tenant=f"tenant-of-{key}", source="custom")


def answer(path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Let the fake provider answer."""
    return PROVIDER.answer(path, body, headers.get("x-fake"))


def pause(headers: Mapping[str, str]) -> float:
    """Seconds between two chunks of a stream, as the request asks for."""
    return float(headers.get("x-pause", "0"))


def slowly(answered: Answer, seconds: float) -> Any:
    """Give a stream's chunks, with a pause before each."""
    return answered.iterate(lambda _: time.sleep(seconds) if seconds else None)


def charge(body: bytes) -> dict[str, Any]:
    """Charge what the request says a model call used."""
    said = json.loads(body)
    call = current()
    call.tag(feature="contract")
    for usage in said["charges"]:
        call.charge(usage)
    return _state(call)


def reserve(body: bytes) -> dict[str, Any]:
    """Reserve, then charge, as the request says."""
    said = json.loads(body)
    with current().reserve(model=said["model"], prompt=said["prompt"], max_output=said["max_output"]) as held:
        _use(held, said)
    return _state(current())


async def areserve(body: bytes) -> dict[str, Any]:
    """Reserve, then charge, on an event loop."""
    said = json.loads(body)
    async with current().reserve(model=said["model"], prompt=said["prompt"], max_output=said["max_output"]) as held:
        _use(held, said)
    return _state(current())


def _use(held: Any, said: Any) -> None:
    if said.get("fail"):
        raise RuntimeError("the model call failed")
    if said.get("usage") is not None:
        held.charge(said["usage"])


def _state(call: Call) -> dict[str, Any]:
    return {"account": call.subject.account if call.subject else None, "id": call.id}
