"""
``verify --counters``: what limits have counted, beside what the books say.
"""

from __future__ import annotations

import json
import time

import pytest
from asgi_rig import CHAT
from wsgi_rig import Got, chat, environ_of

from tokenbudget_mw import WSGIMiddleware
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.operators import Operators
from tokenbudget_mw.wiring import open_keys, wire

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def provider(environ, start_response):
    """
    Answer with 100 + 50 tokens, whatever was asked.
    """
    usage = {"prompt_tokens": 100, "completion_tokens": 50}
    body = json.dumps({"object": "chat.completion", "model": "mine", "choices": [], "usage": usage}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def settings(tmp_path, database_url, redis_db):
    """
    Settings with limits of calendar periods on requests, tokens and money, on each database in turn.
    """
    engine = open_engine(database_url)
    metadata.create_all(engine)
    engine.dispose()
    return {
        "backend": redis_db,
        "database": database_url,
        "identify": "api_key",
        "pepper": "canary-pepper",
        "spool": "memory",
        "deadline": 5.0,
        "plans": {"free": ["10 requests/month", "100k tokens/calendar day", "$5/month", "40k tokens/minute"]},
        "limits": ["$10/month per tenant"],
        "default_plan": "free",
        "routes": [{"path": CHAT, "format": "openai.chat"}],
        "tariffs": [{"model": "mine", "input": "0.000000000331", "output": "0.000003", "per": "token"}],
    }


@pytest.fixture
def config(tmp_path, settings):
    """
    The same as a file.
    """
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture
def core(settings):
    """
    The app.
    """
    core = wire(settings)
    yield core
    core.close()


@pytest.fixture
def keys(core, settings):
    """
    Its key table, with two keys of a tenant that have made three and two requests.
    """
    engine = open_engine(settings["database"])
    keys = open_keys(core.settings, engine)
    for requests in (3, 2):
        text = keys.create(tenant="acme").text
        for _ in range(requests):
            got = Got()
            got.chunks.extend(begin(core, text, got))
            assert got.status == 200, got.body
    assert core.flush()
    yield keys
    engine.dispose()


def begin(core, key, got, app=provider):
    """
    Begin a call with *key*, and return its body.
    """
    environ = environ_of(chat(model="mine"), subject=None) | {"HTTP_X_API_KEY": key}
    return WSGIMiddleware(app, core)(environ, got.start_response)


@pytest.mark.usefixtures("keys")
def test_quiet_counters_agree_to_the_last_unit(run, config):
    """Each limit of a calendar period is compared once, whoever shares it; money to what rounding explains."""
    ran = run("verify", "--counters", "--config", config)
    counters = run("verify", "--counters", "--config", config, "--json").json["counters"]

    assert (ran.code, ran.out.splitlines()[-1]) == (
        0,
        "7 counters of calendar limits compared: all agree with the books.",
    )
    assert sorted((each["limit"], each["booked"]) for each in counters if each["unit"] != "money") == [
        ("requests-month", 2),
        ("requests-month", 3),
        ("tokens-calendar-day", 300),
        ("tokens-calendar-day", 450),
    ]
    assert [0 <= each["counted"] - each["booked"] <= each["slack"] for each in counters] == [True] * 7


@SQLITE
def test_a_counter_that_lacks_something_is_found(run, core, keys, config):
    """What an operator took off is missing: it ends with 1 and says that the limit admits too much."""
    subject = keys.subject_of(keys.list()[0])
    Operators(core.guard.admission, core.guard.backend, time.time).credit(subject, "requests-month", 1)

    ran = run("verify", "--counters", "--config", config)

    assert ran.code == 1
    assert "The books agree." in ran.out
    assert "1 of 7 counters of calendar limits differ from the books:" in ran.out
    assert f"  requests-month of key={subject.key}: counted" in ran.out
    assert ran.out.endswith("; the limit admits too much\n")


@SQLITE
@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("away", ["redis://127.0.0.1:1/0", "leased+redis://127.0.0.1:1/0", "unix:///nowhere.sock"])
def test_counters_that_do_not_answer_are_not_blamed(run, config, away):
    """Where the backend is away nothing is known of its counters: it ends with 2, and not as if they lacked something."""
    ran = run("verify", "--counters", "--config", config, "--backend", away)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "The backend does not answer, so what its counters say is not known.\n"


@SQLITE
def test_a_call_that_runs_makes_a_counter_hold_more(run, core, keys, config):
    """It is told and is no error: what runs is held, and not yet on the books."""
    running = begin(core, keys.create(tenant="acme").text, Got(), lambda environ, start: iter(provider(environ, start)))

    ran = run("verify", "--counters", "--config", config)
    running.close()

    assert ran.code == 0
    assert "calls may run, or wait to be written" in ran.out


@SQLITE
@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("backend", ["memory://", "limits+memory://"])
def test_counters_in_memory_cannot_be_seen(run, config, backend):
    """It says so, and ends with 2."""
    ran = run("verify", "--counters", "--config", config, "--backend", backend)

    assert (ran.code, "cannot be seen from here" in ran.err) == (2, True)
