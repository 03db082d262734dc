"""
Counters in Redis, for event loops: the calls of one tick leave together, on one connection of the loop.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from tokenbudget_mw.backends.redis.client import CONNECT_SECONDS, unavailable
from tokenbudget_mw.backends.redis.deadlines import Deadlines
from tokenbudget_mw.backends.redis.errand import Errand
from tokenbudget_mw.backends.redis.lanes import Lanes
from tokenbudget_mw.backends.redis.script import (
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
from tokenbudget_mw.backends.redis.start import Inspection
from tokenbudget_mw.backends.redis.topology import TRY_AGAIN_AFTER, Topology, next_step
from tokenbudget_mw.backends.redis.url import read_url
from tokenbudget_mw.backends.redis.wire import Wire, ask, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from tokenbudget_mw.backends.redis.url import Place
    from tokenbudget_mw.values import Ask, Reply, Reservation, Seed, Settlement

__all__ = ["AsyncRedisBackend"]

ASKING = frame(b"ASKING")


class AsyncRedisBackend:
    """
    A `Backend` on Redis, for event loops: each loop has its own connection to each server. The arguments are those of
    `RedisBackend`.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: float = 0.05,
        clock: Literal["server", "caller"] = "server",
        topology: Topology | None = None,
        inspection: Inspection | None = None,
    ) -> None:
        self._script = Script()
        self._deadline = deadline
        self._is_virtual = clock == "caller"
        self._topology = topology or Topology(read_url(url))
        self._inspection = inspection or Inspection()
        self._lanes: dict[asyncio.AbstractEventLoop, Lanes[_Lane]] = {}

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
        Close the running loop's connections.
        """
        lanes = self._lanes.pop(asyncio.get_running_loop(), None)
        if lanes is not None:
            await lanes.aclose()

    def _moment(self, now: float) -> int:
        return round(now * 1_000_000) if self._is_virtual else SERVER_CLOCK

    async def _run(self, call: Call, undo: Callable[[], Call] | None = None, *, is_owed: bool = False) -> Any:
        loop = asyncio.get_running_loop()
        lanes = self._lanes.get(loop)
        if lanes is None:
            for closed in [other for other in self._lanes if other.is_closed()]:
                del self._lanes[closed]
            lanes = self._lanes[loop] = self._open_lanes(loop)
        errand = Errand(call, loop.create_future(), undo, is_owed)
        lanes.of(call.keys[0]).add(errand)
        lanes.deadlines.add(errand)
        try:
            return await errand.answer
        except BaseException as exc:
            if errand.lane is not None:
                errand.lane.forsake(errand)
            if isinstance(exc, RedisError | OSError):
                raise unavailable(exc, self._deadline) from exc
            raise

    def _open_lanes(self, loop: asyncio.AbstractEventLoop) -> Lanes[_Lane]:
        make = partial(_Lane, script=self._script, deadline=self._deadline, inspection=self._inspection)
        deadlines = Deadlines[Errand](loop, self._deadline, _give_up)
        return Lanes(self._topology, make, deadlines, connect_seconds=max(self._deadline, CONNECT_SECONDS))


def _give_up(errand: Errand) -> None:
    if errand.lane is not None:
        errand.lane.give_up(errand)


class _Lane:
    """
    One loop's way to one server: what a tick gathers leaves in one write. Idle, it has a connection and no task.
    """

    def __init__(
        self, lanes: Lanes[_Lane], place: Place | None, *, script: Script, deadline: float, inspection: Inspection
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._lanes = lanes
        self._place = place
        self._script = script
        self._deadline = deadline
        self._inspection = inspection
        self._evalsha = (b"EVALSHA", script.sha.encode())
        self._load = frame(b"SCRIPT", b"LOAD", script.text.encode())
        self._is_unknown = False
        self._waiting: list[Errand] = []
        self._wire: Wire | None = None
        self._retired: set[Wire] = set()
        self._connecting: asyncio.Task[None] | None = None

    def add(self, errand: Errand) -> None:
        """
        Send *errand* at the end of this tick.
        """
        errand.lane = self
        self._waiting.append(errand)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._flush)

    def forsake(self, errand: Errand) -> None:
        """
        Undo *errand*, whose caller went away although its answer had come.
        """
        if errand.answer.done() and not errand.answer.cancelled() and errand.answer.exception() is None:
            self._undo(errand, errand.answer.result())

    def give_up(self, errand: Errand) -> None:
        """
        End the wait for *errand*; calls to come take another connection, and this one has a little time to answer.
        """
        if errand.answer.done():
            return
        errand.answer.set_exception(errand.fault or TimeoutError())
        if errand.fault is None:
            self._retire()
            self._lanes.lost(self._place)

    async def aclose(self) -> None:
        """
        Finish what is under way, then close the connection.
        """
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._wire is not None and not self._wire.is_lost:
            await self._finish(self._wire)
        for wire in tuple(self._retired):  # their time may run out meanwhile
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
            if errand.is_asking:
                errand.is_asking = False
                frames.append(ASKING)
                answers.append(_heard)
            frames.append(frame(*self._evalsha, *errand.call.parts()))
            answers.append(partial(self._arrived, errand))
        wire.send(frames, answers)

    async def _connect(self) -> None:
        try:
            wire = self._wire = await self._lanes.connect(self._place)
        except Exception as exc:  # noqa: BLE001 - whoever waits is told, whatever it was
            waiting, self._waiting = self._waiting, []
            for errand in waiting:
                self._fail(errand, exc if isinstance(exc, RedisError | OSError) else OSError(type(exc).__name__))
            self._lanes.lost(self._place)
            return
        self._flush()
        if self._inspection.is_due(self._place):
            self._inspect(wire)

    def _inspect(self, wire: Wire) -> None:
        frames, replies = self._inspection.frames(self._script), list[Any]()

        def hear(reply: Any) -> None:
            replies.append(reply)
            if len(replies) == len(frames):
                self._inspection.heard(replies)

        wire.send(frames, [hear] * len(frames))

    def _retire(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None and not wire.is_lost:
            self._retired.add(wire)
            self._loop.call_later(self._deadline, self._drop, wire)

    def _drop(self, wire: Wire) -> None:
        wire.abort()
        self._retired.discard(wire)

    # -- back ---------------------------------------------------------------------------------------------------------

    def _arrived(self, errand: Errand, answer: Any) -> None:
        if isinstance(answer, Exception):
            self._went_wrong(errand, answer)
            return
        if errand.answer.done():
            self._undo(errand, answer)
        else:
            errand.answer.set_result(answer)
        if self._lanes.doubts:
            self._settle_doubts()

    def _went_wrong(self, errand: Errand, exc: Exception) -> None:
        step = next_step(exc, errand.tries, self._place)
        if step.kind == "renew":
            self._retire()
        if step.kind in {"again", "renew"}:
            self._lanes.lost(self._place)
        is_endless = step.kind == "later" and errand.answer.done()
        if step.kind == "fail" or is_endless or not errand.is_wanted:
            self._fail(errand, exc)
        elif step.kind == "elsewhere":
            errand.is_asking = step.is_asking
            self._lanes.follow(step).add(errand)
        elif step.kind == "later":
            errand.tries, errand.fault = 1, exc
            self._loop.call_later(TRY_AGAIN_AFTER, self._send_anew, errand, exc)
        elif step.kind == "load":
            self._is_unknown = True
            self.add(errand)
        else:
            self._send_anew(errand, exc)

    def _send_anew(self, errand: Errand, exc: Exception) -> None:
        if errand.is_wanted:
            self._lanes.of(errand.call.keys[0]).add(errand)
        else:
            self._fail(errand, exc)

    def _fail(self, errand: Errand, exc: Exception) -> None:
        if errand.tries and errand.undo is not None and not isinstance(exc, ResponseError):
            self._lanes.doubts.append(errand)
        if not errand.answer.done():
            errand.answer.set_exception(exc)

    def _settle_doubts(self) -> None:
        for _ in range(min(len(self._lanes.doubts), DOUBTS_AT_ONCE)):
            self._send_undo(self._lanes.doubts.popleft())

    def _undo(self, errand: Errand, answer: Any) -> None:
        if errand.undo is not None and is_charged(answer):
            self._send_undo(errand)

    def _send_undo(self, errand: Errand) -> None:
        if errand.undo is None:
            return
        unheard: asyncio.Future[Any] = self._loop.create_future()
        unheard.add_done_callback(lambda future: future.cancelled() or future.exception())
        undo = errand.undo()
        self._lanes.of(undo.keys[0]).add(Errand(undo, unheard))


def _heard(_: Any) -> None:
    """
    Whether the script was taken, the calls behind it tell.
    """
