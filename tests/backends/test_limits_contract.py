"""
Storages of the ``limits`` package keep the contract in both colours, or what stands here in its place.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tokenbudget_mw.testing.asks import seed
from tokenbudget_mw.testing.backends import HOUR, START, BackendContract, Blocking, ask, check, settlement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend

limits_storage = pytest.importorskip("tokenbudget_mw.backends.limits_storage")


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

    def test_what_is_charged_without_a_lease_is_charged_for_good(self, backend: Backend) -> None:
        """
        Nothing is held, so nothing comes back before it leaves the window, with its slot.
        """
        for _ in range(2):
            assert backend.reserve(ask(check(1, 2, "requests:60"), check(3), lease=0.0), START).admitted

        assert not backend.reserve(ask(check(1, 2, "requests:60"), check(3), lease=0.0), START).admitted
        assert self.used(backend, START + 69) == 6
        assert self.used(backend, START + 70) == 0

    def test_trailing_windows_are_seeded_slot_by_slot(self, backend: Backend) -> None:
        """
        Each charge leaves when the slot that took it has left the window; what has left already is not counted.
        """
        at = int(START * 1_000_000)
        charges = ((at - 90_000_000, 4), (at - 30_000_000, 3), (at + 1_000_000, 2))
        backend.seed("acme", [seed(*charges, of=check())], START)

        assert self.used(backend) == 5
        assert self.used(backend, START + 39) == 5
        assert self.used(backend, START + 40) == 2
        assert self.used(backend, START + 70) == 0

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
        backend = limits_storage.open_colours(storage, 5.0)[0]
        yield backend
        backend.close()


class TestLoop(WeakerContract):
    @pytest.fixture
    def backend(self, storage: str) -> Iterator[Backend]:
        backend = Blocking(limits_storage.open_colours(storage, 5.0)[1])
        yield backend
        backend.close()
