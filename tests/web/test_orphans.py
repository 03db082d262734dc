"""
Calls whose process is killed, really: each has its row afterwards, by the rule of its route, and its mark is gone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict
from sqlalchemy import create_engine, select
from wsgi_rig import Rig, subject_of

from tokenbudget_mw import current
from tokenbudget_mw.calls.orphaned import Executor, rows_of
from tokenbudget_mw.calls.orphaned import subject_of as subject_of_mark
from tokenbudget_mw.charging import tags
from tokenbudget_mw.counting.payloads.fields import BATCH_FIELDS
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.books import verify
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.tasks import task
from tokenbudget_mw.values import Facts, Held, Opened, Orphan, Subject, Usage
from tokenbudget_mw.wiring import wire

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

HERE = Path(__file__).parent
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}
GPT_4O_INPUT, GPT_4O_OUTPUT = 2_500_000, 10_000_000

APP = """
import json, os, sys, threading
sys.path[:0] = sys.argv[2:]
from wsgi_rig import Got, environ_of, subject_of
from tokenbudget_mw import current
from tokenbudget_mw.wiring import wire
from tokenbudget_mw.wsgi import WSGIMiddleware

USED = {"model": "gpt-4o", "input_tokens": 10, "output_tokens": 20}
ANSWER = {"model": "gpt-4o", "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}}
killed = threading.Event()

def forever():
    os.write(1, b"runs\\n")
    killed.wait()

def hold():
    with current().reserve(model="gpt-4o", prompt=40, max_output=60):
        forever()

def charge():
    with current().reserve(model="gpt-4o", prompt=40, max_output=60) as held:
        held.charge(USED)
    current().charge(USED | {"model": "gpt-4o-mini"})
    forever()

def fail():
    try:
        with current().reserve(model="gpt-4o", prompt=40, max_output=60):
            raise ValueError
    except ValueError:
        forever()

def stream():
    yield b'data: {"choices": [{"delta": {"content": "hel"}}]}\\n\\n'
    forever()

DO = {"hold": hold, "charge": charge, "fail": fail, "hang": forever, "end": lambda: None}

def app(environ, start_response):
    what = environ["HTTP_X_DO"]
    start_response("200 OK", [("Content-Type", "application/json" if what == "end" else "text/event-stream")])
    if what == "stream":
        return stream()
    DO[what]()
    return [json.dumps(ANSWER).encode()]

def serve(name, path, what, body):
    changes = {"PATH_INFO": path, "HTTP_X_DO": what, "HTTP_X_REQUEST_ID": name}
    for _ in middleware(environ_of(json.dumps(body).encode(), **changes), Got().start_response):
        pass
    os.write(1, b"ends\\n")

settings, requests = json.loads(sys.argv[1])
middleware = WSGIMiddleware(app, wire(settings | {"identify": subject_of}))
for request in requests:
    threading.Thread(target=serve, args=request, daemon=True).start()
sys.stdin.read()
"""


class Killed:
    """A process that is killed with all its requests under way; then another one of the app, which is this one."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.database = f"sqlite:///{folder / 'books.db'}"
        self.engine = create_engine(self.database)
        tables.metadata.create_all(self.engine)
        self.settings = {
            "database": self.database,
            "spool_dir": str(folder / "spool"),
            "plans": {"one": ["10M tokens/calendar day", "$10/calendar day"]},
            "default_plan": "one",
            "flush_interval": 0.01,
            "seed_from_books": False,
        } | settings

    def serve(self, requests: dict[str, tuple[str, str]]) -> None:
        """Serve *requests* at once (name -> path and what its handler does) until each hangs or has ended; then kill."""
        given = [(name, path, what, BODY) for name, (path, what) in requests.items()]
        argument = json.dumps([self.settings, given])
        command = [sys.executable, "-c", APP, argument, str(HERE), str(HERE.parent / "support")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [process.stdout.readline().strip() for _ in requests]
            process.kill()
        assert set(said) <= {"runs", "ends"}

    def adopt(self) -> Any:
        """Start the next process of the app, let it write what it finds, and return its core."""
        core = wire(self.settings | {"identify": lambda _: None, "load_tokenizer": "background"})
        while core.flusher.tick() is not None:  # records first, then what was under way
            core.flush()
        return core

    def rows(self) -> dict[str, list[Any]]:
        """The rows of each request; the books agree."""
        usage, found = tables.usage, defaultdict(list)
        with self.engine.connect() as connection:
            for row in connection.execute(select(usage).order_by(usage.c.instance_id, usage.c.sequence)):
                found[row.correlation_id].append(row)
        report = verify(self.engine)
        self.engine.dispose()
        assert report.verified, report
        return found


RULES = ("review", "refund", "input", "reserved")
DEFAULT = "/v1/chat/completions"
ROUTES = [{"path": DEFAULT, "format": "openai.chat"}] + [
    route | {"settle": {"orphaned": rule}}
    for rule in RULES
    for route in ({"path": f"/{rule}/chat", "format": "openai.chat"}, {"path": f"/{rule}/plain"})
]
REQUESTS = {
    "ended": (DEFAULT, "end"),
    "default": (DEFAULT, "hang"),
    "stream": ("/reserved/chat", "stream"),
    "nothing": ("/reserved/plain", "hang"),
    "failed": ("/reserved/plain", "fail"),
    **{f"{rule} chat": (f"/{rule}/chat", "hang") for rule in RULES},
    **{f"{rule} held": (f"/{rule}/plain", "hold") for rule in RULES},
    "refund charged": ("/refund/plain", "charge"),
    "review charged": ("/review/plain", "charge"),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All of them under way at once in one process that is killed, and adopted twice."""
    app = Killed(tmp_path_factory.mktemp("killed"), routes=ROUTES)
    app.serve(REQUESTS)
    core = app.adopt()
    subject = subject_of(Facts("POST", "/", (("x-subject", "k1"),)))
    app.left = {line.limit.unit: line.remaining for line in core.explain(subject).limits}
    core.close()
    app.adopt().close()
    app.found = app.rows()
    return app


@pytest.mark.parametrize(
    ("name", "reason", "tokens", "source"),
    [
        ("ended", "complete", (8, 2), "provider"),
        ("default", "orphaned_review", (0, 0), "none"),
        ("review chat", "orphaned_review", (0, 0), "none"),
        ("refund chat", "orphaned", (0, 0), "none"),
        ("input chat", "orphaned", (8, 0), "estimated"),
        ("reserved chat", "orphaned", (8, 100), "estimated"),
        ("stream", "orphaned", (8, 100), "estimated"),
        ("review held", "orphaned_review", (0, 0), "none"),
        ("refund held", "orphaned", (0, 0), "none"),
        ("input held", "orphaned", (40, 0), "estimated"),
        ("reserved held", "orphaned", (40, 60), "estimated"),
        ("failed", "orphaned", (0, 0), "none"),
    ],
)
def test_t12_a_killed_call_has_its_row(killed: Any, name: str, reason: str, tokens: Any, source: str) -> None:
    """
    Killed before its settlement, a call has one row, charged by the rule of its route; one that ended has its own.
    """
    (row,) = killed.found[name]

    assert (row.settle_reason, row.usage_source) == (reason, source)
    assert (row.input_tokens, row.output_tokens) == tokens
    assert row.cost_pico == tokens[0] * GPT_4O_INPUT + tokens[1] * GPT_4O_OUTPUT
    assert (row.account, row.plan, row.method, row.decision) == ("key:k1", "one", "POST", "admitted")


def test_t12_what_waits_for_a_decision_says_what_was_held(killed: Any) -> None:
    """A row under review has what the prompt came to and what was reserved among its tags; no other row has."""
    chat, held, decided = (json.loads(killed.found[name][0].tags) for name in ("default", "review held", "input chat"))

    assert chat == {"orphan.input": "8", "orphan.held_input": "8", "orphan.held_output": "100"}
    assert held == {"orphan.input": "40", "orphan.held_input": "40", "orphan.held_output": "60"}
    assert decided == {}


@pytest.mark.parametrize("rule", ["refund", "review"])
def test_t12_what_a_handler_has_charged_is_charged(killed: Any, rule: str) -> None:
    """Under every rule, a row for each model, as if the call had ended."""
    rows = killed.found[f"{rule} charged"]

    assert [(row.settle_reason, row.response_model, row.input_tokens) for row in rows] == [
        ("orphaned", "gpt-4o", 10),
        ("orphaned", "gpt-4o-mini", 10),
    ]
    assert rows[0].cost_pico == 10 * GPT_4O_INPUT + 20 * GPT_4O_OUTPUT
    assert int(rows[1].id, 16) == int(rows[0].id, 16) + 1


def test_t12_nothing_else_is_left(killed: Any) -> None:
    """A request that used no model leaves no row, and no file stays in the spool."""
    assert "nothing" not in killed.found
    assert set(killed.found) == set(REQUESTS) - {"nothing"}
    assert list((killed.folder / "spool").iterdir()) == []


def test_the_counters_hear_of_orphans(killed: Any) -> None:
    """What orphans are charged is taken from their subject's limits as well, in the process that adopts them."""
    orphans = [row for rows in killed.found.values() for row in rows if row.settle_reason == "orphaned"]

    assert killed.left["tokens"] == 10_000_000 - sum(row.input_tokens + row.output_tokens for row in orphans)


def test_marks_ask_nothing_of_limits(tmp_path: Path) -> None:
    """In shadow mode, without rows of plain requests, and where no limit holds, a killed call has the same row."""
    settings = {"mode": "shadow", "record_requests": False, "plans": {"one": []}}
    app = Killed(tmp_path, routes=ROUTES, **settings)
    app.serve({"chat": ("/reserved/chat", "hang"), "held": ("/reserved/plain", "hold")})
    app.adopt().close()

    rows = {name: (row.input_tokens, row.output_tokens) for name, (row,) in app.rows().items()}
    assert rows == {"chat": (8, 100), "held": (40, 60)}


def fail(environ: Any, start_response: Any) -> list[bytes]:
    with suppress(ValueError), current().reserve(model="gpt-4o", prompt=40, max_output=60):
        raise ValueError
    start_response("200 OK", [])
    return [b""]


def charge_twice(environ: Any, start_response: Any) -> list[bytes]:
    with current().reserve(model="gpt-4o", prompt=40, max_output=60) as held:
        held.charge({"model": "gpt-4o", "input_tokens": 10, "output_tokens": 20})
    current().charge({"model": "gpt-4o", "input_tokens": 10, "output_tokens": 20})
    start_response("200 OK", [])
    return [b""]


@pytest.mark.parametrize("app", [fail, charge_twice])
@pytest.mark.parametrize("record_requests", [True, False])
def test_a_call_that_ends_leaves_no_mark(tmp_path: Path, record_requests: bool, app: Any) -> None:
    """However a call ends, and whether or not that leaves a row: nothing is marked afterwards."""
    rig = Rig(app, spool_dir=str(tmp_path / "spool"), record_requests=record_requests)
    spool = rig.core.spool

    for changes in ({"PATH_INFO": "/plain/x"}, {}):
        rig.run(BODY if not changes else b"", **changes)
        assert len(spool._mine.get().marks) == 0
    assert list((tmp_path / "spool").rglob("*.marks")) != []
    rig.core.close()
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_task_leaves_no_mark(tmp_path: Path) -> None:
    """What a task of a queue holds is marked while it holds it, and not behind its block."""
    rig = Rig(fail, spool_dir=str(tmp_path / "spool"))
    marks = rig.core.spool._mine.get().marks

    with task(rig.core, Subject(key="k1")) as call:
        with call.reserve(model="gpt-4o", prompt=1, max_output=1):
            held = len(marks)
        left = len(marks)

    assert (held, left, len(marks)) == (2, 1, 0)
    rig.core.close()


SAID = {
    "instance_id", "sequence", "duration_us", "first_byte_us", "status", "response_type", "is_stream", "settle_reason",
}  # fmt: skip
"""What a row tells of the response, and its number, which is another one where its process died."""


USED = Usage(
    100,
    50,
    1,
    2,
    3,
    4,
    model="gpt-4o",
    provider="azure",
    service_tier="flex",
    source="provider",
    audio_input_tokens=5,
    audio_output_tokens=6,
)


def test_the_row_of_an_orphan_is_that_of_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pays, at which price, for which batch, with which labels: all that is known before the end is as if it had ended."""
    who = Subject(
        key="k1", user="u1", team="t1", project="p1", tenant="acme", plan="one", purpose="playground", source="custom"
    )
    batch = {name: f"the {name}" for name in BATCH_FIELDS} | {"batch_created_at": "1700000000"}
    marks: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        with tags(feature="search"):
            current().charge(USED)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    rig = Rig(app, identify=lambda _: who, mode="shadow", plans={"one": ["1 tokens/minute"]})
    monkeypatch.setattr(rig.core.spool, "mark", marks.append)
    rig.run(
        BODY | {"metadata": batch, "service_tier": "flex"},
        HTTP_X_REQUEST_ID="r1",
        HTTP_TRACEPARENT="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    opened, *others = marks
    (ended,), (orphan,) = rig.rows(), rows_of(Orphan("a" * 32, 1, opened, tuple(others)), rig.core.tariffs)

    rows = [{name: value for name, value in asdict(row).items() if name not in SAID} for row in (ended, orphan)]
    assert rows[1] == rows[0]
    assert subject_of_mark(opened) == who
    assert [name for name, value in rows[0].items() if value is None] == []


def test_a_backend_that_is_away_does_not_bring_orphans_again(caplog: pytest.LogCaptureFixture) -> None:
    """The rows are written by then; that the counters miss them is said."""

    def away(*_: object) -> None:
        raise OSError

    orphan = Orphan("a" * 32, 1, Opened("b" * 32, 0, "reserved", "POST", "/", "gpt-4o", held_input=1, held_output=1))
    Executor(wire({"identify": "ip", "database": "sqlite://"}).tariffs, away).take_over([orphan, orphan])

    assert caplog.text.count("was not told of all orphaned calls (OSError)") == 1


def test_a_call_of_many_rows_loses_none() -> None:
    """Beyond a thousand reservations that one call held, each still has a row that is like no other."""
    held = tuple(Held("b" * 32, place, "gpt-4o", 1, 1, 1) for place in range(1, 2502))
    calls = [Orphan("a" * 32, number, Opened("b" * 32, 0, "review", "POST", "/"), held) for number in (1, 2)]

    rows = [row for call in calls for row in rows_of(call, wire({"identify": "ip", "database": "sqlite://"}).tariffs)]

    assert len({(row.instance_id, row.sequence) for row in rows}) == len(rows) == 2 * 2501
    assert {row.instance_id for row in rows} == {"a" * 32 + suffix for suffix in ("-o", "-o1", "-o2")}


@pytest.mark.parametrize(("outcome", "rule"), [("orphaned", "actual"), ("complete", "review")])
def test_orphans_have_rules_of_their_own(outcome: str, rule: str) -> None:
    """`review` is for orphans alone, and what nobody saw cannot be charged as it was."""
    with pytest.raises(ConfigurationError, match=f"unknown rule '{rule}' for '{outcome}'"):
        Settings.from_mapping({"routes": [{"path": DEFAULT, "settle": {outcome: rule}}]})
