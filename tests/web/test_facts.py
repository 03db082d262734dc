"""What servers and apps say is read as it is meant, in whatever shape the specification allows."""

import time
from http import HTTPStatus
from typing import Any

import pytest
from asgi_rig import Rig, chat, request, scope_of, status_of

from tokenbudget_mw.asgi import facts_of


@pytest.mark.parametrize(
    ("server", "read"),
    [
        (("127.0.0.1", 8000), ("127.0.0.1", 8000)),
        (("127.0.0.1", "8000"), ("127.0.0.1", 8000)),
        (["::1", 8000], ("::1", 8000)),
        (("/run/app.sock", None), ("/run/app.sock", None)),
        (("host", "http"), ("host", None)),
        (None, None),
    ],
)
def test_servers_address(server: Any, read: Any) -> None:
    """The port is a number, though granian writes it as a text, or none."""
    assert facts_of(scope_of(server=server)).server == read


def test_usage_is_booked_under_granian() -> None:
    """A port that is a text costs no row: all usage under granian went to the dead letters."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    rig = Rig(app)
    sent = rig.run(chat(), server=("127.0.0.1", "8000"))

    (row,) = rig.rows()
    assert status_of(sent) == 200
    assert row.server_port == 8000


def test_the_model_in_a_whole_url_is_found() -> None:
    """A target in absolute form, which servers hand over as it came, has the path of its URL, and what that says of the model."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    rig = Rig(app, routes=[{"path": "/model/*", "format": "bedrock.converse"}], unknown_price="flag")
    url = "http://test/model/us.amazon.nova-pro-v1:0/converse;x"
    sent = rig.run(request({"messages": [{"role": "user", "content": [{"text": "hello"}]}]}), path=url)

    (row,) = rig.rows()
    assert status_of(sent) == 200
    assert (row.path, row.request_model) == ("/model/us.amazon.nova-pro-v1:0/converse", "us.amazon.nova-pro-v1:0")


def test_a_status_may_be_an_enumerations_member() -> None:
    """An app that answers with an `HTTPStatus`, as Starlette passes it on, is booked: such rows were refused."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": HTTPStatus.CREATED, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    rig = Rig(app)
    rig.run(chat())

    (row,) = rig.rows()
    assert row.status == 201
    assert type(row.status) is int


def test_headers_that_can_be_read_once_pass() -> None:
    """Headers may be any iterable (ASGI, "Response Start"): one that is used up by reading still reaches the server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": iter([(b"x-own", b"1")])})
        await send({"type": "http.response.body", "body": b"{}"})

    sent = Rig(app, plans={"one": []}).run(chat())

    assert list(sent[0]["headers"]) == [(b"x-own", b"1")]


def test_a_body_in_single_bytes_costs_what_its_bytes_cost() -> None:
    """Four times the pieces are four times the work, not sixteen: a body of a byte a message held up a loop for long."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    rig = Rig(app, plans={"one": []})

    def seconds(pieces: int) -> float:
        body = chat(user="u" * pieces)["body"]
        parts = [{"type": "http.request", "body": body[at : at + 1], "more_body": True} for at in range(len(body))]
        begun = time.thread_time()
        sent = rig.run(*parts, {"type": "http.request"})
        assert status_of(sent) == 200
        return time.thread_time() - begun

    seconds(1000)
    assert seconds(60_000) < 9 * seconds(15_000)
