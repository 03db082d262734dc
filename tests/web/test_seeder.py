"""
Counters that start at what the books say: once, in a thread, for threads and event loops alike.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.calls.recording import new_id
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.guard import AsyncGuard, Guard
from tokenbudget_mw.rules.admission import Admission, Request
from tokenbudget_mw.rules.policy import Plan, Policy
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.upkeep import seeding
from tokenbudget_mw.upkeep.seeding import Seeder
from tokenbudget_mw.values import Cost, Decision, Limit, Subject, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.rules.seeding import Question

MONTH = Window(period="month")
COST = Cost(requests=1, money_nano=10)


def budget(on_backend_error: Any = "local") -> Limit:
    return Limit("budget", "money", 100, MONTH, algorithm="calendar", on_backend_error=on_backend_error)


class Books:
    """
    Books that say that 60 of 100 were used, or fail, or take their time.
    """

    def __init__(self) -> None:
        self.asked: list[Sequence[Question]] = []
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()

    def __call__(self, questions: Sequence[Question]) -> list[tuple[int, ...]]:
        self.asked.append(questions)
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        return [(60,)] * len(questions)


class Rig:
    """
    A guard of either colour over memory and `Books`.
    """

    def __init__(self, colour: str, *limits: Limit, patience: float = 30.0, most: int = 100) -> None:
        self.clock, self.timer = FakeClock(), FakeClock(0.0)
        self.books = Books()
        self.backend = MemoryBackend(max_counters=most)
        self.seeder = Seeder(self.books, self.backend, self.clock, patience=patience, timer=self.timer)
        policy = Policy({"free": Plan("free", limits or (budget(),))}, default_plan="free", has_books=True)
        self._colour = colour
        self._sync = Guard(Admission(policy), self.backend, self.clock, starter=self.seeder)
        self._async = AsyncGuard(Admission(policy), self.backend.as_async(), self.clock, starter=self.seeder)

    def request(self, key: str = "k1") -> Request:
        source = "address" if key.startswith("ip:") else "custom"
        return Request(new_id(0.0), Subject(key=key, tenant="acme", source=source), None, "m", COST, COST)

    def admit(self, key: str = "k1") -> Decision:
        return self.admit_all([key])[0]

    def take(self) -> Decision:
        """
        Ask for what has been used.
        """
        request = msgspec.structs.replace(self.request(), upper=Cost(), least=Cost(), is_used=True)
        return self._sync.admit(request) if self._colour == "threads" else asyncio.run(self._async.admit(request))

    def admit_all(self, keys: list[str]) -> list[Decision]:
        """
        Ask for all at once.
        """
        requests = [self.request(key) for key in keys]
        if self._colour == "threads":
            with ThreadPoolExecutor(len(requests)) as threads:
                return list(threads.map(self._sync.admit, requests))
        return asyncio.run(self._gather(requests))

    async def _gather(self, requests: list[Request]) -> list[Decision]:
        return await asyncio.gather(*map(self._async.admit, requests))

    def close(self) -> None:
        self.books.open.set()
        self.seeder.close()


@pytest.fixture(params=["threads", "loop"])
def colour(request: pytest.FixtureRequest) -> str:
    """
    Which guard is asked.
    """
    colour: str = request.param
    return colour


def windows_of(decision: Decision) -> list[str]:
    return [hold.check.window for hold in decision.reservation.holds] if decision.reservation else []


def admitted(decisions: list[Decision]) -> int:
    return sum(decision.admitted for decision in decisions)


def test_a_lost_budget_goes_on_where_it_was(colour: str) -> None:
    """
    Of a budget of which 60 were used, 40 are left, though the backend has never heard of it.
    """
    rig = Rig(colour)

    decisions = [rig.admit() for _ in range(5)]
    rig.close()

    assert [decision.admitted for decision in decisions] == [True] * 4 + [False]
    assert not any(decision.degraded for decision in decisions)
    assert decisions[0].tallies[0].state.remaining == 30
    assert len(rig.books.asked) == 1


def test_what_has_been_used_starts_no_budget(colour: str) -> None:
    """
    It is on its way to the books, so a budget that began there now would count it twice; one that is known counts it.
    """
    rig = Rig(colour, budget(), Limit("calls", "requests", 100, Window(60.0)))

    before = rig.take()
    rig.admit()
    after = rig.take()
    rig.close()

    assert [windows_of(decision) for decision in (before, after)] == [["requests:60"], ["money:month", "requests:60"]]
    assert not before.degraded
    assert len(rig.books.asked) == 1


def test_addresses_that_the_books_are_asked_about_take_no_place_from_keys(colour: str) -> None:
    """
    However many of them there are: their counters are bounded apart, those that start from the books, too.
    """
    rig = Rig(colour, most=2)

    flood = [rig.admit(f"ip:203.0.113.{number}") for number in range(6)]
    decisions = [rig.admit(f"k{number}") for number in range(4)]
    rig.close()

    assert [decision.degraded for decision in flood] == [False] * 4 + [True] * 2
    assert [decision.admitted and not decision.degraded for decision in decisions] == [True] * 4


def test_requests_that_come_together_ask_once(colour: str) -> None:
    """
    Twenty requests of one key make one question, and exactly what is left is admitted.
    """
    rig = Rig(colour)
    rig.books.open.clear()
    waiting: list[Any] = []
    find = rig.seeder._job

    def joined(*arguments: Any) -> Any:
        waiting.append(find(*arguments))
        if len(waiting) == 20:
            rig.books.open.set()
        return waiting[-1]

    rig.seeder._job = joined  # type: ignore[method-assign]
    decisions = rig.admit_all(["k1"] * 20)
    rig.close()

    assert admitted(decisions) == 4
    assert len(rig.books.asked) == 1


def test_the_loop_runs_on_while_the_books_are_read() -> None:
    """
    A slow database holds up the request that needs it, not the event loop.
    """
    rig = Rig("loop")
    rig.books.open.clear()

    async def main() -> Decision:
        asking = asyncio.ensure_future(rig._async.admit(rig.request()))
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, rig.books.open.set)  # a blocked loop would never come to this
        return await asking

    decision = asyncio.run(main())
    rig.close()

    assert (decision.admitted, decision.degraded) == (True, False)


def test_books_that_are_late_are_not_waited_for_twice(colour: str) -> None:
    """
    Past its patience a request follows the limit's policy; when the books have answered, the budget holds.
    """
    rig = Rig(colour, patience=0.01)
    rig.books.open.clear()
    early = [rig.admit() for _ in range(3)]
    rig.books.open.set()
    (job,) = rig.seeder._process.get().jobs.values() or (None,)
    if job is not None:
        assert job.future.result(30)

    late = [rig.admit() for _ in range(5)]
    rig.close()

    assert [(decision.admitted, decision.degraded) for decision in early] == [(True, True)] * 3
    assert [decision.admitted for decision in late] == [True] * 4 + [False]
    assert len(rig.books.asked) == 1


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [("allow", (12, {200})), ("deny", (0, {503})), ("local", (10, {200, 429}))],
)
def test_the_limits_policy_holds_while_the_books_are_away(
    colour: str, policy: str, outcome: tuple[int, set[int]]
) -> None:
    """
    `allow` lets all pass, `deny` none, `local` as many as the limit has, counted from nothing.
    """
    rig = Rig(colour, budget(policy))
    rig.books.error = OSError("gone")

    decisions = [rig.admit() for _ in range(12)]
    rig.close()

    assert (admitted(decisions), {decision.status for decision in decisions}) == outcome
    assert all(decision.degraded for decision in decisions)
    # those that failed are left alone for a while
    assert len(rig.books.asked) == 1


def test_books_that_nobody_asks_again_are_not_away_for_ever(colour: str) -> None:
    """
    A process that gets no requests, for saying that it is not well, would never learn that they are back.
    """
    rig = Rig(colour)
    rig.books.error = OSError("gone")
    rig.admit()
    at_once = rig.seeder.is_away
    rig.timer.advance(seeding.QUIET + seeding.REMEMBERED)
    later = rig.seeder.is_away
    rig.admit()
    again = rig.seeder.is_away
    rig.close()

    assert (at_once, later, again) == (True, False, True)


def test_each_transition_is_one_line_and_books_that_return_are_used(
    colour: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    What was admitted meanwhile did not start the counter, so it starts at what the books say then.
    """
    rig = Rig(colour)
    rig.books.error = OSError("gone")
    with caplog.at_level(logging.WARNING, "tokenbudget_mw"):
        rig.admit_all(["k1", "k2", "k3"])
        was_away = rig.seeder.is_away
        rig.timer.advance(seeding.QUIET)
        rig.admit("k2")
        rig.books.error = None
        rig.timer.advance(seeding.QUIET)
        decisions = [rig.admit() for _ in range(5)]
    rig.close()

    assert admitted(decisions) == 4
    assert (was_away, rig.seeder.is_away) == (True, False)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "The books do not answer",
        "The books answer again; counters start at what they say.",
    ]


def test_books_that_hang_hold_up_few(colour: str) -> None:
    """
    When every thread waits for the books, requests of further keys follow the policy at once.
    """
    rig = Rig(colour, patience=0.01)
    rig.books.open.clear()
    for number in range(seeding.THREADS):
        rig.admit(f"k{number}")
    rig.seeder._patience = 3600.0

    decision = rig.admit("another")
    rig.close()

    assert (decision.admitted, decision.degraded) == (True, True)


def test_a_backend_that_goes_while_a_counter_starts_decides_by_policy(colour: str) -> None:
    """
    Between the two asks the backend may go, too.
    """
    rig = Rig(colour, budget("deny"))

    def gone(*_: Any) -> None:
        raise BackendUnavailableError

    rig.backend.seed = gone  # type: ignore[method-assign]
    decision = rig.admit()
    rig.close()

    assert (decision.admitted, decision.status) == (False, 503)


def test_known_counters_ask_nobody(colour: str) -> None:
    """
    Once a counter, never a request: 200 requests of two keys make two questions.
    """
    rig = Rig(colour)

    for _ in range(100):
        rig.admit("k1")
        rig.admit("k2")
    rig.close()

    assert len(rig.books.asked) == 2


def test_limits_that_are_not_booked_ask_nobody(colour: str) -> None:
    """
    A limit on requests a minute starts at nothing, as it always did.
    """
    rig = Rig(colour, Limit("calls", "requests", 5, Window(60.0)))

    decisions = [rig.admit() for _ in range(6)]
    rig.close()

    assert admitted(decisions) == 5
    assert rig.books.asked == []


def test_a_seeder_that_was_closed_works_again(colour: str) -> None:
    """
    Though a thread hung when it was closed: what came to nothing then is not in the way of what comes after.
    """
    rig = Rig(colour, patience=0.01)
    rig.books.open.clear()
    hanging = rig.admit("k1")
    rig.seeder.close()
    rig.books.open.set()
    rig.seeder._patience = 30.0

    decisions = [rig.admit("k2") for _ in range(5)]
    rig.close()

    assert hanging.degraded
    assert [decision.admitted for decision in decisions] == [True] * 4 + [False]


def test_what_is_known_meanwhile_is_not_read_again(colour: str) -> None:
    """
    A request that asked just before another's counter was started reads no books, which might be seeded after a loss.
    """
    rig = Rig(colour)
    plan = rig._sync.admission.plan(rig.request(), rig.clock())
    assert plan is not None
    rig.admit()

    is_started = rig.seeder.start(rig.request(), plan, (0,))
    rig.close()

    assert is_started
    assert len(rig.books.asked) == 1
