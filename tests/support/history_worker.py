"""
A process (or thread) that reserves and settles as fast as it can, and writes down what it is about to do and what came of it.

Run as ``python history_worker.py URL FILE SEED CALLS``. Each line of the file is one event of one call, in JSON: ``asked``
(before the reservation), ``told`` (after it), ``settling`` (before the settlement), ``settled``. A process that is killed
leaves what it knew.

With a fifth argument KILLS it has that many children instead, one after the other, each of which makes its calls, reserves
once more, and is killed (SIGKILL) before it settles.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import uuid
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.testing.asks import HOUR, ask, check, in_flight, settlement
from tokenbudget_mw.values import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.values import Ask, Check

__all__ = ["LIMITS", "LONG", "SHORT", "Worker", "asked", "reply_of"]

LIMITS = {"requests:1": (50_000, 20), "tokens:2": (100_000, 400), "shared:1": (45_000, 250)}
"""Length in microseconds and amount of the trailing windows."""

CALLS = 5
LONG, SHORT = 600.0, 0.3  # leases, in seconds


def checks(cost: int) -> tuple[Check, ...]:
    """
    All limits of a call: trailing windows that are often full, calls in flight, totals, and a witness of the moment.
    """
    return (
        check(1, 20, "requests:1", params=(1_000, 50), counter="key=a"),
        check(cost, 400, "tokens:2", params=(2_500, 40), counter="key=a"),
        check(cost, 250, "shared:1", params=(750, 60), counter="tenant=t"),
        in_flight(CALLS, counter="tenant=t"),
        check(1, 10**9, "requests:3600", params=HOUR, counter="tenant=t"),
        check(cost, 10**9, "tokens:3600", params=HOUR, counter="tenant=t"),
        # the slot of a bucket is the counter's own moment, to the microsecond
        check(1, 10**9, "requests:witness/gcra", params=(3_600_000_000, 100), algorithm="gcra", counter="tenant=t"),
    )


def asked(line: dict[str, Any]) -> Ask:
    """
    Return the question of an ``asked`` line.
    """
    return ask(*checks(line["cost"]), id=line["id"], lease=line["lease"])


def reply_of(slots: list[int]) -> Reply:
    """
    Return as much of a reply as a settlement needs.
    """
    from tokenbudget_mw.values import CheckState

    return Reply(True, tuple([CheckState(True, 0, slot=slot) for slot in slots]))


class Worker:
    """
    Makes calls that end in every way.

    Args:
        backend: Where counters live.

        clock: What is given as *now*.

        write: Takes each line.

        seed: Of its dice.
    """

    def __init__(self, backend: Backend, clock: Callable[[], float], write: Callable[[str], object], seed: int) -> None:
        self._backend = backend
        self._clock = clock
        self._write = write
        self._chance = random.Random(seed)

    def call(self) -> None:
        """
        Make one call: settled at less or more than was held, aborted, settled twice, or lost.
        """
        chance = self._chance
        fate = chance.choices(["used", "aborted", "twice", "lost"], [6, 2, 1, 1])[0]
        lease = SHORT if fate == "lost" else LONG
        line = {"id": uuid.UUID(int=chance.getrandbits(128)).hex, "cost": chance.randrange(40), "lease": lease}
        self._tell("asked", line)
        question = asked(line)
        reply = self._backend.reserve(question, self._clock())
        self._tell("told", {"id": line["id"], "slots": [s.slot for s in reply.states] if reply.admitted else None})
        if not reply.admitted or fate == "lost":
            return
        actual = 0 if fate == "aborted" else chance.randrange(line["cost"] + 1)
        self._tell("settling", {"id": line["id"], "actual": actual})
        for _ in range(2 if fate == "twice" else 1):
            self._backend.settle(settlement(question, reply, 1, actual, actual, 1, 1, actual, 1), self._clock())
        self._tell("settled", {"id": line["id"]})

    def die(self) -> None:
        """
        Reserve once more, and be killed.
        """
        while True:
            line = {"id": uuid.UUID(int=self._chance.getrandbits(128)).hex, "cost": 7, "lease": SHORT}
            self._tell("asked", line)
            reply = self._backend.reserve(asked(line), self._clock())
            slots = [state.slot for state in reply.states] if reply.admitted else None
            self._tell("told", {"id": line["id"], "slots": slots})
            if reply.admitted:
                os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, event: str, line: dict[str, Any]) -> None:
        self._write(json.dumps(line | {"event": event}) + "\n")


def main(url: str, path: str, seed: str, calls: str, kills: str = "0") -> None:
    """
    Make *calls* calls on Redis, at its own time.
    """
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(kills)):
        pid = os.fork()
        if not pid:
            work(url, path, number, int(calls)).die()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    if kills == "0":
        work(url, path, int(seed), int(calls))


def work(url: str, path: str, seed: int, calls: int) -> Worker:
    from tokenbudget_mw.backends.redis import RedisBackend

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    worker = Worker(RedisBackend(url, deadline=30.0), lambda: 0.0, lambda line: os.write(file, line.encode()), seed)
    for _ in range(calls):
        worker.call()
    return worker


if __name__ == "__main__":
    main(*sys.argv[1:])
