"""
No spelling of a metered path reaches its handler unmetered.

Every host is asked over a raw socket, without credentials, by every spelling that servers and frameworks are known to
read differently. Whoever then gets the provider's answer has found a way around the middleware.
"""

import json
import threading
from collections.abc import Iterator

import pytest
from adapter_servers import Server, serving
from raw_http import exchange

BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}], "max_tokens": 50}).encode()

SERVED = [
    ("uvicorn", "asgi_host", {}),
    ("uvicorn", "fastapi_host", {}),
    ("hypercorn", "fastapi_host", {}),
    ("granian", "fastapi_host", {}),
    ("granian-wsgi", "wsgi_host", {}),
    ("gunicorn", "flask_host", {}),
    ("gunicorn", "django_host", {}),
    ("django-runserver", "django_host", {}),
    ("flask-run", "flask_host", {}),
    ("uvicorn", "django_host", {"CONTRACT_ASYNC": "1"}),
    ("hypercorn", "quart_host", {}),
]
TARGETS = [
    "/v1/chat/completions",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "///v1///chat///completions",
    "/v1/chat/completions/",
    "/v1/chat/completions//",
    "/v1/%63hat/completions",
    "/v1%2Fchat%2Fcompletions",
    "/v1%2fchat/completions",
    "/v1/./chat/completions",
    "/v1/%2e/chat/completions",
    "/v1/x/../chat/completions",
    "/v1/x/%2e%2e/chat/completions",
    "/x/..;/v1/chat/completions",
    "/v1/chat/completions;a=b",
    "/v1/chat/completions%3Fa=b",
    "/v1/chat/completions?a=b",
    "/v1/chat/completions#a",
    "/v1/chat/completions%23a",
    "/v1/chat/completions%0A",
    "/v1/chat/completions%0D%0A",
    "/v1/chat/completions%00",
    "/v1/chat/completions%20",
    "/v1/chat/completions.json",
    "/V1/Chat/Completions",
    "/v1/chat%5Ccompletions",
    "\\v1\\chat\\completions",
    "/%ef%bc%8fv1/chat/completions",
    "/flush/../v1/chat/completions",
    "/flush/%2e%2e/v1/chat/completions",
    "http://test/v1/chat/completions",
    "http://other:80//v1/chat/completions",
    "https://user@test/v1/chat/completions",
    "HTTP://TEST/v1/chat/completions?x=/flush",
    "http://test/v1/chat/completions;x",
    "http://test/v1/chat/completions%3Fx",
    "http://test/v1/chat/completions%23x",
    "http://test/v%0A1/chat/completions",
    "%01http://test/v1/chat/completions",
    "http%3A//test/v1/chat/completions",
    "http:/v1/chat/completions",
    "x:v1/chat/completions",
    "v1/chat/completions",
    "*",
    "",
]
METHODS = ["POST", "GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "PURGE", "TRACE", "post", "FLUSH"]
HEADERS = [
    "Host: flush",
    "Host: test/flush",
    "Host: test?/flush#",
    "Host: test\\flush",
    "SCRIPT_NAME: /v1",
    "Script-Name: /v1/chat",
    "SCRIPT-NAME: /v1/chat/completions",
    "Path-Info: /flush",
    "PATH_INFO: /flush",
    "X-Original-URL: /flush",
    "X-Rewrite-URL: /flush",
    "X-Forwarded-Prefix: /flush",
    "X-Forwarded-Path: /flush",
    "X-HTTP-Method-Override: OPTIONS",
    "X-Method-Override: PURGE",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Expect: 100-continue",
    "Origin: https://example.org\r\nAccess-Control-Request-Method: POST",
    "REMOTE_USER: root",
]
UNDERSCORED = "X_Subject: somebody"
"""What most servers drop, since an environment writes it as ``X-Subject``."""


@pytest.fixture(scope="module", params=SERVED, ids=lambda served: f"{served[0]}-{served[1]}{len(served[2]) or ''}")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every host that is worth asking, running."""
    name, module, environment = request.param
    with serving(name, module, tmp_path_factory.mktemp("paths"), **environment) as running:
        yield running


def ask(server: Server, *, method: str = "POST", target: str, headers: str = "", body: bytes = BODY) -> bytes:
    """What the server says to a raw request, until it closes the connection."""
    host = "" if "host:" in headers.lower() else "Host: test\r\n"
    head = f"{method} {target} HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += f"{headers}\r\n" if headers else ""
    is_upgrade = "connection:" in headers.lower()
    head += "" if is_upgrade else "Connection: close\r\n"
    return exchange(server.port, head.encode("latin-1") + b"\r\n" + body, half_close=is_upgrade)


def is_served(said: bytes) -> bool:
    """Whether the provider has answered: its body is there, or a success that is not that of another path."""
    return b'"choices"' in said or (b"HTTP/1.1 200" in said and b'{"path": ' not in said)


def test_the_plain_path_is_served_to_who_may(server: Server) -> None:
    """With credentials the same raw request is answered, so that the cases below can fail."""
    said = ask(server, target="/v1/chat/completions", headers="X-Subject: somebody")

    assert is_served(said)
    assert b"ratelimit" in said.lower()


@pytest.mark.parametrize("target", TARGETS)
def test_no_spelling_reaches_the_handler(server: Server, target: str) -> None:
    """However the target is written, without credentials nobody gets an answer of the handler."""
    said = ask(server, target=target)

    assert not is_served(said), said[:600]


@pytest.mark.parametrize("method", METHODS)
def test_no_method_reaches_the_handler(server: Server, method: str) -> None:
    """Nor by any method."""
    said = ask(server, method=method, target="/v1/chat/completions")

    assert not is_served(said), said[:600]


@pytest.mark.parametrize("headers", HEADERS)
def test_no_header_reaches_the_handler(server: Server, headers: str) -> None:
    """Nor by any header that proxies, servers or frameworks are known to believe."""
    said = ask(server, target="/v1/chat/completions", headers=headers)

    assert not is_served(said), said[:600]


@pytest.mark.parametrize("mount", ["/x", "/x/", "/flush", "/assistant", "//x"])
@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Script-Name", "X-Script-Name", "X-Forwarded-Prefix"])
def test_no_mount_reaches_the_handler(server: Server, name: str, mount: str) -> None:
    """Nor below a mount that the client names: gunicorn believes ``SCRIPT_NAME`` from this host, and cuts it off."""
    said = ask(server, target=f"{mount}/v1/chat/completions", headers=f"{name}: {mount}")

    assert not is_served(said), said[:600]


def test_underscores_are_no_way_around(server: Server) -> None:
    """A name with an underscore is no credential, or (under granian's WSGI, which reads a dash) one that is metered."""
    said = ask(server, target="/v1/chat/completions", headers=UNDERSCORED)

    assert not is_served(said) or b"ratelimit:" in said.lower(), said[:600]


def test_pipelined_requests_are_each_metered(server: Server) -> None:
    """Of two requests in one write the second is asked for its credentials, too."""
    one = b"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\n%bContent-Length: %d\r\n%b\r\n%b"
    first = one % (b"X-Subject: somebody\r\n", len(BODY), b"", BODY)
    second = one % (b"", len(BODY), b"Connection: close\r\n", BODY)

    said = exchange(server.port, first + second)

    # a server may close after the first, and does not read the second then
    assert said.startswith(b"HTTP/1.1 200")
    assert said.count(b'"choices"') == 1
    assert said.count(b"HTTP/1.1 401") == said.count(b"HTTP/1.1") - 1


def test_nobody_borrows_a_neighbours_name(server: Server) -> None:
    """Among many requests at once, of which every other has credentials, no other is answered."""
    named: list[bytes] = []
    nameless: list[bytes] = []

    def many() -> None:
        for _ in range(8):
            named.append(ask(server, target="/v1/chat/completions", headers="X-Subject: somebody"))
            nameless.append(ask(server, target="/v1/chat/completions"))

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(is_served(said) for said in named)
    assert [said.split(b" ")[1] for said in nameless] == [b"401"] * 32
