"""WSGI: what passes passes untouched, and whatever way a request ends, it is settled once."""

import gc
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from signal_rig import Struck, strikes
from wsgi_rig import Got, Rig, chat, environ_of

from tokenbudget_mw import current
from tokenbudget_mw.calls.call import running
from tokenbudget_mw.errors import ConfigurationError, TokenBudgetError
from tokenbudget_mw.values import Subject
from tokenbudget_mw.wsgi import WSGIMiddleware, facts_of

USAGE = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
ANSWER = json.dumps(
    {"object": "chat.completion", "model": "gpt-4o", "choices": [{"message": {"content": "hi"}}], "usage": USAGE}
).encode()
JSON = [("Content-Type", "application/json"), ("X-Own", "1")]
SSE = [("Content-Type", "text/event-stream")]


def piece(number: int) -> bytes:
    """One chunk of a stream, with one word of text."""
    delta = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": f"word{number} "}}]}
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


def answering(environ: Any, start_response: Any) -> list[bytes]:
    """Answer a chat in one piece."""
    start_response("200 OK", list(JSON))
    return [ANSWER]


def found(when: str) -> tuple[type[RuntimeError], RuntimeError, None]:
    """What ``sys.exc_info()`` gives an app that caught an error."""
    return RuntimeError, RuntimeError(f"found {when}"), None


class Stream:
    """A response that counts how often it is closed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks

    def close(self) -> None:
        """Count."""
        self.closed += 1


def streaming(stream: Stream) -> Any:
    """An app that answers with *stream*."""

    def app(environ: Any, start_response: Any) -> Stream:
        start_response("200 OK", list(SSE))
        return stream

    return app


def pieces(count: int) -> Iterator[bytes]:
    """A whole stream of *count* words."""
    yield from map(piece, range(count))
    yield b"data: [DONE]\n\n"


def is_free(rig: Rig) -> bool:
    """Whether the key's only slot is free, by asking for it."""
    beside, own = WSGIMiddleware(answering, rig.core), rig.middleware
    rig.middleware = beside
    status = rig.run(chat()).status
    rig.middleware = own
    return status == 200


# -- what passes ------------------------------------------------------------------------------------------------------


def test_response_passes_with_headers_added() -> None:
    """The app's headers and chunks pass unchanged, but for the limits' headers after them."""
    got = Rig(answering).run(chat())

    assert (got.status, got.chunks) == (200, [ANSWER])
    assert got.headers[:2] == JSON
    assert [name for name, _ in got.headers[2:]] == ["RateLimit-Policy", "RateLimit"]


def test_response_is_metered() -> None:
    """A unary response is booked with its provider's figures."""
    rig = Rig(answering)
    rig.run(chat())

    (row,) = rig.rows()
    assert (row.input_tokens, row.output_tokens, row.usage_source) == (8, 5, "provider")
    assert (row.settle_reason, row.status, row.method) == ("complete", 200, "POST")


def test_validator_is_silent_around_and_inside() -> None:
    """The standard library's validator finds nothing, neither at the server's side nor at the app's."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert json.loads(environ["wsgi.input"].read(10_000))["model"] == "gpt-4o"
        return answering(environ, start_response)

    rig = Rig(validator(app))
    outside = validator(rig.middleware)
    got = Got()
    iterable = outside(environ_of(chat()), got.start_response)
    got.chunks.extend(iterable)
    iterable.close()

    assert got.body == ANSWER


def test_validator_is_silent_on_a_refusal() -> None:
    """A refusal is a proper WSGI response, too."""
    rig = Rig(answering)
    got = Got()
    iterable = validator(rig.middleware)(environ_of(chat(), subject=None), got.start_response)
    got.chunks.extend(iterable)
    iterable.close()

    assert got.status == 401
    assert got.json()["error"]["type"] == "authentication_error"


def test_stream_is_not_gathered() -> None:
    """Each chunk is asked for when the server wants it, and not before."""
    drawn = []

    def chunks() -> Iterator[bytes]:
        for number in range(3):
            drawn.append(number)
            yield piece(number)

    iterable = iter(Rig(streaming(Stream(chunks()))).open(environ_of(chat())))
    before = list(drawn)
    first = next(iterable)

    assert before == []
    assert (first, drawn) == (piece(0), [0])


def test_generator_that_starts_late() -> None:
    """A generator app calls start_response at its first chunk only, and is metered like any other."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        assert current().subject is not None
        start_response("200 OK", list(JSON))
        yield ANSWER

    rig = Rig(app)
    got = rig.run(chat())

    assert got.body == ANSWER
    assert "RateLimit" in dict(got.headers)
    assert [row.output_tokens for row in rig.rows()] == [5]


def test_write_callable_is_metered() -> None:
    """What the old write() sends is read on its way, too."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", list(JSON))
        write(ANSWER[:20])
        write(ANSWER[20:])
        return []

    rig = Rig(app)
    got = rig.run(chat())

    assert got.body == ANSWER
    assert [(row.output_tokens, row.settle_reason) for row in rig.rows()] == [(5, "complete")]


def test_exc_info_replaces_a_start_that_was_not_sent() -> None:
    """An app that finds an error in time starts again with exc_info, and the later status counts."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", list(JSON))
        start_response("500 Oops", [("Content-Type", "text/plain")], found("in time"))
        return [b"sorry"]

    rig = Rig(app)
    got = rig.run(chat())

    (row,) = rig.rows()
    assert (got.status, got.starts) == (500, 2)
    assert (row.status, row.settle_reason, row.cost_pico) == (500, "status_5xx", 0)


def test_exc_info_after_the_first_byte_raises() -> None:
    """Where the first byte is out, the server raises the error, and it passes through."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(SSE))
        yield piece(0)
        start_response("500 Oops", [], found("too late"))

    rig = Rig(app)
    with pytest.raises(RuntimeError, match="found too late"):
        rig.run(chat())

    assert [row.settle_reason for row in rig.rows()] == ["app_error_late"]


def test_file_wrapper_passes_unwrapped() -> None:
    """A server may send a file by itself only if it gets its own wrapper back."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "application/pdf")])
        return environ["wsgi.file_wrapper"](BytesIO(b"file"))

    rig = Rig(app)
    iterable = rig.open(environ_of(b"", PATH_INFO="/plain/file", **{"wsgi.file_wrapper": FileWrapper}))

    assert type(iterable) is FileWrapper
    assert [row.settle_reason for row in rig.rows()] == ["complete"]
    assert running.get() is None


def test_unmetered_paths_pass_untouched() -> None:
    """A path that no route names gets the app's own iterable."""
    own = Stream(iter([b"x"]))
    rig = Rig(streaming(own))

    assert rig.open(environ_of(b"", subject=None, PATH_INFO="/other")) is own
    assert rig.rows() == []


def test_disabled_passes_everything() -> None:
    """``enabled: False`` takes the middleware out of the way."""
    own = Stream(iter([b"x"]))

    assert Rig(streaming(own), enabled=False).open(environ_of(chat(), subject=None)) is own


# -- close() ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drawn", [0, 1, 3])
def test_close_is_passed_on_once(drawn: int) -> None:
    """However far the server came, and however often it closes, the app's iterable is closed once."""
    stream = Stream(pieces(2))
    rig = Rig(streaming(stream))
    iterable: Any = rig.open(environ_of(chat()))
    for _ in range(drawn):
        next(iterable)
    iterable.close()
    iterable.close()

    assert stream.closed == 1
    assert len(rig.rows()) == 1


def test_close_that_raises_still_settles() -> None:
    """An app whose close() fails is settled all the same, and its error passes through."""

    class Failing(Stream):
        def close(self) -> None:
            raise RuntimeError("close fails")

    rig = Rig(streaming(Failing(pieces(1))))
    with pytest.raises(RuntimeError, match="close fails"):
        rig.run(chat())

    assert len(rig.rows()) == 1
    assert is_free(rig)
    assert running.get() is None


def test_no_call_is_left_behind() -> None:
    """After a response is closed its thread has no current call, so the next request cannot charge it."""
    rig = Rig(answering)
    rig.run(chat())
    with suppress(RuntimeError):
        Rig(raising).run(chat())

    with pytest.raises(TokenBudgetError):
        current()


# -- bodies -----------------------------------------------------------------------------------------------------------


def echoing(environ: Any, start_response: Any) -> list[bytes]:
    """Answer with the request's body."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [environ["wsgi.input"].read()]


def test_body_is_given_to_the_app() -> None:
    """A body that was read ahead is there for the app."""
    assert Rig(echoing).run(chat()).json() == chat()


def test_chunked_body_is_read_where_the_server_ends_it() -> None:
    """Without Content-Length the body is read if the server marks its end."""
    rig = Rig(echoing)
    got = rig.run(chat(messages=7), CONTENT_LENGTH=None, **{"wsgi.input_terminated": True})
    passed = rig.run(chat(), CONTENT_LENGTH=None, **{"wsgi.input_terminated": True})

    assert got.status == 400
    assert passed.json() == chat()


def test_chunked_body_is_left_alone_where_nobody_ends_it() -> None:
    """Without Content-Length and the server's mark, reading could wait for ever, so nothing is read."""

    class Endless:
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("read")

    got = Rig(answering).run(b"", CONTENT_LENGTH=None, **{"wsgi.input": Endless()})

    assert got.status == 200


@pytest.mark.parametrize("known", [True, False])
def test_long_body_is_bounded(known: bool) -> None:
    """Of a long body no more than the bound is read ahead, and the app gets all of it."""
    most: list[int] = []

    class Counting(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            most.append(-1 if size is None else size)
            return super().read(size)

    seen = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(list(most))
        assert environ["wsgi.input"].read() == b"x" * 5000
        return answering(environ, start_response)

    length = "5000" if known else None
    source: dict[str, Any] = {"wsgi.input": Counting(b"x" * 5000), "wsgi.input_terminated": True}
    rig = Rig(app, max_body=1000, plans={"one": ["100k tokens/minute"]})
    got = rig.run(b"", CONTENT_LENGTH=length, **source)

    assert got.status == 200
    assert seen == [[1000 if known else 1001]]


def test_long_body_is_reserved_by_its_length() -> None:
    """A body that is too long to be read is held by its length until its true cost is known."""
    app = streaming(Stream(pieces(1)))
    rig = Rig(app, max_body=1000, plans={"one": ["10k tokens/minute"]})
    held: Any = rig.open(environ_of(b"x" * 5000))
    beside = rig.run(b"x" * 5000)
    list(held)
    held.close()

    assert beside.status == 429
    assert rig.run(b"x" * 5000).status == 200


def test_encoded_body_is_refused() -> None:
    """A compressed request body is not unpacked: it could be a bomb."""
    assert Rig(answering).run(b"\x1f\x8b", HTTP_CONTENT_ENCODING="gzip").status == 415


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe{\x00}\x00", b'{"model": "gpt-4o", "messages": 7}'])
def test_malformed_body_is_a_400(body: bytes) -> None:
    """A body that makes no sense is refused, and never reaches the app."""
    assert Rig(raising).run(body).status == 400


def test_content_length_settles_before_the_last_chunk() -> None:
    """Where the length is known the slot is free before the client has the last byte, and may ask again."""
    headers = [*JSON, ("Content-Length", str(len(ANSWER)))]
    rig = Rig(lambda environ, start: start("200 OK", headers) and Stream(iter([ANSWER])))
    iterable = iter(rig.open(environ_of(chat())))
    next(iterable)

    assert [row.settle_reason for row in rig.rows()] == ["complete"]
    assert is_free(rig)


def test_wrong_content_length_is_no_second_row() -> None:
    """An app that sends more than it announced is booked once."""
    rig = Rig(lambda environ, start: start("200 OK", [*JSON, ("Content-Length", "3")]) and [ANSWER, ANSWER])
    rig.run(chat())

    assert len(rig.rows()) == 1


# -- ending otherwise -------------------------------------------------------------------------------------------------


def raising(environ: Any, start_response: Any) -> list[bytes]:
    """Fail."""
    raise RuntimeError("the app fails")


def raising_late(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Fail after the first chunk."""
    start_response("200 OK", list(SSE))
    yield piece(0)
    raise RuntimeError("the app fails")


@pytest.mark.parametrize(("app", "reason"), [(raising, "app_error"), (raising_late, "app_error_late")])
def test_t08_app_raises(app: Any, reason: str) -> None:
    """The error passes through, one row says so, and the slot is free."""
    rig = Rig(app)
    with pytest.raises(RuntimeError, match="the app fails"):
        rig.run(chat())

    assert [row.settle_reason for row in rig.rows()] == [reason]
    assert is_free(rig)


def test_t08_worker_is_told_to_exit() -> None:
    """An exit of the worker in the middle of a handler gives the slot back, too."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise SystemExit(1)

    rig = Rig(app)
    with pytest.raises(SystemExit):
        rig.run(chat())

    assert [row.settle_reason for row in rig.rows()] == ["app_error"]
    assert is_free(rig)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one step is in a `__del__`
def test_t08_a_signal_that_raises_in_any_step_leaves_nothing_alive() -> None:
    """A time limit that a queue ends tasks by comes between any two steps; no reservation is renewed for a day then."""
    rig, left = Rig(answering, plans={"one": ["9999 concurrent", "1M tokens/minute"]}), []
    rig.run(chat())  # what is made once is there
    for raised in strikes(lambda: rig.run(chat())):
        assert raised is None or isinstance(raised, Struck)
        left.append(len(rig.core.heartbeat))
    running.set(None)  # a call that has ended may stand there until the thread serves the next

    assert len(left) > 100
    assert set(left) == {0}


def test_t08_app_returns_no_iterable() -> None:
    """An app that returns None fails as it would alone, and holds nothing."""
    rig = Rig(lambda environ, start_response: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError):
        rig.run(chat())

    assert [row.settle_reason for row in rig.rows()] == ["app_error"]
    assert is_free(rig)
    assert running.get() is None


@pytest.mark.parametrize(("status", "reason"), [("404 Not Found", "status_4xx"), ("503 Busy", "status_5xx")])
def test_t08_error_responses_charge_nothing(status: str, reason: str) -> None:
    """A 4xx or 5xx of the app is booked as what it is, at no cost."""
    rig = Rig(lambda environ, start: start(status, list(JSON)) and [b"{}"])
    rig.run(chat())

    (row,) = rig.rows()
    assert (row.settle_reason, row.cost_pico, row.input_tokens) == (reason, 0, 0)
    assert is_free(rig)


@pytest.mark.parametrize(
    ("drawn", "reason"), [(0, "client_gone_early"), (1, "client_gone"), (4, "client_gone"), (6, "client_gone")]
)
def test_t07_client_goes_away(drawn: int, reason: str) -> None:
    """A server that closes before the end means a client that left: one row, for what had passed."""
    rig = Rig(streaming(Stream(pieces(6))))
    iterable: Any = rig.open(environ_of(chat()))
    for _ in range(drawn):
        next(iterable)
    iterable.close()

    (row,) = rig.rows()
    assert row.settle_reason == reason
    assert (row.output_tokens > 0) == (drawn > 0)
    assert row.input_tokens > 0
    assert is_free(rig)


@pytest.mark.parametrize("is_stream", [(True, False), (False, True), (True, True), (False, False)])
def test_t05_stream_and_unary_share_counters(is_stream: tuple[bool, bool]) -> None:
    """15 tokens/minute are 15 tokens a minute, streamed or not."""
    rig = Rig(answering, plans={"one": ["15 tokens/minute"]})
    statuses = []
    for stream in is_stream:
        rig.middleware = WSGIMiddleware(streaming(Stream(pieces(2))) if stream else answering, rig.core)
        statuses.append(rig.run(chat(max_tokens=7, stream=stream)).status)

    assert statuses == [200, 429]


def test_t09_aborts_leave_nothing_behind() -> None:
    """After 1,000 responses that end anyhow the key holds no slot, and there is a row for each."""
    rig = Rig(answering, plans={"one": ["3 concurrent"]}, queue=5000)
    chance = random.Random(7)
    for _ in range(1000):
        app = chance.choice([answering, raising, raising_late, streaming(Stream(pieces(3)))])
        iterable: Any = ()
        with suppress(RuntimeError):
            iterable = WSGIMiddleware(app, rig.core)(environ_of(chat()), Got().start_response)
            iterator = iter(iterable)
            for _ in range(chance.randrange(5)):
                next(iterator, None)
        with suppress(AttributeError):
            iterable.close()
    open_app = streaming(Stream(pieces(1)))
    holding: list[Any] = [WSGIMiddleware(open_app, rig.core)(environ_of(chat()), Got().start_response) for _ in "123"]

    assert len(rig.rows()) == 1000
    assert rig.run(chat()).status == 429
    for iterable in holding:
        iterable.close()
    assert is_free(rig)


def test_t09_refusal_changes_no_counter() -> None:
    """However often a request is refused, what is left of every limit stays what it was."""
    limits = ["2 requests/minute", "1000 tokens/minute", "$1/month", "3 concurrent"]
    rig = Rig(answering, plans={"one": limits}, limits=["50 concurrent per global"])
    rig.run(chat())
    before = rig.core.explain(Subject(key="k1")).limits
    for _ in range(5):
        assert rig.run(chat(max_tokens=990)).status == 429

    assert rig.core.explain(Subject(key="k1")).limits == before
    passed = rig.run(chat())
    assert passed.status == 200
    assert '"requests-minute";r=0' in dict(passed.headers)["RateLimit"]


# -- refusing ---------------------------------------------------------------------------------------------------------


def test_refused_head_has_no_body() -> None:
    """A refused HEAD has headers only, and the length that a GET would have had (RFC 9110, section 9.3.2)."""
    got = Rig(answering).run(b"", REQUEST_METHOD="HEAD", subject=None)

    assert (got.status, got.body) == (401, b"")


def test_preflight_passes() -> None:
    """A browser's preflight carries no credentials, and passes."""
    headers = {"HTTP_ORIGIN": "https://example.org", "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST"}

    got = Rig(answering).run(b"", REQUEST_METHOD="OPTIONS", CONTENT_LENGTH="", subject=None, **headers)

    assert got.headers == JSON


def reserving(environ: Any, start_response: Any) -> list[bytes]:
    """Reserve more than there is."""
    with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
        return answering(environ, start_response)


def reserving_late(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Reserve more than there is, in a generator."""
    yield from reserving(environ, start_response)


@pytest.mark.parametrize("app", [reserving, reserving_late])
def test_refused_reservation_becomes_the_response(app: Any) -> None:
    """A handler that lets a refused reservation through answers with it, generators included."""
    rig = Rig(app)
    got = rig.run(b"", PATH_INFO="/plain/x")

    (row,) = rig.rows()
    assert got.status == 429
    assert "tokens-minute" in got.json()["error"]["message"]
    assert (row.decision, row.status, row.cost_pico) == ("refused", 429, 0)
    assert is_free(rig)


@pytest.mark.parametrize("held", [{"max_output": -5}, {"max_output": "500"}, {"max_output": 0.5}, {"prompt": -5}])
def test_reservation_of_no_number_of_tokens_names_it(held: dict[str, Any]) -> None:
    """What came out of a body unchecked is named, and nothing is held for it."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        with current().reserve(model="gpt-4o", **held):
            raise AssertionError

    rig = Rig(app)
    with pytest.raises(ValueError, match=f"`{next(iter(held))}` is a whole number of tokens from 0, not"):
        rig.run(b"", PATH_INFO="/plain/x")

    assert is_free(rig)


def starting(environ: Any, start_response: Any) -> list[bytes]:
    """Begin to answer, then reserve more than there is."""
    start_response("200 OK", list(JSON))
    return reserving(environ, start_response)


def starting_a_stream(environ: Any, start_response: Any) -> Iterator[bytes]:
    """The same as frameworks do with a stream: its generator runs when the response has begun."""
    start_response("200 OK", list(SSE))
    return reserving_late(environ, start_response)


@pytest.mark.parametrize("app", [starting, starting_a_stream])
def test_refused_reservation_before_the_first_byte_becomes_the_response(app: Any) -> None:
    """A start of which the server has sent nothing yet gives way to the refusal, as PEP 3333 has it."""
    rig = Rig(app)
    got = rig.run(b"", PATH_INFO="/plain/x")

    (row,) = rig.rows()
    assert (got.status, got.starts) == (429, 2)
    assert dict(got.headers)["Content-Length"] == str(len(got.body))
    assert "tokens-minute" in got.json()["error"]["message"]
    assert (row.decision, row.status, row.settle_reason, row.cost_pico) == ("refused", 429, "status_4xx", 0)
    assert is_free(rig)
    assert running.get() is None


@pytest.mark.parametrize("header", [("Content-Length", "3"), ("Content-Encoding", "gzip")])
def test_refused_reservation_after_a_start_that_says_how_the_body_reads(header: tuple[str, str]) -> None:
    """A server may keep the headers of both starts, so that the refusal would be cut off or unreadable: it is an error."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [*SSE, header])
        return reserving_late(environ, start_response)

    rig = Rig(app)
    with pytest.raises(TokenBudgetError):
        rig.run(b"", PATH_INFO="/plain/x")

    assert [(row.status, row.settle_reason) for row in rig.rows()] == [(200, "app_error_late")]
    assert is_free(rig)


def test_refused_reservation_after_the_first_byte_is_an_error() -> None:
    """Once bytes are out, a refused reservation can only end the response."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(SSE))
        yield b"data: 1"
        yield from reserving(environ, start_response)

    rig = Rig(app)
    with pytest.raises(TokenBudgetError):
        rig.run(b"", PATH_INFO="/plain/x")

    assert [(row.status, row.settle_reason) for row in rig.rows()] == [(200, "app_error_late")]
    assert is_free(rig)
    assert running.get() is None


@pytest.mark.parametrize("app", [starting, starting_a_stream])
def test_refused_reservation_where_the_server_has_sent_the_start(app: Any) -> None:
    """A server that sends headers before the first byte raises what it is given, and the call ends as the error that it is."""

    def sent(_status: str, _headers: Any, exc_info: Any = None) -> Any:
        if exc_info:
            raise exc_info[1].with_traceback(exc_info[2])
        return print

    rig = Rig(app)
    with pytest.raises(TokenBudgetError):
        b"".join(rig.middleware(environ_of(b"", PATH_INFO="/plain/x"), sent))

    assert [(row.status, row.settle_reason) for row in rig.rows()] == [(200, "app_error_late")]
    assert is_free(rig)


def test_async_identify_is_a_clear_error() -> None:
    """A coroutine function cannot be asked under WSGI, and the error says so before there is a request."""

    async def identify(facts: Any) -> None:
        return None

    with pytest.raises(ConfigurationError, match="at `identify`: a coroutine function can only be awaited under ASGI"):
        WSGIMiddleware(answering, {"identify": identify, "database": "sqlite://"})


def test_streams_that_take_turns_on_one_thread_are_charged_apart() -> None:
    """A host with one thread iterates one response between two blocks of another; each charges its own caller."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        for tokens in (1, 2):
            current().charge({"model": "gpt-4o", "usage": {"prompt_tokens": tokens, "completion_tokens": 0}})
            yield b"x"

    rig = Rig(app)
    streams = [rig.open(environ_of(PATH_INFO="/plain/x", subject=key)) for key in ("k1", "k2")]
    for _ in range(2):
        assert [next(iter(stream)) for stream in streams] == [b"x", b"x"]
    for stream in streams:
        assert list(stream) == []
        stream.close()  # type: ignore[attr-defined]

    assert [(row.key_id, row.input_tokens) for row in rig.rows()] == [("k1", 3), ("k2", 3)]


@pytest.mark.parametrize("read", [0, 2])
def test_a_response_that_is_dropped_unclosed_ends_all_the_same(read: int) -> None:
    """A middleware that passes blocks on by ``for`` and ``yield`` closes nothing when its client goes away."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(SSE))
        yield from map(piece, range(5))

    rig = Rig(app)
    other = rig.open(environ_of(PATH_INFO="/plain/x", subject="k2"))
    assert next(iter(other))
    response = rig.open(environ_of(chat()))
    assert all(next(iter(response)) for _ in range(read))
    served = running.get()
    del response
    gc.collect()  # an app that is a generator holds what it was called with, and that its response

    assert running.get() is served
    assert [(row.key_id, row.settle_reason) for row in rig.rows()] == [
        ("k1", "client_gone" if read else "client_gone_early")
    ]
    assert rig.run(chat()).status == 200


# -- facts ------------------------------------------------------------------------------------------------------------


def test_facts_of_an_environment() -> None:
    """Method, path, headers, client, query and server are what the server says."""
    facts = facts_of(environ_of(b"{}", QUERY_STRING="a=1", SERVER_PORT="8080", SERVER_NAME="host"))

    assert (facts.method, facts.query, facts.client) == ("POST", "a=1", "203.0.113.7")
    assert facts.server == ("host", 8080)
    assert facts.header("x-subject") == "k1"
    assert facts.header("content-length") == "2"


@pytest.mark.parametrize(
    ("given", "path"),
    [("", "/"), ("/caf\xc3\xa9", "/café"), ("/\xff", "/�"), ("//v1", "//v1")],
)
def test_facts_path_is_decoded(given: str, path: str) -> None:
    """WSGI's path is bytes in the disguise of latin-1; it is read as UTF-8, and never fails."""
    assert facts_of(environ_of(PATH_INFO=given)).path == path


@pytest.mark.parametrize(("given", "port"), [(8080, 8080), (None, None)])
def test_a_port_may_be_a_number(given: int | None, port: int | None) -> None:
    """hypercorn hands a WSGI app the port as ASGI has it."""
    assert facts_of(environ_of(SERVER_PORT=given)).server == ("127.0.0.1", port)


def test_facts_of_a_unix_socket() -> None:
    """A server on a Unix socket tells neither port nor client."""
    facts = facts_of(environ_of(SERVER_PORT="", REMOTE_ADDR=""))

    assert facts.client is None
    assert facts.server == ("127.0.0.1", None)
