"""
The fault matrix: whatever happens to Redis, no request fails because of it, none waits long, the policy holds, and the
shared limits are back within a second; for ASGI and WSGI, with a connection that is open before and without.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from fault_proxy import FaultProxy

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.values import Facts, Subject
from tokenbudget_mw.wiring import wire
from tokenbudget_mw.wsgi import WSGIMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from private_servers import RedisServer

    from tokenbudget_mw.core import Core

redis = pytest.importorskip("redis")
pytestmark = pytest.mark.slow

DEADLINE = 0.1
PATIENCE = 5.0  # the deadline where a busy machine must not be taken for a fault
TOLERANCE = 0.15  # a busy machine's share
LIMIT = 8
KEY = "key=caller"


class Wsgi:
    """
    A metered WSGI app.
    """

    def __init__(self, core: Core) -> None:
        self._app = WSGIMiddleware(self._plain, core)

    def request(self) -> int:
        """
        Make a request; return its status.
        """
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.input": None, "QUERY_STRING": ""}
        statuses: list[str] = []
        body = self._app(environ, lambda status, *_: statuses.append(status))
        list(body)
        getattr(body, "close", list)()  # PEP 3333: where it has one
        return int(statuses[-1][:3])

    def close(self) -> None:
        """
        Nothing is open.
        """

    @staticmethod
    def _plain(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"fine"]


class Asgi:
    """
    A metered ASGI app, on one loop from the first request to the last.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._app = ASGIMiddleware(self._plain, core)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def request(self) -> int:
        """
        Make a request; return its status.
        """
        return asyncio.run_coroutine_threadsafe(self._request(), self._loop).result(10)

    def close(self) -> None:
        """
        Close the loop's connection, and the loop.
        """
        asyncio.run_coroutine_threadsafe(self._core.async_guard.backend.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _request(self) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "client": None}
        await self._app(scope, receive, send)
        return int(sent[0]["status"])

    @staticmethod
    async def _plain(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})


def caller(_: Facts) -> Subject:
    """
    Everybody is the same caller.
    """
    return Subject(key="caller")


class Bench:
    """
    A server, a proxy before it, and a metered app that knows the proxy.
    """

    def __init__(self, server: RedisServer, face: type[Asgi | Wsgi], policy: str, deadline: float) -> None:
        self.server = server
        self.proxy = FaultProxy(server.port)
        settings = {
            "backend": f"redis://127.0.0.1:{self.proxy.port}/0",
            "deadline": deadline,
            "identify": caller,
            "limits": [f"{LIMIT} requests/hour"],
            "on_backend_error": policy,
        }
        self.core = wire(settings, sink=CallableSink(lambda records: None))
        self.app = face(self.core)

    def requests(self, count: int) -> tuple[list[int], list[float]]:
        """
        Make *count* requests; return their statuses and how many seconds each took.
        """
        statuses, seconds = [], []
        for _ in range(count):
            begin = time.monotonic()
            statuses.append(self.app.request())
            seconds.append(time.monotonic() - begin)
        return statuses, seconds

    def admin(self, *command: str) -> Any:
        """
        Say *command* to the server itself.
        """
        with redis.Redis.from_url(self.server.url) as client:
            return client.execute_command(*command)

    def is_shared(self) -> bool:
        """
        Make a request, and tell whether it was counted in Redis.
        """
        self.admin("FLUSHALL")
        self.app.request()
        return bool(self.admin("EXISTS", f"tb:{{key:caller}}:{KEY}"))

    def close(self) -> None:
        """
        End app, core and proxy.
        """
        self.app.close()
        self.core.close()
        self.proxy.close()


def _admin(*command: str) -> Callable[[Bench], Any]:
    return lambda bench: bench.admin(*command)


def _proxy(mode: Any) -> Callable[[Bench], Any]:
    return lambda bench: bench.proxy.become(mode)


FAULTS: dict[str, tuple[Callable[[Bench], Any], Callable[[Bench], Any]]] = {
    "refuse": (_proxy("refuse"), _proxy("pass")),
    "blackhole": (_proxy("blackhole"), _proxy("pass")),
    "slow": (_proxy("slow"), _proxy("pass")),
    "drip": (_proxy("drip"), _proxy("pass")),
    "reset": (_proxy("reset"), _proxy("pass")),
    "frozen": (lambda bench: bench.server.stop(), lambda bench: bench.server.resume()),
    "killed": (lambda bench: bench.server.kill(), lambda bench: bench.server.start()),
    "out of memory": (_admin("CONFIG", "SET", "maxmemory", "1"), _admin("CONFIG", "SET", "maxmemory", "0")),
    "read-only": (_admin("REPLICAOF", "127.0.0.1", "1"), _admin("REPLICAOF", "NO", "ONE")),
}


@pytest.fixture(params=[Asgi, Wsgi])
def face(request: pytest.FixtureRequest) -> type[Asgi | Wsgi]:
    chosen: type[Asgi | Wsgi] = request.param
    return chosen


@pytest.fixture
def bench(redis_server: RedisServer, face: type[Asgi | Wsgi], request: pytest.FixtureRequest) -> Iterator[Bench]:
    policy, deadline = getattr(request, "param", ("local", DEADLINE))
    bench = Bench(redis_server, face, policy, deadline)
    yield bench
    bench.close()


def wait_for_line(caplog: pytest.LogCaptureFixture, line: str) -> float:
    """
    Wait until *line* is logged; return how many seconds that took.
    """
    begin, pause = time.monotonic(), threading.Event()
    while line not in caplog.messages:
        assert time.monotonic() - begin < 5, "it was never said"
        pause.wait(0.01)
    return time.monotonic() - begin


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("fault", FAULTS)
def test_t16_no_fault_is_seen_by_a_request(
    bench: Bench, fault: str, is_warm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """
    With ``local`` this process's own share holds meanwhile; the log has a line for each transition and no more.
    """
    do, undo = FAULTS[fault]
    assert not is_warm or bench.requests(2)[0] == [200, 200]
    with caplog.at_level(logging.INFO, logger="tokenbudget_mw"):
        do(bench)
        statuses, seconds = bench.requests(LIMIT + 4)
        undo(bench)
        away = wait_for_line(caplog, "Backend redis is back; limits are shared again.")

    assert statuses == [200] * LIMIT + [429] * 4
    assert max(seconds) < 2 * DEADLINE + TOLERANCE  # reserve and settle may each meet the deadline
    assert sum(seconds) < 8 * (DEADLINE + TOLERANCE)
    assert away < 1.0
    assert any(bench.is_shared() for _ in range(5))  # a busy machine may miss a deadline
    assert [record.levelname for record in caplog.records if "ackend" in record.getMessage()] == ["ERROR", "WARNING"]


@pytest.mark.parametrize(
    ("bench", "status"), [(("allow", DEADLINE), 200), (("deny", DEADLINE), 503)], indirect=["bench"]
)
def test_t16_the_policy_holds_while_redis_is_away(bench: Bench, status: int) -> None:
    """
    ``allow`` admits everybody; ``deny`` refuses with 503 and says when to come again.
    """
    bench.proxy.become("refuse")
    statuses, _ = bench.requests(LIMIT + 4)

    assert statuses == [status] * (LIMIT + 4)


@pytest.mark.parametrize("bench", [("local", PATIENCE)], indirect=True)
def test_t16_a_forgotten_script_is_nobodys_business(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """
    SCRIPT FLUSH: every request is counted in Redis, and nothing is logged.
    """
    statuses = []
    for _ in range(LIMIT + 2):
        bench.admin("SCRIPT", "FLUSH")
        statuses += bench.requests(1)[0]

    assert statuses == [200] * LIMIT + [429] * 2
    assert not [record for record in caplog.records if "ackend" in record.getMessage()]


def test_t16_a_changed_password_follows_the_policy(bench: Bench) -> None:
    """
    New connections are refused; the process's own share holds, as with any other fault.
    """
    bench.admin("CONFIG", "SET", "requirepass", "canary")
    bench.proxy.become("reset")
    bench.proxy.become("pass")
    statuses, _ = bench.requests(LIMIT + 4)

    assert statuses == [200] * LIMIT + [429] * 4
