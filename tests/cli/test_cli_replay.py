"""
``replay``: a recorded trace through the real stack, on its own clock.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tokenbudget_mw import prices
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.tables import usage
from tokenbudget_mw.values import CheckState, Reply

START = 1_700_000_000.0
TRACE_NAME = "azure_llm_trace_conv_2023.csv"


def trace(tmp_path, rows):
    path = tmp_path / "trace.jsonl"
    lines = [{"time": START + at, "input_tokens": i, "output_tokens": o, **more} for at, i, o, more in rows]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def steady(tmp_path):
    """
    A request a second for two minutes: 1,000 tokens in, 100 out.
    """
    return trace(tmp_path, [(float(at), 1000, 100, {}) for at in range(120)])


def test_every_request_ends_in_the_database(run, steady):
    """Without limits all are admitted, and rows, tokens and cost are those of the trace and the price book."""
    price = prices.load().find("gpt-4o")[-1]

    ran = run("replay", steady, "--json")

    result = ran.json
    assert ran.code == 0
    assert (result["requests"], result["admitted"], result["refused"], result["rows"]) == (120, 120, {}, 120)
    assert (result["input_tokens"], result["output_tokens"], result["tokens"]) == (120_000, 12_000, 132_000)
    assert result["cost_pico"] == 120_000 * price.input + 12_000 * price.output
    assert result["database"] == {name: result[name] for name in ("rows", "input_tokens", "output_tokens", "cost_pico")}
    assert result["verified"] is True
    assert set(result["latency_us"]) == {"p50", "p99"}


def test_limits_refuse_on_the_trace_s_clock(run, steady):
    """A trailing minute holds at most the limit, and as much of it as fits is let through."""
    ran = run("replay", steady, "--limit", "11k tokens/minute per key", "--max-tokens", 100, "--json")

    result = ran.json
    worst = result["worst_window"]["tokens-minute-key"]
    assert ran.code == 0
    assert result["refused"] == {"tokens-minute-key": 100}
    assert worst["tokens"] == 11_000
    assert result["limits_held"] is True
    assert result["rows"] == 120  # a refusal is a row, too
    assert result["verified"] is True


def test_limits_count_each_key(run, steady):
    """With ten keys in turn each has twelve requests, and twelve fit its minute."""
    argv = ("--keys", 10, "--limit", "14k tokens/minute per key", "--json")

    result = run("replay", steady, *argv).json

    assert result["refused"] == {}
    assert result["worst_window"]["tokens-minute-key"]["tokens"] <= 14_000


def test_what_was_reserved_and_not_used_is_given_back(run, steady):
    """A request that reserved 5,000 tokens and used 1,100 leaves room for the next when it ends."""
    argv = ("--limit", "10k tokens/minute per key", "--max-tokens", 4000, "--token-ms", 1, "--json")

    result = run("replay", steady, *argv).json

    assert result["admitted"] > 2 * 2
    assert result["limits_held"] is True


def test_concurrency_follows_virtual_time(run, tmp_path):
    """Requests overlap as long as their output takes: three at a time when each lasts 2.5 s."""
    path = trace(tmp_path, [(float(at), 100, 100, {}) for at in range(12)])

    slow = run("replay", path, "--token-ms", 25, "--limit", "2 concurrent", "--json").json
    fits = run("replay", path, "--token-ms", 25, "--limit", "3 concurrent", "--json").json

    assert slow["refused"] == {"concurrent": 4}
    assert fits["refused"] == {}


def test_a_config_s_plans_hold(run, steady, tmp_path):
    """Plans of a configuration are tried, `--plan` chooses one, and shadow limits only tell."""
    config = tmp_path / "budget.json"
    shadow = {"limit": "10 requests/minute", "mode": "shadow", "name": "later"}
    config.write_text(json.dumps({"plans": {"free": ["20 requests/minute", shadow], "pro": []}, "default_plan": "pro"}))

    pro = run("replay", steady, "--config", config, "--json").json
    free = run("replay", steady, "--config", config, "--plan", "free", "--json").json

    assert pro["refused"] == {}
    assert free["refused"]["requests-minute"] == 120 - free["admitted"] > 50
    assert free["would_refuse"] == {"later": free["admitted"] - 20}


def test_limits_of_every_scope_apply(run, steady):
    """A replay is one tenant, and each key a user, so that limits of all scopes count something."""
    argv = ("--keys", 4, "--limit", "60 requests/day per tenant; 10 requests/day per user", "--json")

    result = run("replay", steady, *argv).json

    assert result["admitted"] == 40
    assert result["refused"]["requests-day-user"] == 80


def test_hours_are_told(run, tmp_path):
    """Admissions and refusals are told by hour of the trace, in UTC."""
    path = trace(tmp_path, [(0.0, 9, 1, {}), (10.0, 9, 1, {}), (3600.0, 9, 1, {})])

    result = run("replay", path, "--limit", "1/minute", "--json").json

    assert result["hours"] == [
        {"hour": "2023-11-14T22:00Z", "admitted": 1, "refused": {"requests-minute": 1}},
        {"hour": "2023-11-14T23:00Z", "admitted": 1, "refused": {}},
    ]


def test_models_and_keys_of_the_trace_hold(run, tmp_path, sqlite_database):
    """A trace's own models are priced, its own keys are limited and recorded."""
    rows = [(0.0, 100, 10, {"model": "gpt-4o-mini", "key": "a"}), (1.0, 100, 10, {"model": "gpt-4o", "key": "b"})]
    mini, big = (prices.load().find(name)[-1] for name in ("gpt-4o-mini", "gpt-4o"))

    result = run("replay", trace(tmp_path, rows), "--database", sqlite_database, "--json").json

    assert result["cost_pico"] == 100 * (mini.input + big.input) + 10 * (mini.output + big.output)
    engine = open_engine(sqlite_database)
    with engine.connect() as connection:
        found = connection.execute(select(usage.c.request_model, usage.c.key_id, usage.c.created_at)).all()
    engine.dispose()
    assert sorted((model, key.rpartition("-")[2]) for model, key, _ in found) == [("gpt-4o", "b"), ("gpt-4o-mini", "a")]
    assert {moment.timestamp() for _, _, moment in found} == {START, START + 1}


def test_an_unknown_model_is_never_free(run, tmp_path):
    """A model without a price is charged the ceiling, and the books say so."""
    result = run("replay", trace(tmp_path, [(0.0, 100, 10, {})]), "--model", "nobody-knows-it", "--json").json

    assert result["cost_pico"] > 0
    assert result["verified"] is True


def test_t11_two_replays_into_one_database_add_up(run, steady, sqlite_database):
    """Each run is an instance of its own: its rows come once, beside those of the other."""
    first = run("replay", steady, "--database", sqlite_database, "--json").json
    second = run("replay", steady, "--database", sqlite_database, "--json").json

    assert first["rows"] == second["rows"] == 120
    assert first["verified"] is second["verified"] is True
    books = run("verify", "--database", sqlite_database, "--json").json
    assert (books["rows"], books["cost_pico"]) == (240, 2 * first["cost_pico"])


def test_t01_the_same_on_redis_and_postgresql(run, steady, redis_db, postgres_database):
    """Backend and database do not change what a trace comes to: Redis follows the trace's time."""
    argv = ("replay", steady, "--keys", 2, "--limit", "11k tokens/minute per key; 30 requests/minute per key", "--json")
    here = run(*argv).json

    there = run(*argv, "--backend", redis_db, "--database", postgres_database).json

    same = ("requests", "admitted", "refused", "tokens", "cost_pico", "rows", "verified", "hours", "limits_held")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert there["refused"]["tokens-minute-key"] > 0


def test_the_app_s_own_services_are_not_touched(run, steady, tmp_path, engine, sqlite_database):
    """A configuration's backend and database are left alone unless arguments name them."""
    config = tmp_path / "budget.json"
    config.write_text(json.dumps({"backend": "redis://127.0.0.1:1/0", "database": sqlite_database}))

    assert run("replay", steady, "--config", config, "--json").json["verified"] is True
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(usage)) == 0


def test_broken_books_end_with_1(run, steady, sqlite_database, engine, write):
    """Where the database's books do not agree the replay says so and ends with 1."""
    write()
    with engine.begin() as connection:
        connection.execute(usage.update().values(cost_pico=1))

    ran = run("replay", steady, "--database", sqlite_database)

    assert ran.code == 1
    assert "do NOT agree" in ran.out


def test_a_broken_limit_ends_with_1(run, steady, monkeypatch):
    """If a backend let too much through the witness would tell: the command ends with 1."""
    from tokenbudget_mw.backends.memory import AsyncMemoryBackend

    async def lax(self, ask, now):
        return Reply(True, tuple(CheckState(True, 1) for _ in ask.checks))

    monkeypatch.setattr(AsyncMemoryBackend, "reserve", lax)

    ran = run("replay", steady, "--limit", "11k tokens/minute per key")

    assert ran.code == 1
    assert "BROKEN" in ran.out


def test_t16_a_backend_that_is_away_ends_with_1(run, tmp_path):
    """What was decided by a fallback is no answer about the limits: it is told, and the command ends with 1."""
    path = trace(tmp_path, [(float(at), 100, 10, {}) for at in range(3)])

    ran = run("replay", path, "--limit", "1M tokens/minute", "--backend", "redis://127.0.0.1:1/0", "--json")

    assert ran.code == 1
    assert ran.json["degraded"] == 3


def test_settings_that_make_the_path_something_else_are_refused(run, steady, tmp_path):
    """A route that reads the replay's path in another format would count nonsense."""
    config = tmp_path / "budget.json"
    config.write_text(json.dumps({"routes": [{"path": "/v1/chat/completions", "format": "anthropic.messages"}]}))

    ran = run("replay", steady, "--config", config)

    assert ran.code == 2
    assert "another format" in ran.err


def test_limits_of_one_name_are_told_apart(run, steady):
    """Two limits that would have the same name get two."""
    result = run("replay", steady, "--limit", "9/minute; 50/minute per tenant", "--limit", "9/minute per key", "--json")

    assert result.code == 0
    assert result.json["refused"]["requests-minute"] == 120 - result.json["admitted"] > 90


def test_it_reads_as_text(run, steady):
    """Without --json the same is told in lines: limits, hours, money, books."""
    out = run("replay", steady, "--limit", "11k tokens/minute per key").out

    for part in ("120 requests", "refused by 'tokens-minute-key'", "2023-11-14T22:00Z", "books     agree", "fullest"):
        assert part in out


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("--keys", "0"), "--keys"),
        (("--token-ms", "-1"), "--token-ms"),
        (("--max-tokens", "0"), "--max-tokens"),
        (("--plan", "none"), "--plan"),
        (("--limit", "10 tokes/minute"), "tokens"),
        (("--backend", "reddis://x"), "redis"),
        (("--config", "missing.toml"), "missing.toml"),
    ],
)
def test_bad_arguments_are_named(run, steady, argv, word):
    """What makes no sense ends with 2 and is named."""
    ran = run("replay", steady, *argv)

    assert ran.code == 2
    assert word in ran.err


# -- the whole hour ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    """
    The public trace, where it is.
    """
    folder = os.environ.get("TOKENBUDGET_TEST_DATA")
    home = Path(folder) if folder else Path(__file__).resolve().parents[3] / "shared" / "data"
    path = home / TRACE_NAME
    if not path.exists():
        pytest.skip(f"{TRACE_NAME} is not there; set TOKENBUDGET_TEST_DATA to its folder")
    return path


@pytest.mark.slow
def test_an_hour_of_real_traffic_adds_up(run, recorded):
    """19,366 real requests: every row, every token, every pico-dollar."""
    result = run("replay", recorded, "--model", "gpt-4o", "--json").json

    assert result["database"] == {
        "rows": 19_366,
        "input_tokens": 22_361_870,
        "output_tokens": 4_088_665,
        "cost_pico": 22_361_870 * 2_500_000 + 4_088_665 * 10_000_000,
    }
    assert result["verified"] is True


@pytest.mark.slow
def test_t01_an_hour_of_real_traffic_keeps_its_limits(run, recorded):
    """Five keys share the hour, each within 100,000 tokens in any trailing minute, to the last few."""
    ran = run("replay", recorded, "--keys", 5, "--limit", "100k tokens/minute per key", "--json")

    worst = ran.json["worst_window"]["tokens-minute-key"]["tokens"]
    assert ran.code == 0
    assert 90_000 < worst <= 100_000
    assert ran.json["refused"]["tokens-minute-key"] > 0
