"""
P6: a call that runs longer than its lease keeps its reservation; a process that is gone does not.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asgi_rig import Rig, status_of, subject_of
from wsgi_rig import Got, environ_of
from wsgi_rig import Rig as WSGIRig

from tokenbudget_mw.calls.call import current
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.upkeep.heartbeat import LONGEST, Heartbeat
from tokenbudget_mw.values import Cost, Reservation
from tokenbudget_mw.wiring import wire
from tokenbudget_mw.wsgi import WSGIMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.core import Core

LEASE = 40.0
PLAIN: dict[str, Any] = {"routes": [{"path": "/plain/*"}], "lease": LEASE}


def pass_time(core: Core, clock: FakeClock, seconds: float, *, beats: bool = True) -> None:
    """
    Let time pass as the heartbeat's thread sees it: in quarters of a lease.
    """
    for _ in range(int(seconds / (LEASE / 4))):
        clock.advance(LEASE / 4)
        if beats:
            core.heartbeat.beat()


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> str:
    """
    URL of a backend, on the test's clock.
    """
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("redis_db"))


@pytest.mark.parametrize("beats", [True, False])
def test_p6_a_stream_of_three_leases_keeps_its_place(backend: str, beats: bool) -> None:
    """
    The one concurrent call that is allowed still runs after three leases; without heartbeats its place were free.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/plain/stream":
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                pass_time(rig.core, rig.clock, LEASE, beats=beats)
            seen.append(status_of(await rig.arun(path="/plain/other")))
        await send({"type": "http.response.body", "body": b""})

    seen: list[int] = []
    rig = Rig(app, **PLAIN, backend=backend, deadline=5.0)

    async def main() -> int:
        await rig.arun(path="/plain/stream")
        after = status_of(await rig.arun(path="/plain/other"))
        await rig.core.async_guard.backend.aclose()
        return after

    after = asyncio.run(main())
    rig.core.close()

    assert seen == [429 if beats else 200]
    assert after == 200
    assert len(rig.core.heartbeat) == 0


def test_p6_a_stream_of_wsgi_keeps_its_place() -> None:
    """
    From the first byte to the server's close.
    """

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"
        yield b"two"

    rig = WSGIRig(app, **PLAIN)
    stream: Any = rig.open(environ_of(PATH_INFO="/plain/stream"))
    assert next(stream) == b"one"
    pass_time(rig.core, rig.clock, 3 * LEASE)
    during = rig.run(PATH_INFO="/plain/other").status
    stream.close()
    after = rig.run(PATH_INFO="/plain/other").status
    rig.core.close()

    assert (during, after) == (429, 200)


@pytest.mark.parametrize("beats", [True, False])
def test_p6_a_reservation_of_a_handler_is_kept_too(beats: bool) -> None:
    """
    A model call inside `current().reserve()` may take three leases, and still counts for what it reserved.
    """
    left: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/plain/long":
            with current().reserve(model="m", prompt=600, max_output=0) as held:
                pass_time(rig.core, rig.clock, 3 * LEASE, beats=beats)
                left.append(rig.run(PATH_INFO="/plain/short", subject="k1").status)
                held.charge({"input_tokens": 10, "output_tokens": 0, "model": "m"})
        else:
            with current().reserve(model="m", prompt=600, max_output=0):
                pass
        start_response("200 OK", [])
        return [b""]

    plans = {"one": ["1000 tokens/calendar day"]}
    rig = WSGIRig(app, **PLAIN, plans=plans)
    rig.run(PATH_INFO="/plain/long")
    rig.core.close()

    assert left == [429 if beats else 200]


STREAMING = """
import sys
sys.path[:0] = sys.argv[2:]
from test_heartbeat import PLAIN
from wsgi_rig import Got, environ_of, subject_of
from tokenbudget_mw.wiring import wire
from tokenbudget_mw.wsgi import WSGIMiddleware

def app(environ, start_response):
    start_response("200 OK", [])
    while True:
        yield b"x"

core = wire(PLAIN | {"backend": sys.argv[1], "identify": subject_of, "plans": {"one": ["1 concurrent"]}, "lease": 1})
beat = core.heartbeat.beat

def told():
    print(beat(), flush=True)

core.heartbeat.beat = told
stream = WSGIMiddleware(app, core)(environ_of(PATH_INFO="/plain/stream"), Got().start_response)
next(stream)
sys.stdin.readline()
"""


def test_p6_a_killed_process_gives_its_place_back_and_a_living_one_does_not(redis_db: str) -> None:
    """
    In real time: after three leases the stream of another process still counts; killed, it counts for one lease more.
    """
    here = Path(__file__).parent
    command = [sys.executable, "-c", STREAMING, redis_db, str(here), str(here.parent / "support")]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    plans = {"one": ["1 concurrent"]}
    core = wire(PLAIN | {"backend": redis_db, "identify": subject_of, "plans": plans, "deadline": 5.0, "lease": 1.0})

    def ask() -> int:
        got = Got()
        list(WSGIMiddleware(app, core)(environ_of(PATH_INFO="/plain/other"), got.start_response))
        return got.status

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        beats = [
            process.stdout.readline().strip() for _ in range(13)
        ]  # the first comes a quarter of a lease after the start
        while_it_lives = ask()
        process.kill()
    killed = time.monotonic()
    while (status := ask()) == 429 and time.monotonic() < killed + 30:
        pass
    core.close()

    assert beats.count("1") >= 12
    assert (while_it_lives, status) == (429, 200)


# -- the mechanism ----------------------------------------------------------------------------------------------------


class Backend:
    """
    Remembers what is renewed, and may be away.
    """

    def __init__(self) -> None:
        self.renewed: list[str] = []
        self.is_away = False
        self.error: type[Exception] = BackendUnavailableError
        self.beaten = threading.Event()

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        if self.is_away:
            raise self.error("gone")
        self.renewed.append(reservation.id)
        self.beaten.set()
        return True


@pytest.fixture
def clock() -> FakeClock:
    """
    A clock at 0.
    """
    return FakeClock(0.0)


@pytest.fixture
def made(clock: FakeClock) -> Iterator[tuple[Heartbeat, Backend]]:
    """
    A heartbeat whose thread never comes to beat by itself.
    """
    backend = Backend()
    heartbeat = Heartbeat(backend, 3600.0, clock)  # type: ignore[arg-type]
    yield heartbeat, backend
    heartbeat.close()


def reservation(name: str, now: float, lease: float = 3600.0) -> Reservation:
    return Reservation(name, "t", (), (), Cost(), now + lease)


def test_only_what_is_older_than_a_quarter_is_renewed(made: Any, clock: FakeClock) -> None:
    """
    Short calls never cost a round trip; one that is dropped is renewed no more.
    """
    heartbeat, backend = made
    old = reservation("old", 0.0)
    heartbeat.hold(old)
    clock.advance(899)
    heartbeat.hold(reservation("new", clock()))

    counts = [heartbeat.beat()]
    clock.advance(1)
    counts.append(heartbeat.beat())
    heartbeat.drop(old)
    heartbeat.drop(old)
    counts.append(heartbeat.beat())

    assert counts == [0, 1, 0]
    assert backend.renewed == ["old"]
    assert len(heartbeat) == 1


def test_p6_a_clock_that_goes_back_ends_no_lease(made: Any, clock: FakeClock) -> None:
    """
    A call from before the step is renewed at each beat, and those behind it when they are due.
    """
    heartbeat, backend = made
    clock.advance(7200)
    heartbeat.hold(reservation("before", clock()))
    clock.now -= 7200
    heartbeat.hold(reservation("behind", clock()))
    clock.advance(900)

    assert heartbeat.beat() == 2
    assert backend.renewed == ["before", "behind"]


def test_a_call_that_nobody_ends_is_given_up(made: Any, clock: FakeClock) -> None:
    """
    After a day the lease of a lost call ends like any other.
    """
    heartbeat, _ = made
    heartbeat.hold(reservation("lost", 0.0))

    clock.advance(3600 + LONGEST)
    last = heartbeat.beat()
    clock.advance(1)
    none = heartbeat.beat()

    assert (last, none, len(heartbeat)) == (1, 0, 0)


@pytest.mark.parametrize("error", [BackendUnavailableError, RuntimeError])
def test_a_backend_that_is_away_is_asked_at_the_next_beat(
    made: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    """
    One failure ends the beat: the others would fail, too, each after its deadline. It never ends the thread, whatever it is.
    """
    heartbeat, backend = made
    backend.error = error
    for number in range(3):
        heartbeat.hold(reservation(str(number), 0.0))
    clock.advance(900)
    backend.is_away = True

    with caplog.at_level(logging.WARNING, "tokenbudget_mw"):
        away = heartbeat.beat()
    backend.is_away = False

    assert (away, heartbeat.beat(), backend.renewed) == (0, 3, ["0", "1", "2"])
    assert len(caplog.records) == 1


def test_the_thread_beats_and_can_be_stopped_and_started(clock: FakeClock) -> None:
    """
    It starts with the first reservation, ends with `close`, and starts again with the next.
    """
    backend = Backend()
    heartbeat = Heartbeat(backend, 0.04, clock)  # type: ignore[arg-type]
    first = heartbeat._thread
    heartbeat.hold(reservation("one", -1.0, 0.04))
    assert backend.beaten.wait(30)
    running = heartbeat._thread
    heartbeat.close()
    assert running is not None
    is_stopped = not running.is_alive()
    backend.beaten.clear()
    heartbeat.hold(reservation("two", -1.0, 0.04))

    assert backend.beaten.wait(30)
    heartbeat.close()
    assert (first, is_stopped) == (None, True)


def test_the_thread_ends_with_a_core_that_nobody_uses(clock: FakeClock) -> None:
    """
    A heartbeat that was never closed is not kept alive by its own thread.
    """
    heartbeat = Heartbeat(Backend(), 0.04, clock)  # type: ignore[arg-type]
    heartbeat.hold(reservation("one", 0.0))
    thread = heartbeat._thread
    assert thread is not None

    del heartbeat
    gc.collect()
    thread.join(30)

    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_renews_nothing_of_its_parents(made: Any) -> None:
    """
    The calls are the parent's, and so is its thread: the child starts one of its own.
    """
    heartbeat, _ = made
    heartbeat.hold(reservation("parents", 0.0))

    pid = os.fork()
    if pid == 0:
        is_new = len(heartbeat) == 0 and heartbeat._thread is None
        heartbeat.hold(reservation("mine", 0.0))
        os._exit(0 if is_new and heartbeat._thread.is_alive() else 1)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert len(heartbeat) == 1


def test_both_protocols_leave_nothing_behind() -> None:
    """
    Refused, failed, abandoned: whatever becomes of a call, it is open no more.
    """

    def failing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ValueError("of the app")

    async def afailing(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    rig, arig = WSGIRig(failing, **PLAIN), Rig(afailing, **PLAIN)
    with pytest.raises(ValueError, match="of the app"):
        rig.run(PATH_INFO="/plain/x")
    with pytest.raises(asyncio.CancelledError):
        arig.run(path="/plain/x")

    assert (len(rig.core.heartbeat), len(arig.core.heartbeat)) == (0, 0)
    rig.core.close()
    arig.core.close()
