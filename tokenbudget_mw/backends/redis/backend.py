"""
Counters in Redis, shared by all processes.

One call is one script, one round trip, atomic over all counters of a request. Threads send each call by itself (here);
on an event loop the calls of one tick travel together, on one connection (`loop`). Both end at the deadline,
whatever happens, with an answer or with `BackendUnavailableError`.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from tokenbudget_mw.backends.redis.client import CONNECT_SECONDS, unavailable
from tokenbudget_mw.backends.redis.loop import AsyncRedisBackend
from tokenbudget_mw.backends.redis.routes import Routes
from tokenbudget_mw.backends.redis.script import (
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
from tokenbudget_mw.backends.redis.start import Inspection
from tokenbudget_mw.backends.redis.topology import TRY_AGAIN_AFTER, Topology, code_of, next_step
from tokenbudget_mw.backends.redis.url import read_url
from tokenbudget_mw.backends.redis.wire import frame
from tokenbudget_mw.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from tokenbudget_mw.backends.redis.url import Place
    from tokenbudget_mw.values import Ask, Reply, Reservation, Seed, Settlement

__all__ = ["AsyncRedisBackend", "RedisBackend"]


class RedisBackend:
    """
    A `Backend` on Redis, for threads.

    Args:
        url: As `url.read_url` takes it; timeouts and retries in it are not used.

        deadline: The most seconds that a call takes.

        clock: ``server`` for Redis's own time, the same for all processes; ``caller`` for the *now* of each call.

        connections: The most connections that this process opens to one server.

        topology: What the URL means, where it was read before.

        inspection: What the log says of the server once.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: float = 0.05,
        clock: Literal["server", "caller"] = "server",
        connections: int = 16,
        topology: Topology | None = None,
        inspection: Inspection | None = None,
    ) -> None:
        self._script = Script()
        self._deadline = deadline
        self._is_virtual = clock == "caller"
        self._names = b"EVALSHA", self._script.sha.encode()
        self._texts = b"EVAL", self._script.text.encode()
        self._routes = Routes(
            topology or Topology(read_url(url)),
            self._script,
            inspection or Inspection(),
            connections=connections,
            connect_seconds=max(deadline, CONNECT_SECONDS),
        )
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
        self._routes.close()

    def _moment(self, now: float) -> int:
        return round(now * 1_000_000) if self._is_virtual else SERVER_CLOCK

    def _run(self, call: Call) -> Any:
        try:
            return self._send(call, time.monotonic() + self._deadline)
        except (RedisError, OSError) as exc:
            raise unavailable(exc, self._deadline) from exc

    def _send(self, call: Call, ends: float) -> Any:
        routes, words, is_asking, sends = self._routes, self._names, False, 0
        place = routes.place_of(call.keys[0])
        while True:
            sends += 1
            try:
                answer = self._visit(place, call, ends, words, is_asking=is_asking)
            except TimeoutError:
                routes.lost(place)
                raise
            except RedisConnectionError as exc:
                answer = exc
            if not isinstance(answer, Exception):
                return answer
            step, is_asking = next_step(answer, sends, place), False
            if step.kind == "fail":
                raise answer
            if step.kind == "load":
                words = self._texts
            elif step.kind == "elsewhere":
                place, is_asking = routes.follow(step), step.is_asking
            elif step.kind == "later":
                if time.monotonic() + TRY_AGAIN_AFTER > ends:
                    raise answer
                time.sleep(TRY_AGAIN_AFTER)
                sends = 1
                place = routes.place_of(call.keys[0])
            else:  # what is left idle is as old, and as wrong
                routes.pool(place).clear()
                routes.lost(place)
                place = routes.place_of(call.keys[0])

    def _visit(
        self, place: Place | None, call: Call, ends: float, words: tuple[bytes, bytes], *, is_asking: bool
    ) -> Any:
        pool = self._routes.pool(place)
        doubts = self._take_doubts(place) if self._doubts else []
        frames = [ASKING] if is_asking else []
        frames.append(frame(*words, *call.parts()))
        frames += [frame(*self._names, *doubt.parts()) for doubt in doubts]
        try:
            wire = pool.take(ends)
            try:
                replies = wire.ask(b"".join(frames), len(frames), ends)
            except BaseException:
                pool.drop(wire)
                raise
        except BaseException:
            self._doubts.extend(doubts)
            raise
        pool.give(wire)
        if doubts:
            answers = zip(doubts, replies[-len(doubts) :], strict=True)
            self._doubts.extend([doubt for doubt, reply in answers if _is_elsewhere(reply)])
        return replies[1 if is_asking else 0]

    def _take_doubts(self, place: Place | None) -> list[Call]:
        taken: list[Call] = []
        for _ in range(min(len(self._doubts), DOUBTS_AT_ONCE)):
            doubt = self._doubts.popleft()
            (taken if self._routes.place_of(doubt.keys[0]) == place else self._doubts).append(doubt)
        return taken


ASKING = frame(b"ASKING")


def _is_elsewhere(reply: Any) -> bool:
    # The next call to wherever it is takes it along; any other error it would meet again.
    return code_of(reply) in {"MOVED", "ASK", "TRYAGAIN", "NOSCRIPT"}
