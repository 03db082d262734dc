"""A body whose head was read ahead reads like the body itself."""

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsgi_rig import Rig, environ_of

from tokenbudget_mw.web.rejoined import Rejoined

BODIES = st.binary(max_size=60).map(lambda raw: raw.replace(b"\x00", b"\n"))
SIZES = st.one_of(st.none(), st.integers(-1, 70))
READS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), SIZES),
        st.tuples(st.just("readline"), SIZES),
        st.tuples(st.just("readlines"), st.none()),
        st.tuples(st.just("next"), st.none()),
    ),
    max_size=12,
)


def read(source: Any, reads: list[tuple[str, int | None]]) -> list[object]:
    """What *source* answers to *reads*."""
    answers: list[object] = []
    for name, size in reads:
        if name == "next":
            answers.append(next(iter(source), None))
        elif name == "readlines":
            answers.append(source.readlines())
        else:
            answers.append(getattr(source, name)(size))
    return answers


@given(body=BODIES, at=st.integers(0, 60), reads=READS)
def test_rejoined_reads_like_the_whole(body: bytes, at: int, reads: list[tuple[str, int | None]]) -> None:
    """Wherever the head ends, any reads give what they give of the whole body."""
    head, rest = body[:at], body[at:]

    assert read(Rejoined(head, BytesIO(rest)), reads) == read(BytesIO(body), reads)


def test_rejoined_does_not_touch_the_rest_early() -> None:
    """While the head suffices the connection is not asked, where it might wait."""

    class Silent:
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("read")

        readline = read

    body = Rejoined(b"one\ntwo\n", Silent())

    assert body.read(2) == b"on"
    assert body.readline() == b"e\n"
    assert body.readline(3) == b"two"


def test_all_is_asked_for_in_parts() -> None:
    """granian's body loses what it holds where `read()` follows `read(size)`, so what was read ahead is followed by parts alone."""

    class Granians:
        def __init__(self, body: bytes) -> None:
            self._body = BytesIO(body)

        def read(self, size: int = -1) -> bytes:
            assert size >= 0, "all at once"
            return self._body.read(size)

    body = bytes(range(256)) * 1_000

    for size in (None, -1):
        assert Rejoined(b"head", Granians(body)).read(size) == b"head" + body


class Cut:
    """The body of a client that has gone in the middle of it, as uWSGI, mod_wsgi and gevent tell that."""

    def read(self, size: int = -1) -> bytes:
        raise OSError("the client has gone")

    readline = readlines = read


@pytest.mark.parametrize("length", ["90", None])
@pytest.mark.parametrize("read", [lambda source: source.read(), lambda source: source.readline(5), list])
def test_a_body_that_breaks_off_is_the_apps_to_handle(read: Any, length: str | None) -> None:
    """The app gets the server's error where it reads, and may answer it; it came out of the middleware before the app ran."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            read(environ["wsgi.input"])
        except OSError as error:
            start_response("400 Bad Request", [])
            return [str(error).encode()]
        raise AssertionError("there is nothing to read")

    rig = Rig(app)
    given = {"wsgi.input": Cut(), "CONTENT_LENGTH": length, "wsgi.input_terminated": True}
    got = rig.run(**given)

    assert (got.status, got.body) == (400, b"the client has gone")
    assert [(row.settle_reason, row.cost_pico) for row in rig.rows()] == [("status_4xx", 0)]
    assert rig.core.health().open_reservations == 0


def test_a_client_that_leaves_in_its_upload_is_charged_nothing() -> None:
    """Nor is it where the server drops the response: no model was asked a prompt that never was there."""
    rig = Rig(lambda environ, start_response: start_response("200 OK", []) and iter([b"{}"]))
    environ = environ_of(**{"wsgi.input": Cut(), "CONTENT_LENGTH": "90000"})
    iterable: Any = rig.middleware(environ, lambda *start: print)
    iterable.close()

    assert [(row.settle_reason, row.cost_pico) for row in rig.rows()] == [("client_gone_early", 0)]
