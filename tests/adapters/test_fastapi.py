"""FastAPI: dependencies, routers, mounted apps, background tasks, OpenAPI and the lifespan."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgi_rig import subject_of
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.charging import tags
from tokenbudget_mw.errors import BudgetExceeded, ConfigurationError
from tokenbudget_mw.testing.adapters import eventually
from tokenbudget_mw.values import UsageRecord
from tokenbudget_mw.wiring import wire
from tokenbudget_mw_fastapi import RESPONSES, TokenBudget, current

WIDE: dict[str, Any] = {
    "identify": subject_of,
    "routes": [{"path": "/plain/*"}],
    "plans": {"one": ["100 requests/minute", "1000 tokens/minute"]},
    "default_plan": "one",
}
USAGE = {"model": "gpt-4o", "usage": {"prompt_tokens": 300, "completion_tokens": 400}}


class Host:
    """A FastAPI app, its extension and its records."""

    def __init__(self, settings: Any = None, **options: Any) -> None:
        self.records: list[UsageRecord] = []
        self.app = FastAPI(**options)
        self.core = wire(settings or WIDE, sink=CallableSink(self.records.extend))
        self.budget = TokenBudget(self.app, self.core)

    def get(self, path: str, subject: str | None = "k1", **headers: str) -> Any:
        """The response to one request."""
        sent = headers | ({"x-subject": subject} if subject else {})
        return TestClient(self.app, raise_server_exceptions=False).get(path, headers=sent)

    def rows(self) -> list[UsageRecord]:
        """What was recorded so far."""
        assert self.core.flush()
        return self.records


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with wide limits."""
    found = Host()
    yield found
    found.core.close()


# -- what handlers see ------------------------------------------------------------------------------------------------


def test_wrong_settings_fail_when_the_app_is_made() -> None:
    """A misspelt setting fails at once, not at the first request."""
    with pytest.raises(ConfigurationError, match="did you mean 'routes'"):
        TokenBudget(FastAPI(), {"rutes": []})


def test_an_app_takes_one_middleware() -> None:
    """A second one, which would charge every request again, is refused at start; apps side by side have one each."""
    wrapped = FastAPI(middleware=[Middleware(ASGIMiddleware, WIDE)])
    app = FastAPI()
    TokenBudget(app, WIDE)
    TokenBudget(FastAPI(middleware=[Middleware(GZipMiddleware)]), WIDE)

    for taken in (app, wrapped):
        with pytest.raises(ConfigurationError, match="charged twice"):
            TokenBudget(taken, WIDE)


@pytest.mark.parametrize("app", [WIDE, None, APIRouter(), GZipMiddleware(FastAPI())])
def test_what_is_no_app_is_told(app: Any) -> None:
    """Settings in the app's place, a router, or an app that is wrapped already: the error says what is wanted."""
    with pytest.raises(ConfigurationError, match="takes a FastAPI or Starlette app first, not"):
        TokenBudget(app, WIDE)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_handlers_of_both_colours_charge_their_caller(host: Host, colour: str) -> None:
    """`current` is the request's call in a coroutine and in FastAPI's worker threads."""

    def sync() -> dict[str, Any]:
        return {"tokens": current().charge(USAGE).output_tokens}

    async def later() -> dict[str, Any]:
        return sync()

    host.app.get("/plain/ask")(sync if colour == "sync" else later)

    assert host.get("/plain/ask").json() == {"tokens": 400}
    assert [(row.input_tokens, row.key_id) for row in host.rows()] == [(300, "k1")]


def test_refused_reservation_in_a_sync_endpoint(host: Host) -> None:
    """A refused reservation that crosses from a worker thread becomes the middleware's refusal."""

    @host.app.get("/plain/exceed")
    def exceed() -> str:
        with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            return "never"

    answered = host.get("/plain/exceed")

    assert answered.status_code == 429
    assert "tokens-minute" in answered.json()["error"]["message"]
    assert len(answered.headers.get_list("content-type")) == 1
    assert [row.decision for row in host.rows()] == ["refused"]


def test_refused_reservation_in_an_async_endpoint(host: Host) -> None:
    """On the loop, too."""

    @host.app.get("/plain/exceed")
    async def exceed() -> str:
        async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            return "never"

    assert host.get("/plain/exceed").status_code == 429


async def exceed() -> None:
    """Reserve more than there is."""
    async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
        raise AssertionError


async def fail() -> None:
    """Go wrong otherwise."""
    raise KeyError


async def in_a_group(*tasks: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run *tasks* together."""
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task())


def grouping() -> Host:
    """A host with a mounted app, where both have endpoints whose work goes on in task groups."""
    host, inner = Host(WIDE | {"routes": [{"path": "/*"}]}), FastAPI()

    @host.app.get("/refused")
    @inner.get("/refused")
    async def refused() -> None:
        await in_a_group(exceed, exceed)

    @host.app.get("/failed")
    async def failed() -> None:
        await in_a_group(exceed, fail)

    host.app.mount("/sub", inner)
    return host


@pytest.mark.parametrize("path", ["/refused", "/sub/refused"])
def test_refused_reservation_in_a_task_group(path: str) -> None:
    """A refusal that ends a task group, which makes a group of exceptions of it, is answered as one that comes alone."""
    host = grouping()
    answered = host.get(path)

    assert (answered.status_code, answered.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert [(row.decision, row.status) for row in host.rows()] == [("refused", 429)]


def test_task_group_in_which_something_else_went_wrong() -> None:
    """A group in which not all are refusals is an error of the app's, and stays it."""
    host = grouping()

    assert host.get("/failed").status_code == 500
    assert [row.settle_reason for row in host.rows()] == ["app_error"]


@pytest.mark.parametrize("is_sync", [True, False])
def test_refused_task_group_goes_to_the_apps_own_handler(is_sync: bool) -> None:
    """Who answers refusals in its own way answers those of task groups in it, too, by a handler of either colour."""
    host = grouping()

    def answer(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"own": type(error).__name__}, 418)

    async def answer_later(request: Request, error: Exception) -> JSONResponse:
        return answer(request, error)

    host.app.add_exception_handler(BudgetExceeded, answer if is_sync else answer_later)
    answered = host.get("/refused")

    assert (answered.status_code, answered.json()) == (418, {"own": "BudgetExceeded"})


class Message(BaseModel):
    """A chat message, as a handler may have it."""

    role: str
    content: str
    name: str | None = None


def test_reservation_of_messages_that_are_models(host: Host) -> None:
    """Messages that FastAPI has parsed are counted as the dicts that they were."""
    said = {"role": "user", "content": "What is the capital of France?"}

    @host.app.get("/plain/ask")
    def ask() -> list[int]:
        held = [current().reserve(model="gpt-4o", prompt=[each]) for each in (said, Message.model_validate(said))]
        return [each.prompt.input.estimate for each in held]

    as_dict, as_model = host.get("/plain/ask").json()
    assert as_dict == as_model > 7


@pytest.mark.parametrize(
    "prompt", [None, b"text", {"role": "user"}, 1.5, Message(role="user", content="x"), [object()]]
)
def test_reservation_of_no_prompt_says_what_one_is(host: Host, prompt: Any) -> None:
    """A handler's slip is an error of its own with what to do, and no refusal that blames the client's body."""

    @host.app.get("/plain/ask")
    def ask() -> None:
        current().reserve(model="gpt-4o", prompt=prompt)

    client = TestClient(host.app, headers={"x-subject": "k1"})
    with pytest.raises(TypeError, match=r"`prompt` is a .*list of chat messages"):
        client.get("/plain/ask")


def test_unpriced_model_is_a_400_by_name() -> None:
    """Under ``unknown_price: deny`` a reservation of an unknown model is refused by name, not a 500."""
    host = Host(WIDE | {"unknown_price": "deny"})

    @host.app.get("/plain/unpriced")
    async def unpriced() -> str:
        async with current().reserve(model="nobody-knows-this", prompt=1, max_output=1):
            return "never"

    answered = host.get("/plain/unpriced")

    assert answered.status_code == 400
    assert "nobody-knows-this" in answered.text


def test_t08_endpoint_raises(host: Host) -> None:
    """An endpoint that raises gives Starlette's own 500, and a row that charges nothing."""

    @host.app.get("/plain/fail")
    async def fail() -> str:
        raise RuntimeError("the endpoint fails")

    assert host.get("/plain/fail").status_code == 500
    assert [row.cost_pico for row in host.rows()] == [0]


def test_stream_is_booked_at_its_end(host: Host) -> None:
    """A streaming response may charge in its generator, after the first bytes are out."""

    @host.app.get("/plain/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "one "
            current().charge(USAGE)
            yield "two"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    assert host.get("/plain/stream").text == "one two"
    assert [(row.output_tokens, row.is_stream, row.settle_reason) for row in host.rows()] == [(400, True, "complete")]


def test_background_task_charges_late(host: Host) -> None:
    """What a background task charges after the response counts against the limits, on a row of its own."""

    @host.app.get("/plain/later")
    async def later(tasks: BackgroundTasks) -> str:
        call = current()
        tasks.add_task(lambda: call.charge(USAGE))
        return "soon"

    statuses = [host.get("/plain/later").status_code for _ in range(2)]
    host.core.close()
    statuses.append(host.get("/plain/later").status_code)

    first, late = host.records[:2]
    assert (first.input_tokens, late.input_tokens, late.settle_reason) == (0, 300, "late")
    assert late.correlation_id == first.id
    assert statuses == [200, 200, 429]


CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 50}
ANSWER = {"object": "chat.completion", "choices": [{"message": {"content": "hi"}}], **USAGE}


@pytest.mark.parametrize("path", ["/plain/ask", "/chat"])
@pytest.mark.parametrize("is_said", [True, False])
def test_reservation_in_a_dependency(path: str, is_said: bool) -> None:
    """FastAPI ends a dependency when the response is out; what was reserved in it is charged once, also where it is read."""
    routes = [*WIDE["routes"], {"path": "/chat", "format": "openai.chat"}]
    host = Host(WIDE | {"routes": routes, "plans": {"one": ["9000 tokens/minute"]}})

    async def reserving() -> AsyncIterator[Any]:
        async with current().reserve(model="gpt-4o", prompt=300, max_output=400) as held:
            yield held

    @host.app.post(path, dependencies=[Depends(host.budget.limit("8000 tokens/minute"))])
    async def ask(held: Any = Depends(reserving)) -> Any:  # noqa: B008 - FastAPI's way
        if is_said:
            held.charge(USAGE)
        return ANSWER

    client = TestClient(host.app, headers={"x-subject": "k1"})
    assert client.post(path, json=CHAT).status_code == 200
    charged = [row for row in host.rows() if row.total_tokens]
    limits = client.post(path, json=CHAT).headers["ratelimit"]
    host.core.close()

    assert [row.total_tokens for row in charged] == [700]
    assert charged[0].settle_reason == ("complete" if is_said or path == "/chat" else "late")
    held = 60 if path == "/chat" else 0  # by the second request
    assert re.findall("r=([0-9]+)", limits) == [str(8300 - held), str(7300 - held)]


@pytest.mark.parametrize("path", ["/plain/dependency", "/plain/stream"])
def test_labels_in_a_generator_that_threads_run(host: Host, path: str) -> None:
    """A sync generator goes on in another context than it began in; labels around what it does there end all the same."""

    def labelled() -> Iterator[str]:
        with tags(feature="search"):
            current().charge({**USAGE, "model": "gpt-4o"})
            yield "one"
            yield "two"

    def labelling() -> Iterator[None]:
        with tags(feature="search"):
            yield

    host.app.get("/plain/dependency", dependencies=[Depends(labelling)])(lambda: "one")
    host.app.get("/plain/stream")(lambda: StreamingResponse(labelled()))

    TestClient(host.app, headers={"x-subject": "k1"}).get(path)  # raises what the app raises

    assert [row.settle_reason for row in host.rows()] == ["complete"]
    assert [row.tags for row in host.rows()] == [{"feature": "search"} if path.endswith("stream") else {}]


# -- limits on endpoints ----------------------------------------------------------------------------------------------


def test_limit_on_an_endpoint_by_its_path_template(host: Host) -> None:
    """An endpoint is one counter, whatever its path parameters say."""

    @host.app.get("/plain/items/{item}", dependencies=[Depends(host.budget.limit("2 requests/minute"))])
    async def item(item: str) -> str:
        return item

    assert [host.get(f"/plain/items/{number}").status_code for number in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("path", ["/plain/x", "/free"])
def test_limits_of_a_router_and_its_endpoint_count_apart(host: Host, path: str) -> None:
    """Where both count the same, a request takes one of each, and the smaller refuses."""
    router = APIRouter(dependencies=[Depends(host.budget.limit("5/minute"))])

    @router.get(path, dependencies=[Depends(host.budget.limit("3/minute"))])
    def endpoint() -> str:
        return "x"

    host.app.include_router(router)

    answers = [host.get(path) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["violated-policies"] == ["requests-minute-endpoint-2"]


@pytest.mark.parametrize("texts", [("5/minute", "3/minute"), ("5/minute; 3/minute",), ("3/minute, 100/hour",)])
def test_several_limits_on_an_endpoint(host: Host, texts: tuple[str, ...]) -> None:
    """Of two that count the same the smaller holds; several may stand in one text, as in the settings."""
    host.app.get("/free", dependencies=[Depends(host.budget.limit(*texts))])(lambda: "x")

    assert [host.get("/free").status_code for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize("path", ["/plain/x", "/free"])
def test_limit_on_an_endpoint_in_shadow_mode(path: str) -> None:
    """Where the settings refuse nobody, limits on endpoints do not, either."""
    host = Host(WIDE | {"mode": "shadow"})
    host.app.get(path, dependencies=[Depends(host.budget.limit("1/minute"))])(lambda: "x")

    assert [host.get(path).status_code for _ in range(3)] == [200, 200, 200]


def test_limit_on_a_router_by_name(host: Host) -> None:
    """A named dependency on a router is one counter for all of its endpoints."""
    limit = host.budget.limit("2 requests/minute", name="search")
    router = APIRouter(prefix="/plain/search", dependencies=[Depends(limit)])
    for name in ("a", "b"):
        router.add_api_route(f"/{name}", lambda: "found")
    host.app.include_router(router)

    assert [host.get(f"/plain/search/{name}").status_code for name in "aba"] == [200, 200, 429]


def test_limit_on_a_router_without_a_name(host: Host) -> None:
    """Without a name each endpoint of the router has a counter of its own."""
    router = APIRouter(prefix="/plain/search", dependencies=[Depends(host.budget.limit("1 request/minute"))])
    for name in ("a", "b"):
        router.add_api_route(f"/{name}", lambda: "found")
    host.app.include_router(router)

    assert [host.get(f"/plain/search/{name}").status_code for name in "aba"] == [200, 200, 429]


def test_limits_on_one_path_count_each_method_apart(host: Host) -> None:
    """What reads a path takes nothing from the limit on what writes to it; one endpoint of two methods is one counter."""
    once = [Depends(host.budget.limit("1 request/minute"))]
    host.app.get("/plain/items", dependencies=[Depends(host.budget.limit("5 requests/minute"))])(lambda: "x")
    host.app.post("/plain/items", dependencies=once)(lambda: "x")
    host.app.api_route("/plain/items", methods=["PUT", "PATCH"], dependencies=once)(lambda: "x")
    client = TestClient(host.app, headers={"x-subject": "k1"})

    methods = ("GET", "GET", "POST", "POST", "PUT", "PATCH")
    statuses = [client.request(method, "/plain/items").status_code for method in methods]

    assert statuses == [200, 200, 200, 429, 200, 429]


@pytest.mark.parametrize("when", ["reserved", "late", "late and reserved", "at once"])
def test_limit_on_an_endpoint_counts_whatever_its_handler_charges(host: Host, when: str) -> None:
    """Tokens take from the endpoint's limit once, also those that a reservation has settled, and those that come late."""

    def charge() -> None:
        if "reserved" in when:
            with current().reserve(model="gpt-4o", prompt=10, max_output=10) as held:
                held.charge({"prompt_tokens": 40, "completion_tokens": 20})
        else:
            current().charge({"prompt_tokens": 40, "completion_tokens": 20})

    @host.app.get("/plain/ask", dependencies=[Depends(host.budget.limit("125 tokens/minute"))])
    def ask(tasks: BackgroundTasks) -> None:
        if "late" in when:
            tasks.add_task(charge)
        else:
            charge()

    assert [host.get("/plain/ask").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_limit_on_a_router_that_is_included_twice(host: Host) -> None:
    """The same endpoint has a counter for each place where its router is included, and so have two of the same name."""
    once, router, inner = Depends(host.budget.limit("1 request/minute")), APIRouter(), APIRouter()
    router.get("/list", dependencies=[once])(lambda: "found")
    inner.include_router(router, prefix="/{tenant}")
    for included, prefix in ((router, "/plain/a"), (router, "/plain/b"), (inner, "/plain/c")):
        host.app.include_router(included, prefix=prefix)

    paths = ("/plain/a/list", "/plain/b/list", "/plain/c/x/list", "/plain/c/y/list", "/plain/a/list")
    assert [host.get(path).status_code for path in paths] == [200, 200, 200, 429, 429]


def test_limit_outside_of_routes(host: Host) -> None:
    """Where no route meters the path the limit holds, refuses as the middleware does, and asks who is there."""
    host.app.get("/free", dependencies=[Depends(host.budget.limit("1 request/minute"))])(lambda: "x")

    refused = [host.get("/free") for _ in range(2)][1]

    assert refused.status_code == 429
    assert "requests-minute-endpoint" in refused.json()["error"]["message"]
    assert host.get("/free", None).status_code == 401
    assert host.rows() == []


def test_refused_head_has_no_body(host: Host) -> None:
    """A HEAD that an endpoint's limit refuses has headers only."""
    host.app.api_route("/free", methods=["HEAD"], dependencies=[Depends(host.budget.limit("1 request/minute"))])(
        lambda: None
    )
    client = TestClient(host.app)

    refused = client.head("/free")

    assert (refused.status_code, refused.content) == (401, b"")


@pytest.mark.parametrize("path", ["/plain/socket", "/free/socket"])
def test_limit_on_a_websocket(host: Host, path: str) -> None:
    """A dependency limits websockets, metered or not: the one above the limit gets the refusal, and no connection."""

    @host.app.websocket(path, dependencies=[Depends(host.budget.limit("1 request/minute"))])
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    client = TestClient(host.app, headers={"x-subject": "k1"})
    with client.websocket_connect(path) as connected:
        text = connected.receive_text()
    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect(path):
        pass

    assert text == "hello"
    assert denied.value.status_code == 429
    assert "requests-minute-endpoint" in denied.value.json()["error"]["message"]


@pytest.mark.parametrize("is_reserved", [True, False])
def test_limit_on_a_websocket_counts_its_messages(is_reserved: bool) -> None:
    """Tokens of messages take from the endpoint's limit; its requests are connections."""
    host = Host(WIDE | {"routes": [{"path": "/talk", "websocket": "message"}]})
    usage = {"prompt_tokens": 10, "completion_tokens": 20}

    @host.app.websocket("/talk", dependencies=[Depends(host.budget.limit("60 tokens/minute", "3 requests/minute"))])
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        async for _ in socket.iter_text():
            if is_reserved:
                async with current().reserve(model="gpt-4o", prompt=10, max_output=20) as held:
                    held.charge(usage)
            else:
                current().charge(usage)
            await socket.send_text("ok")

    with TestClient(host.app, headers={"x-subject": "k1"}) as client:
        for _ in range(2):
            with client.websocket_connect("/talk") as connected:
                connected.send_text("hello")
                connected.receive_text()
        host.core.close()  # what was used counts in a thread
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/talk"):
            pass

    assert denied.value.json()["violated-policies"] == ["tokens-minute-endpoint"]


def test_websocket_that_exceeds_after_it_was_accepted(host: Host) -> None:
    """A refused reservation in an open websocket closes it with the code for a broken rule."""

    @host.app.websocket("/plain/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            await socket.send_text("never")

    client = TestClient(host.app, headers={"x-subject": "k1"})
    with client.websocket_connect("/plain/socket") as connected, pytest.raises(WebSocketDisconnect) as closed:
        connected.receive_text()

    assert closed.value.code == 1008
    assert "'tokens-minute' allows 1000 tokens" in closed.value.reason


# -- around the app ---------------------------------------------------------------------------------------------------


def test_mounted_app_is_metered_by_its_whole_path() -> None:
    """An app that is mounted inside answers under its whole path, which is what routes name."""
    host, inner = Host(), FastAPI()

    @inner.get("/ask")
    async def ask(request: Request) -> str:
        return current().payer.key

    host.app.mount("/plain/inner", inner)

    assert host.get("/plain/inner/ask").json() == "k1"
    assert host.get("/plain/inner/ask", None).status_code == 401
    assert [(row.path, row.route) for row in host.rows()] == [("/plain/inner/ask", "/plain/*")]


def test_app_with_a_root_path_is_metered_with_and_without_it() -> None:
    """Starlette answers below the root and without it, so a proxy that strips it or not is no way around limits."""
    host = Host()
    host.app.root_path = "/api"
    host.app.get("/plain/ask")(lambda: "asked")

    for path in ("/plain/ask", "/api/plain/ask"):
        assert host.get(path, None).status_code == 401
        assert host.get(path).status_code == 200

    assert [(row.path, row.route) for row in host.rows()] == [
        ("/plain/ask", "/plain/*"),
        ("/api/plain/ask", "/plain/*"),
    ]


def test_mounted_apps_refuse_and_count_on_their_own() -> None:
    """A mounted app answers refusals as the app around it does, and its endpoints count apart from those of others."""
    host, first, second = Host(WIDE | {"plans": {"one": ["10 tokens/minute"]}}), FastAPI(), FastAPI()
    once = Depends(host.budget.limit("1 request/minute"))

    async def ask() -> None:
        async with current().reserve(model="gpt-4o", prompt=100, max_output=100):
            raise AssertionError

    for inner in (first, second):
        inner.get("/search", dependencies=[once])(lambda: "x")
        inner.get("/ask")(ask)
    first.mount("/deep", second)
    host.app.mount("/plain/{tenant}", first)
    host.app.mount("/open", FastAPI(routes=second.routes))

    paths = (
        "/plain/a/search",
        "/plain/b/search",
        "/plain/a/deep/search",
        "/open/search",
        "/plain/a/ask",
        "/plain/a/deep/ask",
    )
    assert [host.get(path).status_code for path in paths] == [200, 429, 200, 200, 429, 429]
    assert "requests-minute" in host.get("/plain/a/search").text
    host.core.close()


def test_app_that_is_mounted_while_the_app_starts() -> None:
    """What the lifespan mounts refuses as what was there before, however often the app starts; its state reaches handlers."""
    inner = FastAPI()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        app.mount("/sub", inner)
        yield {"name": "state"}

    host = Host(WIDE, lifespan=lifespan)
    inner.get("/free", dependencies=[Depends(host.budget.limit("2/minute"))])(lambda: "x")

    @host.app.get("/named")
    def named(request: Request) -> str:
        return str(request.state.name)

    answers = []
    for _ in range(2):
        with TestClient(host.app, raise_server_exceptions=False, headers={"x-subject": "k1"}) as client:
            answers += [client.get("/sub/free").status_code for _ in range(2)]
            assert client.get("/named").json() == "state"
    assert answers == [200, 200, 429, 429]


def test_refusal_of_a_mounted_app_with_middleware_around_it() -> None:
    """A mounted app refuses as any other, whatever middleware is around it, and wherever it is mounted."""
    host, inner, router = Host(), FastAPI(), APIRouter()
    outer = [Mount("/deep", inner)]

    @inner.get("/ask")
    async def ask() -> None:
        async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            raise AssertionError

    for path, app in {"a": FastAPI(routes=inner.routes), "b": GZipMiddleware(FastAPI(routes=inner.routes))}.items():
        host.app.router.routes.append(Mount(f"/plain/{path}", app, middleware=[Middleware(GZipMiddleware)]))
    host.app.router.routes.append(Mount("/plain/c", routes=outer, middleware=[Middleware(GZipMiddleware)]))
    router.mount("/d", FastAPI(routes=inner.routes))
    host.app.include_router(router, prefix="/plain")

    paths = ("/plain/a/ask", "/plain/b/ask", "/plain/c/deep/ask", "/plain/d/ask")
    assert [host.get(path).status_code for path in paths] == [429] * 4
    assert [row.decision for row in host.rows()] == ["refused"] * 4
    host.core.close()


def test_middleware_of_a_mounted_app_meets_its_whole_path() -> None:
    """Where the extension is on the mounted app itself, its routes still name whole paths, prefix included."""
    outer, host = FastAPI(), Host()
    host.app.get("/ask")(lambda: current().payer.key)
    outer.mount("/plain", host.app)

    answered = TestClient(outer).get("/plain/ask", headers={"x-subject": "k1"})

    assert (answered.status_code, answered.json()) == (200, "k1")
    assert TestClient(outer).get("/plain/ask").status_code == 401


def test_openapi_lists_the_refusals() -> None:
    """With ``responses=RESPONSES`` the schema says what the middleware may answer."""
    host = Host(responses=RESPONSES)
    host.app.get("/plain/ask")(lambda: "x")

    listed = host.app.openapi()["paths"]["/plain/ask"]["get"]["responses"]

    assert {"401", "402", "429"} <= set(listed)
    assert "Retry-After" in listed["429"]["description"]


def test_lifespan_drains_at_shutdown() -> None:
    """When the app's own lifespan is over, every row is written, and the app's shutdown ran first."""
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        order.append("app")

    slow = WIDE | {"flush_interval": 3600}
    host = Host(slow, lifespan=lifespan)
    host.core.closers.append(lambda: order.append("core"))
    host.app.get("/plain/ask")(lambda: "x")
    with TestClient(host.app) as client:
        client.get("/plain/ask", headers={"x-subject": "k1"})
        eventually(lambda: host.records)  # the first is written at once
        client.get("/plain/ask", headers={"x-subject": "k1"})
        before = len(host.records)

    assert (before, len(host.records)) == (1, 2)
    assert order == ["app", "core"]


def test_limits_change_while_the_app_runs(host: Host) -> None:
    """The next request meets the new limits, with what was counted by the old."""

    @host.app.get("/plain/x")
    async def view() -> None: ...

    assert host.get("/plain/x").status_code == 200

    host.budget.change_limits({"plans": {"one": ["2 requests/minute"]}})

    assert [host.get("/plain/x").status_code for _ in range(2)] == [200, 429]
    with pytest.raises(ConfigurationError, match="did you mean 'plans'"):
        host.budget.change_limits({"plan": {}})
