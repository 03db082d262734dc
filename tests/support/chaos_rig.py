"""
Processes that are killed while they record, and the books that must agree afterwards.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chaos_writer import ACK, cost_of, open_spool
from sqlalchemy import Engine, func, select

from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.books import verify
from tokenbudget_mw.database.writer import DatabaseSink

WRITER = Path(__file__).with_name("chaos_writer.py")


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

    def kill(self) -> int:
        """
        Kill it (SIGKILL), and return the last sequence number that it has acknowledged.
        """
        self._process.kill()
        rest, errors = self._process.communicate()
        self._acknowledged += rest
        assert not errors, errors
        whole = len(self._acknowledged) // ACK.size
        sequences = [number for (number,) in ACK.iter_unpack(self._acknowledged[: whole * ACK.size])]
        assert sequences == list(range(1, whole + 1))  # none was dropped
        return whole


@dataclass(frozen=True)
class Books:
    """
    What the database holds of an instance.
    """

    rows: int
    last: int
    cost: int


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


def check(engine: Engine, acknowledged: dict[str, int]) -> int:
    """
    Assert that every acknowledged record is in the books, once, and that the books agree.

    A process may be killed between the put and the acknowledgement: one record more of each is right.

    Returns:
        How many records were acknowledged.
    """
    books = books_of(engine)
    for instance, last in acknowledged.items():
        found = books[instance]
        assert last <= found.last <= last + 1
        assert found.rows == found.last
        assert found.cost == sum(map(cost_of, range(1, found.last + 1)))
    report = verify(engine)
    assert report.verified, report
    return sum(acknowledged.values())
