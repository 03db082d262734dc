"""
Processes that are killed while they record, and the books that must agree afterwards.
"""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos_writer import ACK, cost_of, open_spool
from sqlalchemy import Engine, func, select

from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.calls.orphaned import SUFFIX
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.books import verify
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.rules.settlement import ORPHANED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from private_servers import PostgresServer

WRITER = Path(__file__).with_name("chaos_writer.py")
PIPE = 65_536
"""Bytes that Linux keeps of a pipe: a writer with so many unread acknowledgements stands still."""


class Writer:
    """
    A running `chaos_writer`.
    """

    def __init__(self, mode: str, folder: Path, url: str) -> None:
        command = [sys.executable, "-W", "ignore", str(WRITER), mode, str(folder), url]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self.instance = self._output.readline().decode().strip()
        assert self.instance, self._process.stderr.read()
        self._acknowledged = b""

    def run(self, records: int) -> None:
        """
        Let it record *records* more.
        """
        wanted = len(self._acknowledged) + records * ACK.size
        while len(self._acknowledged) < wanted:
            self._acknowledged += self._output.read(wanted - len(self._acknowledged))

    def catch_up(self) -> None:
        """
        Read whatever it has said: it waits for nobody any more.
        """
        said = PIPE
        while said == PIPE:  # a full pipe stops it; it runs on while this one is emptied
            piece = self._output.read(PIPE)
            self._acknowledged += piece
            said = len(piece)

    def kill(self) -> int:
        """
        Kill it (SIGKILL), and return the last sequence number that it has acknowledged.
        """
        self._process.kill()
        rest, errors = self._process.communicate()
        self._acknowledged += rest
        assert b"Traceback" not in errors, errors  # what the flusher says about the database is no error here
        whole = len(self._acknowledged) // ACK.size
        sequences = [number for (number,) in ACK.iter_unpack(self._acknowledged[: whole * ACK.size])]
        assert sequences == list(range(1, whole + 1))  # none was dropped
        return whole


class Crowd:
    """
    Writers that record at once, of which one after another is killed; each has a successor.

    Args:
        folder: The spool.

        url: The database.

        rng: Says whom a kill hits, and when.

        processes: How many run at once.

        mode: The spool's mode.
    """

    def __init__(
        self, folder: Path, url: str, rng: random.Random, *, processes: int = 4, mode: str = "kill_safe"
    ) -> None:
        self._start = partial(Writer, mode, folder, url)
        self._rng = rng
        self._writers: list[Writer] = []
        self.acknowledged: dict[str, int] = {}
        try:
            for _ in range(processes):
                self._writers.append(self._start())
        except BaseException:
            self.kill_all()
            raise

    def run(self) -> None:
        """
        Let each record some hundred more.
        """
        for writer in self._writers:
            writer.run(self._rng.randrange(1, 400))

    def kill_one(self) -> None:
        """
        Kill one of them at a random moment of its work, and start another.
        """
        victim = self._writers.pop(self._rng.randrange(len(self._writers)))
        victim.catch_up()  # else it is killed where it waits for us
        victim.run(self._rng.randrange(1, 400))
        self.acknowledged[victim.instance] = victim.kill()
        self._writers.append(self._start())

    def kill_all(self) -> dict[str, int]:
        """
        Kill them all.

        Returns:
            The last acknowledged sequence number of each that ever ran.
        """
        while self._writers:
            victim = self._writers.pop()
            self.acknowledged[victim.instance] = victim.kill()
        return self.acknowledged


@contextmanager
def crowd(*args: Any, **options: Any) -> Iterator[Crowd]:
    """
    Run a `Crowd`; whoever is alive at the end is killed.
    """
    running = Crowd(*args, **options)
    try:
        yield running
    finally:
        running.kill_all()


def rage(running: Crowd, kills: int) -> None:
    """
    Kill *kills* writers, one after another.
    """
    for _ in range(kills):
        running.run()
        running.kill_one()


def crash(server: PostgresServer, running: Crowd, *, kill_meanwhile: bool) -> None:
    """
    Crash *server* while everybody records, and wait until it is back; a writer may be killed while it is away.
    """
    with ThreadPoolExecutor(1) as aside:
        back = aside.submit(server.restart)
        if kill_meanwhile:
            running.kill_one()
        while not wait([back], timeout=0.1).done:  # some thousand records a second
            running.run()
        back.result()


@dataclass(frozen=True)
class Books:
    """
    What the database holds of an instance.
    """

    rows: int
    last: int
    cost: int


NOTHING = Books(0, 0, 0)


def replay(mode: str, folder: Path, engine: Engine) -> None:
    """
    Bring to the database what killed processes have left in *folder*.
    """
    flusher = Flusher(open_spool(mode, str(folder)), DatabaseSink(engine), threads=False, interval=0.0)
    while flusher.tick() is not None:
        pass
    assert flusher.close()


def books_of(engine: Engine) -> dict[str, Books]:
    """
    Return the books of every instance.
    """
    usage = tables.usage.c
    query = select(usage.instance_id, func.count(), func.max(usage.sequence), func.sum(usage.cost_pico)).group_by(
        usage.instance_id
    )
    with engine.connect() as connection:
        return {row[0]: Books(int(row[1]), int(row[2]), int(row[3])) for row in connection.execute(query)}


def sums_of(engine: Engine) -> dict[str, int]:
    """
    Add up each book by itself, in pico-dollars, without a word of `verify`.
    """
    columns = {
        "usage": tables.usage.c.cost_pico,
        "rollup_subjects": tables.rollup_subjects.c.cost_pico,
        "rollup_hours": tables.rollup_hours.c.cost_pico,
        "rollup_days": tables.rollup_days.c.cost_pico,
        "ledger": tables.ledger.c.amount_pico,
        "balances": tables.balances.c.balance_pico,
    }
    with engine.connect() as connection:
        return {name: sum(map(int, connection.scalars(select(column)))) for name, column in columns.items()}


def lost(engine: Engine, acknowledged: dict[str, int]) -> int:
    """
    Return how many acknowledged records are not in the books.
    """
    books = books_of(engine)
    return sum(max(0, last - books.get(instance, NOTHING).rows) for instance, last in acknowledged.items())


def orphans_of(engine: Engine) -> dict[str, list[str]]:
    """
    Return the ids of the rows that were orphans, by the instance whose call it was.
    """
    usage, found = tables.usage.c, dict[str, list[str]]()
    with engine.connect() as connection:
        for instance, row in connection.execute(
            select(usage.instance_id, usage.id).where(usage.settle_reason == ORPHANED)
        ):
            found.setdefault(instance.removesuffix(SUFFIX), []).append(row)
    return found


def check(engine: Engine, acknowledged: dict[str, int]) -> int:
    """
    Assert that every acknowledged record is in the books, once, and that the books agree.

    A process may be killed between the put and the acknowledgement: one record more of each is right. Or before the put:
    then the next call is its one orphan.

    Returns:
        How many records were acknowledged.
    """
    books, orphans = books_of(engine), orphans_of(engine)
    assert set(orphans) <= set(acknowledged)
    for instance, last in acknowledged.items():
        found = books.get(instance, NOTHING)
        assert orphans.get(instance, []) in ([], [f"{instance[:20]}{found.last + 1:012x}"])
        assert last <= found.last <= last + 1
        assert found.rows == found.last
        assert found.cost == sum(map(cost_of, range(1, found.last + 1)))
    sums = sums_of(engine)
    cost = sum(found.cost for found in books.values())
    assert {instance.removesuffix(SUFFIX) for instance in books} <= acknowledged.keys()
    assert sums == {**dict.fromkeys(sums, cost), "balances": -cost}
    report = verify(engine)
    assert report.verified, report
    return sum(acknowledged.values())
