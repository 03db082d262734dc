"""
Programs that apps play: what an app does with one request, as a value. Hypothesis draws them, `repr` carries them to a server.

A program is a list of steps, each a tuple that begins with its word.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

__all__ = ["BODIES", "CHUNKS", "ERRORS", "HEADERS", "STATUSES", "PlayedBaseError", "PlayedError", "error_of"]


class PlayedError(Exception):
    """What an app of a program raises."""


class PlayedBaseError(BaseException):
    """What passes every ``except Exception``."""


class PlayedTimeoutError(PlayedError, TimeoutError):
    """What a model's client raises when it has waited in vain."""


ERRORS: dict[str, type[BaseException]] = {
    "error": PlayedError,
    "base": PlayedBaseError,
    "timeout": PlayedTimeoutError,
    "os": ConnectionResetError,
    "group": ExceptionGroup,
}


def error_of(name: str) -> BaseException:
    """A new error of that name."""
    return ExceptionGroup("played", [PlayedError("inner")]) if name == "group" else ERRORS[name]("played", name)


EVENT = b'data: {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
WHOLE = b'{"object": "chat.completion", "model": "gpt-4o", "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 5}}'
CHUNKS = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.sampled_from(
        [EVENT, EVENT[:31], EVENT[31:], WHOLE, b"data: [DONE]\n\n", b"\x1f\x8b\x08broken", b"\n\n", b"x" * 9000]
    ),
)
BODIES = st.lists(CHUNKS, max_size=6)

STATUSES = st.sampled_from([200, 200, 200, 201, 204, 206, 301, 304, 400, 404, 418, 429, 500, 503, 504])

HEADERS = st.lists(
    st.sampled_from([
        (b"content-type", b"text/event-stream"),
        (b"Content-Type", b"application/json; charset=utf-8"),
        (b"CONTENT-TYPE", b"text/plain"),
        (b"content-type", b""),
        (b"content-encoding", b"gzip"),
        (b"Content-Encoding", b"identity"),
        (b"set-cookie", b"a=1; Path=/"),
        (b"Set-Cookie", b"b=2"),
        (b"x-own", b""),
        (b"X-Own", b"caf\xe9"),
        (b"RateLimit-Remaining", b"the app's own"),
        (b"vary", b"accept"),
    ]),
    max_size=5,
)  # fmt: skip


def without(headers: list[tuple[Any, Any]], names: frozenset[str]) -> list[tuple[Any, Any]]:
    """Headers but for those of *names* (lower case)."""
    return [pair for pair in headers if _text(pair[0]) not in names]


def _text(name: Any) -> str:
    text: str = name.decode("latin-1") if isinstance(name, bytes) else name
    return text.lower()
