"""
Counters in Redis, shared by all processes.

One call is one script, one round trip, atomic over all counters of a request. Threads send each call by itself; on an
event loop the calls of one tick travel together, on one connection. Both end at the deadline, whatever happens, with
an answer or with `BackendUnavailableError`.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import ConnectionPool, Redis
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError, RedisError

from tokenbudget_mw.backends.redis_client import async_options, deadline_options, seconds_left, start_deadline
from tokenbudget_mw.backends.redis_script import (
    SERVER_CLOCK,
    Call,
    Script,
    abandon_call,
    parse_reply,
    peek_call,
    reserve_call,
    settle_call,
)
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.values import Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from tokenbudget_mw.values import Ask, Settlement

__all__ = ["AsyncRedisBackend", "RedisBackend"]

NOTHING_ASKED = Reply(True, ())

DOUBTS = 1024
"""How many reservations of unknown outcome are remembered, to be given back."""

DOUBTS_AT_ONCE = 16

LATE = 0.01
"""A timer of the loop that rings later than this, in seconds, tells of a busy loop."""

GRACE = 0.02
"""How long a busy loop may then take to read what has arrived, in seconds."""


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
        if not ask.checks:
            return NOTHING_ASKED
        moment = self._moment(now)
        try:
            return parse_reply(self._run(reserve_call(ask, moment)))
        except BackendUnavailableError:
            self._doubts.append(abandon_call(ask, moment))
            raise

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return parse_reply(self._run(peek_call(ask, self._moment(now)))) if ask.checks else NOTHING_ASKED

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        if not settlement.reservation.holds:
            return True
        return bool(self._run(settle_call(settlement, self._moment(now))))

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


class AsyncRedisBackend:
    """
    A `Backend` on Redis, for event loops: each loop has its own connection. The arguments are those of `RedisBackend`.
    """

    def __init__(self, url: str, *, deadline: float = 0.05, clock: Literal["server", "caller"] = "server") -> None:
        self._script = Script()
        self._deadline = deadline
        self._is_virtual = clock == "caller"
        self._options = async_options(url)
        self._lanes: dict[asyncio.AbstractEventLoop, _Lane] = {}

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.

        A caller that is cancelled, or gives up at the deadline, holds nothing: what Redis admits for it is given back.
        """
        if not ask.checks:
            return NOTHING_ASKED
        moment = self._moment(now)
        return parse_reply(await self._run(reserve_call(ask, moment), lambda: abandon_call(ask, moment)))

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return parse_reply(await self._run(peek_call(ask, self._moment(now)))) if ask.checks else NOTHING_ASKED

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        if not settlement.reservation.holds:
            return True
        return bool(await self._run(settle_call(settlement, self._moment(now)), is_owed=True))

    async def aclose(self) -> None:
        """
        Close the running loop's connection.
        """
        lane = self._lanes.pop(asyncio.get_running_loop(), None)
        if lane is not None:
            await lane.aclose()

    def _moment(self, now: float) -> int:
        return round(now * 1_000_000) if self._is_virtual else SERVER_CLOCK

    async def _run(self, call: Call, undo: Callable[[], Call] | None = None, *, is_owed: bool = False) -> Any:
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            for closed in [other for other in self._lanes if other.is_closed()]:
                del self._lanes[closed]
            lane = self._lanes[loop] = _Lane(self._options, self._script, self._deadline)
        errand = _Errand(call, loop.create_future(), undo, is_owed)
        lane.add(errand)
        timer = _Deadline(loop, self._deadline, lambda: _give_up(errand.answer))
        try:
            return await errand.answer
        except BaseException as exc:
            lane.forsake(errand)
            if isinstance(exc, RedisError | OSError):
                raise unavailable(exc, self._deadline) from exc
            raise
        finally:
            timer.cancel()


class _Errand(NamedTuple):
    """
    A call under way.

    Attributes:
        call: What is asked.

        answer: Where the answer goes; cancelled where nobody waits any more.

        undo: What to ask when Redis did it and nobody waits.

        is_owed: Whether it is sent although nobody waits: a settlement is.
    """

    call: Call
    answer: asyncio.Future[Any]
    undo: Callable[[], Call] | None = None
    is_owed: bool = False


class _Deadline:
    """
    A timer that does not blame others for a loop that stood still: when it rings late, it waits a little once more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ends = loop.time() + seconds
        self._ring = ring
        self._handle = loop.call_at(self._ends, self._check)

    def cancel(self) -> None:
        """
        Ring no more.
        """
        self._handle.cancel()

    def _check(self) -> None:
        late = self._loop.time() - self._ends
        self._handle = self._loop.call_later(GRACE if late > LATE else 0.0, self._ring)


class _Lane:
    """
    One loop's connection: what has gathered while a batch was away is the next batch. Idle, it has no task.
    """

    def __init__(self, options: dict[str, Any], script: Script, deadline: float) -> None:
        self._client = AsyncRedis(connection_pool=AsyncConnectionPool(**options))
        self._script = script
        self._deadline = deadline
        self._waiting: list[_Errand] = []
        self._doubts: deque[_Errand] = deque(maxlen=DOUBTS)
        self._task: asyncio.Task[None] | None = None

    def add(self, errand: _Errand) -> None:
        """
        Send *errand* with the next batch.
        """
        self._waiting.append(errand)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._drive())

    def forsake(self, errand: _Errand) -> None:
        """
        Undo *errand*, whose caller went away although its answer had come.
        """
        if errand.answer.done() and not errand.answer.cancelled() and errand.answer.exception() is None:
            self._undo(errand, errand.answer.result())

    async def aclose(self) -> None:
        """
        Finish what is under way, then close the connection.
        """
        if self._task is not None:
            await self._task
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _drive(self) -> None:
        while self._waiting:
            batch = [errand for errand in self._waiting if errand.is_owed or not errand.answer.done()]
            self._waiting = []
            if not batch:
                continue
            try:
                answers = await self._send_in_time(batch)
            except (RedisError, OSError) as exc:
                answers = [exc] * len(batch)
                self._doubts.extend(errand for errand in batch if errand.undo is not None)
            except BaseException:
                for errand in batch:
                    errand.answer.cancel()
                raise
            else:
                self._settle_doubts()
            for errand, answer in zip(batch, answers, strict=True):
                self._hand_over(errand, answer)

    def _settle_doubts(self) -> None:
        for _ in range(min(len(self._doubts), DOUBTS_AT_ONCE)):
            self._send_undo(self._doubts.popleft())

    async def _send_in_time(self, batch: list[_Errand]) -> list[Any]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as scope:
            timer = _Deadline(loop, self._deadline, lambda: scope.reschedule(loop.time()))
            try:
                return await self._send(batch)
            finally:
                timer.cancel()

    async def _send(self, batch: list[_Errand]) -> list[Any]:
        answers = await self._execute(batch)
        lost = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if lost:
            # The first one brings the script along; the others find it.
            again = await self._execute([batch[i] for i in lost], is_known=False)
            for i, answer in zip(lost, again, strict=True):
                answers[i] = answer
        return answers

    async def _execute(self, batch: list[_Errand], *, is_known: bool = True) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for errand in batch:
            count, arguments = errand.call.arguments()
            if is_known:
                pipeline.evalsha(self._script.sha, count, *arguments)
            else:
                pipeline.eval(self._script.text, count, *arguments)
                is_known = True
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    def _hand_over(self, errand: _Errand, answer: Any) -> None:
        if errand.answer.done():
            self._undo(errand, answer)
        elif isinstance(answer, BaseException):
            errand.answer.set_exception(answer)
        else:
            errand.answer.set_result(answer)

    def _undo(self, errand: _Errand, answer: Any) -> None:
        if not isinstance(answer, BaseException) and errand.undo is not None and answer[0]:
            self._send_undo(errand)

    def _send_undo(self, errand: _Errand) -> None:
        if errand.undo is None:
            return
        unheard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        unheard.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.add(_Errand(errand.undo(), unheard))


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def unavailable(exc: BaseException, deadline: float) -> BackendUnavailableError:
    """
    Return our error for a driver's. Only its class is named: a driver's text may hold what a URL holds.
    """
    return BackendUnavailableError(
        f"Redis did not answer within {deadline * 1000:.0f} ms, or answered with an error: {type(exc).__name__}."
    )
