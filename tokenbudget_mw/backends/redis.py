"""
Counters in Redis, shared by all processes.

One call is one script, one round trip, atomic over all counters of a request. Threads send each call by itself (here);
on an event loop the calls of one tick travel together, on one connection (`redis_loop`). Both end at the deadline,
whatever happens, with an answer or with `BackendUnavailableError`.
"""

from __future__ import annotations

import os
from collections import deque
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from redis import ConnectionPool, Redis
from redis.exceptions import NoScriptError, RedisError

from tokenbudget_mw.backends.redis_client import deadline_options, seconds_left, start_deadline, unavailable
from tokenbudget_mw.backends.redis_loop import AsyncRedisBackend
from tokenbudget_mw.backends.redis_script import (
    DOUBTS,
    DOUBTS_AT_ONCE,
    NOTHING_ASKED,
    SERVER_CLOCK,
    Call,
    Script,
    abandon_call,
    bar_call,
    credit_call,
    parse_reply,
    peek_call,
    renew_call,
    reserve_call,
    seed_call,
    settle_call,
)
from tokenbudget_mw.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from tokenbudget_mw.values import Ask, Reply, Reservation, Seed, Settlement

__all__ = ["AsyncRedisBackend", "RedisBackend"]


class RedisBackend:
    """
    A `Backend` on Redis, for threads.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it; its timeouts and retries are not used.

        deadline: The most seconds that a call takes.

        clock: ``server`` for Redis's own time, the same for all processes; ``caller`` for the *now* of each call.

        connections: The most connections that this process opens.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: float = 0.05,
        clock: Literal["server", "caller"] = "server",
        connections: int = 16,
    ) -> None:
        self._script = Script()
        self._deadline = deadline
        self._is_virtual = clock == "caller"
        self._connections = connections
        self._client = Redis(connection_pool=ConnectionPool(**deadline_options(url, deadline)))
        self._free = BoundedSemaphore(connections)
        self._pid = os.getpid()
        self._doubts: deque[Call] = deque(maxlen=DOUBTS)

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.

        Where the deadline passes first, what Redis may have admitted is given back as soon as it answers again.
        """
        if not (ask.checks or ask.holder):
            return NOTHING_ASKED
        moment = self._moment(now)
        try:
            return parse_reply(self._run(reserve_call(ask, moment)))
        except BackendUnavailableError:
            if ask.lease and ask.checks:
                self._doubts.append(abandon_call(ask, moment))
            raise

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        if not (ask.checks or ask.holder):
            return NOTHING_ASKED
        return parse_reply(self._run(peek_call(ask, self._moment(now))))

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        if not settlement.reservation.holds:
            return True
        return bool(self._run(settle_call(settlement, self._moment(now))))

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        if ask.checks:
            self._run(credit_call(ask, self._moment(now)))

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        if not reservation.holds:
            return False
        return bool(self._run(renew_call(reservation, lease, self._moment(now))))

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say. A window that is known already stays as it is.
        """
        if seeds:
            self._run(seed_call(tag, seeds, self._moment(now)))

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, from the next one on, as *status*, for *seconds*; none where it is empty.
        """
        self._run(bar_call(tag, counter, status, seconds, self._moment(now)))

    def close(self) -> None:
        """
        Close the connections.
        """
        self._client.connection_pool.disconnect()

    def _moment(self, now: float) -> int:
        return round(now * 1_000_000) if self._is_virtual else SERVER_CLOCK

    def _run(self, call: Call) -> Any:
        free = self._slots()
        start_deadline(self._deadline)
        if not free.acquire(timeout=self._deadline):
            raise BackendUnavailableError(f"All {self._connections} connections to Redis are in use.")
        try:
            return self._execute(call)
        except (RedisError, OSError) as exc:
            raise unavailable(exc, self._deadline) from exc
        finally:
            free.release()

    def _execute(self, call: Call) -> Any:
        seconds_left()
        calls = [call, *self._take_doubts()]
        if len(calls) > 1:
            return self._execute_all(calls)[0]
        count, arguments = call.arguments()
        try:
            return self._client.evalsha(self._script.sha, count, *arguments)
        except NoScriptError:
            return self._client.eval(self._script.text, count, *arguments)

    def _take_doubts(self) -> list[Call]:
        return [self._doubts.popleft() for _ in range(min(len(self._doubts), DOUBTS_AT_ONCE))]

    def _execute_all(self, calls: list[Call]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            count, arguments = call.arguments()
            pipeline.eval(self._script.text, count, *arguments)
        try:
            return pipeline.execute()
        except (RedisError, OSError):
            self._doubts.extend(calls[1:])
            raise

    def _slots(self) -> BoundedSemaphore:
        # A fork may have copied slots that threads of the parent hold.
        if self._pid != os.getpid():
            self._free = BoundedSemaphore(self._connections)
            self._pid = os.getpid()
        return self._free
