"""
Every backend of ours keeps the contract, in both colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tokenbudget_mw.backends.memory import AsyncMemoryBackend, MemoryBackend
from tokenbudget_mw.testing.backends import BackendContract, Blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend


class TestMemory(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend()


class TestAsyncMemory(BackendContract):
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        backend = Blocking(AsyncMemoryBackend())
        yield backend
        backend.close()


class TestRedis(BackendContract):
    @pytest.fixture
    def backend(self, redis_db: str) -> Iterator[Backend]:
        redis = pytest.importorskip("tokenbudget_mw.backends.redis")
        backend = redis.RedisBackend(redis_db, deadline=5.0, clock="caller")
        yield backend
        backend.close()


class TestAsyncRedis(BackendContract):
    @pytest.fixture
    def backend(self, redis_db: str) -> Iterator[Backend]:
        redis = pytest.importorskip("tokenbudget_mw.backends.redis")
        backend = Blocking(redis.AsyncRedisBackend(redis_db, deadline=5.0, clock="caller"))
        yield backend
        backend.close()
