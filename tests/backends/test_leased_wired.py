"""
Leases and remembered refusals, as the settings plug them in.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from tokenbudget_mw.backends.negative import NegativeCache
from tokenbudget_mw.rules.admission import Request
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import Cost, Route, Subject
from tokenbudget_mw.wiring import wire

redis = pytest.importorskip("redis")

SUBJECT = Subject(tenant="acme", key="k1", plan="free")
ROUTE = Route("/assistant/*")


def wired(url: str, clock: FakeClock | None = None, **settings: Any) -> Any:
    given = {"backend": url, "spool": "memory", "identify": "ip", "database": "sqlite://"}
    limits = ["60 requests/minute", "1000 tokens/minute", "100 requests/day per tenant"]
    return wire(Settings.from_mapping(given | {"plans": {"free": limits}} | settings), clock=clock)


def request(number: int, tokens: int) -> Request:
    cost = Cost(requests=1, input_tokens=tokens)
    return Request(f"{time.time_ns():016x}{number:016x}", SUBJECT, ROUTE, None, cost, cost)


def test_a_guard_admits_exactly_its_limits_from_what_is_held(redis_db: str) -> None:
    """
    Through settings, policy and guard: 60 of 100 in one minute, 40 of 100 in the next, each settled below its estimate;
    refusals say when to come again, and then the next one is admitted.
    """
    clock = FakeClock()
    core = wired(f"leased+{redis_db}", clock)
    admitted, refused = 0, []
    for number in range(200):
        if number == 100:
            clock.advance(61.0)
        decision = core.guard.admit(request(number, 20))
        if decision.admitted:
            admitted += 1
            assert core.guard.settle(decision.reservation, Cost(requests=1, input_tokens=5))
        else:
            refused.append(decision)
    core.close()

    assert admitted == 100
    assert [decision.refused_by for decision in refused[:40]] == [("requests-minute",)] * 40
    assert {decision.retry_after for decision in refused[:40]} == {61.0 - clock.now % 1}
    assert all("requests-day-tenant" in decision.refused_by for decision in refused[40:])


def test_refusals_are_remembered_unless_it_is_told_otherwise(redis_db: str) -> None:
    """
    `refusal_cache` is on for shared backends; 0 turns it off; memory needs none.
    """
    for url, settings, expected in (
        (redis_db, {}, True),
        (f"leased+{redis_db}", {}, True),
        (redis_db, {"refusal_cache": 0}, False),
        ("memory://", {}, False),
    ):
        core = wired(url, **settings)
        assert isinstance(core.guard.backend, NegativeCache) is expected
        core.close()


def test_the_terms_of_leases_come_from_the_settings(redis_db: str) -> None:
    """
    How long, how much at once, and a smaller share where more processes share the limits.
    """
    core = wired(f"leased+{redis_db}", leased_term="2 seconds", leased_most=50, workers=10, refusal_cache=0)
    terms = core.guard.backend._stock.terms
    core.close()

    assert (terms.seconds, terms.most, terms.share) == (2.0, 50, 20)


PROGRAM = """
import sys
from tokenbudget_mw.rules.admission import Request
from tokenbudget_mw.values import Cost, ONE_REQUEST, Route, Subject
from tokenbudget_mw.wiring import wire

plans = {"free": ["1000 requests/hour", "9000 tokens/hour"]}
core = wire({"backend": sys.argv[1], "spool": "memory", "identify": "ip", "database": "sqlite://", "plans": plans})

def call(number, tokens):
    cost = Cost(requests=1, input_tokens=tokens)
    asked = Request(f"{number:032x}", Subject(tenant="acme", key="k1", plan="free"), Route("/*"), None, cost, cost)
    reservation = core.guard.admit(asked).reservation
    core.guard.settle(reservation, cost)

"""

LEAVING_QUOTA = """
for number in range(100):
    call(number, 3)
assert not core.guard.backend._backend._stock.is_empty
"""

LEAVING_DEBTS = """
guarded = core.guard.backend._backend._backend
ask, told = guarded._ask, guarded._ask

def fail(*arguments):
    from tokenbudget_mw.backends.circuits import LeftAloneError
    raise LeftAloneError("away")

guarded._ask = fail
for number in range(100):
    call(number, 3)
guarded._ask = ask
"""


@pytest.mark.parametrize(
    ("scheme", "program"), [("leased+", LEAVING_QUOTA), ("", LEAVING_DEBTS)], ids=["quota", "debts"]
)
def test_a_process_that_ends_without_closing_its_core_tells_what_it_used(
    redis_db: str, scheme: str, program: str
) -> None:
    """
    Flask's workers, scripts and Celery's processes close no core. What they hold unused goes back at their end, and what
    they admitted alone while Redis was away counts there.
    """
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, scheme + redis_db], capture_output=True, check=True
    )
    core = wired(redis_db, plans={"free": ["1000 requests/hour", "9000 tokens/hour"]})
    used = [line.used for line in core.explain(SUBJECT).limits]
    core.close()

    assert process.stderr == b""
    assert used == [100, 300]
