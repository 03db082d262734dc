"""
Counters in Redis, for event loops: the calls of one tick leave together, on one connection of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from tokenbudget_mw.backends.redis_client import async_options, unavailable
from tokenbudget_mw.backends.redis_deadlines import GRACE, LATE, Deadlines
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
    is_charged,
    parse_reply,
    peek_call,
    renew_call,
    reserve_call,
    seed_call,
    settle_call,
)
from tokenbudget_mw.backends.redis_wire import Wire, ask, connect, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from tokenbudget_mw.values import Ask, Reply, Reservation, Seed, Settlement

__all__ = ["AsyncRedisBackend"]

MOVED_ON = ("READONLY", "LOADING", "MASTERDOWN", "NOAUTH")
"""What a server says that is no longer, or not yet, the one to ask: the next call connects anew."""


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
        if not (ask.checks or ask.holder):
            return NOTHING_ASKED
        moment = self._moment(now)
        undo = partial(abandon_call, ask, moment) if ask.lease and ask.checks else None
        return parse_reply(await self._run(reserve_call(ask, moment), undo))

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        if not (ask.checks or ask.holder):
            return NOTHING_ASKED
        return parse_reply(await self._run(peek_call(ask, self._moment(now))))

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        if not settlement.reservation.holds:
            return True
        return bool(await self._run(settle_call(settlement, self._moment(now)), is_owed=True))

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        if ask.checks:
            await self._run(credit_call(ask, self._moment(now)))

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        if not reservation.holds:
            return False
        return bool(await self._run(renew_call(reservation, lease, self._moment(now))))

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say. A window that is known already stays as it is.
        """
        if seeds:
            await self._run(seed_call(tag, seeds, self._moment(now)))

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, from the next one on, as *status*, for *seconds*; none where it is empty.
        """
        await self._run(bar_call(tag, counter, status, seconds, self._moment(now)))

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
        lane.deadlines.add(errand)
        try:
            return await errand.answer
        except BaseException as exc:
            lane.forsake(errand)
            if isinstance(exc, RedisError | OSError):
                raise unavailable(exc, self._deadline) from exc
            raise


class _Errand:
    """
    A call under way.

    Attributes:
        call: What is asked.

        answer: Where the answer goes; done where nobody waits any more.

        undo: What to ask when Redis did it and nobody waits.

        is_owed: Whether it is sent although nobody waits: a settlement is.

        tries: How often it was sent.
    """

    __slots__ = ("answer", "call", "is_owed", "tries", "undo")

    def __init__(
        self, call: Call, answer: asyncio.Future[Any], undo: Callable[[], Call] | None = None, is_owed: bool = False
    ) -> None:
        self.call = call
        self.answer = answer
        self.undo = undo
        self.is_owed = is_owed
        self.tries = 0

    @property
    def is_wanted(self) -> bool:
        """
        Whether it is worth sending.
        """
        return self.is_owed or not self.answer.done()


class _Deadline:
    """
    A timer that does not blame others for a loop that stood still: when it rings late, it waits a little once more.
    """

    __slots__ = ("_ends", "_handle", "_loop", "_ring")

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
    One loop's way to Redis: what a tick gathers leaves in one write. Idle, it has a connection and no task.

    Attributes:
        deadlines: When the waits for its errands end.
    """

    def __init__(self, options: dict[str, Any], script: Script, deadline: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._deadline = deadline
        self._evalsha = (b"EVALSHA", script.sha.encode())
        self._load = frame(b"SCRIPT", b"LOAD", script.text.encode())
        self._is_unknown = False
        self._waiting: list[_Errand] = []
        self._doubts: deque[_Errand] = deque(maxlen=DOUBTS)
        self._wire: Wire | None = None
        self._retired: set[Wire] = set()
        self._connecting: asyncio.Task[None] | None = None
        self.deadlines: Deadlines[_Errand] = Deadlines(self._loop, deadline, self.give_up)

    def add(self, errand: _Errand) -> None:
        """
        Send *errand* at the end of this tick.
        """
        self._waiting.append(errand)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._flush)

    def forsake(self, errand: _Errand) -> None:
        """
        Undo *errand*, whose caller went away although its answer had come.
        """
        if errand.answer.done() and not errand.answer.cancelled() and errand.answer.exception() is None:
            self._undo(errand, errand.answer.result())

    def give_up(self, errand: _Errand) -> None:
        """
        End the wait for *errand*; calls to come take another connection, and this one has a little time to answer.
        """
        if errand.answer.done():
            return
        errand.answer.set_exception(TimeoutError())
        self._retire()

    async def aclose(self) -> None:
        """
        Finish what is under way, then close the connection.
        """
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._wire is not None and not self._wire.is_lost:
            await self._finish(self._wire)
        for wire in self._retired:
            wire.abort()
            await wire.aclose()

    async def _finish(self, wire: Wire) -> None:
        self._flush()
        with suppress(RedisError, OSError):  # what could not be told is owed, or left to its lease
            async with asyncio.timeout(self._deadline):
                await ask(wire, frame(b"PING"))  # answered after all that went before it
            self._flush()
        if len(wire):
            wire.abort()
        await wire.aclose()

    # -- out ----------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        wire = self._wire
        if wire is None or wire.is_lost:
            if self._connecting is None or self._connecting.done():
                self._connecting = self._loop.create_task(self._connect())
            return
        if not self._waiting:
            return
        batch = [errand for errand in self._waiting if errand.is_wanted]
        self._waiting = []
        frames: list[bytes] = []
        answers: list[Callable[[Any], None]] = []
        if self._is_unknown:
            self._is_unknown = False
            frames.append(self._load)
            answers.append(_heard)
        for errand in batch:
            errand.tries += 1
            frames.append(frame(*self._evalsha, *errand.call.parts()))
            answers.append(partial(self._arrived, errand))
        wire.send(frames, answers)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(None) as scope:
                timer = _Deadline(self._loop, self._deadline, lambda: scope.reschedule(self._loop.time()))
                try:
                    self._wire = await connect(self._options)
                finally:
                    timer.cancel()
        except (RedisError, OSError) as exc:
            waiting, self._waiting = self._waiting, []
            for errand in waiting:
                self._fail(errand, exc)
            return
        self._flush()

    def _retire(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None and not wire.is_lost:
            self._retired.add(wire)
            self._loop.call_later(self._deadline, self._drop, wire)

    def _drop(self, wire: Wire) -> None:
        wire.abort()
        self._retired.discard(wire)

    # -- back ---------------------------------------------------------------------------------------------------------

    def _arrived(self, errand: _Errand, answer: Any) -> None:
        if isinstance(answer, Exception):
            self._went_wrong(errand, answer)
            return
        if errand.answer.done():
            self._undo(errand, answer)
        else:
            errand.answer.set_result(answer)
        if self._doubts:
            self._settle_doubts()

    def _went_wrong(self, errand: _Errand, exc: Exception) -> None:
        # Every call may be sent twice: each is known by its reservation's id.
        is_lost = isinstance(exc, RedisConnectionError)
        is_unknown = isinstance(exc, ResponseError) and str(exc).startswith("NOSCRIPT")
        if (is_lost or is_unknown) and errand.tries == 1 and errand.is_wanted:
            self._is_unknown = self._is_unknown or is_unknown
            self.add(errand)
            return
        if isinstance(exc, ResponseError) and str(exc).startswith(MOVED_ON):
            self._retire()
        self._fail(errand, exc)

    def _fail(self, errand: _Errand, exc: Exception) -> None:
        if errand.tries and errand.undo is not None and not isinstance(exc, ResponseError):
            self._doubts.append(errand)
        if not errand.answer.done():
            errand.answer.set_exception(exc)

    def _settle_doubts(self) -> None:
        for _ in range(min(len(self._doubts), DOUBTS_AT_ONCE)):
            self._send_undo(self._doubts.popleft())

    def _undo(self, errand: _Errand, answer: Any) -> None:
        if errand.undo is not None and is_charged(answer):
            self._send_undo(errand)

    def _send_undo(self, errand: _Errand) -> None:
        if errand.undo is None:
            return
        unheard: asyncio.Future[Any] = self._loop.create_future()
        unheard.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.add(_Errand(errand.undo(), unheard))


def _heard(_: Any) -> None:
    """
    Whether the script was taken, the calls behind it tell.
    """
