"""
The services that tests may ask for by name.

A URL comes from the environment (``TOKENBUDGET_TEST_REDIS_URL``, ``_POSTGRES_URL``, ``_MYSQL_URL``, ``_AMQP_URL``);
without one, a private server is started; where none can be, the test is skipped, or fails under
``TOKENBUDGET_TEST_REQUIRE_SERVICES=1``. Every test gets a database of its own, empty.
"""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

import javascript
import private_servers
import pytest
import redis_deployments
from hypothesis import HealthCheck, Phase, settings
from private_servers import PostgresServer, RedisServer, ServerMissingError
from redis_deployments import Cluster, Watched

from tokenbudget_mw.database.engine import _engines

# the contracts assert, and should say what they found; the package itself is imported by our own pytest plugin
pytest.register_assert_rewrite(
    "tokenbudget_mw.testing.adapters", "tokenbudget_mw.testing.backends", "tokenbudget_mw.testing.keeping"
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Starter = Callable[[], AbstractContextManager[str]]

T = TypeVar("T")
Report = TypeVar("Report", pytest.CollectReport, pytest.TestReport)
# how long an example takes is the machine's affair
settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("usual")
# for runs on mutants (--hypothesis-profile mutation): the same examples each time, and the first that fails will do
settings.register_profile(
    "mutation",
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

SLOW = frozenset({"benchmarks", "chaos", "faults", "migrations", "mutation"})
"""Folders whose tests take long and ask nothing of a Python version: one is enough for them."""

SLOW_FILES = frozenset({
    "test_analytics",
    "test_bars_processes",
    "test_bodies",
    "test_books",
    "test_busy_database",
    "test_cli_books",
    "test_cli_demo",
    "test_cli_replay",
    "test_counting_corpus",
    "test_counting_t19",
    "test_exactness",
    "test_example_compose",
    "test_example_tasks",
    "test_grants",
    "test_histories",
    "test_key_limits",
    "test_keys",
    "test_leased_contract",
    "test_leased_exact",
    "test_leased_processes",
    "test_ledger",
    "test_letters",
    "test_life_cycle",
    "test_limits_contract",
    "test_partition_keeping",
    "test_partitions",
    "test_paths",
    "test_periods",
    "test_plans",
    "test_redis_access",
    "test_redis_sentinel",
    "test_repair",
    "test_rerating",
    "test_retention",
    "test_sdk_javascript",
    "test_sdk_refusals",
    "test_servers",
    "test_sockets",
    "test_spending",
    "test_stored_tariffs",
    "test_tapping_bounded",
    "test_windows_reference",
    "test_writer",
})  # fmt: skip
"""Files of the same kind elsewhere: most wait for servers."""

REDIS_DATABASES = range(15, 0, -1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark what stands in a folder or a file of slow tests.
    """
    for item in items:
        if item.path.parent.name in SLOW or item.path.stem in SLOW_FILES:
            item.add_marker("slow")


def missing(reason: str) -> NoReturn:
    """
    Skip the test for *reason*, or fail it where every service must be there.
    """
    if os.environ.get("TOKENBUDGET_TEST_REQUIRE_SERVICES") == "1":
        pytest.fail(f"required service is missing: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """
    Fail where `importorskip` does not find a module of ours: only a driver may be missing, and a renamed module is no driver.
    """
    return _own_modules_are_there((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    The same for one that a test asks for while it runs.
    """
    return _own_modules_are_there((yield))


def _own_modules_are_there(report: Report) -> Report:
    if report.skipped and "No module named 'tokenbudget_mw" in str(report.longrepr):
        report.outcome, report.longrepr = "failed", str(report.longrepr)
    return report


@contextmanager
def service(variable: str, start: Starter) -> Iterator[str]:
    """
    Give the URL in environment variable *variable*, or that of a server that *start* runs.
    """
    url = os.environ.get(variable)
    if url:
        yield url
        return
    with ExitStack() as stack:
        try:
            url = stack.enter_context(start())
        except ServerMissingError as exc:
            missing(f"{variable} is not set and there is {exc}")
        yield url


@pytest.fixture(scope="session", autouse=True)
def state_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """
    Keep what spools leave behind out of the home directory of whoever runs the tests.
    """
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def databases_end_with_their_test() -> Iterator[None]:
    """
    Close what a test opened, however it made it: Python 3.13 tells of SQLite connections that nobody closed.
    """
    before = list(_engines)
    yield
    for engine in set(_engines).difference(before):
        engine.dispose()


# -- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """
    URL of a Redis that this run shares; use keys of your own, or `redis_db`.
    """
    with service("TOKENBUDGET_TEST_REDIS_URL", private_servers.redis) as url:
        yield url


@pytest.fixture(scope="session")
def redis_database(redis_url: str) -> Iterator[str]:
    """
    URL of a Redis database that no other test process uses: an empty one, claimed for an hour.
    """
    redis = pytest.importorskip("redis")
    base = redis_url.rpartition("/")[0] if redis_url.count("/") > 2 else redis_url
    claims = redis.Redis.from_url(redis_url)
    for number in REDIS_DATABASES:
        claim = f"tokenbudget-test:claim:{number}"
        if not claims.set(claim, os.getpid(), nx=True, ex=3600):
            continue
        with redis.Redis.from_url(f"{base}/{number}") as client:
            if client.dbsize() == 0:
                yield f"{base}/{number}"
                claims.delete(claim)
                break
        claims.delete(claim)
    else:
        missing(f"Redis has no empty database among {REDIS_DATABASES}")
    claims.close()


@pytest.fixture
def redis_db(redis_database: str) -> Iterator[str]:
    """
    URL of an empty Redis database; flushed after the test.
    """
    import redis

    with redis.Redis.from_url(redis_database) as client:
        client.flushdb()
        yield redis_database
        client.flushdb()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """
    A Redis process of the test's own, running; the test may `kill`, `stop`, `resume` and `restart` it.
    """
    server = RedisServer()
    try:
        server.start()
    except ServerMissingError as exc:
        server.close()
        missing(str(exc))
    yield server
    server.close()


@pytest.fixture
def redis_cluster() -> Iterator[Cluster]:
    """
    A Redis cluster of the test's own: three masters and a replica.
    """
    with private(redis_deployments.cluster) as found:
        yield found


@pytest.fixture
def redis_watched() -> Iterator[Watched]:
    """
    A Redis master and its replica under a sentinel, the test's own.
    """
    with private(redis_deployments.watched) as found:
        yield found


@contextmanager
def private(run: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """
    Give what *run* runs.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(run())
        except ServerMissingError as exc:
            missing(str(exc))
        yield found


# -- databases --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """
    SQLAlchemy URL of a PostgreSQL on which databases may be created.
    """
    with service("TOKENBUDGET_TEST_POSTGRES_URL", private_servers.postgres) as url:
        yield url


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """
    A PostgreSQL of the test's own, running; the test may `restart` it.
    """
    with private(lambda: closing(PostgresServer())) as server:
        yield server


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """
    SQLAlchemy URL of a MariaDB or MySQL on which databases may be created.
    """
    with service("TOKENBUDGET_TEST_MYSQL_URL", private_servers.mariadb) as url:
        yield url


@contextmanager
def fresh_database(server: str, drop: str) -> Iterator[str]:
    """
    Create a database with a random name on *server*; give its URL; drop it with the statement *drop*.
    """
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.pool import NullPool

    name = f"tokenbudget_test_{uuid.uuid4().hex[:12]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(drop.format(name=name))


@pytest.fixture
def sqlite_database(tmp_path: Path) -> str:
    """
    URL of an SQLite file that does not exist yet.
    """
    return f"sqlite:///{tmp_path / 'books.db'}"


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """
    URL of an empty PostgreSQL database of the test's own.
    """
    with fresh_database(postgres_url, "DROP DATABASE {name} WITH (FORCE)") as url:
        yield url


@pytest.fixture
def mysql_database(mysql_url: str) -> Iterator[str]:
    """
    URL of an empty MariaDB or MySQL database of the test's own.
    """
    with fresh_database(mysql_url, "DROP DATABASE {name}") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """
    URL of an empty database of the test's own, on each dialect in turn.
    """
    fixture = {"sqlite": "sqlite_database", "postgresql": "postgres_database", "mysql": "mysql_database"}
    url: str = request.getfixturevalue(fixture[request.param])
    return url


# -- broker -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """
    URL of an AMQP broker, from the environment only.
    """
    url = os.environ.get("TOKENBUDGET_TEST_AMQP_URL")
    if not url:
        missing("TOKENBUDGET_TEST_AMQP_URL is not set and no broker can be started privately")
    return url


# -- Node ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def javascript_sdks() -> Path:
    """
    The folder in which the official JavaScript SDKs are installed.
    """
    try:
        return javascript.modules()
    except ServerMissingError as exc:
        missing(f"there is {exc}")
