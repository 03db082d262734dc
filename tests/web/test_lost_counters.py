"""
A budget outlives its counters: Redis emptied under load, a process that ends or is killed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from asgi_rig import subject_of
from sqlalchemy import func, select
from wsgi_rig import Got, environ_of

from tokenbudget_mw.calls.call import current
from tokenbudget_mw.calls.recording import new_id
from tokenbudget_mw.charging import charge
from tokenbudget_mw.core import Core
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.rules.admission import Request
from tokenbudget_mw.upkeep.seeding import Starter
from tokenbudget_mw.values import Cost, Subject
from tokenbudget_mw.wiring import wire
from tokenbudget_mw.wsgi import WSGIMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from private_servers import RedisServer

    from tokenbudget_mw.rules.admission import Plan

DOLLAR = 10**12
MILLION = 1_000_000


def spending(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """
    A handler whose every call costs a dollar.
    """
    with current().reserve(model="m", prompt=MILLION, max_output=0) as held:
        held.charge({"input_tokens": MILLION, "output_tokens": 0, "model": "m"})
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def settings_of(database: str, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "database": database,
        "identify": subject_of,
        "plans": {"one": [changes.pop("budget", "$10/month")]},
        "tariffs": [{"model": "m", "input": "1", "output": "1"}],
        "deadline": 5.0,
        "spool_dir": str(folder / "spool"),
    } | changes


def serve(core: Core, subject: str = "k1") -> int:
    got = Got()
    iterable = WSGIMiddleware(spending, core)(environ_of(subject=subject), got.start_response)
    got.chunks.extend(iterable)
    close = getattr(iterable, "close", None)
    if close is not None:
        close()
    return got.status


@pytest.fixture
def database(sqlite_database: str) -> str:
    """
    URL of empty books.
    """
    engine = open_engine(sqlite_database)
    tables.metadata.create_all(engine)
    engine.dispose()
    return sqlite_database


def spent(database: str) -> int:
    """
    Dollars on the books.
    """
    engine = open_engine(database)
    with engine.connect() as connection:
        total = connection.execute(select(func.sum(tables.usage.c.cost_pico))).scalar_one()
    engine.dispose()
    return int(total) // DOLLAR


def test_t12_redis_emptied_under_load_admits_no_more_than_the_budget(
    redis_server: RedisServer, database: str, tmp_path: Path
) -> None:
    """
    Eight threads spend $200; half way Redis forgets everything. What passes the budget at most is what was in flight.
    """
    import redis

    core = wire(settings_of(database, tmp_path, backend=redis_server.url, budget="$200/month"))
    half = threading.Event()
    served: list[int] = []

    def one(_: int) -> None:
        served.append(serve(core))
        if served.count(200) >= 100:
            half.set()

    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(one, number) for number in range(500)]
        assert half.wait(60)
        with redis.Redis.from_url(redis_server.url) as client:
            client.flushall()
            in_flight = len(core.heartbeat) + 8
        for each in waiting:
            each.result(60)
    core.close()

    assert set(served) == {200, 429}
    assert 200 <= served.count(200) <= 200 + in_flight
    assert spent(database) == served.count(200)


def test_the_first_usage_of_a_budget_counts_once_where_no_request_reserved_it(database: str, tmp_path: Path) -> None:
    """
    A script charges a dollar: the budget begins then, at what the books say, and they may know of that dollar already.
    """
    core = wire(settings_of(database, tmp_path))
    subject = Subject(key="k1", tenant="t1", plan="one")
    for dollars in (1, 2):
        charge(core, subject, {"input_tokens": MILLION, "output_tokens": 0, "model": "m"})
        assert core.flush()

        assert core.explain(subject).limits[0].used == dollars * 10**9
    core.close()


def test_without_seeds_an_emptied_redis_is_a_new_budget(
    redis_server: RedisServer, database: str, tmp_path: Path
) -> None:
    """
    `seed_from_books: False` asks nobody, so the check above can fail.
    """
    import redis

    core = wire(settings_of(database, tmp_path, backend=redis_server.url, seed_from_books=False, refusal_cache=0))
    before = [serve(core) for _ in range(11)]
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    after = [serve(core) for _ in range(11)]
    core.close()

    assert before == after == [200] * 10 + [429]


@pytest.mark.parametrize(("kind", "backend"), [("sync", "memory"), ("async", "memory"), ("sync", "redis")])
def test_what_other_limits_refuse_starts_no_counter(
    kind: str, backend: str, redis_server: RedisServer, database: str, tmp_path: Path
) -> None:
    """
    A client that is over its limit asks for one model after the other: the books are not asked, and no budget of those begins.
    """
    url = "memory://" if backend == "memory" else redis_server.url
    settings = settings_of(database, tmp_path, backend=url, refusal_cache=0)
    core = wire(settings | {"plans": {"one": ["2 requests/minute", "$10/month per model"]}})
    subject, asked = Subject(key="k1", plan="one"), list[str]()

    def admit(model: str) -> bool:
        cost = Cost(requests=1, money_nano=1)
        request = Request(new_id(core.clock()), subject, None, model, cost, cost)
        if kind == "sync":
            return core.guard.admit(request).admitted
        return asyncio.run(core.async_guard.admit(request)).admitted

    start, starter = core.guard.starter.start, core.guard.starter

    class Noted(Starter):
        def start(self, request: Request, plan: Plan, unseeded: Sequence[int]) -> bool:
            asked.append(request.model or "")
            return start(request, plan, unseeded)

    core.guard.starter = core.async_guard.starter = Noted()
    admitted = [admit(f"m{number}") for number in range(10)]
    core.guard.starter = core.async_guard.starter = starter
    core.close()

    assert admitted == [True] * 2 + [False] * 8
    assert asked == ["m0", "m1"]


def test_a_budget_in_memory_outlives_the_process(database: str, tmp_path: Path) -> None:
    """
    A restart goes on with what is left, for each key its own.
    """
    first = wire(settings_of(database, tmp_path))
    before = [serve(first) for _ in range(6)] + [serve(first, "k2")]
    first.close()

    second = wire(settings_of(database, tmp_path))
    after = [serve(second) for _ in range(5)]
    others = [serve(second, "k2") for _ in range(10)]
    second.close()

    assert before == [200] * 7
    assert after == [200] * 4 + [429]
    assert others == [200] * 9 + [429]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_lost_counters import serve, settings_of
from tokenbudget_mw.wiring import wire

core = wire(settings_of(sys.argv[1], Path(sys.argv[2]), flush_interval=3600))
assert [serve(core) for _ in range(6)] == [200] * 6
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_budget_in_memory_outlives_a_kill(database: str, tmp_path: Path) -> None:
    """
    What a killed process left on its spool is written first, and counts.
    """
    here = str(tmp_path.__class__(__file__).parent)
    support = str(tmp_path.__class__(__file__).parents[1] / "support")
    ended = subprocess.run([sys.executable, "-c", KILLED, database, str(tmp_path), here, support], check=False)

    core = wire(settings_of(database, tmp_path))
    after = [serve(core) for _ in range(5)]
    core.close()

    assert ended.returncode == -9
    assert after == [200] * 4 + [429]


def test_a_sink_of_ones_own_keeps_no_books(database: str, tmp_path: Path) -> None:
    """
    Where usage goes elsewhere, the tables are not asked.
    """
    from tokenbudget_mw.accounting.sinks import CallableSink

    records: list[Any] = []
    for _ in range(2):
        core = wire(settings_of(database, tmp_path), sink=CallableSink(records.extend))
        assert [serve(core) for _ in range(11)] == [200] * 10 + [429]
        core.close()
