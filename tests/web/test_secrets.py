"""No credential and no text of a prompt or an answer is in a log, a row, a refusal or a repr."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from asgi_rig import Rig, chat, request, scope_of, status_of

from tokenbudget_mw.asgi import facts_of
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.values import Facts, Subject
from tokenbudget_mw.wiring import open_keys

PROMPT, ANSWER, KEY = "canary-prompt-4711", "canary-answer-0815", "tb_live_canarycanary_secret"
PEPPER, PASSWORD = "canary-pepper-2342", "canary-password-1337"


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


async def streaming(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a secret, word by word, and break off in the midst of it."""
    await receive()
    delta = {"choices": [{"index": 0, "delta": {"content": ANSWER}}]}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send(
        {"type": "http.response.body", "body": b"data: " + json.dumps(delta).encode() + b"\n\n", "more_body": True}
    )
    await send({"type": "http.response.body", "body": b"data: {" + ANSWER.encode(), "more_body": True})
    raise RuntimeError("the app fails")


def ask_for_secrets(rig: Rig, key: str) -> str:
    """Ask with secrets in every place, of an app that answers and of one that fails; what was told beside the answer."""
    told = []
    for app in (answering, streaming):
        rig.middleware.app, sent = app, list[Any]()
        body = chat(messages=[{"role": "user", "content": PROMPT}], stream=app is streaming)
        try:
            rig.run(body, subject=None, headers={"authorization": f"Bearer {key}"}, sent=sent)
        except RuntimeError as error:
            told.append(repr(error.__context__))
        told.append(repr(sent if status_of(sent) >= 400 else sent[0]))
    return "\n".join([*told, repr(rig.core), repr(rig.core.settings), repr(rig.core.health())])


def test_nothing_leaks_to_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of key, pepper, prompt and answer nothing is in the spool, in the database's file, in a log or a repr."""
    caplog.set_level(logging.DEBUG)
    url = f"sqlite:///{tmp_path / 'books.db'}"
    tables.metadata.create_all(engine := open_engine(url))
    rig = Rig(
        answering,
        identify="api_key",
        database=url,
        pepper=PEPPER,
        spool="kill_safe",
        spool_dir=str(tmp_path / "spool"),
    )
    key = open_keys(rig.core.settings, engine).create(tenant="acme", plan="one").text
    told = ask_for_secrets(rig, key)
    lying = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    rows = rig.rows()
    rig.core.close()
    engine.dispose()

    lying += b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    told += f"{caplog.text}{rows!r}{lying!r}"
    assert [row.settle_reason for row in rows] == ["no_usage", "app_error_late"]
    assert b"acme" in lying
    assert [canary for canary in (PROMPT, ANSWER, PEPPER, key, key[-20:]) if canary in told] == []


@pytest.mark.parametrize("identify", ["api_key", anybody])
@pytest.mark.parametrize("database", ["postgresql", "mysql"])
@pytest.mark.parametrize("backend", ["redis", "leased+redis"])
def test_nothing_leaks_while_all_is_away(
    backend: str, database: str, identify: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever cannot be reached, no line tells how it was tried."""
    caplog.set_level(logging.DEBUG)
    rig = Rig(
        answering,
        identify=identify,
        database=f"{database}://app:{PASSWORD}@127.0.0.1:1/x",
        backend=f"{backend}://:{PASSWORD}@127.0.0.1:1/0",
        pepper=PEPPER,
    )

    told = ask_for_secrets(rig, KEY)
    rig.core.close()

    assert caplog.records
    assert [canary for canary in (PROMPT, ANSWER, KEY, PEPPER, PASSWORD) if canary in told + caplog.text] == []


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
