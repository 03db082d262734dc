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
from stall import Stall

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.values import Facts, Subject
from tokenbudget_mw.wiring import wire
from tokenbudget_mw.wsgi import WSGIMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from private_servers import RedisServer
    from redis_deployments import Cluster, Watched

    from tokenbudget_mw.core import Core

redis = pytest.importorskip("redis")
topology = pytest.importorskip("tokenbudget_mw.backends.redis.topology")
deployments = pytest.importorskip("redis_deployments")
pytestmark = pytest.mark.slow

DEADLINE = 0.1
PATIENCE = 5.0  # the deadline where a busy machine must not be taken for a fault
ADDED = DEADLINE + 0.02  # the most that a fault may add to a request, beside what the machine itself stood still
LIMIT = 8
KEY = "tb:{key:caller}:key=caller"  # in a cluster it is at the first node, the one with a replica
BACK = "Backend redis is back; limits are shared again."


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
    A metered app, and what its backend is.

    Args:
        url: The backend's.

        face: Which app.

        policy: ``on_backend_error``.

        deadline: The backend's, in seconds.

        limit: Requests an hour.
    """

    def __init__(
        self, url: str, face: type[Asgi | Wsgi], policy: str = "local", deadline: float = DEADLINE, limit: int = LIMIT
    ) -> None:
        settings = {
            "backend": url,
            "deadline": deadline,
            "identify": caller,
            "limits": [f"{limit} requests/hour"],
            "on_backend_error": policy,
        }
        self.core = wire(settings, sink=CallableSink(lambda records: None))
        self.app = face(self.core)
        self.worst = 0.0

    def requests(self, count: int) -> list[int]:
        """
        Make *count* requests; return their statuses. `worst` is how long the slowest of all took, less what the machine
        stood still meanwhile, and the time that a loop is given to catch up.
        """
        statuses = []
        for _ in range(count):
            with Stall() as stall:
                begin = time.monotonic()
                statuses.append(self.app.request())
                seconds = time.monotonic() - begin
            self.worst = max(self.worst, seconds - stall.excuse)
        return statuses

    def is_counted(self, server: RedisServer) -> bool:
        """
        Make a request, and tell whether it was counted at *server*.
        """
        before = deployments.say(server, "HGETALL", KEY)
        return self.requests(1) == [200] and deployments.say(server, "HGETALL", KEY) != before

    def close(self) -> None:
        """
        End app and core.
        """
        self.app.close()
        self.core.close()


class ProxyBench(Bench):
    """
    The same on one server behind a proxy.
    """

    def __init__(self, server: RedisServer, face: type[Asgi | Wsgi], policy: str, deadline: float) -> None:
        self.server = server
        self.proxy = FaultProxy(server.port)
        super().__init__(f"redis://127.0.0.1:{self.proxy.port}/0", face, policy, deadline)

    def admin(self, *command: str, password: str | None = None) -> Any:
        """
        Say *command* to the server itself.
        """
        with redis.Redis.from_url(self.server.url, password=password) as client:
            return client.execute_command(*command)

    def is_shared(self) -> bool:
        """
        Make a request, and tell whether it was counted in Redis.
        """
        self.admin("FLUSHALL")
        self.app.request()
        return bool(self.admin("EXISTS", KEY))

    def close(self) -> None:
        """
        End app, core and proxy.
        """
        super().close()
        self.proxy.close()


def _admin(*command: str, password: str | None = None) -> Callable[[ProxyBench], Any]:
    return lambda bench: bench.admin(*command, password=password)


def _proxy(mode: Any) -> Callable[[ProxyBench], Any]:
    return lambda bench: bench.proxy.become(mode)


def _lock(bench: ProxyBench) -> None:
    bench.admin("CONFIG", "SET", "requirepass", "canary")
    bench.proxy.become("reset")  # connections that are open keep the rights they have
    bench.proxy.become("pass")


FAULTS: dict[str, tuple[Callable[[ProxyBench], Any], Callable[[ProxyBench], Any]]] = {
    "refuse": (_proxy("refuse"), _proxy("pass")),
    "blackhole": (_proxy("blackhole"), _proxy("pass")),
    "slow": (_proxy("slow"), _proxy("pass")),
    "drip": (_proxy("drip"), _proxy("pass")),
    "reset": (_proxy("reset"), _proxy("pass")),
    "frozen": (lambda bench: bench.server.stop(), lambda bench: bench.server.resume()),
    "killed": (lambda bench: bench.server.kill(), lambda bench: bench.server.start()),
    "another password": (_lock, _admin("CONFIG", "SET", "requirepass", "", password="canary")),
    "read-only": (_admin("REPLICAOF", "127.0.0.1", "1"), _admin("REPLICAOF", "NO", "ONE")),
}


@pytest.fixture(params=[Asgi, Wsgi])
def face(request: pytest.FixtureRequest) -> type[Asgi | Wsgi]:
    chosen: type[Asgi | Wsgi] = request.param
    return chosen


@pytest.fixture
def bench(redis_server: RedisServer, face: type[Asgi | Wsgi], request: pytest.FixtureRequest) -> Iterator[ProxyBench]:
    policy, deadline = getattr(request, "param", ("local", DEADLINE))
    bench = ProxyBench(redis_server, face, policy, deadline)
    yield bench
    bench.close()


@pytest.fixture
def opened(face: type[Asgi | Wsgi]) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(url: str, **options: Any) -> Bench:
        benches.append(Bench(url, face, **options))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


def wait_until(is_so: Callable[[], bool], seconds: float = 5.0) -> float:
    """
    Wait until *is_so*; return how many seconds that took.
    """
    begin, pause = time.monotonic(), threading.Event()
    while not is_so():
        assert time.monotonic() - begin < seconds, "it never came true"
        pause.wait(0.01)
    return time.monotonic() - begin


def transitions(caplog: pytest.LogCaptureFixture) -> list[str]:
    """
    Return the levels of the lines that tell of a backend.
    """
    return [record.levelname for record in caplog.records if "ackend" in record.getMessage()]


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("fault", FAULTS)
def test_t16_no_fault_is_seen_by_a_request(
    bench: ProxyBench, fault: str, is_warm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """
    With ``local`` this process's own share holds meanwhile; the log has a line for each transition and no more.
    """
    do, undo = FAULTS[fault]
    assert not is_warm or bench.requests(2) == [200, 200]
    with caplog.at_level(logging.INFO, logger="tokenbudget_mw"):
        do(bench)
        begin = time.monotonic()
        statuses = bench.requests(LIMIT + 4)
        seconds = time.monotonic() - begin
        undo(bench)
        away = wait_until(lambda: BACK in caplog.messages)

    assert statuses == [200] * LIMIT + [429] * 4
    assert bench.worst < ADDED
    assert seconds < 8 * ADDED  # the breaker spares the others the wait
    assert away < 1.0
    assert any(bench.is_shared() for _ in range(5))  # a busy machine may miss a deadline
    assert transitions(caplog) == ["ERROR", "WARNING"]


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_t16_a_full_memory_is_seen_by_no_request(
    bench: ProxyBench, is_warm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Redis lets a script go on that has written before it must not: then limits stay shared, else the policy holds.
    """
    before = 2 if is_warm else 0
    assert bench.requests(before) == [200] * before
    with caplog.at_level(logging.INFO, logger="tokenbudget_mw"):
        bench.admin("CONFIG", "SET", "maxmemory", "1")
        statuses = bench.requests(LIMIT + 4)
        bench.admin("CONFIG", "SET", "maxmemory", "0")
        is_away = bool(transitions(caplog))
        assert not is_away or wait_until(lambda: BACK in caplog.messages) < 1.0

    admitted = LIMIT if is_away else LIMIT - before
    assert statuses == [200] * admitted + [429] * (LIMIT + 4 - admitted)
    assert bench.worst < ADDED
    assert transitions(caplog) == (["ERROR", "WARNING"] if is_away else [])


@pytest.mark.parametrize(
    ("bench", "status"), [(("allow", DEADLINE), 200), (("deny", DEADLINE), 503)], indirect=["bench"]
)
@pytest.mark.parametrize("fault", FAULTS)
def test_t16_the_policy_holds_while_redis_is_away(bench: ProxyBench, status: int, fault: str) -> None:
    """
    ``allow`` admits everybody; ``deny`` refuses with 503 and says when to come again.
    """
    FAULTS[fault][0](bench)

    assert bench.requests(LIMIT + 4) == [status] * (LIMIT + 4)
    assert bench.worst < ADDED


@pytest.mark.parametrize("bench", [("local", PATIENCE)], indirect=True)
def test_t16_a_forgotten_script_is_nobodys_business(bench: ProxyBench, caplog: pytest.LogCaptureFixture) -> None:
    """
    SCRIPT FLUSH: every request is counted in Redis, and nothing is logged.
    """
    statuses = []
    for _ in range(LIMIT + 2):
        bench.admin("SCRIPT", "FLUSH")
        statuses += bench.requests(1)

    assert statuses == [200] * LIMIT + [429] * 2
    assert not transitions(caplog)


def test_t16_a_slot_that_moves_is_nobodys_business(
    opened: Callable[..., Bench], redis_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A cluster moves the caller's counter to another node while it asks: not one request more than the limit, and nothing
    is logged.
    """
    slot = topology.slot_of(KEY)
    source = redis_cluster.owner(slot)
    target = redis_cluster.other(source)
    bench = opened(redis_cluster.url, deadline=PATIENCE)
    statuses = bench.requests(2)
    redis_cluster.begin_move(slot, source, target)
    statuses += bench.requests(2)
    redis_cluster.move_key(KEY.encode(), source, target)
    statuses += bench.requests(2)
    redis_cluster.end_move(slot, source, target)
    statuses += bench.requests(4)

    assert statuses == [200] * LIMIT + [429] * 2
    assert not transitions(caplog)


@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_t16_a_failover_of_sentinels_is_seen_by_no_request(
    opened: Callable[..., Bench],
    redis_watched: Watched,
    caplog: pytest.LogCaptureFixture,
    is_warm: bool,
    end: str,
) -> None:
    """
    From the master's end until a second after its replica has become master: no error, no wait beyond the deadline.
    """
    bench = opened(redis_watched.url, limit=10**6)
    assert not is_warm or wait_until(lambda: bench.is_counted(redis_watched.master)) < 1.0
    with caplog.at_level(logging.INFO, logger="tokenbudget_mw"):
        getattr(redis_watched.master, end)()
        statuses = []
        while not redis_watched.is_failed_over():
            statuses += bench.requests(1)
        away = wait_until(lambda: bench.is_counted(redis_watched.replica))

    assert set(statuses) == {200}
    assert bench.worst < ADDED
    assert away < 1.0
    assert transitions(caplog) == ["ERROR", "WARNING"]


@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_t16_a_failover_of_a_cluster_is_seen_by_no_request(
    opened: Callable[..., Bench],
    redis_cluster: Cluster,
    caplog: pytest.LogCaptureFixture,
    is_warm: bool,
    end: str,
) -> None:
    """
    The same where the nodes themselves make the replica a master.
    """
    bench = opened(redis_cluster.url, limit=10**6)
    assert not is_warm or wait_until(lambda: bench.is_counted(redis_cluster.nodes[0])) < 1.0
    with caplog.at_level(logging.INFO, logger="tokenbudget_mw"):
        getattr(redis_cluster.nodes[0], end)()
        statuses = []
        while deployments.say(redis_cluster.replica, "ROLE")[0] != b"master":
            statuses += bench.requests(1)
        away = wait_until(lambda: bench.is_counted(redis_cluster.replica))
        wait_until(lambda: len(transitions(caplog)) == 2)  # the probe finds out by itself

    assert set(statuses) == {200}
    assert bench.worst < ADDED
    assert away < 1.0
    assert transitions(caplog) == ["ERROR", "WARNING"]


async def unaware(*_: Any) -> None:
    raise NotImplementedError("This app knows no lifespan.")


def live(core: Core, meanwhile: Callable[[], object]) -> list[str]:
    """
    Run the lifespan of an app, *meanwhile* between its start and its end; return what was said.
    """

    async def main() -> list[str]:
        incoming: asyncio.Queue[Any] = asyncio.Queue()
        sent: list[str] = []
        await incoming.put({"type": "lifespan.startup"})

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] == "lifespan.startup.complete":
                await asyncio.to_thread(meanwhile)
                await incoming.put({"type": "lifespan.shutdown"})

        await ASGIMiddleware(unaware, core)({"type": "lifespan"}, incoming.get, send)
        return sent

    return asyncio.run(main())


STARTED = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_an_app_that_starts_is_connected_before_its_first_request(redis_server: RedisServer) -> None:
    """
    ASGI's lifespan opens the connection, and sends the script, aside.
    """

    def is_asked() -> bool:
        return "cmdstat_evalsha" in redis.Redis(port=redis_server.port).info("commandstats")

    core = wire({"backend": redis_server.url, "identify": caller}, sink=CallableSink(lambda records: None))
    said = live(core, lambda: wait_until(is_asked))

    assert said == STARTED


@pytest.mark.parametrize("is_there", [True, False], ids=["frozen", "refused"])
def test_t16_an_app_starts_whether_redis_is_there_or_not(redis_server: RedisServer, is_there: bool) -> None:
    """
    At once, and without a word.
    """
    if is_there:
        redis_server.stop()
    else:
        redis_server.kill()
    settings = {"backend": redis_server.url, "identify": caller, "deadline": PATIENCE}
    core = wire(settings, sink=CallableSink(lambda records: None))
    begin, started = time.monotonic(), list[float]()
    said = live(core, lambda: started.append(time.monotonic() - begin))

    assert said == STARTED
    assert started[0] < PATIENCE / 2
