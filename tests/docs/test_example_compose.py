"""
The compose file on the page about operations: it is well-formed, pinned and checked, and what it says works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from keyed_app import app
from private_servers import PostgresServer, RedisServer
from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.pool import NullPool
from wsgi_rig import Got, environ_of

from tokenbudget_mw import Settings, WSGIMiddleware
from tokenbudget_mw.core import Core
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.wiring import wire

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
COMPOSE: dict[str, Any] = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PASSWORD = "s3cret"


def environment(service: str) -> dict[str, str]:
    """
    The service's environment, as compose fills it in.
    """
    filled = {"POSTGRES_PASSWORD": PASSWORD}
    return {
        name: re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: filled[found[1]], value)
        for name, value in SERVICES[service]["environment"].items()
    }


def test_images_are_pinned_and_watched() -> None:
    """
    Every image has a full version, every service that comes from one a health check, and no port is open to the world.
    """
    bought = {name: service for name, service in SERVICES.items() if "image" in service}

    assert set(bought) == {"postgres", "redis"}
    for service in bought.values():
        assert re.fullmatch(r"[a-z]+:\d+(\.\d+)+", service["image"])
        assert service["healthcheck"]["test"][0] == "CMD"
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["restart"] == "unless-stopped"
    assert {name: waits["condition"] for name, waits in SERVICES["app"]["depends_on"].items()} == dict.fromkeys(
        bought, "service_healthy"
    )


def test_what_must_last_is_on_volumes() -> None:
    """
    The database, the counters and the spool outlive their containers, and every volume is declared.
    """
    mounted = {name: [volume.split(":") for volume in service["volumes"]] for name, service in SERVICES.items()}

    assert mounted["postgres"] == [["postgres", "/var/lib/postgresql/data"]]
    assert mounted["redis"] == [["redis", "/data"]]
    assert mounted["app"] == [["spool", environment("app")["TOKENBUDGET_SPOOL_DIR"]]]
    assert set(COMPOSE["volumes"]) == {volume for volumes in mounted.values() for volume, _ in volumes}


def ask(core: Core) -> int:
    """
    Send one request through the middleware.
    """
    got = Got()
    got.chunks.extend(WSGIMiddleware(app, core)(environ_of(subject=None), got.start_response))
    return got.status


@pytest.fixture
def redis_of_the_page() -> Iterator[RedisServer]:
    """
    A Redis with the arguments that the page gives it.
    """
    program, *arguments = SERVICES["redis"]["command"]
    assert program == "redis-server"
    server = RedisServer(*arguments)
    server.start()
    yield server
    server.close()


@pytest.fixture
def postgres_of_the_page(postgres_server: PostgresServer) -> Iterator[str]:
    """
    A PostgreSQL with the settings, the account and the database that the page gives it; its URL.
    """
    program, *options = SERVICES["postgres"]["command"]
    assert (program, set(options[::2])) == ("postgres", {"-c"})
    account = environment("postgres")
    server = create_engine(postgres_server.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with server.connect() as connection:
        for name, value in (option.split("=") for option in options[1::2]):
            connection.execute(text(f"ALTER SYSTEM SET {name} = '{value}'"))
        connection.execute(
            text(f"CREATE ROLE {account['POSTGRES_USER']} LOGIN PASSWORD '{account['POSTGRES_PASSWORD']}'")
        )
        connection.execute(text(f"CREATE DATABASE {account['POSTGRES_DB']} OWNER {account['POSTGRES_USER']}"))
    postgres_server.restart()
    return postgres_server.url


def test_the_settings_of_the_page_work(
    redis_of_the_page: RedisServer, postgres_of_the_page: str, tmp_path: Path
) -> None:
    """
    An app with the page's environment limits and books, on servers that run with the page's settings.
    """
    given = environment("app")
    settings = Settings.from_mapping({"identify": "ip", "limits": ["1 request/hour"]}, given)
    backend, database = make_url(settings.backend), make_url(settings.database or "")
    assert (backend.host, backend.port, database.host, database.port) == ("redis", 6379, "postgres", 5432)

    here = make_url(postgres_of_the_page)
    moved = database.set(host=here.host, port=here.port, query=here.query).render_as_string(hide_password=False)
    settings = settings.replace(
        backend=redis_of_the_page.url, database=moved, spool_dir=str(tmp_path / "spool"), deadline=5.0
    )
    engine = open_engine(moved)
    tables.metadata.create_all(engine)
    core = wire(settings)
    try:
        statuses = [ask(core), ask(core)]
        assert core.flush()
    finally:
        core.close()
    with engine.connect() as connection:
        decisions = list(connection.scalars(select(tables.usage.c.decision).order_by(tables.usage.c.sequence)))
        assert connection.scalar(text("SHOW shared_buffers")) == "512MB"
    engine.dispose()

    assert (statuses, decisions) == ([200, 429], ["admitted", "refused"])


def test_the_questions_of_the_page_are_answered(postgres_database: str) -> None:
    """
    Each statement of `watching.sql` runs, and those about our tables tell of them.
    """
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    statements = (EXAMPLES / "watching.sql").read_text().split(";\n")
    assert len(statements) == 6
    assert not statements.pop().strip()

    with engine.connect() as connection:
        found = [connection.exec_driver_sql(statement.replace("%", "%%")).mappings().all() for statement in statements]
    engine.dispose()

    told = [{row["relname"] for row in rows} for rows in found if rows and "relname" in rows[0]]
    assert told == [{table.name for table in tables.metadata.sorted_tables}] * 2
    assert found[-1][0]["deadlocks"] == 0
