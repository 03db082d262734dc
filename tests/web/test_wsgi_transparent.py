"""WSGI, where servers look closer: at the iterable's type and length, at when it is opened, at what they refuse themselves."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any
from wsgiref.handlers import SimpleHandler

import pytest
from asgi_rig import CHAT
from wsgi_rig import Got, Rig, chat, environ_of

from tokenbudget_mw.calls.call import running

ANSWER = b'{"object": "chat.completion", "model": "gpt-4o", "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 5}}'
JSON = [("Content-Type", "application/json")]


class Blocks:
    """An iterable that knows how many blocks it has, and whether it was closed."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = blocks
        self.closed = 0

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.blocks)

    def close(self) -> None:
        """Count."""
        self.closed += 1


def answering(content: Any) -> Any:
    """An app that answers with *content*."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(JSON))
        return content

    return app


@pytest.mark.parametrize("content", [[ANSWER], (ANSWER[:9], ANSWER[9:])])
def test_a_whole_body_is_settled_and_stays_what_it_is(content: Any) -> None:
    """A list or a tuple reaches the server itself, which may treat it in a way of its own, and is booked by then."""
    rig = Rig(answering(content))

    given = rig.open(environ_of(chat()))

    assert given is content
    assert [(row.output_tokens, row.settle_reason) for row in rig.rows()] == [(5, "complete")]
    assert running.get() is None


def test_a_length_is_passed_on() -> None:
    """Where the app's iterable has a length, so has the middleware's; where it has none, a server finds none."""
    sized = Rig(answering(Blocks(ANSWER))).open(environ_of(chat()))
    unsized = Rig(answering(iter([ANSWER]))).open(environ_of(chat()))

    assert len(sized) == 1  # type: ignore[arg-type]
    assert not hasattr(type(unsized), "__len__")


def test_a_server_tells_the_length_of_an_only_block() -> None:
    """The standard library's server computes Content-Length from it, as without the middleware."""
    blocks, out = Blocks(ANSWER), BytesIO()
    handler = SimpleHandler(BytesIO(b""), out, BytesIO(), environ_of(b"", PATH_INFO="/plain/x"))

    handler.run(Rig(answering(blocks)).middleware)

    assert b"Content-Length: %d\r\n" % len(ANSWER) in out.getvalue()
    assert blocks.closed == 1


def test_what_cannot_be_iterated_is_closed() -> None:
    """An iterable whose ``iter()`` fails does so when the server asks, and its close() is called, which once was not."""

    class Broken(Blocks):
        def __iter__(self) -> Iterator[bytes]:
            raise RuntimeError("no iterator")

    broken = Broken()
    rig = Rig(answering(broken))
    iterable: Any = rig.open(environ_of(chat()))
    with pytest.raises(RuntimeError, match="no iterator"):
        iter(iterable)
    iterable.close()

    assert broken.closed == 1
    assert [row.settle_reason for row in rig.rows()] == ["app_error_late"]


def test_a_status_line_is_the_servers_to_judge() -> None:
    """An app whose status makes no sense gets its server's error, not one of the middleware's."""

    class JudgeError(Exception):
        """The server's own."""

    def judging(status: str, headers: Any, exc_info: Any = None) -> Any:
        raise JudgeError(status)

    rig = Rig(lambda environ, start: start("what?", list(JSON)) and [])
    with pytest.raises(JudgeError, match=r"what\?"):
        rig.middleware(environ_of(chat()), judging)

    assert [row.status for row in rig.rows()] == [None]


def test_a_start_that_comes_too_late_does_not_count() -> None:
    """Where the server refuses a second start, the row keeps the status that the client has."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(JSON))
        yield ANSWER
        error = RuntimeError("too late")
        start_response("500 Oops", [], (RuntimeError, error, None))

    rig = Rig(app)
    with pytest.raises(RuntimeError, match="too late"):
        rig.run(chat())

    assert [row.status for row in rig.rows()] == [200]


def test_t07_a_client_that_is_gone_at_write() -> None:
    """A server whose ``write()`` fails has lost its client, and the row says so."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", list(JSON))(ANSWER[:20])
        return []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        def write(data: bytes) -> None:
            raise ConnectionResetError

        return write

    rig = Rig(app)
    with pytest.raises(ConnectionResetError):
        rig.middleware(environ_of(chat()), start_response)

    assert [row.settle_reason for row in rig.rows()] == ["client_gone"]


def test_t08_a_list_that_cannot_be_read_holds_nothing() -> None:
    """A list of what is no bytes is its server's to refuse, whether or not that closes it, and gives its place back."""
    rig = Rig(answering([7]))
    given = rig.open(environ_of(chat()), Got())

    assert given == [7]
    rig.middleware.app = answering([ANSWER])
    assert rig.run(chat()).status == 200


class OnlyReadable:
    """What a server's wrapper takes: PEP 3333 asks for ``read()``."""

    def read(self, size: int = -1) -> bytes:
        return b""


@pytest.mark.parametrize("on_budget_end", ["pass", "finish"])
@pytest.mark.parametrize("wrapper", [lambda file, size=0: file, lambda file: iter([file])], ids=["uwsgi", "mod_wsgi"])
def test_a_file_reaches_a_server_whose_wrapper_is_a_function(wrapper: Any, on_budget_end: str) -> None:
    """Such a server recognises what its wrapper gave: uWSGI's a file, which was asked for lines, or could not be iterated."""
    given: list[Any] = []

    def own(*args: Any) -> Any:
        given.append(wrapper(*args))
        return given[-1]

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "audio/mpeg")])
        return environ["wsgi.file_wrapper"](OnlyReadable())

    rig = Rig(app, routes=[{"path": CHAT, "format": "openai.chat", "on_budget_end": on_budget_end}])
    iterable = rig.open(environ_of(chat(), **{"wsgi.file_wrapper": own}))

    assert given
    assert iterable is given[0]
    assert len(rig.rows()) == 1


def test_what_no_wrapper_gave_is_read() -> None:
    """A response that can be read like a file, as a client's of another service, is none, and its usage is read."""
    rig = Rig(answering(BytesIO(ANSWER)))
    iterable = rig.open(environ_of(chat(), **{"wsgi.file_wrapper": lambda file: file}))

    assert b"".join(iterable) == ANSWER
    assert [row.settle_reason for row in rig.rows()] == ["complete"]
