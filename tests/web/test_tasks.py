"""
Work outside of requests: handed over, charged at once, on the same books and limits.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import asgi_rig
import pytest
import wsgi_rig

from tokenbudget_mw import Subject, current, own_limits
from tokenbudget_mw.calls.call import Call, running
from tokenbudget_mw.calls.marking import Marking
from tokenbudget_mw.charging import charge, tags
from tokenbudget_mw.errors import BudgetExceeded, TokenBudgetError
from tokenbudget_mw.tasks import hand_over, task
from tokenbudget_mw.testing.budget import BudgetTester
from tokenbudget_mw.upkeep.heartbeat import Heartbeat
from tokenbudget_mw.values import Reservation

USAGE = {"model": "gpt-4o", "usage": {"prompt_tokens": 8, "completion_tokens": 5}}
LIMIT = 100


@pytest.fixture
def tester() -> Iterator[BudgetTester]:
    """A core with one limit on tokens."""
    made = BudgetTester({"plans": {"one": [f"{LIMIT} tokens/minute"]}, "default_plan": "one"})
    yield made
    made.close()


def left(tester: BudgetTester, subject: Subject) -> int:
    """What is left of the limit."""
    return tester.decide(subject).tallies[0].state.remaining


def test_a_task_is_charged_to_who_is_named(tester: BudgetTester) -> None:
    """Each charge is a row, and counts, at once; inside, the task is the current call."""
    subject = Subject(key="k1", tenant="acme")
    with task(tester.core, subject, name="nightly") as call:
        assert current() is call
        current().charge(USAGE)
        (row,) = tester.rows()
        assert left(tester, subject) == LIMIT - 13
        current().charge(USAGE)

    assert running.get() is None
    assert (row.method, row.path, row.key_id, row.tenant_id) == ("TASK", "nightly", "k1", "acme")
    assert (row.total_tokens, row.settle_reason, row.decision, row.usage_source) == (
        13,
        "complete",
        "admitted",
        "reported",
    )
    assert row.cost_pico > 0
    assert len({each.id for each in tester.rows()}) == 2
    assert left(tester, subject) == LIMIT - 26
    assert tester.core.health().outcomes["complete"] == 2


def test_a_charge_without_a_call_is_complete(tester: BudgetTester) -> None:
    """It is on the books at once, with the outcome of a response that came to its end, and counts."""
    subject = Subject(key="k1", tenant="acme")
    charge(tester.core, subject, USAGE)

    (row,) = tester.rows()
    assert (row.method, row.path, row.key_id, row.tenant_id, row.total_tokens) == ("CHARGE", "", "k1", "acme", 13)
    assert (row.settle_reason, row.decision, row.usage_source) == ("complete", "admitted", "reported")
    assert left(tester, subject) == LIMIT - 13


def test_what_a_task_has_said_stands_when_it_fails(tester: BudgetTester) -> None:
    """The model was called, whatever became of the rest."""

    def work() -> None:
        with task(tester.core, Subject(key="k1")):
            current().charge(USAGE)
            raise LookupError

    with pytest.raises(LookupError):
        work()

    assert [row.total_tokens for row in tester.rows()] == [13]


def test_a_task_in_a_generator(tester: BudgetTester) -> None:
    """What goes on in another context than it began in, as a framework's threads run a generator, ends all the same."""

    def work() -> Iterator[None]:
        with task(tester.core, Subject(key="k1")) as call:
            yield
            call.charge(USAGE)

    generator = work()
    contextvars.copy_context().run(next, generator)
    contextvars.copy_context().run(list, generator)

    assert [row.total_tokens for row in tester.rows()] == [13]


def test_a_task_reserves(tester: BudgetTester) -> None:
    """What does not fit is refused, and takes nothing; what fits is held, and settled once."""
    subject = Subject(key="k1")
    with task(tester.core, subject) as call:
        with pytest.raises(BudgetExceeded, match="tokens-minute"), call.reserve(model="gpt-4o", prompt=5000):
            raise AssertionError
        with call.reserve(model="gpt-4o", prompt=20, max_output=30) as held:
            assert left(tester, subject) == LIMIT - 50
            held.charge(USAGE)

    assert [row.total_tokens for row in tester.rows()] == [13]
    assert left(tester, subject) == LIMIT - 13


def test_a_task_on_an_event_loop(tester: BudgetTester) -> None:
    """The same in async code; each task of a loop has its own."""
    subjects = [Subject(key=f"k{number}") for number in range(3)]

    async def work(subject: Subject) -> str:
        with task(tester.core, subject):
            await asyncio.sleep(0)
            async with current().reserve(model="gpt-4o", prompt=20, max_output=30) as held:
                held.charge(USAGE)
            current().charge(USAGE)
            return current().payer.key or ""

    async def run() -> list[str]:
        return await asyncio.gather(*map(work, subjects))

    assert asyncio.run(run()) == ["k0", "k1", "k2"]
    tester.core.close()  # what was charged on the loop counts in a thread
    assert [left(tester, subject) for subject in subjects] == [LIMIT - 26] * 3
    assert len(tester.rows()) == 6


def handed(**settings: Any) -> tuple[Any, dict[str, Any]]:
    """What a handler hands over, through JSON, as a queue does; and its rig."""
    found: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        current().tag(feature="search", step="ask")
        with tags(step="queue"):
            found.append(json.dumps(hand_over()))
        start_response("200 OK", [])
        return [b"x"]

    rig = wsgi_rig.Rig(app, **settings)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    rig.run(PATH_INFO="/plain/x", HTTP_TRACEPARENT=trace)
    return rig, json.loads(found[0])


def test_a_request_hands_over_to_a_task() -> None:
    """Subject, labels, trace and the request's id go along; limits and books are the same."""
    rig, payer = handed(record_requests=True)
    with task(rig.core, payer, name="summarize"):
        current().charge(USAGE)

    request, row = rig.rows()
    assert (row.key_id, row.path, row.tags) == ("k1", "summarize", {"feature": "search", "step": "queue"})
    assert row.correlation_id == request.id
    assert row.trace_id == "0af7651916cd43dd8448eb211c80319c"


def test_limits_of_its_own_go_along() -> None:
    """A subject's own limits hold in the task."""
    subject = Subject(key="k1", limits=own_limits("20 tokens/day"))
    rig, payer = handed(identify=lambda _: subject)

    with task(rig.core, payer) as call:
        assert call.payer == subject
        with pytest.raises(BudgetExceeded, match="tokens-day"), call.reserve(model="gpt-4o", prompt=30, max_output=1):
            raise AssertionError


@pytest.mark.parametrize("payer", [{}, {"subject": {"key": 7}}, "k1", None, {"subject": None}])
def test_what_nobody_handed_over_is_no_payer(tester: BudgetTester, payer: Any) -> None:
    """A task that was queued otherwise says what it wants."""
    with pytest.raises(TokenBudgetError, match="what hand_over"), task(tester.core, payer):
        raise AssertionError


def test_nothing_is_handed_over_outside_of_a_request() -> None:
    """There is nobody who could pay."""
    with pytest.raises(TokenBudgetError, match="No metered request"):
        hand_over()


def test_a_task_may_write_its_rows_itself(tester: BudgetTester) -> None:
    """For workers whose process ends with the task."""
    with task(tester.core, Subject(key="k1"), flush=True):
        current().charge(USAGE)

    assert tester.core.health().flusher.depth == 0
    assert tester.core.health().flusher.flushed == 1


def test_the_last_flush_counts_what_is_counted_aside(tester: BudgetTester) -> None:
    """What is charged on an event loop counts in a thread, and a worker's process may end with the task."""
    go, subject = threading.Event(), Subject(key="k1")

    async def work() -> None:
        with task(tester.core, subject, flush=True):
            tester.core.aside(go.wait)
            current().charge(USAGE)
            threading.Timer(0.1, go.set).start()

    asyncio.run(work())

    assert left(tester, subject) == LIMIT - 13


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("step", ["mark", "last"])
def test_a_time_limit_within_a_reservation_leaves_nothing_alive(
    tester: BudgetTester, monkeypatch: pytest.MonkeyPatch, step: str, is_async: bool
) -> None:
    """A queue's soft time limit may raise in any step: what no block ends is not kept, and ends by its lease."""
    hold = Heartbeat.hold

    def held(heartbeat: Heartbeat, reservation: Reservation) -> None:
        hold(heartbeat, reservation)
        raise TimeoutError

    if step == "mark":
        monkeypatch.setattr(Marking, "hold", Mock(side_effect=TimeoutError))
    else:
        monkeypatch.setattr(Heartbeat, "hold", held)

    async def awaited(call: Call) -> None:
        async with call.reserve(model="gpt-4o"):
            raise AssertionError

    def entered(call: Call) -> None:
        with call.reserve(model="gpt-4o"):
            raise AssertionError

    with task(tester.core, Subject(key="k1")) as call, pytest.raises(TimeoutError):
        asyncio.run(awaited(call)) if is_async else entered(call)

    assert len(tester.core.heartbeat) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_reservation_is_kept_alive_while_its_block_runs(tester: BudgetTester, fails: bool) -> None:
    """Not after it, however it ends: the work that goes on may last for hours, and make many."""
    alive: list[int] = []

    async def work(call: Call) -> None:
        async with call.reserve(model="gpt-4o", prompt=1, max_output=1):
            alive.append(len(tester.core.heartbeat))
            if fails:
                raise LookupError

    with task(tester.core, Subject(key="k1")) as call:
        with suppress(LookupError):
            asyncio.run(work(call))
        with suppress(LookupError), call.reserve(model="gpt-4o", prompt=1, max_output=1):
            alive.append(len(tester.core.heartbeat))
            if fails:
                raise LookupError
        alive.append(len(tester.core.heartbeat))

    assert alive == [1, 1, 0]


def test_what_outlives_its_task_is_charged_and_not_marked(
    tester: BudgetTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may go on behind the block. Nobody would take its mark away, and a killed process has no such orphan."""
    with task(tester.core, Subject(key="k1")) as call:
        pass
    marked = Mock(return_value=None)
    monkeypatch.setattr(tester.core.spool, "mark", marked)

    with call.reserve(model="gpt-4o", prompt=20, max_output=30) as held:
        held.charge(USAGE)

    assert [row.total_tokens for row in tester.rows()] == [13]
    assert not marked.called


class TestThreads:
    """What a handler starts itself."""

    def run(self, start: Any) -> Any:
        """Let a sync handler start a thread, and return the rows."""

        def app(environ: Any, start_response: Any) -> list[bytes]:
            thread = start()
            thread.start()
            thread.join()
            start_response("200 OK", [])
            return [b"x"]

        rig = wsgi_rig.Rig(app)
        rig.run(PATH_INFO="/plain/x")
        return [row.total_tokens for row in rig.rows()]

    def test_in_a_copy_of_the_context(self) -> None:
        """`current()` is the request."""

        def start() -> threading.Thread:
            context = contextvars.copy_context()
            return threading.Thread(target=context.run, args=(lambda: current().charge(USAGE),))

        assert self.run(start) == [13]

    def test_with_the_call_in_hand(self) -> None:
        """A call may be charged from any thread."""

        def start() -> threading.Thread:
            return threading.Thread(target=current().charge, args=(USAGE,))

        assert self.run(start) == [13]

    def test_without_either(self) -> None:
        """A thread that was given nothing charges nobody, and hears of it."""
        said: list[str] = []

        def charge() -> None:
            try:
                current().charge(USAGE)
            except TokenBudgetError as error:
                said.append(str(error))

        rows = self.run(lambda: _bare(charge))

        assert rows == [0]
        assert said[0].startswith("No metered request runs here")


def _bare(target: Any) -> threading.Thread:
    """A thread without a context, as Python starts them up to 3.13."""
    return threading.Thread(target=contextvars.Context().run, args=(target,))


def test_to_thread_and_tasks_of_a_loop_take_the_context_along() -> None:
    """What `asyncio` starts charges the request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(lambda: current().charge(USAGE))
        await asyncio.create_task(charge())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def charge() -> None:
        current().charge(USAGE)

    rig = asgi_rig.Rig(app)
    rig.run(asgi_rig.request(b""), path="/plain/x")

    assert [row.total_tokens for row in rig.rows()] == [26]


def test_a_websocket_charges_while_it_is_open() -> None:
    """`current()` is the connection."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        current().charge(USAGE)
        await asyncio.to_thread(lambda: current().charge(USAGE))
        await send({"type": "websocket.close", "code": 1000})

    rig = asgi_rig.Rig(app)
    rig.run({"type": "websocket.connect"}, type="websocket", path="/plain/x", method="GET")

    (row,) = rig.rows()
    assert (row.total_tokens, row.status, row.key_id) == (26, 101, "k1")
