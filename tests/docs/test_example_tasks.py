"""
Tasks of real queues, with real workers, are charged to the request that asked for them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import django_rig
import pytest
from django.core.management import call_command
from django.test import override_settings
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient

from tokenbudget_mw import Subject
from tokenbudget_mw.calls.call import running
from tokenbudget_mw.wiring import wire

Load = Callable[[str], ModuleType]
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ADDRESS = "203.0.113.7"
BROKER = "amqp" if os.environ.get("TOKENBUDGET_TEST_AMQP_URL") else "redis"
"""Redis is there wherever tests run; an AMQP broker where one is named."""

PATIENCE = 30
"""Seconds that a worker may take to start and work."""


@pytest.fixture
def environment(sqlite_database: str, redis_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What app and workers are told: tables, counters, where usage waits."""
    from tokenbudget_mw.cli import main

    assert main(["migrate", "--database", sqlite_database]) == 0
    told = {
        "TOKENBUDGET_DATABASE": sqlite_database,
        "REDIS_URL": redis_db,
        "TOKENBUDGET_SPOOL_DIR": str(tmp_path / "spool"),
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return os.environ | told | {"PYTHONPATH": str(EXAMPLES), "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"}


def rows(environment: dict[str, str], count: int, process: subprocess.Popen[bytes] | None = None) -> list[Any]:
    """The usage rows, when there are *count* of them, or *process* has ended."""
    engine = create_engine(environment["TOKENBUDGET_DATABASE"])
    query = text("SELECT * FROM tokenbudget_usage ORDER BY created_at, sequence")
    until = time.monotonic() + PATIENCE
    while True:
        with engine.connect() as connection:
            found = list(connection.execute(query))
        has_ended = process is not None and process.poll() is not None
        if len(found) >= count or has_ended or time.monotonic() > until:
            engine.dispose()
            return found
        signal.sigtimedwait([], 0.1)


@contextmanager
def worker(environment: dict[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=EXAMPLES,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            said, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
        sys.stdout.write(said.decode())  # pytest shows it where the test fails


def check(found: list[Any], task: str) -> None:
    """The task's row belongs to the request's subject, and names the request."""
    by_path = {row.path: row for row in found}
    request, charged = by_path["/summaries"], by_path[task]

    assert (charged.method, charged.key_id, charged.settle_reason) == ("TASK", request.key_id, "complete")
    assert charged.correlation_id == request.correlation_id
    assert charged.input_tokens + charged.output_tokens == 17


@pytest.mark.parametrize("kind", [BROKER])
def test_celery(
    kind: str,
    request: pytest.FixtureRequest,
    example: Load,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker with a process of its own for tasks charges the limits that the app asks."""
    name = f"summaries-{uuid.uuid4().hex}"
    broker = request.getfixturevalue("amqp_url") if kind == "amqp" else environment["REDIS_URL"]
    monkeypatch.setenv("BROKER_URL", broker)
    module = example("celery_tasks")
    queue = module.queue
    queue.conf.update(task_default_queue=name, broker_connection_retry_on_startup=True)
    module.summarize.name = "celery_tasks.summarize"
    start = ("celery", "-A", "celery_tasks:queue", "worker", "-c", "1", "-Q", name, "--loglevel", "warning")
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    try:
        with worker(environment | {"BROKER_URL": broker}, *start, *quiet) as process, client_of(module.app) as client:
            assert client.post("/summaries", json={"text": "a long text"}).status_code == 202
            found = rows(environment, 2, process)
            explained = module.core.explain(subject_of(found))
    finally:
        with queue.connection_for_write() as connection:
            connection.channel().queue_delete(name)
        queue.close()

    check(found, "summarize")
    assert {line.limit.unit: line.remaining for line in explained.limits} == {"requests": 9, "tokens": 3}


CHARGING = """
import os

from celery import Celery

from tokenbudget_mw import Subject
from tokenbudget_mw.tasks import task
from tokenbudget_mw.wiring import wire

SETTINGS = {"backend": os.environ["REDIS_URL"], "plans": {"one": ["1000 tokens/hour"]}, "default_plan": "one"}
core = wire(SETTINGS)
queue = Celery("charging", broker=os.environ["REDIS_URL"])


@queue.task(name="charge")
def charge(tokens: int) -> None:
    with task(core, Subject(key="k1"), name="charge") as call:
        call.charge({"usage": {"prompt_tokens": tokens, "completion_tokens": 0}})
"""


def test_celery_ends_in_order(environment: dict[str, str], tmp_path: Path) -> None:
    """A worker that is told to end writes what waits: its processes end without Python's own ways of saying so."""
    celery = pytest.importorskip("celery")
    (tmp_path / "charging.py").write_text(CHARGING)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    name = f"charging-{uuid.uuid4().hex}"
    start = ("celery", "-A", "charging:queue", "worker", "-c", "1", "-Q", name, "--loglevel", "warning")
    told = environment | {"PYTHONPATH": paths, "TOKENBUDGET_FLUSH_INTERVAL": "600"}  # the first is written at once
    settings = {"backend": environment["REDIS_URL"], "plans": {"one": ["1000 tokens/hour"]}, "default_plan": "one"}
    core, queue = wire(settings), celery.Celery("charging", broker=environment["REDIS_URL"])
    with worker(told, *start, "--without-gossip", "--without-mingle", "--without-heartbeat"):
        for _ in range(2):
            queue.send_task("charge", args=(17,), queue=name)
        until = time.monotonic() + PATIENCE
        while core.explain(Subject(key="k1")).limits[0].used < 34 and time.monotonic() < until:
            signal.sigtimedwait([], 0.1)
    found = rows(environment, 2)
    queue.close()
    core.close()

    assert [row.input_tokens for row in found] == [17, 17]


def client_of(app: Any) -> TestClient:
    return TestClient(app, client=(ADDRESS, 1))


def subject_of(found: list[Any]) -> Any:
    return Subject(key=found[0].key_id, plan="free")


def test_rq(example: Load, environment: dict[str, str]) -> None:
    """A worker that forks for each task, and ends the fork with it, loses no row."""
    module = example("rq_tasks")
    module.summarize.__module__ = "rq_tasks"
    client = module.app.test_client()
    body = {"text": "one two three four five six seven eight nine ten eleven twelve"}
    asked = client.post("/summaries", json=body, environ_base={"REMOTE_ADDR": ADDRESS})
    asked.close()
    running.set(None)

    with worker(environment, "rq.cli", "worker", "--burst", "--url", environment["REDIS_URL"], "summaries") as process:
        assert process.wait(PATIENCE) == 0
    found = rows(environment, 2)
    explained = module.core.explain(subject_of(found))
    module.core.close()

    assert asked.status_code == 202
    check(found, "summarize")
    assert {line.limit.unit: line.remaining for line in explained.limits} == {"requests": 9, "tokens": 3}


def test_management_command(example: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command charges a subject of its own, in the project's database."""
    monkeypatch.delenv("TOKENBUDGET_DATABASE")
    with override_settings(TOKENBUDGET=dict(django_rig.TOKENBUDGET)):
        call_command(example("nightly_command").Command())
        (row,) = django_rig.rows("nightly")

    assert (row["path"], row["tenant_id"], row["input_tokens"] + row["output_tokens"]) == ("nightly", "acme", 17)
