"""
WSGI apps from programs, and a server that plays with them: what the app saw, what the server got, and how it ended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

from hypothesis import strategies as st
from programs import BODIES, ERRORS, HEADERS, error_of, without

__all__ = ["App", "Program", "Server", "Trace", "cleaned", "environ_for", "playing", "programs", "servers", "trace"]

App = Callable[[dict[str, Any], Any], Any]
Note = Callable[[Any], None]
OUR_HEADERS = frozenset({"ratelimit", "ratelimit-policy"})
STATUSES = st.sampled_from(
    ["200 OK", "200 OK", "201 Made", "204 No Content", "304 Same", "404 Not Found", "500 Oops", "599 Own"]
)
KINDS = ["list", "tuple", "generator", "iterator", "sized", "file", "lazy"]


# -- the app -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """
    What an app does with one request.

    Attributes:
        before: Steps of the call itself: ``("read", n)``, ``("readline", n)``, ``("start", status, headers)``,
            ``("again", status, headers)`` with ``exc_info``, ``("write", data)``, ``("raise", name)``.

        kind: What it returns; one of `KINDS`.

        chunks: Steps of the iteration: bytes, or steps as before.

        close: What ``close()`` does: nothing where there is none (None), ``"ok"``, or raise the error of this name.
    """

    before: tuple[tuple[Any, ...], ...]
    kind: str = "list"
    chunks: tuple[Any, ...] = ()
    close: str | None = None


def playing(program: Program, note: Note = lambda _: None) -> App:
    """An app that plays *program* for whatever comes."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen = {name: value for name, value in environ.items() if not name.startswith("wsgi.")}
        note(("environ", seen, sorted(environ)))
        player = _Player(environ, start_response, note)
        for step in program.before:
            player.step(step)
        return _returned(program, player, environ, note)

    return app


class _Player:
    def __init__(self, environ: dict[str, Any], start_response: Any, note: Note) -> None:
        self._input = environ["wsgi.input"]
        self._start = start_response
        self._write: Any = None
        self._note = note

    def step(self, step: Any) -> None:
        word, *rest = step
        if word == "read":
            self._note(("read", self._input.read(rest[0])))
        elif word == "readline":
            self._note(("read", self._input.readline(rest[0])))
        elif word == "start":
            self._write = self._start(rest[0], list(rest[1]))
        elif word == "again":
            try:
                raise error_of("error")
            except ERRORS["error"]:
                self._write = self._start(rest[0], list(rest[1]), sys.exc_info())
        elif word == "write":
            self._write(rest[0])
        else:
            error = error_of(rest[0])
            self._note(error)
            raise error


def _chunks(program: Program, player: _Player) -> Iterator[bytes]:
    for chunk in program.chunks:
        if isinstance(chunk, bytes):
            yield chunk
        else:
            player.step(chunk)


class _Iterable:
    """What an app returns that is no built-in: iterated once, closed as it is told."""

    def __init__(self, program: Program, player: _Player, note: Note) -> None:
        self._iterator = _chunks(program, player)
        self._note = note
        self._how = program.close

    def __iter__(self) -> Iterator[bytes]:
        self._note("iterated")
        return self._iterator


class _Closing(_Iterable):
    def close(self) -> None:
        self._note("closed")
        if self._how not in (None, "ok"):
            error = error_of(str(self._how))
            self._note(error)
            raise error


class _Sized(_Closing):
    def __init__(self, program: Program, player: _Player, note: Note) -> None:
        super().__init__(program, player, note)
        self._length = len([chunk for chunk in program.chunks if isinstance(chunk, bytes)])

    def __len__(self) -> int:
        return self._length


class _Lazy(_Closing):
    """Refuses to be iterated: what only ``iter()`` finds out."""

    def __iter__(self) -> Iterator[bytes]:
        error = error_of("error")
        self._note(error)
        raise error


def _generated(program: Program, player: _Player, note: Note) -> Iterator[bytes]:
    try:
        yield from _chunks(program, player)
    finally:
        note("closed")


def _returned(program: Program, player: _Player, environ: dict[str, Any], note: Note) -> Any:
    match program.kind:
        case "list":
            return [chunk for chunk in program.chunks if isinstance(chunk, bytes)]
        case "tuple":
            return tuple(chunk for chunk in program.chunks if isinstance(chunk, bytes))
        case "generator":
            return _generated(program, player, note)
        case "iterator":
            return (_Iterable if program.close is None else _Closing)(program, player, note)
        case "sized":
            return _Sized(program, player, note)
        case "lazy":
            return _Lazy(program, player, note)
        case _:
            data = b"".join(chunk for chunk in program.chunks if isinstance(chunk, bytes))
            return environ["wsgi.file_wrapper"](BytesIO(data), 7)


# -- the server ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """
    What the other side does.

    Attributes:
        body: The request's.

        stops_after: Chunks after which it closes; None for all.

        fails_at: The write at which it notices that the client has gone, and raises.
    """

    body: bytes = b""
    stops_after: int | None = None
    fails_at: int | None = None


@dataclass
class Trace:
    """
    What happened.

    Attributes:
        seen: What the app saw.

        got: What the server got, in order: starts, writes, chunks, lengths, and when.

        ends: How it ended, step by step: the words of what came out, and whether it is the very object that was raised.
    """

    seen: list[Any] = field(default_factory=list)
    got: list[Any] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)


class _Serving:
    def __init__(self, server: Server, found: Trace, raised: list[BaseException]) -> None:
        self._server = server
        self._found = found
        self._raised = raised
        self._is_started = self._is_out = False
        self._written = 0

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        assert type(headers) is list
        if exc_info:
            if self._is_out:
                self._raised.append(exc_info[1])
                raise exc_info[1].with_traceback(exc_info[2])
        elif self._is_started:
            error = AssertionError("started twice")
            self._raised.append(error)
            raise error
        self._is_started = True
        self._found.got.append(("start", status, list(headers), exc_info and str(exc_info[1])))
        return self.write

    def write(self, data: bytes) -> None:
        self._pass("write", data)

    def chunk(self, data: bytes) -> None:
        self._pass("chunk", data)

    def _pass(self, word: str, data: bytes) -> None:
        if not self._is_started:
            error = AssertionError("not started")
            self._raised.append(error)
            raise error
        if self._written == self._server.fails_at:
            failure = ConnectionResetError("the client has gone")
            self._raised.append(failure)
            raise failure
        self._written += 1
        self._is_out = self._is_out or bool(data)
        self._found.got.append((word, data))


def trace(make: Callable[[App], App], program: Program, server: Server, environ: dict[str, Any]) -> Trace:
    """Let the app of *program* be served, inside of what *make* puts around it."""
    found = Trace()
    raised: list[BaseException] = []

    def note(event: Any) -> None:
        if isinstance(event, BaseException):
            raised.append(event)
        else:
            found.seen.append(event)
            found.got.append("app")  # so that the order of both is compared, too

    serving = _Serving(server, found, raised)
    given = dict(environ, **{"wsgi.input": BytesIO(server.body), "CONTENT_LENGTH": str(len(server.body))})

    def step(name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (Exception, *ERRORS.values()) as error:
            is_own = any(error is one for one in raised)
            found.ends.append((name, type(error), str(error), is_own, type(error.__cause__), type(error.__context__)))
            return None

    result = step("call", lambda: make(playing(program, note))(given, serving.start_response))
    if found.ends:
        return found
    length = step("len", lambda: len(result) if hasattr(type(result), "__len__") else None)
    found.got.append(("len", length))
    found.got.append(("file", isinstance(result, given["wsgi.file_wrapper"])))

    def iterate() -> None:
        for number, chunk in enumerate(result):
            if number == server.stops_after:
                return
            serving.chunk(chunk)

    step("iterate", iterate)
    if hasattr(result, "close"):
        step("close", result.close)
    return found


def cleaned(events: Iterable[Any]) -> list[Any]:
    """What a server got, without the headers that the middleware adds."""
    return [
        (word[0], word[1], without(word[2], OUR_HEADERS), word[3]) if word[0] == "start" else word for word in events
    ]


def environ_for(path: str, **changes: Any) -> dict[str, Any]:
    """The environment of a request to *path*."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "a=1",
        "REMOTE_ADDR": "203.0.113.7",
        "HTTP_X_SUBJECT": "k1",
        "wsgi.file_wrapper": FileWrapper,
    }
    setup_testing_defaults(environ)
    return environ | changes


# -- what hypothesis draws -----------------------------------------------------------------------------------------------

TEXT_HEADERS = HEADERS.map(lambda pairs: [(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs])
READS = st.lists(
    st.tuples(st.sampled_from(["read", "readline"]), st.integers(0, 60)), max_size=3
)  # a size below 0 means nothing to PEP 3333, and to granian an error


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """An app, right or wrong, that answers in any of the ways that WSGI has."""
    chunks: list[Any] = list(draw(BODIES))
    headers = list(draw(TEXT_HEADERS))
    if draw(st.booleans()):
        length = sum(len(chunk) for chunk in chunks)
        headers.append(("Content-Length", draw(st.sampled_from([str(length), str(length), "1", "0", "many"]))))
    start = ("start", draw(STATUSES), headers)
    before: list[tuple[Any, ...]] = list(draw(READS))
    kind = draw(st.sampled_from(KINDS))
    if kind in ("generator", "iterator", "sized") and draw(st.booleans()):
        chunks.insert(draw(st.integers(0, min(1, len(chunks)))), start)
    elif draw(st.integers(0, 20)):  # else it forgets
        before.append(start)
        before += draw(st.lists(st.builds(lambda data: ("write", data), st.binary(max_size=30)), max_size=2))
    again = ("again", "500 Oops", [("Content-Type", "text/plain")])
    odd = draw(
        st.sampled_from([None, None, None, again, ("raise", "error"), ("raise", "base"), ("raise", "timeout"), start])
    )
    if odd is not None:
        steps: list[Any] = draw(st.sampled_from([before, chunks]))
        steps.insert(draw(st.integers(0, len(steps))), odd)
    close = draw(st.sampled_from([None, "ok", "ok", "error", "base"]))
    return Program(tuple(before), kind, tuple(chunks), close)


def servers(*, body: bytes | None = None) -> st.SearchStrategy[Server]:
    """A server, whose client may leave, with a request of *body* or any."""
    most = st.one_of(st.none(), st.none(), st.integers(0, 6))
    return st.builds(Server, st.binary(max_size=50) if body is None else st.just(body), most, most)
