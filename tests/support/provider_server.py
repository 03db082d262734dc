"""The fake provider behind a real server, and what a script that calls it is charged to."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn

from tokenbudget_mw.testing.budget import BudgetTester
from tokenbudget_mw.testing.provider import FakeProvider
from tokenbudget_mw.values import Subject

LIMIT = 1000


class ProviderServer:
    """The provider on a port of its own, in a thread."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        config = uvicorn.Config(FakeProvider().asgi, interface="asgi3", log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._socket.listen()  # from here on a connection waits for the server instead of being refused
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def options(self, prefix: str = "", **more: Any) -> dict[str, Any]:
        """What every client is made with."""
        return {"base_url": f"{self.url}{prefix}", "api_key": "unused", "max_retries": 0, **more}


class Books(BudgetTester):
    """A core on which a script with one limit is charged."""

    def __init__(self) -> None:
        super().__init__({"plans": {"script": [f"{LIMIT} tokens/minute"]}, "default_plan": "script"})
        self.subject = Subject(key="script")

    def used(self) -> int:
        """Tokens that the limit has counted."""
        self.core.aside(lambda: None)
        self.core.close()  # async clients charge in a thread, which this waits for
        return LIMIT - self.decide(self.subject).tallies[0].state.remaining
