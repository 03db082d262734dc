"""Where no thread can start, which no request may fail for; and what a thread may meet in the midst of a request."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from asgi_rig import Rig, chat, status_of
from wsgi_rig import Rig as WSGIRig
from wsgi_rig import environ_of

from tokenbudget_mw import current, prices
from tokenbudget_mw.accounting.segments import Segment
from tokenbudget_mw.accounting.syncing import Syncer
from tokenbudget_mw.backends import memory
from tokenbudget_mw.backends.breaker import Circuit, Guarded
from tokenbudget_mw.backends.fallback import Fallback, LocalShare
from tokenbudget_mw.backends.leased import make_stock
from tokenbudget_mw.backends.limits_storage.drivers import _Memory as MemoryCounters
from tokenbudget_mw.backends.limits_storage.steps import Steps
from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.backends.negative import Refusals
from tokenbudget_mw.backends.redis import RedisBackend
from tokenbudget_mw.calls import call, marking
from tokenbudget_mw.cli import main
from tokenbudget_mw.counting.aside import Aside
from tokenbudget_mw.counting.learning import Factors
from tokenbudget_mw.database.key_cache import KeyCache
from tokenbudget_mw.database.live_tariffs import LiveTariffs
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.asks import ask, check, settlement
from tokenbudget_mw.threads import Bell
from tokenbudget_mw.upkeep.outcomes import Outcomes
from tokenbudget_mw.values import Price

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PRICE = Price("ceiling", "*", 10, 20)


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The system has no thread left, until this is undone."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return monkeypatch


class Away(MemoryBackend):
    """A backend that does not answer."""

    def settle(self, *_: object) -> bool:
        raise BackendUnavailableError("gone")

    reserve = settle  # type: ignore[assignment]


@pytest.mark.usefixtures("lacking")
def test_a_request_is_served_without_any_thread_of_ours(tmp_path: Path) -> None:
    """Limits, tariffs, books and spool: what they would do aside is done later, or at the end."""

    async def app(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"{}"})  # type: ignore[operator]

    url = f"sqlite:///{tmp_path / 'books.db'}"
    rig = Rig(
        app, database=url, spool="power_safe_window", spool_dir=str(tmp_path / "spool"), plans={"one": ["$5/month"]}
    )

    assert status_of(rig.run(chat())) == 200
    assert len(rig.rows()) == 1


@pytest.mark.usefixtures("lacking")
def test_prices_known_before_hold() -> None:
    """A quote takes the prices of the settings and the book, and the next time the database's are read."""
    tariffs = LiveTariffs((PRICE,), prices.load().find, "flag", PRICE, str, load=list, ttl=30.0)

    tariffs.warm()
    assert tariffs.quote("*", at=0.0).price == PRICE
    tariffs.close()


def test_a_backend_that_is_away_is_probed_when_a_thread_can_start(lacking: pytest.MonkeyPatch) -> None:
    """Calls are answered without the backend meanwhile, and settlements wait for it."""
    guarded = Guarded(Away(), Circuit("it", in_a_row=1), probe_every=0.01)
    fallback = Fallback(guarded, LocalShare())
    asked = ask(check(1, 100))

    assert fallback.reserve(asked, 0.0).degraded
    reply = MemoryBackend().reserve(asked, 0.0)
    assert Fallback(Guarded(Away(), Circuit("it")), LocalShare()).settle(settlement(asked, reply, 40), 0.0)
    lacking.undo()
    assert fallback.reserve(ask(check(1, 100)), 0.0).degraded
    assert "tokenbudget-probe" in {thread.name for thread in threading.enumerate()}
    fallback.close()


@pytest.mark.usefixtures("lacking")
def test_redis_without_a_thread_to_connect_is_away(redis_url: str) -> None:
    """The limit's policy holds, as it does when nobody listens."""
    backend = RedisBackend(redis_url)

    with pytest.raises(BackendUnavailableError):
        backend.reserve(ask(check(1, 100)), time.time())


def test_a_count_aside_is_turned_away(lacking: pytest.MonkeyPatch) -> None:
    """As where too much waits: the estimate stands. The next count finds a thread."""
    aside, done = Aside(), threading.Event()

    assert not aside.submit(done.set)
    lacking.undo()
    assert aside.submit(done.set)
    assert done.wait(10)
    aside.close()


def test_a_spool_is_synced_from_when_a_thread_can_start(lacking: pytest.MonkeyPatch) -> None:
    """A record is put all the same, and the next file tries again."""
    syncer = Syncer()
    syncer.start(0.01)
    lacking.undo()
    syncer.start(0.01)

    assert "tokenbudget-sync" in {thread.name for thread in threading.enumerate()}
    syncer.close(list[Segment]())


def dropped(rig: WSGIRig) -> None:
    """A stream that is in the midst of a reservation, and that nothing but the garbage collector will close."""
    stream = iter(rig.open(environ_of({}, PATH_INFO="/plain/x")))
    next(stream)
    cycle: list[object] = [stream]
    cycle.append(cycle)


def test_a_stream_that_the_collector_closes_within_an_admission_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collector may run in any step of a thread, and what it closes settles what it holds."""

    def app(_environ: object, start_response: Callable[..., object]) -> Iterator[bytes]:
        start_response("200 OK", [])
        with current().reserve(model="gpt-4o", prompt=400, max_output=200):
            yield b"x"
            yield b"y"

    take, statuses = memory.TAKE["strict_log"], list[int]()

    def collecting(*arguments: Any) -> Any:
        gc.collect()
        return take(*arguments)

    rig = WSGIRig(app, plans={"one": ["1000 tokens/minute"]})

    def ask_again() -> None:
        dropped(rig)
        with monkeypatch.context() as patched:
            patched.setitem(memory.TAKE, "strict_log", collecting)
            statuses.append(rig.run({}, PATH_INFO="/plain/x").status)

    gc.collect()
    gc.freeze()  # else each collection looks through all that other tests have left
    try:
        asking = threading.Thread(target=ask_again, daemon=True)
        asking.start()
        asking.join(30)
    finally:
        gc.unfreeze()

    assert statuses == [200]


class Charging:
    """Something in a cycle that charges when the garbage collector finds it, as a stream does that was left."""

    def __init__(self, charge: Callable[[], object]) -> None:
        self.charge, self.itself = charge, self

    def __del__(self) -> None:
        self.charge()


def test_what_the_collector_hands_aside_within_a_hand_over_holds_nothing_up() -> None:
    """On an event loop charges count in a thread: the collector may run in any step of telling it so."""
    rig, done = WSGIRig(lambda *_: []), list[int]()

    def hand_over() -> None:
        aside, work = rig.core.aside, partial(done.append, 1)
        for steps in range(1, 50):
            gc.disable()
            Charging(partial(aside, work))
            gc.set_threshold(gc.get_count()[0] + steps)
            gc.enable()
            aside(work)
        gc.set_threshold(*thresholds)
        gc.collect()
        rig.core.close()

    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    try:
        handing = threading.Thread(target=hand_over, daemon=True)
        handing.start()
        handing.join(30)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()

    assert len(done) == 2 * 49


@pytest.mark.usefixtures("lacking")
def test_what_is_counted_aside_is_counted_without_a_thread() -> None:
    """At once, then; the handler that charges on its event loop hears of nothing."""
    rig, done = WSGIRig(lambda *_: []), list[int]()

    rig.core.aside(lambda: done.append(1))

    assert done == [1]


def test_what_fails_aside_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What comes next is counted."""
    rig, done = WSGIRig(lambda *_: []), list[int]()

    rig.core.aside(lambda: 1 / 0)
    rig.core.aside(lambda: done.append(1))

    assert rig.core.flush()
    assert done == [1]
    assert "counted aside" in caplog.text
    rig.core.close()


def test_a_bell_rings_once_for_whoever_waits_next() -> None:
    """What rang before is heard, and forgotten then."""
    bell = Bell()
    bell.ring()
    bell.ring()

    bell.wait(None)
    before = time.monotonic()
    bell.wait(0.01)

    assert time.monotonic() - before >= 0.01


@pytest.mark.parametrize(
    "lock",
    [
        MemoryBackend()._lock,
        make_stock()._lock,
        Refusals(1.0)._lock,
        Steps()._lock,
        Circuit("it")._lock,
        Outcomes()._lock,
        call._ending,
        Factors()._lock,
        MemoryCounters(None)._lock,
    ],
    ids=["memory", "leased", "refusals", "limits", "circuit", "outcomes", "call", "factors", "limits-memory"],
)
def test_what_the_end_of_a_call_takes_may_be_taken_again(lock: Any) -> None:
    """Each lock on the way of a settlement, by the thread that holds it already."""
    with lock:
        assert lock.acquire(blocking=False)
        lock.release()


FALLBACK = Fallback(Guarded(MemoryBackend(), Circuit("it")), LocalShare())
HOLDERS: dict[str, tuple[Any, str]] = {
    "memory": (MemoryBackend(), "_lock"),
    "leased": (make_stock(), "_lock"),
    "refusals": (Refusals(1.0), "_lock"),
    "limits": (Steps(), "_lock"),
    "circuit": (Circuit("it"), "_lock"),
    "prober": (FALLBACK._backend, "_start"),
    "teller": (FALLBACK, "_start"),
    "outcomes": (Outcomes(), "_lock"),
    "call": (call, "_ending"),
    "marks": (marking, "_beginning"),
    "factors": (Factors(), "_lock"),
    "aside": (Aside(), "_lock"),
    "keys": (KeyCache(None, 1.0), "_lock"),  # type: ignore[arg-type]
    "limits-memory": (MemoryCounters(None), "_lock"),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("name", HOLDERS)
def test_a_child_that_is_forked_while_another_thread_holds_a_lock_finds_it_free(name: str) -> None:
    """A handler may start a process by a fork while others are served; the thread that held the lock is not in the child."""
    holder, attribute = HOLDERS[name]
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with getattr(holder, attribute):
            held.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    child = os.fork()
    if not child:
        os._exit(0 if getattr(holder, attribute).acquire(blocking=False) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    over.set()
    thread.join()

    assert status == 0


PRELOADED = """
import os
import signal
import sys

from tokenbudget_mw import Subject
from tokenbudget_mw.tasks import task
from tokenbudget_mw.wiring import wire

core = wire({"database": sys.argv[1], "plans": {"one": ["$5/month"]}, "default_plan": "one", "spool": "memory"})
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

from gevent import monkey, sleep

monkey.patch_all()
signal.alarm(20)
for _ in range(3):
    with task(core, Subject(key="k1")) as call, call.reserve(model="gpt-4o", prompt=1, max_output=1) as held:
        held.charge({"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    core.aside(lambda: None)
    sleep(0.01)
os._exit(0 if core.flush() else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_an_app_that_is_loaded_before_gevent_patches(sqlite_database: str) -> None:
    """`gunicorn -k gevent --preload`: threads are greenlets then, and what ours wait on must let the others run."""
    pytest.importorskip("gevent")
    assert main(["migrate", "--database", sqlite_database]) == 0

    done = subprocess.run(
        [sys.executable, "-c", PRELOADED, sqlite_database], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
