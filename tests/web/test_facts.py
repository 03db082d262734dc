"""What a server says of a connection is read as it is meant, whichever server says it."""

from http import HTTPStatus
from typing import Any

import pytest
from asgi_rig import Rig, chat, scope_of, status_of

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
