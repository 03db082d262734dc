"""Websockets on real servers: admitted, refused and metered, as connections and message by message."""

import json
import sqlite3
import urllib.request
from collections.abc import Iterator

import pytest
from adapter_servers import Server, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

CHAT = json.dumps({"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]})
WAIT = 20.0


@pytest.fixture(scope="module", params=["uvicorn", "hypercorn", "granian"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A host of websockets."""
    with serving(request.param, "websocket_host", tmp_path_factory.mktemp("websockets")) as running:
        yield running


def opened(server: Server, path: str, subject: str | None) -> ClientConnection:
    """A connection of *subject*."""
    headers = {} if subject is None else {"x-subject": subject}
    uri = f"ws://127.0.0.1:{server.port}{path}"
    return connect(uri, additional_headers=headers, open_timeout=WAIT, close_timeout=WAIT, proxy=None)


def rows(server: Server, key: str) -> list[tuple[object, ...]]:
    """What is booked of *key*."""
    urllib.request.urlopen(f"http://127.0.0.1:{server.port}/flush", timeout=WAIT).close()
    connection = sqlite3.connect(server.database)
    query = "SELECT status, settle_reason, input_tokens, output_tokens FROM tokenbudget_usage WHERE key_id = ? ORDER BY sequence"
    found = connection.execute(query, (key,)).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("path", ["/open", "/chat", "//chat", "/OPEN", "/%6Fpen", "/else"])
def test_nobody_gets_in_without_credentials(server: Server, path: str) -> None:
    """An upgrade is no way around: without credentials the handshake is answered by a refusal."""
    with pytest.raises(InvalidStatus) as refused:
        opened(server, path, None)

    assert refused.value.response.status_code in (401, 403)


def test_a_connection_is_one_row(server: Server) -> None:
    """A connection that is metered as such has one row, whatever is said, and it is complete when the client says goodbye."""
    with opened(server, "/open", "k-open") as talk:
        for _ in range(3):
            talk.send(CHAT)
            talk.recv(timeout=WAIT)
    with opened(server, "/open", "k-open"):
        pass

    assert [row[:2] for row in rows(server, "k-open")] == [(101, "complete")] * 2


def test_each_message_is_metered(server: Server) -> None:
    """Message by message, prompts are read and the usage of the answers is booked."""
    with opened(server, "/chat", "k-chat") as talk:
        for _ in range(3):
            talk.send(CHAT)
            talk.recv(timeout=WAIT)

    # the connection ends when the server has seen it end, which may be later than the client did
    booked = [row for row in rows(server, "k-chat") if row[2]]
    assert booked == [(101, "complete", 8, 5)] * 3


def test_a_refused_message_ends_the_connection(server: Server) -> None:
    """The message that no limit has room for closes the connection with the code for policies, and the reason."""
    with opened(server, "/chat", "k-tight:tight") as talk:
        talk.send(CHAT)
        talk.recv(timeout=WAIT)
        talk.send(CHAT)
        with pytest.raises(ConnectionClosed) as closed:
            talk.recv(timeout=WAIT)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert "requests-minute" in closed.value.rcvd.reason


def test_one_place_for_each_connection(server: Server) -> None:
    """A connection holds its place while it is open, messages hold none, and the place is free afterwards."""
    with opened(server, "/chat", "k-one:one") as talk:
        talk.send(CHAT)
        talk.recv(timeout=WAIT)
        with pytest.raises(InvalidStatus) as refused:
            opened(server, "/open", "k-one:one")

    assert refused.value.response.status_code in (403, 429)
