"""
Storages of the ``limits`` package keep the contract in both colours, or what stands here in its place.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tokenbudget_mw.testing.backends import HOUR, START, BackendContract, Blocking, ask, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend

limits_storage = pytest.importorskip("tokenbudget_mw.backends.limits_storage")


class WeakerContract(BackendContract):
    """
    The promises that hold, and in place of the others what holds there.

    A trailing window has 4 slots instead of 60, so what is charged leaves up to a quarter of the window later.
    """

    slots = 4

    @pytest.fixture(params=["memory", "redis", "memcached"])
    def storage_name(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

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
