"""Limits that change while the app runs: what was counted stays, and requests in flight end as they began."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from asgi_rig import Rig, chat, status_of
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.errors import ConfigurationError, CredentialError
from tokenbudget_mw.rules.admission import Request
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import Cost, Decision, Facts, Route, Subject
from tokenbudget_mw.wiring import wire

if TYPE_CHECKING:
    from tokenbudget_mw.core import Core

IDS = itertools.count(1)
K1 = Subject(key="k1", tenant="acme")
ONE = Cost(requests=1)


def nobody(facts: Facts) -> None:
    """No request comes through a server here."""


def open_core(backend: str = "memory://", **settings: Any) -> Core:
    """A core with limits and nothing else."""
    given = {"backend": backend, "identify": nobody, "spool": "memory", "deadline": 5.0} | settings
    return wire(given, clock=FakeClock(), sink=CallableSink(lambda records: None))


@pytest.fixture(params=["memory", "redis"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Core]]:
    """Open cores on each backend."""
    backend = "memory://" if request.param == "memory" else request.getfixturevalue("redis_db")
    cores: list[Core] = []

    def opening(**settings: Any) -> Core:
        cores.append(open_core(backend, **settings))
        return cores[-1]

    yield opening
    for core in cores:
        core.close()


def admit(core: Core, cost: Cost = ONE, *, subject: Subject = K1, route: Route | None = None) -> Decision:
    """Ask for *cost*, and hold it."""
    return core.guard.admit(Request(f"{next(IDS):032x}", subject, route, "gpt-4o", cost, cost))


def spend(core: Core, times: int, **more: Any) -> int:
    """Make up to *times* requests, and return how many were admitted."""
    return sum(admit(core, **more).admitted for _ in range(times))


def left(core: Core, subject: Subject = K1) -> list[int]:
    """What is left of each limit."""
    return [line.remaining for line in core.explain(subject).limits]


@pytest.mark.parametrize("algorithm", ["strict_log", "gcra"])
@pytest.mark.parametrize("place", ["plans", "limits", "overrides"])
def test_a_change_keeps_the_count(opened: Callable[..., Core], place: str, algorithm: str) -> None:
    """Larger or smaller, in a plan, for everybody, or for a key: the limit goes on where it stood."""

    def of(amount: int) -> dict[str, Any]:
        limits = [{"limit": f"{amount} requests/hour", "algorithm": algorithm}]
        return {place: {"plans": {"free": limits}, "limits": limits, "overrides": {"key:k1": limits}}[place]}

    core = opened(**of(10))
    assert spend(core, 12) == 10

    core.change_limits(of(15))
    assert left(core) == [5]
    assert spend(core, 9) == 5

    core.change_limits(of(4))
    assert (left(core), spend(core, 1)) == ([0], 0)
    core.change_limits(of(16))
    assert spend(core, 9) == 1


def test_other_slots_are_another_window(opened: Callable[..., Core]) -> None:
    """A limit whose slots, algorithm or anchor change counts afresh; changed back, it goes on with its old count."""

    def of(**more: Any) -> dict[str, Any]:
        return {"limits": [{"limit": "10 requests/hour", **more}]}

    core = opened(**of())
    spend(core, 7)

    for more in ({"slots": 30}, {"algorithm": "gcra"}):
        core.change_limits(of(**more))
        assert left(core) == [10]
    core.change_limits(of())
    assert left(core) == [3]


def test_t17_an_anchored_period_keeps_its_count_through_changes_and_steps_of_the_clock(
    opened: Callable[..., Core],
) -> None:
    """The count goes at the anchor, not before; a clock that steps back meets the newer period's count."""
    core = opened(timezone="Europe/Zurich", limits=[{"limit": "10 requests/month", "anchor": 31}])
    clock = core.clock
    assert isinstance(clock, FakeClock)
    clock.now = 1_709_161_200.0  # 2024-02-29T00:00+01:00: February's last day begins a period
    clock.advance(-1)
    assert spend(core, 8) == 8

    clock.advance(1)
    assert spend(core, 3) == 3
    core.change_limits({"limits": [{"limit": "4 requests/month", "anchor": 31}]})
    assert spend(core, 3) == 1
    clock.advance(-3600)
    assert spend(core, 1) == 0
    clock.advance(31 * 86_400 + 3600)  # March 31st, 01:00 in summer time
    assert spend(core, 9) == 4


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=12))
def test_whatever_changes_a_request_fits_by_the_sum_of_those_before(steps: list[tuple[int, int]]) -> None:
    """Admitted is exactly what fits below the amount that holds, counting all that was admitted under any other."""
    core, used = open_core(limits=["5 tokens/hour"]), 0

    for amount, cost in steps:
        core.change_limits({"limits": [f"{amount} tokens/hour"]})
        fits = cost == 0 or used + cost <= amount
        assert admit(core, Cost(requests=1, input_tokens=cost)).admitted == fits
        used += cost if fits else 0
        assert left(core) == [max(0, amount - used)]


def test_t01_requests_of_many_threads_meet_a_changing_limit(opened: Callable[..., Core]) -> None:
    """While limits change under 8 threads, no more is admitted than the largest of them, and nothing of it is lost."""
    core = opened(limits=["50 requests/hour"])
    stop = threading.Event()

    def hammer(_: int) -> int:
        admitted = 0
        while not stop.is_set():
            admitted += admit(core).admitted
        return admitted

    with ThreadPoolExecutor(8) as threads:
        running = threads.map(hammer, range(8))
        for round_ in range(40):
            core.change_limits({"limits": [f"{[50, 80, 20, 100][round_ % 4]} requests/hour"]})
        spent = any(left(core) == [0] for _ in range(100_000))
        stop.set()
        total = sum(running)

    assert (spent, total) == (True, 100)
    core.change_limits({"limits": ["130 requests/hour"]})
    assert spend(core, 200) == 30


def test_requests_in_flight_on_a_loop_end_as_they_began(redis_db: str) -> None:
    """Calls that were admitted before a change are settled after it: to the truth, with their concurrency free."""
    loop: dict[str, Any] = {}

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        loop["entered"].release()
        await loop["go on"].wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        usage = b'{"model": "gpt-4o", "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}}'
        await send({"type": "http.response.body", "body": usage})

    plans = {"one": ["2 concurrent", "1000 tokens/minute"]}
    rig = Rig(slow, plans=plans, backend=redis_db, deadline=5.0)

    async def scenario() -> list[int]:
        loop["entered"], loop["go on"] = asyncio.Semaphore(0), asyncio.Event()
        inside = [asyncio.ensure_future(rig.arun(chat())) for _ in range(2)]
        for _ in inside:
            await loop["entered"].acquire()
        refused = status_of(await rig.arun(chat()))
        rig.core.change_limits({"plans": {"one": ["3 concurrent", "400 tokens/minute"]}})
        inside.append(asyncio.ensure_future(rig.arun(chat())))
        await loop["entered"].acquire()
        loop["go on"].set()
        statuses = [status_of(await each) for each in inside]
        await rig.core.async_guard.backend.aclose()
        return [refused, *statuses]

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == [429, 200, 200, 200]
    lines = rig.core.explain(Subject(key="k1")).limits
    assert [(line.limit.amount, line.used) for line in lines] == [(3, 0), (400, 30)]
    rig.core.close()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"limits": ["9 tokes/minute"]}, r"at `limits\[0\]`: unknown unit 'tokes'; did you mean 'tokens'\?"),
        ({"plans": {"free": ["9/minite"]}}, r"at `plans\.free\[0\]`"),
        ({"plan": {}}, "at `plan`: unknown setting; did you mean 'plans'"),
        ({"routes": []}, "at `routes`: unknown setting"),
        ({"default_plan": "fre"}, "at `default_plan`: unknown plan 'fre'; did you mean 'free'"),
        ({"overrides": {"acme": []}}, r"at `overrides\.acme`"),
        ([], "at `changes`: a dict is expected, not a list"),
        ({"limits": ["9/minute per global"]}, "cannot be added while the app runs"),
    ],
)
def test_a_wrong_change_changes_nothing(changes: Any, complaint: str) -> None:
    """It is checked as settings are, all of it, before anything holds."""
    core = open_core(plans={"free": ["10 requests/hour"]})
    before = core.settings, core.guard.admission

    with pytest.raises(ConfigurationError, match=complaint):
        core.change_limits(changes)

    assert (core.settings, core.guard.admission) == before
    assert core.async_guard.admission is core.guard.admission


def test_counters_stay_where_they_are_when_the_last_shared_limit_goes(opened: Callable[..., Core]) -> None:
    """A limit for everybody together keeps all counters in one place, also after it was taken away."""
    core = opened(limits=["10 requests/hour", "50 requests/hour per global"])
    spend(core, 4)

    core.change_limits({"limits": ["10 requests/hour"]})

    assert left(core) == [6]
    core.change_limits({"limits": ["10 requests/hour", "50 requests/hour per global"]})
    assert left(core) == [6, 46]


def test_what_is_not_named_stays(opened: Callable[..., Core]) -> None:
    """A change of plans leaves limits and overrides, and the other way round; the default plan follows."""
    core = opened(plans={"free": ["10 requests/hour"]}, limits=["99 tokens/hour"])

    core.change_limits({"overrides": {"tenant:acme": ["7 requests/hour per key"]}})
    core.change_limits({"plans": {"free": ["20 requests/hour"], "pro": ["30 requests/hour"]}, "default_plan": "pro"})

    assert left(core) == [7, 99]
    assert left(core, Subject(key="k2")) == [30, 99]
    core.change_limits({"plans": {"free": ["20 requests/hour"]}})
    assert left(core, Subject(key="k2")) == [20, 99]
    assert core.settings.default_plan == "free"


def test_a_key_of_a_plan_that_is_gone_is_refused() -> None:
    """As after a restart: it does not pass without limits."""
    core = open_core(plans={"free": ["10 requests/hour"], "pro": ["20 requests/hour"]})
    pro = Subject(key="k1", plan="pro")
    assert admit(core, subject=pro).admitted

    core.change_limits({"plans": {"free": ["10 requests/hour"], "gold": []}})

    with pytest.raises(CredentialError, match="does not exist"):
        admit(core, subject=pro)


def test_a_routes_limits_hold_beside_changed_ones(opened: Callable[..., Core]) -> None:
    """They stay as they are, keep their count, and have a name of their own in the answer."""
    core = opened(routes=[{"path": "/slow", "limits": ["5 requests/hour"]}])
    route = core.routes.match("POST", "/slow")
    assert spend(core, 3, route=route) == 3

    core.change_limits({"plans": {"free": ["9 requests/hour"]}})
    decision = admit(core, route=route)

    assert [(each.limit.name, each.state.remaining) for each in decision.tallies] == [
        ("requests-hour", 8),
        ("requests-hour-2", 1),
    ]


def test_two_changes_at_a_time_are_both_made() -> None:
    """The second waits for the first, and begins with what it has made."""
    core = open_core(plans={"free": ["10 requests/hour"]})
    other = threading.Thread(target=core.change_limits, args=({"limits": ["99 tokens/hour"]},))

    class Slow(dict[str, Any]):
        """Changes that take their time to be read, while another comes."""

        def get(self, *arguments: Any) -> Any:
            if not other.ident:
                other.start()
                other.join(0.2)
            return super().get(*arguments)

    core.change_limits(Slow(plans={"free": ["20 requests/hour"]}))
    other.join()

    assert left(core) == [20, 99]


def test_an_increase_ends_without_a_restart_and_keeps_the_count(opened: Callable[..., Core]) -> None:
    """After its end the plan's limit holds, and knows what was counted meanwhile."""
    clock_start = 1_700_000_000
    until = "2023-11-14T22:14:20Z"  # a minute later
    increase = {"limit": "30 requests/hour", "until": until}
    core = opened(plans={"free": ["10 requests/hour", increase]})
    clock = core.clock
    assert isinstance(clock, FakeClock)
    assert clock.now == clock_start
    assert spend(core, 20) == 20

    clock.advance(59)
    assert spend(core, 1) == 1
    clock.advance(1)
    assert (left(core), spend(core, 1)) == ([0], 0)
    (line,) = core.explain(K1).limits
    assert (line.limit.amount, line.replaced) == (10, ())
    clock.advance(-1)
    (line,) = core.explain(K1).limits
    assert (line.remaining, line.source, line.replaced[0][0].amount) == (9, "plan free", 10)
