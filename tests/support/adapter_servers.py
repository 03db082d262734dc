"""Real servers around the contract's hosts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from tokenbudget_mw.database.tables import metadata

HOSTS = Path(__file__).parent.parent / "adapters" / "hosts"
START_SECONDS = 30

GRANIAN = ["--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning"]
RUNSERVER = """
import importlib, sys
importlib.import_module(sys.argv[2])
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "runserver", "--noreload", sys.argv[1]])
"""

SERVERS = {
    "uvicorn": ["uvicorn", "--log-level", "warning", "--port", "{port}", "{module}:application"],
    "gunicorn": [
        "gunicorn",
        "--log-level",
        "warning",
        "-k",
        "gthread",
        "--threads",
        "8",
        "-b",
        "127.0.0.1:{port}",
        "{module}:application",
    ],
    "gunicorn-preload": [
        "gunicorn",
        "--log-level",
        "warning",
        "--preload",
        "-w",
        "2",
        "-b",
        "127.0.0.1:{port}",
        "{module}:application",
    ],
    "gunicorn-recycling": [
        "gunicorn",
        "--log-level",
        "warning",
        "--max-requests",
        "15",
        "-w",
        "2",
        "-b",
        "127.0.0.1:{port}",
        "{module}:application",
    ],
    "gunicorn-uvicorn": [
        "gunicorn",
        "--log-level",
        "warning",
        "-k",
        "uvicorn_worker.UvicornWorker",
        "-b",
        "127.0.0.1:{port}",
        "{module}:application",
    ],
    "gunicorn-gevent": [
        "gunicorn",
        "--log-level",
        "warning",
        "-k",
        "gevent",
        "-w",
        "2",
        "--graceful-timeout",
        "3",
        "-b",
        "127.0.0.1:{port}",
        "{module}:application",
    ],
    "gunicorn-preload-threads": [
        "gunicorn",
        "--log-level",
        "warning",
        "--preload",
        "-k",
        "gthread",
        "--threads",
        "8",
        "-w",
        "2",
        "--graceful-timeout",
        "3",
        "-b",
        "127.0.0.1:{port}",
        "{module}:application",
    ],
    "gunicorn-recycling-threads": [
        "gunicorn",
        "--log-level",
        "warning",
        "--max-requests",
        "15",
        "-k",
        "gthread",
        "--threads",
        "8",
        "-w",
        "2",
        "--graceful-timeout",
        "3",
        "-b",
        "127.0.0.1:{port}",
        "{module}:application",
    ],
    "gunicorn-uvicorn-pair": [
        "gunicorn",
        "--log-level",
        "warning",
        "-k",
        "uvicorn_worker.UvicornWorker",
        "-w",
        "2",
        "--graceful-timeout",
        "3",
        "-b",
        "127.0.0.1:{port}",
        "{module}:application",
    ],
    "uwsgi": [
        "uwsgi",
        "--http-socket",
        "127.0.0.1:{port}",
        "--master",
        "--processes",
        "2",
        "--threads",
        "8",
        "--die-on-term",
        "--worker-reload-mercy",
        "3",
        "--need-app",
        "--disable-logging",
        "--wsgi",
        "{module}:application",
    ],
    "hypercorn": ["hypercorn", "--log-level", "warning", "-b", "127.0.0.1:{port}", "{module}:application"],
    "granian": ["granian", *GRANIAN, "--interface", "asgi", "{module}:application"],
    "granian-wsgi": ["granian", *GRANIAN, "--interface", "wsgi", "--blocking-threads", "8", "{module}:application"],
    "django-runserver": ["python", "-c", RUNSERVER, "127.0.0.1:{port}", "{module}"],
    "flask-run": ["flask", "--app", "{module}:application", "run", "--port", "{port}"],
    "gunicorn-sync": ["gunicorn", "--log-level", "warning", "-b", "127.0.0.1:{port}", "{module}:application"],
}


class Server:
    """A host behind a real server."""

    def __init__(self, port: int, database: Path, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.database = database
        self.process = process


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def binary(name: str) -> str:
    """Path of a console script beside the interpreter that runs the tests."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def serving(server: str, module: str, folder: Path, **environment: str) -> Iterator[Server]:
    """Run *module* behind *server* on a new SQLite database."""
    database, port = folder / "contract.db", free_port()
    engine = create_engine(f"sqlite:///{database}")
    metadata.create_all(engine)
    engine.dispose()
    command = [part.format(port=port, module=module) for part in SERVERS[server]]
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HOSTS), str(Path(__file__).parent)]),
        "CONTRACT_DATABASE": f"sqlite:///{database}",
        **environment,
    }
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen([binary(command[0]), *command[1:]], env=environ, cwd=folder, stdout=log, stderr=log)
    try:
        wait_until_up(port, process, folder / "server.log")
        yield Server(port, database, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def wait_until_up(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a server's first answer, whatever it is; its own words tell why where none comes."""
    until = time.monotonic() + START_SECONDS
    while (left := until - time.monotonic()) > 0 and process.poll() is None:
        try:
            # a master may listen long before a worker is there to answer
            with socket.create_connection(("127.0.0.1", port), timeout=left) as probe:
                probe.sendall(b"GET /is-anybody-there HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                if probe.recv(1):
                    return
        except OSError:
            process_pause()
    pytest.fail(f"the server did not start:\n{log.read_text()[-4000:]}")


def process_pause() -> None:
    """Give another process a moment."""
    signal.sigtimedwait([], 0.05)
