"""
Storages of the ``limits`` package: real ones, in both colours, where they keep the contract, and where they promise less.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from tokenbudget_mw import backends
from tokenbudget_mw.backends import open_async_backend, open_backend, open_pair
from tokenbudget_mw.backends.limits_storage import open_colours
from tokenbudget_mw.errors import BackendUnavailableError, ConfigurationError, MissingExtraError
from tokenbudget_mw.testing.backends import HOUR, START, BackendContract, Blocking, ask, check, in_flight, settlement
from tokenbudget_mw.values import Seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend

pytest.importorskip("limits")


@pytest.fixture(scope="module")
def memcached() -> Iterator[str]:
    """
    URL of a memcached: the one in ``TOKENBUDGET_TEST_MEMCACHED_URL`` (``memcached://host:port``), else a stand-in's.
    """
    url = os.environ.get("TOKENBUDGET_TEST_MEMCACHED_URL")
    if url:
        yield f"limits+{url}"
        return
    from memcached_server import MemcachedServer

    server = MemcachedServer()
    yield server.url
    server.close()


@pytest.fixture
def empty_memcached(memcached: str) -> str:
    """
    URL of an empty memcached.
    """
    host, _, port = memcached.rpartition("://")[2].partition(":")
    with socket.create_connection((host, int(port)), 5) as talk:
        talk.sendall(b"flush_all\r\n")
        assert talk.recv(64) == b"OK\r\n"
    return memcached


@pytest.fixture
def storage(request: pytest.FixtureRequest, storage_name: str) -> str:
    """
    URL of an empty storage.
    """
    if storage_name == "memory":
        return "limits+memory://"
    if storage_name == "redis":
        return f"limits+{request.getfixturevalue('redis_db')}"
    url: str = request.getfixturevalue("empty_memcached")
    return url


class WeakerContract(BackendContract):
    """
    The promises that hold, and in place of the others what holds there.

    A trailing window has 4 slots instead of 60, so what is charged leaves up to a quarter of the window later.
    """

    @pytest.fixture(params=["memory", "redis", "memcached"])
    def storage_name(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    def test_t06_retry_after_is_the_first_moment_at_which_the_cost_fits(self, backend: Backend) -> None:
        """
        It is exact, and up to a quarter of the window later than that of a finer log.
        """
        for second in range(10):
            assert backend.reserve(ask(check(10, 100)), START + second).admitted
        refused = backend.reserve(ask(check(50, 100)), START + 20)
        wait = refused.states[0].retry_after

        assert wait == 50.0
        assert not backend.reserve(ask(check(50, 100)), START + 20 + wait - 1e-6).admitted
        assert backend.reserve(ask(check(50, 100)), START + 20 + wait).admitted

    def test_shadow_checks_that_fit_are_charged_when_the_request_is_admitted(self, backend: Backend) -> None:
        """
        A shadow limit counts what it would have counted had it been enforced.
        """
        shadow = check(1, 1, "shadow:60", enforced=False)
        assert not backend.reserve(ask(check(1, 0), shadow), START).admitted
        first = backend.reserve(ask(check(), shadow), START)
        second = backend.reserve(ask(check(), shadow), START)

        assert first.states[1].fits
        assert not second.states[1].fits
        assert second.admitted
        assert second.states[1].retry_after == 70.0

    def test_settle_may_go_into_debt_which_time_pays(self, backend: Backend) -> None:
        """
        Settling never refuses; later asks wait until the window is below its cap again.
        """
        asked = ask(check(1, 10))
        backend.settle(settlement(asked, backend.reserve(asked, START), 25), START + 1)
        refused = backend.reserve(ask(check(1, 10)), START + 1)

        assert not refused.admitted
        assert refused.states[0].remaining == 0
        assert backend.reserve(ask(check(0, 10)), START + 1).admitted
        assert refused.states[0].retry_after == 69.0
        assert backend.reserve(ask(check(1, 10)), START + 70).admitted

    def test_settle_counts_where_it_was_reserved(self, backend: Backend) -> None:
        """
        The truth leaves the window when the reservation would have, with its slot.
        """
        asked = ask(check(1, 10))
        backend.settle(settlement(asked, backend.reserve(asked, START), 7), START + 30)

        assert self.used(backend, START + 69.999) == 7
        assert self.used(backend, START + 70) == 0

    def test_an_operator_takes_charges_off_the_newest_first(self, backend: Backend) -> None:
        """
        A credit frees at once, takes no more than there is, and makes no counter that was not there.
        """
        for second, cost in ((0, 4), (15, 3), (30, 2)):
            backend.reserve(ask(check(cost, 10)), START + second)
        backend.credit(ask(check(4, 10), check(4, 10, "other:60"), check(4, 10, counter="key=new")), START + 31)

        assert self.used(backend, START + 31) == 5
        assert self.used(backend, START + 70) == 1
        assert self.used(backend, START + 31, window="other:60") == 0
        backend.credit(ask(check(2**53 - 1, 10)), START + 31)
        assert self.used(backend, START + 31) == 0

    def test_a_clock_that_steps_back_frees_and_loses_nothing(self, backend: Backend) -> None:
        """
        This process keeps the newest moment that it has seen.
        """
        backend.reserve(ask(check(6, 10)), START)
        backend.reserve(ask(check(1, 10)), START + 30)
        back = backend.reserve(ask(check(4, 10)), START - 1000)

        assert not back.admitted
        assert back.states[0].retry_after == 1000 + 70
        assert backend.peek(ask(check(3, 10)), START - 1000).admitted

    def test_t01_parallel_requests_never_pass_a_limit(self, backend: Backend) -> None:
        """
        Never more than 60 of 200 on [100/hour, 60/day]; what lost a race has charged nothing, and can be had afterwards.
        """
        hour = check(1, 100, "requests:3600", params=HOUR)
        day = check(1, 60, "requests:86400", params=(1_440_000_000, 60))
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda _: backend.reserve(ask(hour, day), START), range(200)))
        admitted = sum(reply.admitted for reply in replies)

        assert admitted <= 60
        assert self.used(backend, window="requests:3600", params=HOUR) == admitted
        admitted += sum(backend.reserve(ask(hour, day), START).admitted for _ in range(61))
        assert admitted == 60
        assert self.used(backend, window="requests:86400", params=(1_440_000_000, 60)) == 60


class TestThreads(WeakerContract):
    @pytest.fixture
    def backend(self, storage: str) -> Iterator[Backend]:
        backend = open_colours(storage, 5.0)[0]
        yield backend
        backend.close()


class TestLoop(WeakerContract):
    @pytest.fixture
    def backend(self, storage: str) -> Iterator[Backend]:
        backend = Blocking(open_colours(storage, 5.0)[1])
        yield backend
        backend.close()


class Opened:
    """
    Backends that are closed however their test ends.
    """

    def __init__(self) -> None:
        self._closing = ExitStack()

    def pair(self, url: str, deadline: float = 5.0) -> tuple[Backend, Backend]:
        """
        Open *url* in both colours, without breaker and fallback: one process.
        """
        threads, loops = open_colours(url, deadline)
        return self.keep(threads), self.keep(Blocking(loops))

    def keep(self, backend: Any) -> Any:
        """
        Close *backend* in the end.
        """
        self._closing.callback(backend.close)
        return backend

    def close(self) -> None:
        """
        Close all.
        """
        self._closing.close()


@pytest.fixture
def opened() -> Iterator[Opened]:
    """
    Opens backends.
    """
    opened = Opened()
    yield opened
    opened.close()


@pytest.mark.parametrize("storage_name", ["memory", "redis", "memcached"])
class TestTogether:
    def test_both_colours_count_together(self, storage: str, opened: Opened) -> None:
        """
        A reservation made on a loop is settled by a thread of the same process.
        """
        threads, loop = opened.pair(storage)
        asked = ask(check(8, 10), in_flight(1))
        reply = loop.reserve(asked, START)
        refused = threads.reserve(ask(check(8, 10)), START)

        assert reply.admitted
        assert not refused.admitted
        assert threads.settle(settlement(asked, reply, 3, 1), START)
        assert threads.reserve(ask(check(7, 10), in_flight(1)), START).admitted

    def test_a_period_longer_than_thirty_days_is_counted(self, storage: str, opened: Opened) -> None:
        """
        Memcached would take its seconds for a moment long ago.
        """
        now = time.time()
        begin, day = int(now) * 1_000_000, 86_400_000_000
        month: dict[str, Any] = {"algorithm": "calendar", "params": (begin, begin + 31 * day, begin + 61 * day)}
        for backend in opened.pair(storage):
            counter = f"key={type(backend).__name__}"
            backend.reserve(ask(check(6, 10, "money:month", counter=counter, **month)), now)
            refused = backend.reserve(ask(check(6, 10, "money:month", counter=counter, **month)), now)

            assert not refused.admitted
            assert refused.states[0].remaining == 4

    def test_names_that_no_storage_would_take_are_counted(self, storage: str, opened: Opened) -> None:
        """
        Spaces, line ends and great length reach no storage, and the names of subjects stay at home.
        """
        odd = "key=" + "ä b\r\n\x00" * 100
        replies = [
            backend.reserve(ask(check(6, 10, counter=odd), tag="t " * 300), START) for backend in opened.pair(storage)
        ]

        assert [reply.admitted for reply in replies] == [True, False]

    def test_a_bar_holds_in_the_storage(self, storage: str, opened: Opened) -> None:
        """
        It is there for both colours until it is taken away.
        """
        threads, loop = opened.pair(storage)
        asked = [replace(ask(check()), holder="key=k1") for _ in range(3)]
        threads.bar("acme", "key=k1", "revoked", 3600.0, START)
        barred = [threads.reserve(asked[0], START), loop.reserve(asked[1], START)]
        threads.bar("acme", "key=k1", "", 0.0, START)

        assert [(reply.admitted, reply.barred) for reply in barred] == [(False, "revoked")] * 2
        assert threads.reserve(asked[2], START).admitted

    def test_a_loop_renews_seeds_and_bars(self, storage: str) -> None:
        """
        As threads do.
        """
        backend = open_colours(storage, 5.0)[1]
        month: dict[str, Any] = {"algorithm": "calendar", "params": (0, int(2e15), int(3e15)), "window": "money:month"}
        booked = replace(check(3, 10, **month), is_booked=True)

        async def all_of_it() -> list[Any]:
            asked = [replace(ask(booked), holder="key=k1") for _ in range(4)]
            unseeded = await backend.reserve(asked[0], START)
            await backend.seed("acme", [Seed("key=k1", "money:month", "calendar", month["params"], ((0, 7),))], START)
            seeded = await backend.reserve(asked[1], START)
            reservation = settlement(asked[1], seeded).reservation
            renewed = await backend.renew(reservation, 60.0, START)
            await backend.settle(settlement(asked[1], seeded), START)
            late = await backend.renew(reservation, 60.0, START)
            await backend.bar("acme", "key=k1", "suspended", 3600.0, START)
            barred = await backend.reserve(asked[2], START)
            await backend.credit(asked[3], START)
            await backend.bar("acme", "key=k1", "", 0.0, START)
            credited = await backend.peek(asked[3], START)
            await backend.aclose()
            return [unseeded.unseeded, seeded.admitted, renewed, late, barred.barred, credited.admitted]

        assert asyncio.run(all_of_it()) == [(0,), True, True, False, "suspended", True]

    def test_a_loop_after_another_works(self, storage: str) -> None:
        """
        Connections belong to a loop; a new one gets its own.
        """
        backend = open_colours(storage, 5.0)[1]

        async def once() -> bool:
            reply = await backend.reserve(ask(check(4, 10)), START)
            await backend.aclose()
            return reply.admitted

        assert [asyncio.run(once()) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("storage_name", ["redis", "memcached"])
def test_processes_count_together(storage: str, opened: Opened) -> None:
    """
    What one process reserves and settles, another sees.
    """
    ours, theirs = opened.pair(storage)[0], opened.pair(storage)[1]
    asked = ask(check(8, 10), in_flight(1))
    reply = ours.reserve(asked, START)
    refused = theirs.reserve(ask(check(8, 10)), START)
    ours.settle(settlement(asked, reply, 3, 1), START)

    assert not refused.admitted
    assert theirs.reserve(ask(check(7, 10), in_flight(1)), START).admitted


# -- a storage that does not answer -----------------------------------------------------------------------------------


@pytest.fixture
def black_hole() -> Iterator[int]:
    """
    A port that takes connections and never says anything.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["redis", "memcached"])
@pytest.mark.parametrize("colour", ["threads", "loop"])
def test_a_storage_that_hangs_is_given_up_at_the_deadline(
    black_hole: int, scheme: str, colour: str, opened: Opened
) -> None:
    """
    The error names the storage and not its URL.
    """
    backend = opened.pair(f"limits+{scheme}://127.0.0.1:{black_hole}", 0.05)[colour == "loop"]
    begin = time.monotonic()
    with pytest.raises(BackendUnavailableError, match=rf"^limits\+{scheme} did not answer within 0.05 s: \w+\.$"):
        backend.reserve(ask(check()), START)

    assert time.monotonic() - begin < 0.5


@pytest.mark.parametrize("scheme", ["redis", "memcached"])
@pytest.mark.parametrize("colour", ["threads", "loop"])
def test_t16_limits_follow_their_policy_while_the_storage_is_away(
    scheme: str, colour: str, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Breaker and fallback stand before it as before Redis: one line of log, no error, each limit's `on_backend_error`.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"limits+{scheme}://127.0.0.1:{server.getsockname()[1]}"
    backend = opened.keep(open_backend(url) if colour == "threads" else Blocking(open_async_backend(url)))
    with caplog.at_level(logging.ERROR, "tokenbudget_mw"):
        local = [backend.reserve(ask(check(6, 10)), START) for _ in range(5)]
        denied = backend.reserve(ask(check(1, 10, on_error="deny")), START)

    assert [reply.admitted for reply in local] == [True, False, False, False, False]
    assert all(reply.degraded for reply in local)
    assert not denied.admitted
    assert [record.getMessage().partition(" is away")[0] for record in caplog.records] == [f"Backend limits+{scheme}"]


def test_a_call_that_is_late_ends_between_two_steps(opened: Opened) -> None:
    """
    Many quick answers may take too long together.
    """
    backend = opened.pair("limits+memory://", 0.0)[0]
    with pytest.raises(BackendUnavailableError, match="did not answer within 0 s"):
        backend.reserve(ask(check(6, 10)), START)


# -- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis+sentinel", "redis", "rediss", "memcached"])
def test_opening_connects_to_nothing(scheme: str) -> None:
    """
    An app starts whether its storage is there or not.
    """
    threads, loops = open_pair(f"limits+{scheme}://127.0.0.1:1/service")
    threads.close()

    assert loops is not threads


def test_an_unknown_storage_is_an_error_that_lists_the_known_ones() -> None:
    """
    The URL behind the scheme is not quoted.
    """
    with pytest.raises(
        ConfigurationError, match=r"limits\+etcd://.*Known: limits\+memcached, .*limits\+valkeys\.$"
    ) as caught:
        open_backend("limits+etcd://user:hunter2@host:1")

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["limits+memcached://:hunter2@host", "limits+redis://host:hunter2/0"])
def test_an_unreadable_url_is_an_error_at_start_without_its_password(url: str) -> None:
    """
    Not even a part of it is quoted.
    """
    with pytest.raises(ConfigurationError) as caught:
        open_backend(url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        (
            "limits+memcached://host:1",
            r"needs 'pymemcache' and, for event loops, 'memcachio'.*\[limits\]' pymemcache memcachio$",
        ),
        ("limits+mongodb://host:1", r"needs 'pymongo' and, for event loops, 'motor'.*\[limits\]' pymongo motor$"),
        ("limits+valkey://host:1", r"needs 'valkey': pip install 'tokenbudget-mw\[limits\]' valkey$"),
    ],
)
def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch, url: str, mend: str) -> None:
    """
    At start, with what to install.
    """
    monkeypatch.setattr("tokenbudget_mw.backends.limits_drivers.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=mend):
        open_backend(url)


def test_a_missing_limits_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The extra brings it.
    """
    monkeypatch.setitem(sys.modules, "limits", None)
    for name in ("limits_storage", "limits_drivers"):
        monkeypatch.delitem(sys.modules, f"tokenbudget_mw.backends.{name}", raising=False)
        monkeypatch.delattr(backends, name, raising=False)

    with pytest.raises(
        MissingExtraError, match=r"^limits\+memory:// needs 'limits': pip install 'tokenbudget-mw\[limits\]'$"
    ):
        open_backend("limits+memory://")


def test_importing_the_core_does_not_load_limits() -> None:
    """
    It is loaded where it is chosen.
    """
    code = "import sys, tokenbudget_mw, tokenbudget_mw.backends; print('limits' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_a_storage_of_another_package_is_found_by_its_scheme() -> None:
    """
    What is registered in limits is a backend; nothing has to be told to us.
    """
    from limits.storage import MemoryStorage

    class Shelf(MemoryStorage):
        STORAGE_SCHEME = ("tokenbudget-shelf",)

    backend = open_backend("limits+tokenbudget-shelf://")
    replies = [backend.reserve(ask(check(6, 10)), START) for _ in range(2)]
    backend.close()

    assert [(reply.admitted, reply.degraded) for reply in replies] == [(True, False), (False, False)]
