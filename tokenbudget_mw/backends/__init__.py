"""
Backends: where counters live, and what holds while they are away.

`open_pair` finds a backend by its URL's scheme. Ours stand in a table; others announce themselves by an entry point of
the group ``tokenbudget_mw.backends``, whose name is the scheme and whose object is a function like `open_redis`.
"""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Literal, Protocol

from tokenbudget_mw.backends.base import AsyncBackend, Backend
from tokenbudget_mw.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.backends.leased.shapes import Terms

__all__ = ["AsyncBackend", "Backend", "is_in_process", "open_async_backend", "open_backend", "open_pair"]

GROUP = "tokenbudget_mw.backends"

LEASED = "leased+"
"""Before a scheme: processes reserve quota there ahead."""

ClockMode = Literal["server", "caller"]


class Opener(Protocol):
    """
    Opens a backend for threads and its twin for event loops. Neither connects before it is first used.
    """

    def __call__(
        self, url: str, *, deadline: float, workers: int, clock_mode: ClockMode
    ) -> tuple[Backend, AsyncBackend]: ...


def open_pair(
    url: str,
    *,
    deadline: float = 0.05,
    workers: int = 1,
    clock_mode: ClockMode = "server",
    terms: Terms | None = None,
    refusal_cache: float = 0.0,
) -> tuple[Backend, AsyncBackend]:
    """
    Open the backend at *url* for threads and for event loops; both see the same counters.

    Args:
        url: For example ``memory://`` or ``redis://localhost:6379/0``.

        deadline: The most seconds that a call may take.

        workers: How many processes share the limits; a limit that is ``local`` is divided among them while the backend
            is away.

        clock_mode: ``server`` for the backend's own clock, ``caller`` for the moments handed to each call.

        terms: How much a ``leased+`` backend may reserve ahead, and for how long; None for the usual.

        refusal_cache: For how many seconds at most a shared backend is not asked again what it has refused; 0 for never.

    Raises:
        ConfigurationError: No backend has this scheme.

        MissingExtraError: Its driver is not installed.
    """
    scheme, found, place = url.partition("://")
    if not found:
        raise ConfigurationError("A backend is given as a URL, such as 'memory://' or 'redis://localhost:6379/0'.")
    shared = scheme.removeprefix(LEASED)
    if shared != scheme and shared.startswith("limits+"):
        raise ConfigurationError(
            f"Quota cannot be reserved ahead in '{shared}://'. Use '{LEASED}redis://', or leave it out."
        )
    opener = _opener(shared)
    pair = opener(f"{shared}://{place}", deadline=deadline, workers=workers, clock_mode=clock_mode)
    is_virtual = clock_mode == "caller" or shared == "memory"
    if shared != scheme:
        from tokenbudget_mw.backends.leased import AsyncLeasedBackend, LeasedBackend, make_stock

        stock = make_stock(terms, is_virtual=is_virtual)
        pair = LeasedBackend(pair[0], stock), AsyncLeasedBackend(pair[1], stock)
    if refusal_cache and shared != "memory":
        from tokenbudget_mw.backends.negative import AsyncNegativeCache, NegativeCache, Refusals

        refusals = Refusals(refusal_cache, is_virtual=is_virtual)
        pair = NegativeCache(pair[0], refusals), AsyncNegativeCache(pair[1], refusals)
    return pair


def open_backend(url: str, *, deadline: float = 0.05, workers: int = 1, clock_mode: ClockMode = "server") -> Backend:
    """
    Open the backend at *url* for threads. Arguments and errors as of `open_pair`.
    """
    return open_pair(url, deadline=deadline, workers=workers, clock_mode=clock_mode)[0]


def open_async_backend(
    url: str, *, deadline: float = 0.05, workers: int = 1, clock_mode: ClockMode = "server"
) -> AsyncBackend:
    """
    Open the backend at *url* for event loops. Arguments and errors as of `open_pair`.
    """
    return open_pair(url, deadline=deadline, workers=workers, clock_mode=clock_mode)[1]


def open_memory(url: str, *, deadline: float, workers: int, clock_mode: ClockMode) -> tuple[Backend, AsyncBackend]:  # noqa: ARG001
    """
    Open ``memory://``: this process's own counters, which need neither deadline nor fallback.
    """
    from tokenbudget_mw.backends.memory import MemoryBackend

    backend = MemoryBackend()
    return backend, backend.as_async()


def open_redis(url: str, *, deadline: float, workers: int, clock_mode: ClockMode) -> tuple[Backend, AsyncBackend]:
    """
    Open ``redis://``, ``rediss://``, ``unix://``, or several servers as ``redis+sentinel://`` or ``redis+cluster://``: one
    breaker and one local share for both colours.
    """
    try:
        from tokenbudget_mw.backends.redis import AsyncRedisBackend, RedisBackend
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in {"redis", "hiredis"}:
            raise
        scheme = url.partition("://")[0]
        raise MissingExtraError(f"{scheme}:// needs 'redis': pip install 'tokenbudget-mw[redis]'") from exc
    from tokenbudget_mw.backends.breaker import AsyncGuarded, Circuit, Circuits, Guarded
    from tokenbudget_mw.backends.fallback import AsyncFallback, Fallback, LocalShare
    from tokenbudget_mw.backends.redis.start import Inspection
    from tokenbudget_mw.backends.redis.topology import Topology
    from tokenbudget_mw.backends.redis.url import read_url

    try:
        topology = Topology(read_url(url))
    except ValueError:
        # The cause may quote a part of the URL, and so of the password.
        raise ConfigurationError(
            "The backend's redis URL cannot be read. It looks like redis://user:password@host:6379/0."
        ) from None
    share, inspection = LocalShare(workers), Inspection()
    threads = RedisBackend(url, deadline=deadline, clock=clock_mode, topology=topology, inspection=inspection)
    loops = AsyncRedisBackend(url, deadline=deadline, clock=clock_mode, topology=topology, inspection=inspection)
    circuit = Circuits("redis", topology.server_of) if topology.is_cluster else Circuit("redis")
    return Fallback(Guarded(threads, circuit), share), AsyncFallback(AsyncGuarded(loops, circuit), share)


def open_limits(url: str, *, deadline: float, workers: int, clock_mode: ClockMode) -> tuple[Backend, AsyncBackend]:  # noqa: ARG001
    """
    Open ``limits+…://``: a storage of the ``limits`` package, at weaker promises; time is that of each call.
    """
    try:
        from tokenbudget_mw.backends.limits_storage import open_colours
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "limits":
            raise
        scheme = url.partition("://")[0]
        raise MissingExtraError(f"{scheme}:// needs 'limits': pip install 'tokenbudget-mw[limits]'") from exc
    from tokenbudget_mw.backends.breaker import AsyncGuarded, Circuit, Guarded
    from tokenbudget_mw.backends.fallback import AsyncFallback, Fallback, LocalShare

    circuit, share = Circuit(url.partition("://")[0]), LocalShare(workers)
    threads, loops = open_colours(url, deadline)
    return Fallback(Guarded(threads, circuit), share), AsyncFallback(AsyncGuarded(loops, circuit), share)


OPENERS: dict[str, Opener] = {
    "limits+*": open_limits,  # any storage that limits knows
    "memory": open_memory,
    "redis": open_redis,
    "rediss": open_redis,
    "unix": open_redis,
    **{f"{scheme}+{kind}": open_redis for scheme in ("redis", "rediss") for kind in ("cluster", "sentinel")},
}


_ELSEWHERE = {
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+unix": "unix",
    "redis+socket": "unix",
    "memcached": "limits+memcached",
    "mongodb": "limits+mongodb",
    "mongodb+srv": "limits+mongodb+srv",
}
"""What other packages call a server -> what we do."""


def is_in_process(url: str) -> bool:
    """
    Tell whether the counters at *url* live in each process, its own, so that no other sees them.

    >>> is_in_process("memory://"), is_in_process("limits+memory://"), is_in_process("limits+memcached://localhost")
    (True, True, False)
    """
    return url.partition("://")[0].removeprefix(LEASED).removeprefix("limits+") == "memory"


def _opener(scheme: str) -> Opener:
    if scheme.startswith("limits+"):
        scheme = "limits+*"
    if scheme in OPENERS:
        return OPENERS[scheme]
    others: dict[str, Callable[[], Opener]] = {point.name: point.load for point in entry_points(group=GROUP)}
    if scheme in others:
        return others[scheme]()
    known = sorted({*OPENERS, *others, f"{LEASED}redis"})
    near = [_ELSEWHERE[scheme]] if scheme in _ELSEWHERE else difflib.get_close_matches(scheme, known, n=1)
    hint = f" Did you mean '{near[0]}://'?" if near else ""
    raise ConfigurationError(f"Unknown backend '{scheme}://'.{hint} Known schemes: {', '.join(known)}.")
