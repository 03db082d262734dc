"""No credential and no text of a prompt or an answer is in a log, a row, a refusal or a repr."""

import json
import logging
from typing import Any

import pytest
from asgi_rig import Rig, chat, request, scope_of

from tokenbudget_mw.asgi import facts_of
from tokenbudget_mw.values import Facts, Subject

PROMPT, ANSWER, KEY = "canary-prompt-4711", "canary-answer-0815", "tb_live_canarycanary_secret"


def anybody(facts: Facts) -> Subject:
    """Whoever asks."""
    return Subject(key="k1")


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a secret."""
    await receive()
    body = json.dumps({"choices": [{"message": {"content": ANSWER}}]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    "sent",
    [
        chat(messages=[{"role": "user", "content": PROMPT}]),
        chat(messages=PROMPT),
        chat(model=7, user=PROMPT),
        request(f'{{"model": "gpt-4o", "messages": [{{"content": "{PROMPT}'.encode()),
        chat(messages=[{"role": "user", "content": PROMPT}], max_tokens=PROMPT),
    ],
)
def test_nothing_leaks_on_the_way(sent: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whether a request passes or is refused, for whatever reason, what it says stays with it."""
    caplog.set_level(logging.DEBUG)
    rig = Rig(answering, identify=anybody)

    messages = rig.run(sent, subject=None, headers={"authorization": f"Bearer {KEY}"})

    refusal = messages[1]["body"] if messages[0]["status"] >= 400 else b""
    told = "\n".join([caplog.text, repr(rig.rows()), refusal.decode(), repr(messages[0])])
    assert not [canary for canary in (PROMPT, ANSWER, KEY) if canary in told]


def test_a_missing_key_is_not_repeated() -> None:
    """A malformed key is refused without being repeated."""
    rig = Rig(answering, identify="api_key", database="sqlite://")

    messages = rig.run(chat(), subject=None, headers={"authorization": f"Bearer {KEY}"})

    assert messages[0]["status"] == 401
    assert KEY.encode() not in messages[1]["body"]


def test_facts_show_no_headers() -> None:
    """The facts that a host's callable gets may be logged."""
    facts = facts_of(scope_of(headers={"authorization": f"Bearer {KEY}"}, query_string=b"api_key=" + KEY.encode()))

    assert repr(facts) == "Facts(POST /v1/chat/completions)"
