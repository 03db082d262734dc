"""Forms of uploads, metered through ASGI and WSGI, whose app reads them and answers a transcript."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import asgi_rig
import wsgi_rig

from tokenbudget_mw.values import UsageRecord

PATH = "/v1/audio/transcriptions"
IMAGES = "/v1/images/edits"
BOUNDARY = b"------------------------d74496d66958873e"
TYPE = "multipart/form-data; boundary=" + BOUNDARY.decode()
END = b"--%s--\r\n" % BOUNDARY
HEAR, HEAR_CHEAP = "gpt-4o-transcribe", "gpt-4o-mini-transcribe"
TRANSCRIPT = {
    "text": "hello",
    "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59},
}
COST = {HEAR: 14 * 2_500_000 + 45 * 10_000_000, HEAR_CHEAP: 14 * 1_250_000 + 45 * 5_000_000}
"""What the transcript costs, in pico-dollars."""

LONG = 3_000
"""Bytes of a file that no head holds here."""


def field(name: str, value: str) -> bytes:
    """A field and its boundary."""
    head = f'Content-Disposition: form-data; name="{name}"'
    return b"--%s\r\n%s\r\n\r\n%s\r\n" % (BOUNDARY, head.encode(), value.encode())


def model(name: str) -> bytes:
    """The field that names the model."""
    return field("model", name)


def file(size: int = LONG, name: str = "file") -> bytes:
    """A file of so many bytes, and its boundary; lines and dashes are in it."""
    head = f'Content-Disposition: form-data; name="{name}"; filename="a.mp3"\r\nContent-Type: audio/mpeg'
    data = (b"\x00\r\n--\xff-" * (size // 6 + 1))[:size]
    return b"--%s\r\n%s\r\n\r\n%s\r\n" % (BOUNDARY, head.encode(), data)


def settings(**changes: Any) -> dict[str, Any]:
    """Settings under which a kilobyte is read ahead."""
    return {
        "routes": [{"path": PATH, "format": "openai.audio"}, {"path": IMAGES, "format": "openai.images"}],
        "plans": {"one": ["100M tokens/minute"]},
        "max_body": 1_024,
        "output_reserve": 100,
    } | changes


class Asgi:
    """Sends forms through the ASGI middleware."""

    def __init__(self, answer: dict[str, Any], handle: Callable[[], object] = lambda: None, **changes: Any) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.heard = b""
            while True:
                message = await receive()
                self.heard += message.get("body", b"")
                if not message.get("more_body"):
                    break
            handle()
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

        self.rig = asgi_rig.Rig(app, **settings(**changes))
        self.core = self.rig.core

    def send(self, body: bytes, *, step: int = 500, path: str = PATH, told: bool = True, type_: str = TYPE) -> int:
        """Send a form in pieces of *step* bytes, its length *told* or not; return the status."""
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        length = {"content-length": str(len(body))} if told else {}
        sent = self.rig.run(*messages, {"type": "http.request"}, path=path, headers={"content-type": type_} | length)
        return asgi_rig.status_of(sent)

    def row(self) -> UsageRecord:
        """The one row that was written."""
        (row,) = self.rig.rows()
        return row


class Wsgi:
    """Sends forms through the WSGI middleware, to an app that reads them in one of these ways."""

    WAYS: ClassVar[dict[str, Callable[[Any, int], Iterator[bytes]]]] = {
        "all": lambda body, _: iter([body.read()]),
        "pieces": lambda body, step: iter(lambda: body.read(step), b""),
        "lines": lambda body, step: iter(lambda: body.readline(step), b""),
        "iterate": lambda body, _: iter(body),
    }

    def __init__(
        self,
        answer: dict[str, Any],
        handle: Callable[[], object] = lambda: None,
        *,
        way: str = "pieces",
        **changes: Any,
    ) -> None:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            self.heard = b"".join(self.WAYS[way](environ["wsgi.input"], self._step))
            handle()
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(answer).encode()]

        self.rig = wsgi_rig.Rig(app, **settings(**changes))
        self.core = self.rig.core
        self._step = 0

    def send(self, body: bytes, *, step: int = 500, path: str = PATH, told: bool = True, type_: str = TYPE) -> int:
        """Send a form that the app reads in pieces of *step* bytes, its length *told* or not; return the status."""
        self._step = step
        length = {} if told else {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}
        return self.rig.run(body, PATH_INFO=path, CONTENT_TYPE=type_, **length).status

    def row(self) -> UsageRecord:
        """The one row that was written."""
        (row,) = self.rig.rows()
        return row
