"""
``explain``: the limits of a key, as its counters stand.
"""

from __future__ import annotations

import json
import time

import pytest

from tokenbudget_mw.backends import open_backend
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.testing.asks import ask, check, in_flight
from tokenbudget_mw.values import UsageRecord


@pytest.fixture
def config(tmp_path, sqlite_database, redis_db):
    """
    Settings of a plan with three limits and of a route with one.
    """
    settings = {
        "backend": redis_db,
        "database": sqlite_database,
        "identify": "api_key",
        "pepper": "canary-pepper",
        "plans": {"free": ["3 requests/minute", "40k tokens/minute per model", "$5/month"]},
        "default_plan": "free",
        "routes": [{"path": "/chat", "limits": ["2 requests/minute"]}],
    }
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture
def kid(run, engine, config):
    """
    The id of a key that has made three requests.
    """
    kid = run("keys", "create", "--json", "--config", config).json["kid"]
    backend = open_backend(json.loads(config.read_text())["backend"], deadline=5.0)
    asked = ask(check(3, 3, "requests:60", counter=f"key={kid}"), tag=f"key:{kid}")
    assert backend.reserve(asked, 0.0).admitted
    backend.close()
    return kid


def test_json_says_what_is_left_and_when_it_frees(run, kid, config):
    """Every limit of the plan is there, with its source; a spent one says when one more fits."""
    shown = run("explain", kid, "--json", "--config", config)
    limits = {line["name"]: line for line in shown.json["limits"]}

    assert shown.code == 0
    assert (shown.json["plan"], shown.json["degraded"]) == ("free", False)
    assert set(limits) == {"requests-minute", "money-month"}
    spent = limits["requests-minute"]
    assert (spent["source"], spent["counter"], spent["remaining"], spent["spent"]) == (
        "plan free",
        f"key={kid}",
        0,
        True,
    )
    assert 0 < spent["frees_seconds"] <= 61
    assert limits["money-month"]["remaining"] == 5_000_000_000
    assert limits["money-month"]["frees_seconds"] == 0


def test_the_table_reads_well(run, kid, config):
    """Amounts, windows and waits are words that people use; limits of a model and a route come when they are named."""
    out = run("explain", kid, "--config", config, "--model", "gpt-4o", "--route", "/chat").out

    assert out.startswith("Plan: free.\n")
    assert "40k tokens/minute per model" in out
    assert "route /chat" in out
    assert "$5.00" in out
    assert "in 1 minute" in out or "seconds" in out


def test_a_reset_forgets_and_shows_the_rest(run, kid, config):
    """What is reset is all there again."""
    shown = run("explain", kid, "--reset", "requests-minute", "--json", "--config", config)

    assert {line["name"]: line["remaining"] for line in shown.json["limits"]}["requests-minute"] == 3


@pytest.mark.parametrize(
    ("address", "counter"),
    [
        ("10.0.0.1", "key=ip:10.0.0.1"),
        ("ip:10.0.0.1", "key=ip:10.0.0.1"),
        ("2001:db8::1", "key=ip:2001:db8::/64"),
        ("ip:2001:db8::/64", "key=ip:2001:db8::/64"),
    ],
)
def test_an_address_is_explained_by_its_name(run, config, address, counter):
    """Where callers are known by their addresses, an address is whoever asks from there."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"identify": "ip"}))
    shown = run("explain", address, "--plan", "free", "--json", "--config", config)

    assert {line["counter"] for line in shown.json["limits"]} == {counter}


def test_what_the_books_do_not_say_is_not_made_up(run, config, tmp_path):
    """A month that would start there is not shown as unused, and its reset fails instead of being undone later."""
    settings = json.loads(config.read_text()) | {"identify": "ip", "database": f"sqlite:///{tmp_path}/no/such.db"}
    config.write_text(json.dumps(settings))
    told, shown = run("explain", "alice", "--config", config), run("explain", "alice", "--json", "--config", config)
    reset = run("explain", "alice", "--reset", "money-month", "--config", config)

    assert (told.code, shown.code) == (1, 1)
    assert [(line["name"], line["known"]) for line in shown.json["limits"]] == [
        ("requests-minute", True),
        ("money-month", False),
    ]
    assert (
        "money-month: the books do not say at what it begins; until they do, on_backend_error 'local' holds."
        in told.out
    )
    assert reset.code != 0
    assert "The books do not say at what money-month begins, so nothing was taken off." in reset.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--reset", "requests"], "No limit 'requests' applies here. Known: requests-minute, money-month."),
        (["--route", "/chatt"], "no route '/chatt'. Known: /chat."),
        (["--backend", "memory://"], "memory:// counters live in each process"),
        (["--backend", "limits+memory://"], "limits+memory:// counters live in each process"),
        (["--backend", "leased+memory://"], "leased+memory:// counters live in each process"),
    ],
)
def test_bad_use_is_explained(run, kid, config, arguments, complaint):
    """A typing error changes nothing and says what would have been right."""
    shown = run("explain", kid, "--config", config, *arguments)

    assert shown.code == 2
    assert complaint in shown.err


def test_an_absent_backend_is_said(run, kid, config):
    """What is shown then is not what the counters say, and the exit code tells."""
    shown = run("explain", kid, "--config", config, "--backend", "redis://127.0.0.1:1/0")

    assert shown.code == 1
    assert "Backend: away" in shown.out


def test_a_backend_that_is_not_asked_is_not_called_up(run, engine, config):
    """Where no limit applies, nothing is said of the backend."""
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "identify": "ip", "plans": {}, "default_plan": None})
    )

    shown = run("explain", "k", "--config", config, "--backend", "redis://127.0.0.1:1/0")

    assert shown.out == "Plan: none.\nNo limit applies.\n"


def test_a_model_is_known_however_it_is_spelt(run, kid, config):
    """Limits per model count by its one name, so that is what is shown, and what is reset."""
    backend = open_backend(json.loads(config.read_text())["backend"], deadline=5.0)
    used = check(100, 40_000, "tokens:60", counter=f"key={kid},model=gpt-4o")
    assert backend.reserve(ask(used, tag=f"key:{kid}"), 0.0).admitted
    backend.close()

    def left(*more):
        shown = run("explain", kid, "--model", "openai/GPT-4o", "--json", "--config", config, *more).json
        return next(line["remaining"] for line in shown["limits"] if line["unit"] == "tokens")

    assert left() == 39_900
    assert left("--reset", "tokens-minute-model") == 40_000


def test_a_key_that_is_refused_anyway_is_told(run, kid, config):
    """A key may have room in every limit and be refused all the same."""
    good = run("explain", kid, "--json", "--config", config)
    run("keys", "suspend", kid, "--config", config)
    shown, told = (run("explain", kid, *json_, "--config", config) for json_ in (("--json",), ()))

    assert (good.json["status"], shown.json["status"]) == ("active", "suspended")
    assert f"Key {kid} is suspended; it is refused.\n" in told.out


def test_a_keys_own_limits_are_told(run, kid, config):
    """Whose they are, until when, and what holds without them; what was counted before counts."""
    run("keys", "limit", kid, "--limit", "9 requests/minute", "--until", "2090-12-24T00:00Z", "--config", config)

    shown = run("explain", kid, "--json", "--config", config)
    line = next(line for line in shown.json["limits"] if line["unit"] == "requests")
    assert (line["name"], line["source"], line["amount"], line["remaining"]) == ("requests-minute", f"key {kid}", 9, 6)
    assert line["until"] == "2090-12-24T00:00:00+00:00"
    assert line["replaces"] == [{"limit": "3 requests/minute", "source": "plan free"}]

    out = run("explain", kid, "--config", config).out
    assert out.endswith(
        "requests-minute: holds until 2090-12-24 00:00 UTC, in the place of 3 requests/minute (plan free).\n"
    )


def test_a_holder_of_the_hosts_own_is_named_by_its_scopes(run, tmp_path, redis_db, engine, kid, config):
    """Where the host says who asks, the command is told what the host would say; the key table needs no telling."""
    settings = {"backend": redis_db, "identify": "ip", "plans": {"free": ["3 requests/minute"], "pro": ["9/minute"]}}
    settings |= {"default_plan": "free", "overrides": {"tenant:acme": ["70 requests/hour"]}}
    path = tmp_path / "host.json"
    path.write_text(json.dumps(settings))

    shown = run("explain", "k1", "--tenant", "acme", "--plan", "pro", "--json", "--config", path).json
    told = run("explain", kid, "--tenant", "acme", "--config", config)

    assert [(line["source"], line["amount"]) for line in shown["limits"]] == [
        ("plan pro", 9),
        ("override tenant:acme", 70),
    ]
    assert (told.code, "the key table knows" in told.err) == (2, True)


def test_names_are_told_as_they_are_written(run, tmp_path, redis_db):
    """A counter escapes what its holder is called; people read the name itself."""
    path = tmp_path / "host.json"
    path.write_text(
        json.dumps({"backend": redis_db, "identify": "ip", "limits": ["$9/month per tenant"], "seed_from_books": False})
    )

    assert "tenant=Müller & Söhne " in run("explain", "k1", "--tenant", "Müller & Söhne", "--config", path).out


def test_a_larger_limit_is_told_beside_the_one_that_holds(run, kid, config):
    """So that nobody wonders why it changes nothing."""
    settings = json.loads(config.read_text()) | {"limits": ["50 requests/minute"]}
    config.write_text(json.dumps(settings))

    line = run("explain", kid, "--json", "--config", config).json["limits"][0]
    assert (line["amount"], line["looser"]) == (3, [{"limit": "50 requests/minute", "source": "limits"}])
    assert run("explain", kid, "--config", config).out.endswith(
        "requests-minute: holds before 50 requests/minute (limits), because it is no larger.\n"
    )


@pytest.fixture
def spent(engine, kid):
    """
    Two dollars of the key's month on the books, of which Redis knows nothing.
    """
    row = UsageRecord(
        id="r1",
        instance_id="i1",
        sequence=1,
        created_at_us=int(time.time() * 1e6),
        method="POST",
        path="/chat",
        key_id=kid,
        account=f"key:{kid}",
        cost_pico=2 * 10**12,
    )
    DatabaseSink(engine).write([row])


def test_a_counter_that_redis_lost_is_shown_as_the_books_have_it(run, kid, spent, config):
    """What was used of the month's money stands in the books, and the counter starts there."""
    shown = run("explain", kid, "--config", config)
    again = run("explain", kid, "--config", config, "--json").json

    assert "Backend: up." in shown.out
    assert "$3.00" in shown.out
    assert again["away_since"] is None
    assert {line["name"]: line["remaining"] for line in again["limits"]}["money-month"] == 3 * 10**9


def test_a_reset_of_a_lost_counter_holds(run, kid, spent, config):
    """What the books say is forgotten, too: the counter is started first."""
    shown = run("explain", kid, "--config", config, "--reset", "money-month", "--json").json

    assert {line["name"]: line["remaining"] for line in shown["limits"]}["money-month"] == 5 * 10**9


def test_an_account_that_pays_before_is_told_what_it_has(run, kid, spent, config):
    """Limits may all have room while the balance refuses: with `prepaid` it stands beside them."""
    without = run("explain", kid, "--config", config, "--json").json
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prepaid": True}))

    shown = run("explain", kid, "--config", config)
    assert f"Balance: key:{kid} has -$2.00; it is refused until it is topped up.\n" in shown.out
    assert run("explain", kid, "--config", config, "--json").json["balance_pico"] == -2 * 10**12
    assert "balance_pico" not in without


def test_calls_in_flight_end_when_they_end(run, kid, config):
    """A full limit on concurrency names no moment, and a reset gives back what a process that died still holds."""
    settings = json.loads(config.read_text())
    settings["plans"]["free"].append("1 concurrent")
    config.write_text(json.dumps(settings))
    backend = open_backend(settings["backend"], deadline=5.0)
    assert backend.reserve(ask(in_flight(1, counter=f"key={kid}"), tag=f"key:{kid}"), 0.0).admitted
    backend.close()

    full = run("explain", kid, "--config", config).out
    freed = run("explain", kid, "--config", config, "--reset", "concurrent").out

    ends = {
        line.split()[0]: line.split("  ")[-1].strip() for line in (full + freed).splitlines() if "concurrent" in line
    }
    assert "when a call ends" in full
    assert ends == {"concurrent": "now"}
