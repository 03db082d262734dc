"""Django: both colours, streams, settings that change, checks, commands and the admin."""

import asyncio
import gc
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from asgi_rig import DISCONNECT, scope_of
from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.http import HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory, override_settings
from django_rig import ANSWER, ENDLESS_CLOSED, OURS, PIECES, TOKENBUDGET, rows

from tokenbudget_mw.calls.call import Call, current, running
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.errors import ConfigurationError, CredentialError
from tokenbudget_mw.values import Cost, Facts, Reservation, Route, Subject
from tokenbudget_mw_django import TokenBudgetMiddleware, change_limits, conf
from tokenbudget_mw_django import middleware as django_middleware
from tokenbudget_mw_django.asgi import get_asgi_application
from tokenbudget_mw_django.databases import database_url
from tokenbudget_mw_django.management.commands.tokenbudget import Command

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Counters of the test's own."""
    with override_settings(TOKENBUDGET=dict(TOKENBUDGET)):
        yield
    running.set(None)


def post(path: str, subject: str | None, body: Any = BODY, **options: Any) -> Any:
    """Send one request through Django's test client."""
    client = Client(raise_request_exception=False, headers={"x-subject": subject} if subject else None)
    return client.post(path, body, content_type="application/json", **options)


async def apost(path: str, subject: str, body: Any = BODY) -> Any:
    """Send one request through Django's async test client."""
    client = AsyncClient(raise_request_exception=False)
    return await client.post(path, body, content_type="application/json", headers={"x-subject": subject})


def serve(path: str, subject: str, *, leave_after: int | None = None) -> list[Any]:
    """Send one request through the ASGI application, and leave after some pieces of its body."""
    sent: list[Any] = []
    left = asyncio.Event()
    incoming = [{"type": "http.request", "body": b"{}"}]

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        await left.wait()
        return DISCONNECT

    async def send(message: Any) -> None:
        sent.append(message)
        if leave_after is not None and len(sent) > leave_after:
            left.set()
            await asyncio.Event().wait()

    scope = scope_of(path=path, subject=subject, headers={"host": "test"}) | {"root_path": ""}
    asyncio.run(get_asgi_application()(scope, receive, send))
    return sent


# -- the middleware ---------------------------------------------------------------------------------------------------


def test_colour_follows_the_next_layer() -> None:
    """The middleware is a coroutine function exactly where what it wraps is one."""

    async def later(request: Any) -> None:
        return None

    assert iscoroutinefunction(TokenBudgetMiddleware(later))
    assert not iscoroutinefunction(TokenBudgetMiddleware(lambda request: None))
    assert TokenBudgetMiddleware.sync_capable
    assert TokenBudgetMiddleware.async_capable


@pytest.mark.parametrize("wrong", [{"rutes": []}, {"identify": "nobody.has.it"}])
def test_wrong_settings_end_the_start(wrong: dict[str, Any]) -> None:
    """The middleware is not made with settings that are wrong, so that no request has to find them out."""
    with override_settings(TOKENBUDGET=wrong), pytest.raises(ConfigurationError):
        Client().handler.load_middleware()


async def who(_: Any) -> None:
    """A coroutine function that finds nobody."""


def test_an_identify_that_must_be_awaited_ends_the_start_in_threads() -> None:
    """Under WSGI nobody awaits it, nor under ASGI where a middleware that is sync alone stands behind ours."""

    async def later(request: Any) -> None:
        return None

    with override_settings(TOKENBUDGET={"identify": who}):
        TokenBudgetMiddleware(later)
        with pytest.raises(ConfigurationError, match="a coroutine function can only be awaited under ASGI"):
            TokenBudgetMiddleware(lambda request: None)


def test_sync_client() -> None:
    """Django's test client goes through the middleware, and its request is booked."""
    answered = post(CHAT, "sync")

    (row,) = rows("sync")
    assert (answered.status_code, answered.content) == (200, ANSWER)
    assert '"tokens-minute";r=' in answered.headers["RateLimit"]
    assert (row["input_tokens"], row["output_tokens"], row["settle_reason"]) == (8, 5, "complete")


@pytest.mark.parametrize("path", [CHAT, "/plain/achat"])
def test_async_client(path: str) -> None:
    """The async client goes through its async half, to sync and async views."""
    answered = asyncio.run(apost(path, f"async-{path}"))

    assert (answered.status_code, answered.content) == (200, ANSWER)
    assert [row["settle_reason"] for row in rows(f"async-{path}")] == ["complete"]


def test_unmetered_path_passes() -> None:
    """A path that no route names is none of our business."""
    answered = post("/free", None)

    assert answered.status_code == 200
    assert "RateLimit" not in answered.headers


def test_refusal_comes_before_the_view() -> None:
    """Without credentials no view runs, in either colour."""
    assert post(CHAT, None).status_code == 401
    assert asyncio.run(AsyncClient().post(CHAT, BODY, content_type="application/json")).status_code == 401


def test_disabled_passes_everything() -> None:
    """``enabled: False`` takes the middleware out of the way."""
    with override_settings(TOKENBUDGET={**TOKENBUDGET, "enabled": False}):
        assert post(CHAT, None).status_code == 200
        assert asyncio.run(AsyncClient().post(CHAT, BODY, content_type="application/json")).status_code == 200


@pytest.mark.parametrize("path", ["/plain/exceed", "/plain/aexceed", "/free/limited", "/plain/alimited"])
def test_disabled_views_go_on(path: str) -> None:
    """Views that reserve, and views with limits of their own, answer as if nothing were limited, in either colour."""
    with override_settings(TOKENBUDGET={**TOKENBUDGET, "enabled": False}):
        assert [post(path, None).status_code for _ in range(3)] == [200] * 3
        assert [asyncio.run(apost(path, "off")).status_code for _ in range(3)] == [200] * 3
    assert rows("off") == []


def test_disabled_tasks_go_on_after_their_request() -> None:
    """A task that an async view has started charges in vain when the request is long gone, too."""

    async def run() -> None:
        is_over, late = asyncio.Event(), list[Any]()

        async def work() -> None:
            await is_over.wait()
            gc.collect()
            current().charge({"model": "gpt-4o", "usage": {"prompt_tokens": 8, "completion_tokens": 5}})

        async def view(_: Any) -> HttpResponse:
            late.append(asyncio.create_task(work()))
            return HttpResponse(ANSWER)

        answered: Any = TokenBudgetMiddleware(view)(AsyncRequestFactory().get("/free"))
        await asyncio.create_task(answered)
        is_over.set()
        await late[0]

    with override_settings(TOKENBUDGET={**TOKENBUDGET, "enabled": False}):
        asyncio.run(run())


def test_malformed_body_is_a_400() -> None:
    """A body that makes no sense is refused with what is wrong with it."""
    answered = post(CHAT, "malformed", {"model": "gpt-4o", "messages": 7})

    assert answered.status_code == 400
    assert "messages" in answered.json()["error"]["message"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_prompt_that_only_its_bound_keeps_out_is_counted(is_async: bool) -> None:
    """Where the estimate fits and the bound does not, the prompt is counted exactly and admitted, in both colours."""
    route = {"path": CHAT, "format": "openai.chat", "count": "sample:0"}
    given = TOKENBUDGET | {"routes": [route], "plans": {"one": ["400 tokens/minute"]}}
    long = BODY | {"messages": [{"role": "user", "content": "one two three four " * 50}]}

    def send(body: Any) -> Any:
        return asyncio.run(apost(CHAT, "doubtful", body)) if is_async else post(CHAT, "doubtful", body)

    with override_settings(TOKENBUDGET=given):
        answers = [send(body).status_code for body in (BODY, long)]

    assert answers == [200, 200]


@pytest.mark.parametrize("bound", [1000, None])
def test_long_body_reaches_a_view_that_reads_it_in_pieces(bound: int | None) -> None:
    """A body above the bounds is not held against its view, though Django's ``request.body`` would raise."""
    routes = [{"path": "/plain/drain", "format": "openai.chat"}]
    changed = {**TOKENBUDGET, "routes": routes, "max_body": 2000, "plans": {"one": ["100k tokens/minute"]}}
    with override_settings(TOKENBUDGET=changed, DATA_UPLOAD_MAX_MEMORY_SIZE=bound):
        answered = post("/plain/drain", "long", b"x" * 5000)

    assert (answered.status_code, answered.content) == (200, b"5000")


# -- how requests end -------------------------------------------------------------------------------------------------


def is_free(subject: str) -> bool:
    """Whether the only slot of *subject* is free, by asking for it."""
    return bool(post(CHAT, subject).status_code == 200)


@pytest.mark.parametrize(("max_body", "tokens"), [(10_000_000, 0), (1_000, 300)])
def test_long_body_without_a_length_reaches_its_view(max_body: int, tokens: int) -> None:
    """Under ASGI a body in chunks is read up to our bound and not above it, and the view has it from its beginning."""
    chunks = [b'{"model": "gpt-4o", "messages": [], "max_tokens": 1, "user": "', *[b"x" * 1_000_000] * 4, b'"}']
    incoming = [{"type": "http.request", "body": each, "more_body": True} for each in chunks] + [
        {"type": "http.request"}
    ]
    settings_ = {
        **TOKENBUDGET,
        "routes": [{"path": "/plain/drain", "format": "openai.chat"}],
        "plans": {"one": ["10M tokens/minute"]},
        "max_body": max_body,
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0) if incoming else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = scope_of(path="/plain/drain", subject=f"chunks-{max_body}", headers={"host": "test"}) | {"root_path": ""}
    with override_settings(TOKENBUDGET=settings_):
        asyncio.run(get_asgi_application()(scope, receive, send))
        (row,) = rows(f"chunks-{max_body}")

    assert (sent[0]["status"], sent[1]["body"]) == (200, str(sum(map(len, chunks))).encode())
    assert row["input_tokens"] >= tokens


def test_stream_under_wsgi() -> None:
    """A stream passes, and is booked when it has ended."""
    answered = post("/plain/streamed", "streams")
    before = conf.core().flush() and rows("streams")
    body = b"".join(answered.streaming_content)

    assert before == []
    assert body == b"".join(PIECES)
    assert [row["settle_reason"] for row in rows("streams")] == ["complete"]


def test_t07_stream_that_is_closed_early() -> None:
    """A client that leaves in the middle is one row, and its slot is free."""
    answered = post("/plain/streamed", "leaves")
    next(iter(answered.streaming_content))
    answered.close()
    answered.close()

    assert [row["settle_reason"] for row in rows("leaves")] == ["client_gone"]
    assert is_free("leaves")


def test_t08_stream_that_fails() -> None:
    """A stream that raises is booked as such, and its error passes through."""
    answered = post("/plain/breaking", "breaks")
    with pytest.raises(RuntimeError, match="the stream fails"):
        b"".join(answered.streaming_content)
    answered.close()

    assert [row["settle_reason"] for row in rows("breaks")] == ["app_error_late"]
    assert is_free("breaks")


def test_async_stream_under_asgi() -> None:
    """An async stream passes piece by piece under ASGI."""
    sent = serve("/plain/astreamed", "astreams")

    assert [message["body"] for message in sent[1:] if message.get("body")] == PIECES
    assert [row["settle_reason"] for row in rows("astreams")] == ["complete"]


def test_sync_stream_under_asgi() -> None:
    """A sync stream under ASGI passes as Django passes it: with its warning, gathered, and booked once."""
    with pytest.warns(Warning, match="must consume synchronous iterators"):
        sent = serve("/plain/streamed", "gathered")

    assert b"".join(message.get("body", b"") for message in sent[1:]) == b"".join(PIECES)
    assert [row["settle_reason"] for row in rows("gathered")] == ["complete"]
    assert is_free("gathered")


def test_async_stream_under_wsgi() -> None:
    """An async stream under WSGI passes as Django passes it: with its warning, gathered, and booked once."""
    answered = post("/plain/astreamed", "agathered")
    with pytest.warns(Warning, match="must consume asynchronous iterators"):
        body = b"".join(answered)
    answered.close()

    assert body == b"".join(PIECES)
    assert [row["settle_reason"] for row in rows("agathered")] == ["complete"]
    assert running.get() is None
    assert is_free("agathered")


def test_t08_async_stream_that_fails_under_wsgi() -> None:
    """An async stream that raises under WSGI is booked as such, and its error passes through."""
    answered = post("/plain/abreaking", "abreaks")
    with pytest.warns(Warning, match="asynchronous iterators"), pytest.raises(RuntimeError, match="the stream fails"):
        b"".join(answered)
    answered.close()

    assert [row["settle_reason"] for row in rows("abreaks")] == ["app_error_late"]
    assert is_free("abreaks")


def test_t07_async_stream_under_wsgi_that_nobody_reads() -> None:
    """An async stream under WSGI that is closed unread is one row, and its slot is free."""
    post("/plain/astreamed", "unread").close()

    assert [row["settle_reason"] for row in rows("unread")] == ["client_gone_early"]
    assert is_free("unread")


def test_t07_client_leaves_an_async_stream() -> None:
    """A client that disconnects from an async stream is one row, and its slot is free."""
    serve("/plain/astreamed", "aleaves", leave_after=1)

    (row,) = rows("aleaves")
    assert row["settle_reason"] == "client_gone"
    assert is_free("aleaves")


def test_t09_a_client_that_leaves_while_it_is_settled_leaves_nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a call holds is settled, whichever settlement the client's leave finds under way."""

    async def leaving() -> list[Any]:
        call = Call(conf.core(), Facts("POST", "/plain/x"), Route("/plain/*"))
        held = [Reservation(name, "t", (), (), Cost(), 1e12) for name in ("first", "second", "third")]
        call.subject, call.held, settled = Subject(key="k"), tuple(held), []
        under_way, gone, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def settle(reservation: Reservation, actual: Cost) -> bool:
            if settled:
                under_way.set()
                await gone.wait()
            settled.append(reservation.id)
            if len({*settled}) == len(held):
                done.set()
            return True

        monkeypatch.setattr(conf.core().async_guard, "settle", settle)
        ending = asyncio.ensure_future(django_middleware._Exchange(RequestFactory().get("/"), call).aend(is_whole=True))
        async with asyncio.timeout(10):
            await under_way.wait()
            ending.cancel()
            gone.set()
            await asyncio.gather(ending, return_exceptions=True)
            await done.wait()
        return settled

    assert {*asyncio.run(leaving())} == {"first", "second", "third"}


def test_refused_head_has_no_body() -> None:
    """A refusal to HEAD says how long it would be, and has no body; scripts of a named origin may read the rest."""
    given = TOKENBUDGET | {"plans": {"one": ["1 request/minute"]}, "cors_origins": ["https://a.example"]}
    with override_settings(TOKENBUDGET=given):
        client = Client(headers={"x-subject": "heads", "origin": "https://a.example"})
        admitted, refused = client.get("/plain/streamed"), client.head("/plain/streamed")
        b"".join(admitted.streaming_content)

    assert (refused.status_code, refused.content) == (429, b"")
    assert int(refused["Content-Length"]) > 0
    assert refused["Access-Control-Allow-Origin"] == "https://a.example"
    assert admitted["Access-Control-Expose-Headers"] == "ratelimit-policy, ratelimit"


ENDING: dict[str, Any] = TOKENBUDGET | {
    "routes": [{"path": "/*", "format": "openai.chat", "on_budget_end": "finish"}],
    "plans": {"one": ["100 tokens/minute"]},
    "output_reserve": 32,
}


def test_stream_is_ended_with_its_budget() -> None:
    """A sync and an async stream end where the budget does, also under WSGI, in their format, and their generators are closed."""
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    with override_settings(TOKENBUDGET=ENDING):
        sync = b"".join(post("/endless", "ends", body).streaming_content)
        ended_sync = rows("ends")

        async def read() -> bytes:
            answered = await apost("/aendless", "aends", body)
            return b"".join([piece async for piece in answered.streaming_content])

        of_loop = asyncio.run(read())
        ended_async = rows("aends")
        with pytest.warns(Warning, match="asynchronous iterators"):
            gathered = b"".join(post("/aendless", "gathers", body))
        left = [conf.core().explain(Subject(key=key)).limits[0].remaining for key in ("ends", "aends")]

    assert sync.endswith(b"data: [DONE]\n\n")
    assert of_loop == sync == gathered
    assert [row["settle_reason"] for row in (*ended_sync, *ended_async)] == ["budget_end", "budget_end"]
    assert 60 <= ended_sync[0]["output_tokens"] == ended_async[0]["output_tokens"] <= 92
    assert left == [92 - ended_sync[0]["output_tokens"]] * 2  # what was asked for on the way is given back
    assert ENDLESS_CLOSED == ["ends", "aends", "gathers"]


def test_t08_view_raises() -> None:
    """A view that raises gives Django's own 500 and one row that charges nothing, in both colours."""
    assert post("/plain/fail", "fails").status_code == 500
    assert asyncio.run(apost("/plain/fail", "fails")).status_code == 500

    assert [(row["status"], row["cost_pico"]) for row in rows("fails")] == [(500, 0), (500, 0)]
    assert is_free("fails")


@pytest.mark.parametrize("path", ["/plain/late", "/plain/alate"])
def test_t08_timeout_of_a_view_is_told_from_other_errors(path: str) -> None:
    """Django's 500 does not say what it was made of; the row does, in both colours."""
    assert post(path, f"sync{path}").status_code == 500
    assert asyncio.run(apost(path, f"async{path}")).status_code == 500

    found = rows(f"sync{path}") + rows(f"async{path}")
    assert [(row["status"], row["settle_reason"]) for row in found] == [(500, "timeout")] * 2


def test_t08_worker_is_told_to_exit() -> None:
    """An exit in the middle of a view leaves no slot behind."""
    with pytest.raises(SystemExit):
        post("/plain/leave", "leaves-for-good")

    assert [row["settle_reason"] for row in rows("leaves-for-good")] == ["app_error"]
    assert is_free("leaves-for-good")


@pytest.mark.parametrize("path", ["/plain/exceed", "/plain/aexceed"])
def test_process_exception_renders_a_refused_reservation(path: str) -> None:
    """A refused reservation that a view lets through is the middleware's refusal, whatever the colours."""
    sync, later = post(path, f"sync{path}"), asyncio.run(apost(path, f"async{path}"))

    for answered in (sync, later):
        assert answered.status_code == 429
        assert "tokens-minute" in answered.json()["error"]["message"]
    assert [row["decision"] for row in rows(f"sync{path}") + rows(f"async{path}")] == ["refused", "refused"]


def test_process_exception_renders_a_refusal_that_ended_a_task_group() -> None:
    """A group of nothing but refusals is one."""
    middleware, request = TokenBudgetMiddleware(lambda _: None), RequestFactory().get("/")
    refused, other = CredentialError("nobody"), ValueError("theirs")

    answered = middleware.process_exception(
        request, ExceptionGroup("tasks", [ExceptionGroup("inner", [refused]), refused])
    )
    assert answered is not None
    assert answered.status_code == 401
    assert middleware.process_exception(request, ExceptionGroup("tasks", [refused, other])) is None


def test_other_exceptions_stay_what_they_are() -> None:
    """`process_exception` has no word on errors that are not ours."""
    request: Any = object()

    assert TokenBudgetMiddleware(lambda _: None).process_exception(request, ValueError("theirs")) is None


def test_limit_decorator_in_both_colours() -> None:
    """``@limit`` holds on sync and async views, in metered paths and in others."""
    assert [post("/plain/limited", "v").status_code for _ in range(2)] == [200, 429]
    assert post("/free/limited", "v").status_code == 429
    assert [asyncio.run(apost("/plain/alimited", "v")).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("is_async", [False, True])
def test_classes_are_limited_each_by_itself(is_async: bool) -> None:
    """What ``method_decorator`` limits counts for its own class, though the method may be that of a common base class."""
    paths = ["/class/limited", "/class/other", "/class/alimited"]

    async def ask() -> list[int]:
        asked = [await AsyncClient().get(path, headers={"x-subject": "aclasses"}) for path in paths * 2]
        return [answered.status_code for answered in asked]

    client = Client(headers={"x-subject": "classes"})
    statuses = asyncio.run(ask()) if is_async else [client.get(path).status_code for path in paths * 2]

    assert statuses == [200, 200, 200, 429, 429, 429]


def test_limit_without_a_subject_outside_of_routes() -> None:
    """Where no route meters the path, a limited view still asks who is there."""
    assert post("/free/limited", None).status_code == 401


# -- settings ---------------------------------------------------------------------------------------------------------


def test_override_settings_makes_a_new_core() -> None:
    """Changed settings take effect at the next request, and the old core is closed with its rows written."""
    post(CHAT, "before")
    old = conf.core()
    with override_settings(TOKENBUDGET={**TOKENBUDGET, "plans": {"one": ["1 request/minute"]}}):
        assert conf.core() is not old
        assert [post(CHAT, "after").status_code for _ in range(2)] == [200, 429]

    assert len(old.spool) == 0
    assert conf.core() is not old
    assert len(rows("before")) == 1


def test_limits_change_while_the_app_runs() -> None:
    """The next request meets the new limits, with what was counted by the old."""
    assert post(CHAT, "k1").status_code == 200

    change_limits({"plans": {"one": ["1 concurrent", "3 tokens/minute"]}})

    assert post(CHAT, "k1").status_code == 429
    change_limits({"plans": {"one": ["1 concurrent", "1000 tokens/minute"]}})
    assert post(CHAT, "k1").status_code == 200


def test_other_settings_leave_the_core() -> None:
    """A setting that is not ours changes nothing."""
    before = conf.core()
    with override_settings(APPEND_SLASH=False):
        assert conf.core() is before


@pytest.mark.parametrize(
    ("config", "url"),
    [
        ({"ENGINE": "sqlite3", "NAME": "/tmp/x.db"}, "sqlite:////tmp/x.db"),
        (
            {"ENGINE": "postgresql", "NAME": "app", "USER": "u", "PASSWORD": "p@ss", "HOST": "db", "PORT": "5433"},
            "postgresql+psycopg://u:p%40ss@db:5433/app",
        ),
        (
            {"ENGINE": "postgresql", "NAME": "app", "HOST": "/run/pg"},
            "postgresql+psycopg:///app?host=%2Frun%2Fpg",
        ),
        (
            {"ENGINE": "mysql", "NAME": "app", "HOST": "/run/my.sock"},
            "mysql+pymysql:///app?unix_socket=%2Frun%2Fmy.sock",
        ),
        (
            {"ENGINE": "postgresql", "NAME": "", "OPTIONS": {"service": "shop", "passfile": ".pgpass"}},
            "postgresql+psycopg://?passfile=.pgpass&service=shop",
        ),
        (
            {
                "ENGINE": "postgresql",
                "NAME": "app",
                "HOST": "db",
                "OPTIONS": {
                    "sslmode": "verify-full",
                    "connect_timeout": 3,
                    "pool": True,
                    "assume_role": "shop",
                    "prepare_threshold": 5,
                },
            },
            "postgresql+psycopg://db/app?connect_timeout=3&options=-c+role%3Dshop&sslmode=verify-full",
        ),
        (
            {"ENGINE": "mysql", "NAME": "", "OPTIONS": {"read_default_file": "/etc/my.cnf", "init_command": "SET x"}},
            "mysql+pymysql://?read_default_file=%2Fetc%2Fmy.cnf",
        ),
        (
            {
                "ENGINE": "mysql",
                "NAME": "app",
                "HOST": "db",
                "OPTIONS": {"ssl": {"ca": "/ca.pem"}, "charset": "utf8"},
            },
            "mysql+pymysql://db/app?ssl_ca=%2Fca.pem",
        ),
        (
            {"ENGINE": "postgresql", "NAME": "app", "HOST": "one,two", "PORT": "5432,5433"},
            "postgresql+psycopg:///app?host=one%2Ctwo&port=5432%2C5433",
        ),
        (
            {"ENGINE": "postgresql", "OPTIONS": {"service": "shop"}},
            "postgresql+psycopg://?service=shop",
        ),
        (
            {"ENGINE": "mysql", "NAME": "app", "OPTIONS": {"unix_socket": "/run/my.sock"}},
            "mysql+pymysql:///app?unix_socket=%2Frun%2Fmy.sock",
        ),
        (
            {"ENGINE": "mysql", "NAME": "app", "HOST": "db", "OPTIONS": {"ssl_mode": "REQUIRED"}},
            "mysql+pymysql://db/app?ssl_check_hostname=false",
        ),
    ],
)
def test_alias_becomes_a_url(config: dict[str, Any], url: str) -> None:
    """Every form of Django's database settings is SQLAlchemy's URL of the same database."""
    whole = config | {"ENGINE": f"django.db.backends.{config['ENGINE']}"}
    with patch.dict(settings.DATABASES, {"other": whole}):
        assert database_url("other").render_as_string(hide_password=False) == url


def test_an_engine_that_is_built_on_djangos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another package, for metrics or tenants say, is the database that it says it is."""
    package = tmp_path / "measured_sqlite"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(
        "from django.db.backends.sqlite3 import base\n\n\nclass DatabaseWrapper(base.DatabaseWrapper):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    with patch.dict(settings.DATABASES, {"other": {"ENGINE": "measured_sqlite", "NAME": "/tmp/x.db"}}):
        assert str(database_url("other")) == "sqlite:////tmp/x.db"


@pytest.mark.parametrize("engine", ["django.db.backends.dummy", "no.such.engine", ""])
def test_an_engine_that_is_nothing_we_know(engine: str) -> None:
    """It is an error that names what there is, whether or not Django could load it."""
    with (
        patch.dict(settings.DATABASES, {"other": {"ENGINE": engine}}),
        pytest.raises(ConfigurationError, match="PostgreSQL, MySQL, MariaDB and SQLite"),
    ):
        database_url("other")


def test_alias_with_a_file_uri_opens_that_file(tmp_path: Path) -> None:
    """A database name that is a ``file:`` URI, as in Django's shared-cache tests, is opened as one."""
    uri = f"file:{tmp_path / 'uri.db'}?mode=rwc"
    with patch.dict(settings.DATABASES, {"uri": {"ENGINE": "django.db.backends.sqlite3", "NAME": uri}}):
        engine = conf.engine_of("uri")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
    engine.dispose()

    assert (tmp_path / "uri.db").stat().st_size > 0


# -- system checks ----------------------------------------------------------------------------------------------------


def found() -> list[tuple[str, str]]:
    """Ids and hints of what the system checks find, those of deployment included."""
    messages = run_checks(tags=["tokenbudget"], include_deployment_checks=True)
    return [(message.id or "", message.hint or "") for message in messages]


@pytest.mark.parametrize(
    ("changed", "id_", "hint"),
    [
        ({"TOKENBUDGET": {"rutes": []}}, "E001", "Mend settings.TOKENBUDGET"),
        ({"TOKENBUDGET": ["rutes"]}, "E001", "Mend settings.TOKENBUDGET"),
        ({"TOKENBUDGET": {"database": {"alias": "nowhere"}, "backend": "redis://x"}}, "E002", "Mend TOKENBUDGET"),
        ({"TOKENBUDGET": []}, "E001", "Mend settings.TOKENBUDGET"),
        ({"TOKENBUDGET": {"identify": "nobody.has.it"}}, "E004", "Mend settings.TOKENBUDGET"),
        ({"TOKENBUDGET": {"identify": "ip", "render_refusal": "nobody.has.it"}}, "E004", "Mend settings.TOKENBUDGET"),
        ({"TOKENBUDGET": {"identify": "ip", "backend": "reddis://x"}}, "E004", "Mend settings.TOKENBUDGET"),
        ({"MIDDLEWARE": []}, "W001", "MIDDLEWARE.insert(0, 'tokenbudget_mw_django.TokenBudgetMiddleware')"),
        ({"MIDDLEWARE": [OURS, OURS]}, "E003", "Keep the first one"),
        ({}, "W002", "redis://"),
    ],
)
def test_checks_find_it(changed: dict[str, Any], id_: str, hint: str) -> None:
    """Each check finds its fault, under its id, and says how to mend it."""
    with override_settings(**changed):
        by_id = dict(found())

    assert hint in by_id[f"tokenbudget.{id_}"]


def test_checks_find_nothing_in_a_sound_project() -> None:
    """A project that shares its counters is passed without a word."""
    with override_settings(TOKENBUDGET={**TOKENBUDGET, "backend": "redis://localhost/0"}):
        assert found() == []


def test_a_deployment_is_told_what_is_suspicious() -> None:
    """``check --deploy`` says what ``doctor`` says of the settings, such as that no API key can be recognized."""
    with override_settings(TOKENBUDGET={"backend": "redis://localhost/0"}):
        messages = run_checks(tags=["tokenbudget"], include_deployment_checks=True)
        every_day = run_checks(tags=["tokenbudget"])

    assert [(message.id, message.msg.partition(":")[0]) for message in messages] == [
        ("tokenbudget.W007", "`pepper` is not set")
    ]
    assert every_day == []


def test_unsupported_engine_is_an_error() -> None:
    """A database that we cannot write to is found before the first request."""
    oracle = {"ENGINE": "django.db.backends.oracle", "NAME": "x"}
    with (
        patch.dict(settings.DATABASES, {"oracle": oracle}),
        override_settings(TOKENBUDGET={"database": {"alias": "oracle"}, "backend": "redis://x", "identify": "ip"}),
    ):
        assert [id_ for id_, _ in found()] == ["tokenbudget.E002"]
        with pytest.raises(ConfigurationError, match="oracle"):
            conf.core()


def test_manage_check() -> None:
    """``manage.py check`` passes a sound project, and stops at a misspelt setting with its name and a suggestion."""
    call_command("check")

    with override_settings(TOKENBUDGET={"rutes": []}), pytest.raises(SystemCheckError) as caught:
        call_command("check")

    assert "(tokenbudget.E001)" in str(caught.value)
    assert "did you mean 'routes'" in str(caught.value)


# -- commands ---------------------------------------------------------------------------------------------------------


def test_command_check_explains(capsys: pytest.CaptureFixture[str]) -> None:
    """``manage.py tokenbudget check`` says what the project's settings enforce."""
    call_command("tokenbudget", "check")

    assert "one" in capsys.readouterr().out


def test_command_prints_where_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """`call_command` gives a stream, as for any of Django's commands, and nothing goes elsewhere."""
    out, err = io.StringIO(), io.StringIO()

    call_command("tokenbudget", "keys", "list", "--tenant", "nobody", stdout=out, stderr=err)
    with pytest.raises(SystemExit):
        call_command("tokenbudget", "keys", "lst", stdout=out, stderr=err)

    assert out.getvalue() == "There are no keys.\n"
    assert "invalid choice: 'lst'" in err.getvalue()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options",
    [
        ["--settings", "project.settings"],
        ["--settings=project.settings", "--pythonpath=."],
        ["--no-color", "--traceback"],
    ],
)
def test_command_takes_djangos_own_options_behind_its_words(options: list[str]) -> None:
    """`manage.py` has heeded them before; they are no arguments of the command's."""
    out = io.StringIO()

    call_command("tokenbudget", "keys", "list", "--tenant", "nobody", *options, stdout=out)

    assert out.getvalue() == "There are no keys.\n"


def test_command_verify_proves_the_books(capsys: pytest.CaptureFixture[str]) -> None:
    """``manage.py tokenbudget verify`` proves the books in the database of the alias."""
    post(CHAT, "verified")
    assert rows("verified")

    call_command("tokenbudget", "verify", "--json")

    assert json.loads(capsys.readouterr().out)["verified"] is True


def test_command_verify_ends_with_its_code() -> None:
    """Books that disagree end the command with a code that a script can see."""
    post(CHAT, "tampered")
    assert rows("tampered")
    change = "UPDATE tokenbudget_usage SET cost_pico = cost_pico {} 7 WHERE key_id = 'tampered'"
    _execute(change.format("+"))

    with pytest.raises(SystemExit) as caught:
        call_command("tokenbudget", "verify")
    _execute(change.format("-"))

    assert caught.value.code == 1


def _execute(statement: str) -> None:
    engine = conf.engine_of("default")
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_command_names_itself_and_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of ``manage.py tokenbudget`` lists the commands, and theirs says how they are called."""
    Command().print_help("manage.py", "tokenbudget")
    assert "reconcile" in capsys.readouterr().out

    call_command("tokenbudget", "verify", "--help")
    assert capsys.readouterr().out.startswith("usage: manage.py tokenbudget verify")


def test_command_says_what_is_wrong_with_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """Of settings that are wrong ``check`` tells the problems and ends with 1; what needs settings ends with 2."""
    with override_settings(TOKENBUDGET={"rutes": []}):
        with pytest.raises(SystemExit) as checked:
            call_command("tokenbudget", "check", "--json")
        told = json.loads(capsys.readouterr().out)
        with pytest.raises(SystemExit) as used:
            call_command("tokenbudget", "usage")

    assert (checked.value.code, told["ok"], used.value.code) == (1, False, 2)
    assert "did you mean" in told["problems"][0]
    assert "did you mean" in capsys.readouterr().err


def test_command_works_beside_wrong_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What needs none of the project's settings is there while they are wrong: help, and other settings."""
    config = tmp_path / "budget.json"
    config.write_text('{"database": {"alias": "default"}}')

    with override_settings(TOKENBUDGET={"rutes": []}):
        call_command("tokenbudget", "usage", "--help")
        call_command("tokenbudget", "check", str(config))
        call_command("tokenbudget", "usage", "--config", str(config))

    assert "usage: manage.py tokenbudget usage" in capsys.readouterr().out


@pytest.mark.parametrize("database", ["url", "alias", None])
def test_command_takes_the_database_of_its_config(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, database: str | None
) -> None:
    """``--config`` with a database means that one, and not the project's; by an alias, or with none, the project's."""
    post(CHAT, "here")
    assert rows("here")
    url = f"sqlite:///{tmp_path}/other.db"
    other = open_engine(url)
    metadata.create_all(other)
    other.dispose()
    config = tmp_path / "budget.json"
    named = {"url": {"database": url}, "alias": {"database": {"alias": "default"}}, None: {}}
    config.write_text(json.dumps(named[database]))

    call_command("tokenbudget", "usage", "--json", "--config", str(config))

    found = json.loads(capsys.readouterr().out)["total"]["requests"]
    assert (found == 0) == (database == "url")


def test_command_keys_uses_the_projects_database(capsys: pytest.CaptureFixture[str]) -> None:
    """A key that ``manage.py tokenbudget keys`` makes is in the host's table, and opens the door."""
    from tokenbudget_mw_django.models import Key

    with override_settings(TOKENBUDGET={**TOKENBUDGET, "identify": "api_key", "pepper": "p" * 32}):
        call_command("tokenbudget", "keys", "create", "--name", "ada", "--json")
        key = json.loads(capsys.readouterr().out)
        client = Client(headers={"authorization": f"Bearer {key['key']}"})
        status = client.post(CHAT, BODY, content_type="application/json").status_code

    assert status == 200
    assert Key.objects.get(name="ada").status == "active"


# -- admin ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def superuser() -> Client:
    """A superuser, logged in."""
    user = get_user_model().objects.create_superuser("root", "root@example.org", "secret")
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("model", ["usage", "ledgerentry", "balance", "key", "tariff", "correction", "grant", "period"])
def test_admin_shows_and_changes_nothing(superuser: Client, model: str) -> None:
    """Lists open for a superuser, and offer no way to add, change or delete a row."""
    post(CHAT, "admin")
    assert rows("admin")
    shown = superuser.get(f"/admin/tokenbudget_mw_django/{model}/")
    added = superuser.get(f"/admin/tokenbudget_mw_django/{model}/add/")

    assert shown.status_code == 200
    assert f"/{model}/add/".encode() not in shown.content
    assert b"delete_selected" not in shown.content
    assert added.status_code == 403


def test_admin_shows_money_in_dollars(superuser: Client) -> None:
    """Corrections, grants and closed periods are listed with their amounts."""
    from datetime import UTC, datetime

    from tokenbudget_mw_django.models import Correction, Grant, Period

    at = datetime(2026, 1, 1, tzinfo=UTC)
    made = [
        Correction(
            id="c", usage_id="u", number=1, created_at=at, used_at=at, model="m", change_pico=15 * 10**11,
            cost_pico=1, write_id="w",
        ),
        Grant(id="g", account="tenant:a", amount_pico=25 * 10**11, expires_at=at),
        Period(
            id="p", account="tenant:a", starts_at=at, ends_at=at, closed_at=at, usage_pico=35 * 10**11,
            refunds_pico=0, remainder_pico=0, document="{}", digest="d",
        ),
    ]  # fmt: skip
    for row, dollars in zip(made, (b"$1.5", b"$2.5", b"$3.5"), strict=True):
        row.save(force_insert=True)
        shown = superuser.get(f"/admin/tokenbudget_mw_django/{type(row).__name__.lower()}/")
        row.delete()

        assert dollars in shown.content


def test_admin_cannot_be_posted_to(superuser: Client) -> None:
    """A usage row can be looked at, and a forged form neither changes nor deletes it."""
    post(CHAT, "forged")
    (row,) = rows("forged")
    place = f"/admin/tokenbudget_mw_django/usage/{row['id']}/"

    assert superuser.get(f"{place}change/").status_code == 200
    assert superuser.post(f"{place}change/", {"cost_pico": "0"}).status_code == 403
    assert superuser.post(f"{place}delete/", {"post": "yes"}).status_code == 403
    assert rows("forged") == [row]


def test_admin_does_not_show_digests(superuser: Client) -> None:
    """The form of a key shows nothing that helps to guess it."""
    from tokenbudget_mw.database.keys import KeyStore

    engine = conf.engine_of("default")
    made = KeyStore(engine, "p" * 32).create(name="shown")
    engine.dispose()
    from tokenbudget_mw_django.models import Key

    key = Key.objects.get(name="shown")

    page = superuser.get(f"/admin/tokenbudget_mw_django/key/{key.kid}/change/").content.decode()
    assert key.digest not in page
    assert made.text not in page
    assert "shown" in page


# -- what becomes of keys ---------------------------------------------------------------------------------------------


@pytest.fixture
def keyed() -> Iterator[Any]:
    """A project whose requests carry API keys, whose cache remembers them for an hour, and a key of acme's."""
    from tokenbudget_mw.database.keys import KeyStore

    ours = TOKENBUDGET | {"identify": "api_key", "pepper": "p" * 32, "key_cache_ttl": 3600}
    with override_settings(TOKENBUDGET=ours):
        engine = conf.engine_of("default")
        yield KeyStore(engine, "p" * 32).create(name="t18", tenant="acme")
        engine.dispose()


def keyed_post(made: Any) -> int:
    client = Client(raise_request_exception=False, headers={"x-api-key": made.text})
    status: int = client.post(CHAT, BODY, content_type="application/json").status_code
    return status


@pytest.mark.parametrize("action", ["suspend", "revoke"])
def test_t18_an_admin_action_is_seen_at_the_next_request(superuser: Client, keyed: Any, action: str) -> None:
    """The admin bars the key in the backend, though the cache has it for an hour."""
    before = keyed_post(keyed)
    changed = superuser.post(
        "/admin/tokenbudget_mw_django/key/", {"action": action, "_selected_action": [keyed.row.kid]}, follow=True
    )

    assert b"1 keys are" in changed.content
    assert (before, keyed_post(keyed)) == (200, 401)


def test_t18_a_saved_or_deleted_key_is_seen_at_the_next_request(keyed: Any) -> None:
    """Saving a key's row as an object bars or frees it, when the transaction is committed; deleting it bars it."""
    from django.db import transaction

    from tokenbudget_mw_django.models import Key

    row = Key.objects.get(kid=keyed.row.kid)
    seen = [keyed_post(keyed)]
    row.status = "suspended"
    with transaction.atomic():
        row.save()
        seen.append(keyed_post(keyed))
    seen.append(keyed_post(keyed))
    row.status = "active"
    row.save()
    seen.append(keyed_post(keyed))
    row.delete()
    seen.append(keyed_post(keyed))

    assert seen == [200, 200, 401, 200, 401]


def test_t18_a_change_that_is_rolled_back_bars_nobody(keyed: Any) -> None:
    """What does not stand in the table is not told."""
    from django.db import transaction

    from tokenbudget_mw_django.conf import core
    from tokenbudget_mw_django.models import Key

    keyed_post(keyed)
    core().flush()  # SQLite refuses a transaction that has read before another one wrote
    with transaction.atomic():
        row = Key.objects.get(kid=keyed.row.kid)
        row.status = "revoked"
        row.save()
        transaction.set_rollback(True)

    assert keyed_post(keyed) == 200


def test_t18_an_expired_key_is_barred_as_such(keyed: Any) -> None:
    """An end in the past that is saved holds at the next request."""
    from tokenbudget_mw_django.models import Key

    keyed_post(keyed)
    row = Key.objects.get(kid=keyed.row.kid)
    row.expires_at = row.created_at
    row.save()

    assert keyed_post(keyed) == 401


def test_keys_are_told_without_a_core(keyed: Any) -> None:
    """A shell or a worker that serves nothing tells the backend by a connection of its own."""
    from tokenbudget_mw_django.models import Key

    conf.forget()
    row = Key.objects.get(kid=keyed.row.kid)
    row.status = "revoked"
    row.save()

    assert "core" not in conf._cores
    assert keyed_post(keyed) == 401


# -- ASGI lifespan ----------------------------------------------------------------------------------------------------


def test_lifespan_writes_what_waits() -> None:
    """Django's application, ours around it, answers the lifespan and has written everything when it is over."""
    post(CHAT, "lifespan")
    core = conf.core()
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(get_asgi_application()({"type": "lifespan"}, receive, send))

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert len(core.spool) == 0
    assert len(rows("lifespan")) == 1
