"""
Everything at once, on servers with two workers: the database is away, one record is poison, a worker is killed, the server
is told to stop while streams are open, and what is left behind is replayed twice. The books have each call once.

One server in the usual run, all of them and more load under ``tox -e chaos``.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from adapter_servers import Server, serving
from sqlalchemy import create_engine

from tokenbudget_mw.database.books import verify
from tokenbudget_mw.database.letters import LetterStore
from tokenbudget_mw.wiring import wire

IS_CHAOS = bool(os.environ.get("TOKENBUDGET_TEST_CHAOS"))
USUAL = [("gunicorn-gevent", "wsgi_host")]
MORE = [
    ("gunicorn-preload-threads", "wsgi_host"),
    ("gunicorn-recycling-threads", "flask_host"),
    ("gunicorn-uvicorn-pair", "fastapi_host"),
    ("gunicorn-preload-threads", "django_host"),
    ("uwsgi", "wsgi_host"),
]
REQUESTS = 400 if IS_CHAOS else 40
CLIENTS, STREAMS = 4, 6

pytestmark = pytest.mark.timeout(600)  # a worker that is recycled every 15 requests takes its time to start

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}], "max_tokens": 50}
BODY = json.dumps(CHAT).encode()
STREAM = json.dumps(CHAT | {"stream": True, "stream_options": {"include_usage": True}}).encode()
POISON = json.dumps({"charges": [{"model": "gpt-4o", "input_tokens": 10**15, "output_tokens": 0}]}).encode()


class Clients:
    """
    Who asks, and what came of it.

    Attributes:
        answered: Requests whose response came whole.

        begun: Streams that gave their first bytes.
    """

    def __init__(self, port: int) -> None:
        self.answered: set[str] = set()
        self.begun: set[str] = set()
        self._port = port
        self._streams: list[threading.Thread] = []

    def ask(self) -> None:
        """Ask until every client has had its share of whole answers."""
        threads = [threading.Thread(target=self._ask_many, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def poison(self) -> None:
        """Charge more than any column holds."""
        self._post("poison", "/assistant/charge", POISON)

    def open_streams(self) -> None:
        """Open streams that take longer than the server may live, and wait for the first bytes of each."""
        opened = threading.Semaphore(0)
        for number in range(STREAMS):
            self._streams.append(threading.Thread(target=self._read_slowly, args=(f"stream-{number}", opened)))
            self._streams[-1].start()
        for _ in range(STREAMS):
            assert opened.acquire(timeout=20)

    def close(self) -> None:
        for thread in self._streams:
            thread.join(60)

    def _ask_many(self, client: int) -> None:
        for number in range(REQUESTS // CLIENTS):
            name = f"{client}-{number}"
            if self._post(name, "/v1/chat/completions", STREAM if number % 2 else BODY) == 200:
                self.answered.add(name)

    def _post(self, name: str, path: str, body: bytes) -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)) as connection:
            try:
                connection.request("POST", path, body, _headers(name))
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):  # a worker that is recycled may leave a connection
                return 0
            return response.status

    def _read_slowly(self, name: str, opened: threading.Semaphore) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
            try:
                connection.request("POST", "/v1/chat/completions", STREAM, _headers(name) | {"x-pause": "1"})
                response = connection.getresponse()
                if response.read(1):
                    self.begun.add(name)
                opened.release()
                response.read()
            except (OSError, http.client.HTTPException):
                opened.release()


def _headers(name: str) -> dict[str, str]:
    # a key each: the poison uses up what its own may use
    return {"x-subject": name, "x-request-id": name, "content-type": "application/json"}


def rename(database: Path, old: str, new: str) -> None:
    """Take the table of usage away, or bring it back."""
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        connection.execute(f"ALTER TABLE {old} RENAME TO {new}")


def kill_one(server: Server) -> None:
    """Kill a worker that has streams open, as the out-of-memory killer does."""
    import psutil  # type: ignore[import-untyped]  # comes with the private PostgreSQL

    for worker in psutil.Process(server.process.pid).children():
        if any(each.status == "ESTABLISHED" for each in worker.net_connections()):
            worker.kill()
            return
    pytest.fail("no worker has a stream")


def adopt(database: Path) -> None:
    """Bring to the database what dead processes have left."""
    core = wire({"database": f"sqlite:///{database}", "identify": lambda _: None})
    while core.flusher.tick() is not None:
        core.flush()
    core.close()


def rows(database: Path) -> Iterator[tuple[str, str]]:
    """Each row's request and outcome."""
    with closing(sqlite3.connect(database)) as connection:
        yield from connection.execute("SELECT correlation_id, settle_reason FROM tokenbudget_usage")


@pytest.mark.parametrize(("name", "module"), [*USUAL, *(MORE if IS_CHAOS else ())])
def test_t11_t12_t13_t14_on_a_server(name: str, module: str, tmp_path: Path) -> None:
    """
    Each answered call has one row, each stream that was cut off by a kill or a stop has one as well, the poison is a dead
    letter and stands in nobody's way, a second replay changes nothing, and the books agree.
    """
    environment: dict[str, Any] = {"TOKENBUDGET_LOAD_TOKENIZER": "background"}
    with serving(name, module, tmp_path, **environment) as server:
        clients, database = Clients(server.port), server.database
        rename(database, "tokenbudget_usage", "away")
        clients.ask()
        clients.poison()
        clients.open_streams()
        kill_one(server)
        rename(database, "away", "tokenbudget_usage")
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        clients.close()
    adopt(database)
    once = sorted(rows(database))
    adopt(database)
    booked = [request for request, _ in once]
    engine = create_engine(f"sqlite:///{database}")
    report, letters = verify(engine), LetterStore(engine).find()
    engine.dispose()

    assert len(clients.answered) > REQUESTS // 2
    assert len(booked) == len(set(booked))
    assert clients.answered <= set(booked)
    assert clients.begun <= set(booked)
    assert any(outcome.startswith("orphaned") for _, outcome in once)
    assert "poison" not in booked
    assert [letter.fields["correlation_id"] for letter in letters] == ["poison"]
    assert sorted(rows(database)) == once
    assert report.verified, report
