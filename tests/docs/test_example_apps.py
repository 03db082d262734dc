"""
The apps of the quickstarts do what their pages say.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from werkzeug.test import Client as WerkzeugClient

from tokenbudget_mw import ASGIMiddleware

Load = Callable[[str], ModuleType]
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}], "max_tokens": 50}
ADDRESS = "203.0.113.7"


@contextmanager
def asgi_client(app: Any) -> Iterator[TestClient]:
    """
    A client with an address; the app's lifespan runs, so leaving the block drains its records.
    """
    with TestClient(app, client=(ADDRESS, 50000)) as client:
        yield client


def migrate(url: str) -> None:
    """
    Create the tables, as the pages tell.
    """
    from tokenbudget_mw.cli import main

    assert main(["migrate", "--database", url]) == 0


def rows_of(url: str) -> list[dict[str, Any]]:
    """
    Return the usage rows in the database, in order.
    """
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT * FROM tokenbudget_usage ORDER BY created_at, sequence")).mappings()
        rows = [dict(row) for row in found]
    engine.dispose()
    return rows


def test_fastapi_app_limits_and_books(example: Load, sqlite_database: str) -> None:
    """Three requests pass, the fourth gets a 429 with the limits' state; four rows tell of it."""
    migrate(sqlite_database)
    app = example("fastapi_app").app

    with asgi_client(app) as client:
        answers = [client.post("/v1/chat/completions", json=CHAT) for _ in range(2)]
        answers += [client.post("/summaries", json={"text": "A long story"}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].json()["choices"][0]["message"]["content"] == "You said: Good morning"
    assert "requests-minute" in answers[0].headers["ratelimit"]
    assert 1 <= int(answers[3].headers["retry-after"]) <= 61
    rows = rows_of(sqlite_database)
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows[:3]] == [(12, 5)] * 3
    assert all(row["cost_pico"] > 0 for row in rows[:3])
    assert [row["decision"] for row in rows] == ["admitted"] * 3 + ["refused"]


def test_websocket_messages_are_calls(example: Load, sqlite_database: str) -> None:
    """The connection and two messages are three requests, the third message closes the websocket, and each has its row."""
    migrate(sqlite_database)
    said = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}

    with asgi_client(example("websocket_messages").app) as client, client.websocket_connect("/chat") as talk:
        for _ in range(2):
            talk.send_json(said)
            assert talk.receive_json()["usage"]["completion_tokens"] == 2
        talk.send_json(said)
        with pytest.raises(WebSocketDisconnect) as closed:
            talk.receive_json()

    assert (closed.value.code, "requests-minute" in closed.value.reason) == (1008, True)
    rows = rows_of(sqlite_database)
    assert sorted(row["decision"] for row in rows) == ["admitted"] * 3 + ["refused"]
    assert [row["output_tokens"] for row in rows if row["output_tokens"]] == [2, 2]


def test_endpoint_limit_in_fastapi(example: Load, sqlite_database: str) -> None:
    """An endpoint with a limit of its own refuses its third call, and leaves the others alone."""
    migrate(sqlite_database)

    with asgi_client(example("fastapi_app").app) as client:
        statuses = [client.get("/search").status_code for _ in range(3)]
        other = client.post("/v1/chat/completions", json=CHAT).status_code

    assert (statuses, other) == ([200, 200, 429], 200)


def test_endpoint_limit_in_flask(example: Load, sqlite_database: str) -> None:
    """The same in Flask."""
    migrate(sqlite_database)
    module = example("flask_app")

    with module.app.test_client() as client:
        statuses = [client.get("/search", environ_base={"REMOTE_ADDR": ADDRESS}).status_code for _ in range(3)]
    module.app.extensions["tokenbudget"].close()

    assert statuses == [200, 200, 429]


def test_reservation_in_a_handler_holds_and_refuses(example: Load, sqlite_database: str) -> None:
    """A reservation above what is left ends the handler with a 429; settled at the truth, it leaves room for others."""
    migrate(sqlite_database)
    app = example("reserve_in_handler").app

    with asgi_client(app) as client:
        answers = [client.post("/stories", json={"prompt": "Tell me a story"}) for _ in range(3)]

    # each holds some 600 of 1,000 tokens and ends at some 304: the third finds fewer than 600 left
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


def test_flask_app_limits_and_books(example: Load, sqlite_database: str) -> None:
    """The same app in Flask gives the same answers."""
    migrate(sqlite_database)
    module = example("flask_app")

    with module.app.test_client() as client:
        post = {"environ_base": {"REMOTE_ADDR": ADDRESS}}
        answers = [client.post("/v1/chat/completions", json=CHAT, **post) for _ in range(2)]
        answers += [client.post("/summaries", json={"text": "A long story"}, **post) for _ in range(2)]
    module.app.extensions["tokenbudget"].close()

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    rows = rows_of(sqlite_database)
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows[:3]] == [(12, 5)] * 3


def test_flask_commands_use_the_settings_of_the_app(sqlite_database: str, tmp_path: Path) -> None:
    """`flask tokenbudget migrate` creates the tables in the app's database."""
    environment = {"TOKENBUDGET_DATABASE": sqlite_database, "PATH": "", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "flask", "--app", str(EXAMPLES / "flask_app.py"), "tokenbudget", "migrate"]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert rows_of(sqlite_database) == []


def test_django_app_limits_and_books(tmp_path: Path) -> None:
    """The same app in Django, migrated by Django, gives the same answers, in sync and async views."""
    script = f"""
import runpy, sys, json
module = runpy.run_path({str(EXAMPLES / "django_app.py")!r}, run_name="urls")
sys.modules["urls"] = type(sys)("urls")
sys.modules["urls"].__dict__.update(module)
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
call_command("check")
client = Client(REMOTE_ADDR={ADDRESS!r}, raise_request_exception=True)
chat = {CHAT!r}
answers = [client.post("/v1/chat/completions", chat, content_type="application/json") for _ in range(2)]
answers += [client.post("/summaries", {{"text": "A long story"}}, content_type="application/json") for _ in range(2)]
searches = [client.get("/search").status_code for _ in range(3)]
from tokenbudget_mw_django.conf import core
core().close()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT input_tokens, output_tokens FROM tokenbudget_usage ORDER BY created_at, sequence")
    rows = cursor.fetchall()
print(json.dumps([[answer.status_code for answer in answers], searches, rows]))
"""
    environment = {"DB": str(tmp_path / "db.sqlite3"), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    statuses, searches, rows = json.loads(done.stdout.splitlines()[-1])
    assert statuses == [200, 200, 200, 429]
    assert searches == [200, 200, 429]
    assert rows[:3] == [[12, 5]] * 3


def test_plain_asgi_app(example: Load, sqlite_database: str) -> None:
    """The middleware alone limits and books a plain ASGI app."""
    migrate(sqlite_database)
    app = example("asgi_app").app

    with asgi_client(app) as client:
        statuses = [client.get("/").status_code for _ in range(4)]

    assert statuses == [200, 200, 200, 429]
    assert [row["input_tokens"] for row in rows_of(sqlite_database)[:3]] == [12] * 3


def test_plain_wsgi_app(example: Load, sqlite_database: str) -> None:
    """The middleware alone limits and books a plain WSGI app."""
    migrate(sqlite_database)
    app = example("wsgi_app").app
    client = WerkzeugClient(app)

    answers = [client.get("/", environ_base={"REMOTE_ADDR": ADDRESS}, buffered=True) for _ in range(4)]
    app.core.close()

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [row["input_tokens"] for row in rows_of(sqlite_database)[:3]] == [12] * 3


@pytest.mark.parametrize(("cookie", "status"), [("session=3f9a", 200), ("session=none", 401), ("", 401)])
def test_identify_by_the_apps_own_login(example: Load, sqlite_database: str, cookie: str, status: int) -> None:
    """A session that the app knows passes; without one the answer is 401."""
    migrate(sqlite_database)
    app = ASGIMiddleware(example("asgi_app").hello, example("identify_user").TOKENBUDGET)

    with asgi_client(app) as client:
        answer = client.get("/", headers={"cookie": cookie})

    assert answer.status_code == status
