"""
How a process does, without asking anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from wsgi_rig import Rig, environ_of

from tokenbudget_mw.backends import open_pair
from tokenbudget_mw.backends.base import away_since
from tokenbudget_mw.backends.breaker import Circuit, Guarded
from tokenbudget_mw.backends.fallback import Fallback, LocalShare
from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.operators import Operators
from tokenbudget_mw.rules.admission import Admission
from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.upkeep.health import LATE
from tokenbudget_mw.values import Limit, Subject, Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_process_that_does_well_says_so() -> None:
    """
    Nothing is away, nothing waits, nothing was lost; what runs is counted.
    """

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x"

    rig = Rig(app, routes=[{"path": "/plain/*"}])
    stream: Any = rig.open(environ_of(PATH_INFO="/plain/x"))
    next(stream)
    during = rig.core.health()
    stream.close()
    rig.core.flush()
    after = rig.core.health()
    rig.core.close()

    assert (during.open_reservations, after.open_reservations) == (1, 0)
    assert (after.backend_away_since, after.books_away) == (None, False)
    assert (after.flusher.depth, after.flusher.flushed) == (0, 1)
    assert after.is_well


def test_usage_that_waits_for_a_minute_is_not_well() -> None:
    """
    A database that hangs raises no error and fails no try: what waits is all there is to see.
    """
    rig = Rig(lambda _environ, _start: [])
    well = rig.core.health()
    rig.core.close()
    late = replace(well, flusher=replace(well.flusher, depth=1, lag=LATE + 1))

    assert (well.is_well, late.is_well) == (True, False)


@pytest.mark.parametrize("figure", ["dropped", "dead_letters", "is_failing"])
def test_usage_that_is_lost_or_refused_is_not_well(figure: str) -> None:
    """
    Records that a full spool let go, that no database takes, or that one refuses for now.
    """
    rig = Rig(lambda _environ, _start: [])
    well = rig.core.health()
    rig.core.close()
    ill = replace(well, flusher=replace(well.flusher, **{figure: 1}))

    assert (well.is_well, ill.is_well) == (True, False)


def test_usage_that_only_memory_holds_is_not_well(tmp_path: Path) -> None:
    """
    A disk that is full, or a folder that is not to be written to, loses nothing yet; who could make room is told.
    """
    (tmp_path / "spool").write_text("in the way")
    settings = {"spool": "kill_safe", "spool_dir": str(tmp_path / "spool"), "routes": [{"path": "/plain/*"}]}
    rig = Rig(lambda _environ, start: (start("200 OK", []), [])[1], **settings)
    before = rig.core.health()
    list(rig.open(environ_of(PATH_INFO="/plain/x")))
    during = rig.core.health()
    (tmp_path / "spool").unlink()
    spool: Any = rig.core.spool
    spool._mine.get().make_at = 0.0  # seconds have passed
    rig.core.flusher.tick()
    after = rig.core.health()
    rig.core.close()

    assert [each.spool_exposed for each in (before, during, after)] == [False, True, False]
    assert [each.is_well for each in (before, during, after)] == [True, False, True]
    assert "tokenbudget_spool_exposed 1\n" in during.prometheus()


def test_counters_in_memory_that_stand_still_are_not_well() -> None:
    """
    A clock that was a day ahead and is set right: for that day nothing that is spent comes back, and health says how long.
    """
    settings: dict[str, Any] = {"routes": [{"path": "/plain/*"}], "plans": {"one": ["1 request/minute"]}}
    rig = Rig(lambda _environ, start: (start("200 OK", []), [])[1], **settings)
    rig.clock.advance(86_400)
    statuses = [rig.run(PATH_INFO="/plain/x").status]
    rig.clock.now -= 86_340
    statuses.append(rig.run(PATH_INFO="/plain/x").status)
    behind = rig.core.health()
    rig.clock.advance(86_340)
    level = rig.core.health()
    rig.core.close()

    assert statuses == [200, 429]
    assert (behind.clock_behind, level.clock_behind) == (86_340.0, 0.0)
    assert (behind.is_well, level.is_well) == (False, True)
    assert "tokenbudget_clock_behind_seconds 86340.0\n" in behind.prometheus()


def away(name: str, clock: FakeClock) -> tuple[Circuit, Fallback]:
    """
    A backend that has gone, as the wrappers see it.
    """
    circuit = Circuit(name, clock=clock)
    return circuit, Fallback(Guarded(MemoryBackend(), circuit, probe_every=3600.0), LocalShare())


def test_a_backend_that_is_away_says_since_when() -> None:
    """
    The moment is that at which it was given up, and is forgotten when it is back.
    """
    clock = FakeClock(100.0)
    circuit, backend = away("test", clock)
    before = away_since(backend)
    for _ in range(3):
        circuit.failed(BackendUnavailableError("gone"))
    clock.advance(50)
    during = away_since(backend)
    circuit.close()

    assert (before, during, away_since(backend)) == (None, 100.0, None)


@pytest.mark.parametrize("refusal_cache", [0, 1])
@pytest.mark.parametrize("scheme", ["redis", "leased+redis"])
def test_a_redis_that_is_away_is_told_of_however_it_is_asked(scheme: str, refusal_cache: int) -> None:
    """
    Whatever stands before the backend (refusals that are remembered, quota that is reserved ahead) hides no outage.
    """
    rig = Rig(
        lambda _environ, start: (start("200 OK", []), [])[1],
        backend=f"{scheme}://127.0.0.1:1/0",
        refusal_cache=refusal_cache,
        limits=[{"limit": "5 requests/minute", "on_backend_error": "allow"}],
        routes=[{"path": "/plain/*"}],
    )
    for _ in range(3):
        list(rig.open(environ_of(PATH_INFO="/plain/x")))
    health = rig.core.health()
    rig.core.close()

    assert health.backend_away_since is not None
    assert not health.is_well
    assert "tokenbudget_backend_up 0" in health.prometheus()


def test_a_backend_that_does_not_notice_is_up() -> None:
    """
    Memory is never away, and other people's backends need not say.
    """
    assert away_since(open_pair("memory://")[0]) is None


def test_an_explanation_says_that_the_backend_is_away() -> None:
    """
    Degraded, and since when: what is left is this process's own count.
    """
    clock = FakeClock(100.0)
    circuit, backend = away("test", clock)
    policy = Policy({}, (Limit("calls", "requests", 5, Window(60.0)),))
    operators = Operators(Admission(policy), backend, clock)
    up = operators.explain(Subject(key="k1"))
    for _ in range(3):
        circuit.failed(BackendUnavailableError("gone"))

    down = operators.explain(Subject(key="k1"))
    backend.close()

    assert (up.degraded, up.away_since) == (False, None)
    assert (down.degraded, down.away_since) == (True, 100.0)
