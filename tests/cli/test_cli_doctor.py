"""
``doctor``: what is wrong with a setup.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokenbudget_mw.cli import doctor
from tokenbudget_mw.settings import Settings


@pytest.fixture
def healthy(run, sqlite_database, monkeypatch):
    """
    A migrated database and a pepper.
    """
    monkeypatch.setenv("TOKENBUDGET_DATABASE", sqlite_database)
    monkeypatch.setenv("TOKENBUDGET_PEPPER", "canary-pepper")
    assert run("migrate").code == 0


def findings(ran, state):
    return [finding["message"] for finding in ran.json["findings"] if finding["state"] == state]


def test_a_healthy_setup_is_well(run, healthy):
    """Nothing wrong ends with 0, and says what was looked at."""
    ran = run("doctor", "--json")

    assert ran.code == 0
    assert ran.json["ok"] is True
    assert findings(ran, "problem") == findings(ran, "warning") == []
    assert {finding["part"] for finding in ran.json["findings"]} == {
        "settings",
        "prices",
        "backend",
        "database",
        "spool",
    }
    assert any("sqlite" in message for message in findings(ran, "ok"))
    assert "canary-pepper" not in ran.out


def test_what_lies_in_the_spool_for_a_person_is_told(run, healthy, monkeypatch, tmp_path):
    """Letters that no table took, and segments that could not be read, until somebody takes them away."""
    monkeypatch.setenv("TOKENBUDGET_SPOOL_DIR", str(tmp_path))
    (tmp_path / "damaged").mkdir()
    assert findings(run("doctor", "--json"), "warning") == []
    (tmp_path / "damaged" / "x.segment").touch()
    (tmp_path / "dead-letters.jsonl").write_text("{}")

    ran = run("doctor", "--json")

    letters, damaged = findings(ran, "warning")
    assert "dead-letters load" in letters
    assert "could not be read in whole" in damaged
    assert ran.code == 0


@pytest.mark.parametrize("setting", ["memory", "nobody's"])
def test_a_spool_in_memory_is_called_so(run, healthy, monkeypatch, setting):
    """Somebody who has chosen it, or has no home directory, reads what that means."""
    if setting == "memory":
        monkeypatch.setenv("TOKENBUDGET_SPOOL", "memory")
    else:
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    ran = run("doctor", "--json")

    (found,) = [finding["message"] for finding in ran.json["findings"] if finding["part"] == "spool"]
    assert "is in memory: a process that is killed loses it" in found


def test_a_spool_on_a_full_disk_is_told(run, healthy, monkeypatch, tmp_path):
    """Nothing has gone wrong yet, and usage would be lost with its process."""
    monkeypatch.setenv("TOKENBUDGET_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))

    assert any("is full" in message for message in findings(run("doctor", "--json"), "warning"))


@pytest.mark.parametrize(("mode", "is_told"), [(0o700, False), (0o755, False), (0o775, True), (0o777, True)])
def test_a_spool_that_others_may_write_to_is_told(run, healthy, monkeypatch, tmp_path, mode, is_told):
    """What another user leaves there would be charged."""
    folder = tmp_path / "spool"
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setenv("TOKENBUDGET_SPOOL_DIR", str(folder))

    assert any("others than its owner" in each for each in findings(run("doctor", "--json"), "warning")) is is_told


def test_a_spool_that_cannot_be_written_to_is_told(run, healthy, monkeypatch, tmp_path):
    """The app would go on in memory alone, and say so when its first request comes; here it is said before. Nothing is made."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOKENBUDGET_SPOOL_DIR", str(tmp_path / "file" / "spool"))
    (told,) = findings(run("doctor", "--json"), "warning")
    monkeypatch.setenv("TOKENBUDGET_SPOOL_DIR", str(tmp_path / "not" / "yet"))

    assert findings(run("doctor", "--json"), "warning") == []
    assert "kept in memory only" in told
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == []


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("TOKENBUDGET_BACKEND", "bogus://x", "Unknown backend 'bogus://'"),
        ("TOKENBUDGET_BACKEND", "leased+limits+memory://", "cannot be reserved ahead"),
        ("TOKENBUDGET_IDENTIFY", "no.such.function", "cannot import 'no.such.function'"),
        ("TOKENBUDGET_RENDER_REFUSAL", "no.such.function", "cannot import 'no.such.function'"),
    ],
)
def test_what_keeps_an_app_from_starting_is_a_problem(run, healthy, monkeypatch, variable, value, told):
    """A backend that nobody knows, a function that is not there: what the app would fail with, once."""
    monkeypatch.setenv(variable, value)

    ran = run("doctor", "--json")

    (problem,) = findings(ran, "problem")
    assert told in problem
    assert ran.code == 1


def test_missing_tables_are_a_problem(run, sqlite_database):
    """A database without our tables ends with 1 and names the command."""
    ran = run("doctor", "--database", sqlite_database)

    assert ran.code == 1
    assert "tokenbudget-mw migrate" in ran.out
    assert "`--database ALIAS`" in ran.out  # else Django migrates its default database, and the books get nothing
    assert "PROBLEM" in ran.out


def test_tables_without_a_version_are_a_problem(run, engine, sqlite_database):
    """Tables that our migrations did not make have no version: a problem, not a guess."""
    ran = run("doctor", "--database", sqlite_database, "--json")

    assert ran.code == 1
    assert any("nothing notes which migrations made the tables" in message for message in findings(ran, "problem"))


def test_a_database_that_is_away_is_a_problem_among_others(run):
    """A refused connection is a finding, without its password; the rest is still looked at."""
    ran = run("doctor", "--database", "postgresql://app:canary-secret@127.0.0.1:1/x", "--json")

    assert ran.code == 1
    assert any("database cannot be used" in message for message in findings(ran, "problem"))
    assert "canary-secret" not in ran.out + ran.err
    assert any("memory://" in message for message in findings(ran, "ok"))


def test_t03_models_without_a_price_are_visible(run, healthy, write, monkeypatch):
    """Rows that were charged the ceiling or nothing are told by model; so are aliases of unpriced models."""
    now = int(time.time() * 1_000_000)
    monkeypatch.setenv("TOKENBUDGET_MODELS", '{"house": "nobody-knows-it", "mine": "gpt-4o"}')
    write(request_model="mystery", price_kind="ceiling", created_at_us=now)
    write(request_model="riddle", price_kind="unpriced", created_at_us=now)
    write(request_model="long-gone", price_kind="ceiling", created_at_us=now - 90 * 86_400 * 1_000_000)

    ran = run("doctor", "--json")

    warnings = "\n".join(findings(ran, "warning"))
    assert ran.code == 0
    assert "'mystery'" in warnings
    assert "charged the ceiling" in warnings
    assert "'riddle'" in warnings
    assert "'nobody-knows-it'" in warnings
    assert "long-gone" not in warnings
    assert "'gpt-4o'" not in warnings


def test_rows_that_were_priced_again_are_no_trouble(run, healthy, write):
    """Once a price is there and the rows were priced by it, nothing is left to tell."""
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    write(created_at_us=int(now.timestamp()) * 10**6, request_model="mine", price_kind="unpriced", cost_pico=0)
    before = run("doctor").out
    begins = (now - timedelta(days=1)).isoformat()
    run("tariffs", "add", "mine", "--input", "1", "--output", "1", "--from", begins)
    run("rerate", "--since", begins, "--apply")

    after = run("doctor").out

    assert "model 'mine' has no price" in before
    assert "model 'mine'" not in after
    assert "1 tariff of the database in force" in after


@pytest.mark.parametrize("name", ["nobody-knows-it", "Nobody-Knows-It", "house"])
def test_a_tariff_of_your_own_is_a_price(run, healthy, monkeypatch, name):
    """An alias that has a tariff itself, or whose model has one in any case, is priced."""
    monkeypatch.setenv("TOKENBUDGET_MODELS", '{"house": "nobody-knows-it"}')
    monkeypatch.setenv(
        "TOKENBUDGET_TARIFFS", f'[{{"model": "{name}", "input": "1", "output": "2", "per": "1M tokens"}}]'
    )

    assert findings(run("doctor", "--json"), "warning") == []


def test_suspicious_settings_are_warnings(run, healthy, monkeypatch):
    """What the settings' own lint finds is told, and does not end with 1."""
    monkeypatch.setenv("TOKENBUDGET_WORKERS", "4")

    ran = run("doctor", "--json")

    assert ran.code == 0
    assert any("workers" in message for message in findings(ran, "warning"))


def test_keys_of_plans_that_are_gone_are_told(run, healthy, monkeypatch):
    """Active keys whose plan does not exist are counted."""
    run("keys", "create", "--plan", "gone")
    monkeypatch.setenv("TOKENBUDGET_PLANS", '{"free": ["1/minute"]}')

    assert any("'gone'" in message for message in findings(run("doctor", "--json"), "warning"))


def test_redis_is_asked(run, healthy, redis_db):
    """A Redis that answers is told with its version."""
    ran = run("doctor", "--backend", redis_db, "--json")

    assert ran.code == 0
    assert any(message.startswith("Redis ") for message in findings(ran, "ok"))


def test_a_redis_that_is_away_is_a_problem(run, healthy):
    """A refused connection to Redis ends with 1, without the password."""
    ran = run("doctor", "--backend", "redis://:canary-secret@127.0.0.1:1/0", "--json")

    assert ran.code == 1
    assert any("Redis did not answer" in message for message in findings(ran, "problem"))
    assert "canary-secret" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("look", "states"),
    [
        ({"version": "7.2.0", "policy": "noeviction"}, ["ok"]),
        ({"version": "7.2.0"}, ["ok"]),
        ({}, ["ok"]),
        ({"version": "5.0.14", "policy": "noeviction"}, ["warning"]),
        ({"version": "7.2.0", "policy": "allkeys-lru"}, ["ok", "problem"]),
        ({"version": "7.2.0", "policy": "volatile-lru"}, ["ok", "warning"]),
        ({"version": "7.2.0", "fault": "It may not."}, ["problem", "ok"]),
        ({"fault": "It is away."}, ["problem"]),
    ],
)
def test_a_redis_that_forgets_is_found(monkeypatch, look, states):
    """Old versions, missing rights, and eviction policies under which limits are forgotten are told."""
    start = pytest.importorskip("tokenbudget_mw.backends.redis.start")
    monkeypatch.setattr(start, "look_at", lambda url, seconds: [start.Look("", **look)])

    found = list(doctor._backend(Settings.from_mapping({"backend": "redis://127.0.0.1:1/0"})))

    assert [finding.state for finding in found] == states


def test_a_user_who_may_too_little_is_a_problem(run, healthy, redis_server):
    """The command that gives the rights is told, and not the password."""
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">canary-secret", "~tb:*", "+evalsha", "+info")
    url = redis_server.url.replace("redis://", "redis://app:canary-secret@")

    ran = run("doctor", "--backend", url, "--json")

    assert ran.code == 1
    assert any("ACL SETUSER" in message for message in findings(ran, "problem"))
    assert "canary-secret" not in ran.out + ran.err


def test_every_node_of_a_cluster_is_looked_at(run, healthy, redis_cluster, monkeypatch):
    """Each with its version; that one of them does all the work is told where a limit counts for all tenants."""
    deployments = pytest.importorskip("redis_deployments")
    deployments.say(redis_cluster.nodes[1], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    few = run("doctor", "--backend", redis_cluster.url, "--json")
    monkeypatch.setenv("TOKENBUDGET_LIMITS", '["100 requests/minute per global"]')
    monkeypatch.setenv("TOKENBUDGET_PLANS", '{"free": ["1/minute"]}')
    all_in_one = run("doctor", "--backend", redis_cluster.url, "--json")

    for node in redis_cluster.nodes:
        assert any(f"Redis 127.0.0.1:{node.port} has version" in message for message in findings(few, "ok"))
    assert "a cluster of 3 nodes" in findings(few, "ok")
    assert len(findings(few, "problem")) == 1
    assert findings(few, "warning") == []
    assert any("one node does all the work" in message for message in findings(all_in_one, "warning"))


def test_the_master_is_looked_at_through_its_sentinels(run, healthy, redis_watched):
    """The server that would be asked."""
    ran = run("doctor", "--backend", redis_watched.url, "--json")

    assert ran.code == 0
    assert any(f"Redis 127.0.0.1:{redis_watched.master.port} has version" in message for message in findings(ran, "ok"))


def test_a_url_that_cannot_be_read_is_a_problem_without_its_password(run, healthy):
    """What is wrong is told, and not what stands in it."""
    ran = run("doctor", "--backend", "redis+cluster://app:canary-secret@a:x/", "--json")

    assert ran.code == 1
    assert any("cannot be read" in message for message in findings(ran, "problem"))
    assert "canary-secret" not in ran.out + ran.err
