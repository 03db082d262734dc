"""
The storages of the ``limits`` package and their drivers: how each is opened, what it fails with, how it is closed.
"""

from __future__ import annotations

import time
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from limits import errors
from limits.storage import storage_from_string

from tokenbudget_mw import threads
from tokenbudget_mw.backends.limits_storage.steps import Add, Get, Step
from tokenbudget_mw.errors import BackendUnavailableError, ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AsyncCounters", "Counters", "Store"]

PREFIX = "limits+"
SENTINEL = "+sentinel"

MEMCACHED_SECONDS = 30 * 86_400
"""Memcached takes an expiry above it for a moment since the epoch."""


class Family(NamedTuple):
    """
    Storages with one driver.

    Attributes:
        threads: Its package for threads, which is also the module; empty where it needs none.

        loops: Its package for event loops.

        errors: What they fail with, as ``module:name``, beside `OSError`.
    """

    threads: str = ""
    loops: str = ""
    errors: tuple[str, ...] = ()


_MEMORY = Family()
_REDIS = Family("redis", "redis", ("redis.exceptions:RedisError", "redis.exceptions:RedisClusterException"))
_VALKEY = Family("valkey", "valkey", ("valkey.exceptions:ValkeyError", "valkey.exceptions:ValkeyClusterException"))
_MONGODB = Family("pymongo", "motor", ("pymongo.errors:PyMongoError",))
_MEMCACHED = Family(
    "pymemcache",
    "memcachio",
    ("pymemcache.exceptions:MemcacheError", "memcachio.errors:MemcachedError", "memcachio.errors:NoAvailableNodes"),
)
_OTHER = Family()

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "memcached": _MEMCACHED,
        "memory": _MEMORY,
        "mongodb": _MONGODB,
        "mongodb+srv": _MONGODB,
        "redis": _REDIS,
        "redis+cluster": _REDIS,
        "redis+sentinel": _REDIS,
        "redis+unix": _REDIS,
        "rediss": _REDIS,
        "valkey": _VALKEY,
        "valkey+cluster": _VALKEY,
        "valkey+sentinel": _VALKEY,
        "valkey+unix": _VALKEY,
        "valkeys": _VALKEY,
    }
)
"""By scheme. Storages that other packages register in ``limits`` work, too, where they can add less than nothing."""

LAZY = frozenset({"mongodb", "mongodb+srv", "redis+cluster", "valkey+cluster"})
"""Storages that connect when they are made: not before they are used."""


class Counters(Protocol):
    """
    An open storage, for threads.
    """

    def do(self, step: Step) -> int:
        """
        Do one step.
        """
        ...

    def close(self) -> None:
        """
        Give back connections.
        """
        ...


class AsyncCounters(Protocol):
    """
    An open storage, for an event loop.
    """

    async def do(self, step: Step) -> int:
        """
        Do one step.
        """
        ...

    async def aclose(self) -> None:
        """
        Give back connections.
        """
        ...


class Store:
    """
    One storage, not yet opened.

    Args:
        url: Its URL, with ``limits+`` before the one that ``limits`` knows.

        deadline: Seconds after which a driver gives up waiting for one answer.

    Attributes:
        errors: What its drivers fail with.

    Raises:
        ConfigurationError: The URL cannot be read, or its scheme is unknown.

        MissingExtraError: A driver is not installed.
    """

    def __init__(self, url: str, deadline: float) -> None:
        self._url = url.removeprefix(PREFIX)
        self._deadline = deadline
        self.scheme = self._url.partition("://")[0]
        self._family = FAMILIES.get(self.scheme, _OTHER)
        self._require_drivers()
        self.errors: tuple[type[Exception], ...] = (OSError, errors.StorageError, *map(_load, self._family.errors))
        self._memory: _Memory | None = None
        if self._family is _MEMORY:
            self._memory = _Memory(self._open(self._url, {}))
        elif self.scheme not in LAZY:
            self.for_threads().close()

    def for_threads(self) -> Counters:
        """
        Open it for threads.
        """
        if self._memory is not None:
            return self._memory
        storage = self._open(self._url, self._options(loops=False))
        return (_Memcached if self._family is _MEMCACHED else _Storage)(storage, self.scheme)

    def for_loop(self) -> AsyncCounters:
        """
        Open it for the running event loop. No driver of it blocks the loop.
        """
        if self._memory is not None:
            return _AsyncMemory(self._memory)
        storage = self._open(f"async+{self._url}", self._options(loops=True))
        return (_AsyncMemcached if self._family is _MEMCACHED else _AsyncStorage)(storage, self.scheme)

    def unavailable(self, error: BaseException) -> BackendUnavailableError:
        """
        Return the error that says so, without the storage's own words, which may quote its URL.
        """
        kind = type(error).__name__
        return BackendUnavailableError(f"{PREFIX}{self.scheme} did not answer within {self._deadline:g} s: {kind}.")

    def _require_drivers(self) -> None:
        family = self._family
        needed = list(dict.fromkeys(name for name in (family.threads, family.loops) if name))
        if any(find_spec(name) is None for name in needed):
            names = " and, for event loops, ".join(f"'{name}'" for name in needed)
            raise MissingExtraError(
                f"{PREFIX}{self.scheme}:// needs {names}: pip install 'tokenbudget-mw[limits]' {' '.join(needed)}"
            )

    def _open(self, url: str, options: Mapping[str, Any]) -> Any:
        try:
            return storage_from_string(url, **options)
        except (errors.ConfigurationError, ValueError):
            # The cause may quote the URL, and so its password.
            known = ", ".join(PREFIX + name for name in sorted(FAMILIES))
            raise ConfigurationError(
                f"The storage of the backend {PREFIX}{self.scheme}:// cannot be opened: the rest of its URL cannot be"
                f" read, or 'limits' does not know it. Known: {known}."
            ) from None

    def _options(self, *, loops: bool) -> dict[str, Any]:
        if self._family is _MEMCACHED:
            return _memcached_options(self._deadline, loops=loops)
        if self._family is _MONGODB:
            wait = max(1, round(self._deadline * 1000))
            return {"serverSelectionTimeoutMS": wait, "connectTimeoutMS": wait, "socketTimeoutMS": wait}
        if self._family is _OTHER:
            return {"wrap_exceptions": True}
        return self._redis_options(loops=loops)

    def _redis_options(self, *, loops: bool) -> dict[str, Any]:
        driver = self._family.threads
        retry = import_module(f"{driver}.asyncio.retry" if loops else f"{driver}.retry")
        never = retry.Retry(import_module(f"{driver}.backoff").NoBackoff(), 0)
        options: dict[str, Any] = {
            "socket_timeout": self._deadline,
            "socket_connect_timeout": self._deadline,
            "retry": never,
        }
        if self.scheme.endswith(SENTINEL):
            # a replica may not have heard of the last charge yet
            options |= {"use_replicas": False, "sentinel_kwargs": options.copy()}
        if loops:
            options["implementation"] = "redispy" if driver == "redis" else driver
        return options


def _memcached_options(deadline: float, *, loops: bool) -> dict[str, Any]:
    if loops:
        return {"connect_timeout": deadline, "read_timeout": deadline, "blocking_timeout": deadline}
    client: list[Any] = []

    def shared(module: Any, hosts: list[Any], **options: Any) -> Any:
        # limits would make one client a thread, and close none of them
        if not client:
            many = len(hosts) > 1
            client.append(
                module.HashClient(hosts, use_pooling=True, **options)
                if many
                else module.PooledClient(hosts[0], **options)
            )
        return client[0]

    return {
        "timeout": deadline,
        "connect_timeout": deadline,
        "no_delay": True,
        "default_noreply": False,  # what is forgotten must be gone before the next step, on whatever connection that goes
        "client_getter": shared,
    }


def _load(name: str) -> type[Exception]:
    module, _, attribute = name.partition(":")
    found: type[Exception] = getattr(import_module(module), attribute)
    return found


class _Storage:
    """
    A storage for threads.
    """

    def __init__(self, storage: Any, scheme: str) -> None:
        self._storage = storage
        self._scheme = scheme

    def do(self, step: Step) -> int:
        if isinstance(step, Get):
            return int(self._storage.get(step.key))
        if isinstance(step, Add):
            return self._add(step)
        self._storage.clear(step.key)
        return 0

    def close(self) -> None:
        if self._scheme in FAMILIES:
            self._storage.storage.close()
        if self._scheme.endswith(SENTINEL):
            for sentinel in self._storage.sentinel.sentinels:
                sentinel.close()

    def _add(self, step: Add) -> int:
        return int(self._storage.incr(step.key, step.seconds, step.amount))


class _Memcached(_Storage):
    """
    Memcached, which has an operation of its own for taking off, and never goes below 0.
    """

    def _add(self, step: Add) -> int:
        if step.amount < 0:
            return self._storage.storage.decr(step.key, -step.amount) or 0
        return int(self._storage.incr(step.key, _expiry(step.seconds), step.amount, set_expiration_key=False))


class _Memory(_Storage):
    """
    The memory of this process, for both colours: no call waits for anything but the lock.
    """

    def __init__(self, storage: Any) -> None:
        super().__init__(storage, "memory")
        self._lock = threads.lock()  # again: the garbage collector closes streams, which charge

    def do(self, step: Step) -> int:
        # limits' own locks can lose a charge while a counter is made
        with self._lock:
            return super().do(step)

    def close(self) -> None:
        pass


class _AsyncMemory:
    def __init__(self, memory: _Memory) -> None:
        self._memory = memory

    async def do(self, step: Step) -> int:
        return self._memory.do(step)

    async def aclose(self) -> None:
        pass


class _AsyncStorage:
    """
    A storage for an event loop.
    """

    def __init__(self, storage: Any, scheme: str) -> None:
        self._storage = storage
        self._scheme = scheme

    async def do(self, step: Step) -> int:
        if isinstance(step, Get):
            return int(await self._storage.get(step.key))
        if isinstance(step, Add):
            return await self._add(step)
        await self._storage.clear(step.key)
        return 0

    async def aclose(self) -> None:
        if FAMILIES.get(self._scheme) is _MONGODB:
            self._storage.storage.close()
        elif self._scheme in FAMILIES:
            await self._storage.bridge.storage.aclose()
        if self._scheme.endswith(SENTINEL):
            for sentinel in self._storage.bridge.sentinel.sentinels:
                await sentinel.aclose()

    async def _add(self, step: Add) -> int:
        return int(await self._storage.incr(step.key, step.seconds, step.amount))


class _AsyncMemcached(_AsyncStorage):
    """
    As `_Memcached`.
    """

    async def aclose(self) -> None:
        (await self._storage.bridge.get_storage()).connection_pool.close()

    async def _add(self, step: Add) -> int:
        if step.amount < 0:
            return int(await self._storage.bridge.decr(step.key, -step.amount))
        return int(await self._storage.incr(step.key, _expiry(step.seconds), step.amount, set_expiration_key=False))


def _expiry(seconds: int) -> int:
    return seconds if seconds <= MEMCACHED_SECONDS else int(time.time()) + seconds
