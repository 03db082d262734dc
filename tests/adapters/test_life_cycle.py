"""
A server that is told to stop loses no usage: every response that a client got has its row when the process has ended.

That holds for SIGTERM and all that ends by it. Records wait in memory, so a process that is killed takes its last quarter
of a second with it.
"""

import http.client
import json
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from adapter_servers import Server, serving

LONG = "30"
"""Seconds between flushes: so long that only the end of the process can have written what is there."""
CLIENTS = 4
BEFORE = 40
"""Responses before the signal: enough that some are written and some wait."""
BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}], "max_tokens": 50}).encode()
STREAM = json.dumps(json.loads(BODY) | {"stream": True, "stream_options": {"include_usage": True}}).encode()

ASGI = [
    ("uvicorn", "asgi_host", {}),
    ("uvicorn", "bare_host", {}),
    ("uvicorn", "fastapi_host", {}),
    ("hypercorn", "fastapi_host", {}),
    ("gunicorn-uvicorn", "fastapi_host", {}),
    ("granian", "fastapi_host", {}),
]
WSGI = [
    ("gunicorn-sync", "flask_host", {}),
    ("gunicorn", "wsgi_host", {}),
    ("gunicorn-preload", "flask_host", {}),
    ("gunicorn-recycling", "flask_host", {}),
    ("granian-wsgi", "wsgi_host", {}),
]
DJANGO = [
    ("gunicorn", "django_host", {}),
    ("uvicorn", "django_host", {"CONTRACT_ASYNC": "1"}),
]


class Load:
    """
    Clients that ask, each again and again, until nobody answers.

    Attributes:
        sent: Ids of the requests that were sent.

        answered: Ids of those whose response came whole.
    """

    def __init__(self, port: int) -> None:
        self.sent: list[str] = []
        self.answered: list[str] = []
        self._port = port
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        assert self._enough.wait(60), "the server answers too slowly"
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(30)

    def _ask(self, client: int) -> None:
        for number in range(100_000):
            name = f"{client}-{number}"
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            headers = {"x-subject": "load", "x-request-id": name, "content-type": "application/json"}
            try:
                self.sent.append(name)
                connection.request("POST", "/v1/chat/completions", STREAM if number % 2 else BODY, headers)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                return
            finally:
                connection.close()
            assert response.status == 200
            self.answered.append(name)
            if len(self.answered) >= BEFORE:
                self._enough.set()


def booked(database: Path) -> Iterator[str]:
    """The ids of the requests that have a row."""
    connection = sqlite3.connect(database)
    for (name,) in connection.execute("SELECT correlation_id FROM tokenbudget_usage"):
        yield name
    connection.close()


def stop(server: Server) -> None:
    """Tell the server to end, and wait until it has."""
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)


@pytest.mark.parametrize(("name", "module", "environment"), [*ASGI, *WSGI, *DJANGO], ids=str)
def test_t12_sigterm_under_load(name: str, module: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Told to stop in the middle of its work, a server books every response that it gave, and each once."""
    with serving(name, module, tmp_path, TOKENBUDGET_FLUSH_INTERVAL=LONG, **environment) as server:
        with Load(server.port) as load:
            stop(server)
        rows = list(booked(server.database))

    assert len(rows) == len(set(rows))
    assert set(load.answered) <= set(rows) <= set(load.sent)
