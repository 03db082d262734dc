"""
No body breaks a server, however it is made: a clear 4xx or a bounded estimate, in bounded time and memory.

Each is sent over a raw socket to an app that reads its body and answers, behind the middleware, on every server; the server's
peak memory and the seconds of each answer are measured.
"""

import gzip
import json
import os
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import wsgi_programs
from adapter_servers import Server, serving
from memory_of import peak
from programs import WHOLE
from raw_http import exchange, message

MOST_SECONDS = 30.0
"""For one answer. The slowest was seen to take 0.15 s."""
MOST_GROWTH = 64 << 20
"""Of a server's peak memory, in bytes: ten megabytes come, and the app reads them, too; 13 were seen."""
MEGABYTE = 1_000_000
CHAT = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}], "max_tokens": 9%s}'
JSON = {"Content-Type": "application/json"}

SERVED = [
    ("uvicorn", "programs_asgi", {}),
    ("hypercorn", "programs_asgi", {}),
    ("granian", "programs_asgi", {}),
    ("gunicorn", "programs_wsgi", {}),
    ("django-runserver", "programs_django", {}),
    ("flask-run", "programs_flask", {}),
]
if os.environ.get("TOKENBUDGET_TEST_CHAOS"):  # tox -e transparency
    SERVED += [("granian-wsgi", "programs_wsgi", {}), ("uvicorn", "programs_django", {"CONTRACT_ASYNC": "1"})]


def chat(**fields: Any) -> bytes:
    """A chat with these fields."""
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}]} | fields).encode()


def raw(name: str, value: str) -> bytes:
    """A chat with a field whose value is written by hand."""
    return b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}], "%s": %s}' % (
        name.encode(),
        value.encode(),
    )


def nested(opening: bytes, size: int) -> bytes:
    """A chat whose messages open and never close."""
    return b'{"model": "gpt-4o", "messages": [' + opening * (size // len(opening))


BODIES: dict[str, tuple[dict[str, str], bytes]] = {
    "gzip bomb": ({"Content-Encoding": "gzip"}, gzip.compress(bytes(200 * MEGABYTE), 9)),
    "gzip of gzip": ({"Content-Encoding": "gzip, gzip"}, gzip.compress(gzip.compress(bytes(20 * MEGABYTE)))),
    "deflate bomb": ({"Content-Encoding": "deflate"}, zlib.compress(bytes(50 * MEGABYTE), 9)),
    "br by name": ({"Content-Encoding": "br"}, b"\x8b\x02\x80"),
    "10 MB of [": ({}, nested(b"[", 10 * MEGABYTE)),
    "10 MB of [],": ({}, nested(b"[],", 10 * MEGABYTE)[:-1] + b"]}"),
    "1 MB of [": ({}, nested(b"[", MEGABYTE)),
    "1 MB of [],": ({}, nested(b"[],", MEGABYTE)[:-1] + b"]}"),
    "1 MB of objects": ({}, nested(b'{"a":', MEGABYTE)),
    "1 MB of keys": ({}, b"{" + b",".join(b'"k%d":1' % at for at in range(90_000)) + b"}"),
    "1 MB of one key": ({}, b'{"model":' * (MEGABYTE // 9)),
    "1 MB of spaces": ({}, chat(messages=[{"role": "user", "content": " " * MEGABYTE}])),
    "1 MB of a letter": ({}, chat(messages=[{"role": "user", "content": "a" * MEGABYTE}])),
    "1 MB of NUL": ({}, bytes(MEGABYTE)),
    "50,000 messages": ({}, chat(messages=[{"role": "user", "content": ""}] * 25_000)),
    "duplicate max_tokens": ({}, CHAT % b', "max_tokens": 900000000'),
    "duplicate model": ({}, CHAT % b', "model": "o1", "mod\\u0065l": "gpt-4o-mini"'),
    "duplicate n": ({}, CHAT % b', "n": 1, "n": 100000'),
    "UTF-16": ({}, chat().decode().encode("utf-16")),
    "UTF-16 BE": ({}, chat().decode().encode("utf-16-be")),
    "UTF-32": ({}, chat().decode().encode("utf-32")),
    "UTF-8 BOM": ({}, b"\xef\xbb\xbf" + chat()),
    "broken UTF-8": ({}, CHAT % b', "user": "\xff\xfe\xc3\x28"'),
    "lone surrogate": ({}, CHAT % b', "user": "\\ud800"'),
    "NUL in a name": ({}, chat(model="gpt\0-4o")),
    "no JSON": ({}, b"not json"),
    "a list": ({}, b"[1, 2]"),
    "null": ({}, b"null"),
    "empty": ({}, b""),
    "a form": (
        {"Content-Type": "multipart/form-data; boundary=x"},
        b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\ngpt",
    ),
    "model 1 MB long": ({}, chat(model="g" * MEGABYTE)),
    "content of numbers": ({}, chat(messages=[{"role": "user", "content": 7}])),
    **{
        f"{name} {value[:24]}": ({}, raw(name, value))
        for name in ("max_tokens", "n", "max_completion_tokens")
        for value in ("NaN", "Infinity", "-Infinity", "-1", "-1e400", "1e400", "0.5", "true", '"9"', "[]", "null", "0")
    },
    **{
        f"{name} {value[:24]}": ({}, raw(name, value))
        for name in ("max_tokens", "n")
        for value in ("18446744073686646784", "9" * 5000, "-" + "9" * 40, "9223372036854775808", "1" + "0" * 400)
    },
}


@pytest.fixture(scope="module", params=SERVED, ids=lambda served: f"{served[0]}-{served[1]}")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every host, playing a program that reads its body and answers a chat."""
    name, module, environment = request.param
    answer = [(b"content-type", b"application/json")]
    program: Any = [
        ("drain",),
        ("send", {"type": "http.response.start", "status": 200, "headers": answer}),
        ("send", {"type": "http.response.body", "body": WHOLE}),
    ]
    if module != "programs_asgi":
        start = ("start", "200 OK", [("Content-Type", "application/json")])
        program = wsgi_programs.Program((*[("read", 1 << 20)] * 12, start), "iterator", (WHOLE,), "ok")
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "answer.program").write_text(repr(program))
    with serving(name, module, folder, **environment) as running:
        yield running


def ask(server: Server, headers: dict[str, str], body: bytes, *, chunks: int = 0) -> bytes:
    """What the server says to a body."""
    given = {"x-program": "answer", "x-subject": "k1:many"} | JSON | headers
    return exchange(server.port, message("POST", "/read", given, body, chunks=chunks), wait=2 * MOST_SECONDS)


@pytest.mark.parametrize("chunks", [0, 7])
def test_no_body_breaks_the_server(server: Server, chunks: int) -> None:
    """Every body is answered in time, none with a 5xx, at no more memory than bounds say; a right one is served after it."""
    assert ask(server, {}, chat(max_tokens=9)).startswith(b"HTTP/1.1 200 ")
    before = peak(server)
    statuses: dict[str, str] = {}
    seconds: dict[str, float] = {}

    for name, (headers, body) in BODIES.items():
        begun = time.monotonic()
        said = ask(server, headers, body, chunks=chunks)
        seconds[name] = time.monotonic() - begun
        # of a large body that a server does not read to its end, the answer may be lost with the connection
        statuses[name] = said[9:12].decode() if said or len(body) < MEGABYTE else "cut"
    grown = peak(server) - before

    slowest = max(seconds, key=lambda name: seconds[name])
    print(f"slowest: {slowest}, {seconds[slowest]:.2f} s; peak memory grew by {grown / (1 << 20):.1f} MB; {statuses}")
    assert {name: status for name, status in statuses.items() if status[:1] not in ("2", "4", "c")} == {}
    assert {name: took for name, took in seconds.items() if took > MOST_SECONDS} == {}
    assert grown < MOST_GROWTH
    assert ask(server, {}, chat(max_tokens=9)).startswith(b"HTTP/1.1 200 ")


REFUSED = {
    "gzip bomb": "415",
    "deflate bomb": "415",
    "no JSON": "400",
    "max_tokens NaN": "400",
    "n -1": "400",
    "1 MB of [": "400",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_told(server: Server, name: str) -> None:
    """A body that cannot be read is refused with the reason, before the app runs."""
    said = ask(server, *BODIES[name])

    assert said[9:12].decode() == REFUSED[name]
    assert b"invalid_request_error" in said


def test_a_body_of_single_bytes_is_read_in_time(server: Server) -> None:
    """A body in twenty thousand chunks of a byte is read as it comes."""
    body = chat(max_tokens=9, user="u" * 20_000)
    begun = time.monotonic()

    said = ask(server, {}, body, chunks=len(body))

    assert said[9:12] in (b"200", b"400", b"411", b"413")
    assert time.monotonic() - begun < MOST_SECONDS
