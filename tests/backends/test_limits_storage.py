"""
Storages of the ``limits`` package: opened, shared, away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tokenbudget_mw import backends
from tokenbudget_mw.backends import open_async_backend, open_backend, open_pair
from tokenbudget_mw.errors import BackendUnavailableError, ConfigurationError, MissingExtraError
from tokenbudget_mw.testing.backends import START, Blocking, ask, check, in_flight, settlement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend

limits_storage = pytest.importorskip("tokenbudget_mw.backends.limits_storage")
drivers = pytest.importorskip("tokenbudget_mw.backends.limits_storage.drivers")
steps = pytest.importorskip("tokenbudget_mw.backends.limits_storage.steps")


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
        threads, loops = limits_storage.open_colours(url, deadline)
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
        asked = [ask(check(), holder="key=k1") for _ in range(3)]
        threads.bar("acme", "key=k1", "revoked", 3600.0, START)
        barred = [threads.reserve(asked[0], START), loop.reserve(asked[1], START)]
        loop.bar("acme", "key=k1", "", 0.0, START)

        assert [(reply.admitted, reply.barred) for reply in barred] == [(False, "revoked")] * 2
        assert threads.reserve(asked[2], START).admitted

    def test_a_loop_after_another_works(self, storage: str) -> None:
        """
        Connections belong to a loop; a new one gets its own.
        """
        backend = limits_storage.open_colours(storage, 5.0)[1]

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


def test_a_forked_child_opens_connections_of_its_own(redis_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Two processes must not read from one socket.
    """
    opening: list[int] = []
    store = drivers.Store(f"limits+{redis_db}", 5.0)
    for_threads = store.for_threads
    store.for_threads = lambda: opening.append(os.getpid()) or for_threads()
    backend = limits_storage.LimitsBackend(store, steps.Steps(), 5.0)
    parent = os.getpid()
    admitted = [backend.reserve(ask(check(4, 10)), START).admitted for _ in range(2)]
    in_parent = backend._opened[1]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    admitted.append(backend.reserve(ask(check(2, 10)), START).admitted)
    backend.close()
    in_parent.close()

    assert admitted == [True, True, True]
    assert opening == [parent, -1]


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


def test_t09_a_cancelled_settlement_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A caller that goes away while it is told leaves nothing that counts on.
    """
    _, backend = limits_storage.open_colours("limits+memory://", 5.0)
    asked = ask(in_flight(1))

    async def run() -> tuple[bool, bool]:
        reply = await backend.reserve(asked, START)
        counters, gate = backend._counters(), asyncio.Event()
        usual = counters.do

        async def late(step: Any) -> int:
            await gate.wait()
            answer: int = await usual(step)
            return answer

        monkeypatch.setattr(counters, "do", late)
        settling = asyncio.ensure_future(backend.settle(settlement(asked, reply, 0), START))
        await asyncio.sleep(0.01)
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        gate.set()
        again = await backend.settle(settlement(asked, reply, 0), START)
        await asyncio.gather(*backend._settling)
        return again, (await backend.reserve(ask(in_flight(1)), START)).admitted

    assert asyncio.run(run()) == (False, True)


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
    monkeypatch.setattr("tokenbudget_mw.backends.limits_storage.drivers.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=mend):
        open_backend(url)


def test_a_missing_limits_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The extra brings it.
    """
    monkeypatch.setitem(sys.modules, "limits", None)
    for name in [name for name in sys.modules if name.startswith("tokenbudget_mw.backends.limits_storage")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(backends, "limits_storage", raising=False)

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
