"""
Streams that are harder to end: as one JSON array, compressed, of a format that only they themselves tell.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import RECORDINGS, Recording

from tokenbudget_mw import tapping
from tokenbudget_mw.rules.routes import ENDABLE
from tokenbudget_mw.tapping.ending import Endable, open_endable

STREAMS = {name: each for name, each in RECORDINGS.items() if each.format in ENDABLE}
ARRAY = next(each for each in STREAMS.values() if each.framing == "array")
CHAT = STREAMS["openai.completions"]
PLAIN = {name: each for name, each in STREAMS.items() if each.framing != "array"}


def words(text: str) -> int:
    return len(text.split())


def opened(recorded: Recording, allowed: int, *, name: str | None = None, coding: str = "") -> Endable:
    stream = open_endable(
        name or recorded.format,
        content_type=recorded.type,
        content_encoding=coding,
        count_text=words,
        allowed=allowed,
    )
    assert stream is not None
    return stream


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def drive(stream: Endable, chunks: list[bytes], how: str = "finish") -> tuple[bytes, bool]:
    """All that goes out, and whether it was cut."""
    out = b""
    for chunk in chunks:
        passed, rest = stream.split(chunk)
        out += passed
        if rest:
            out += stream.flush()
            return out + (stream.finish() if how == "finish" else stream.fail("Spent.")), True
    return out, False


def test_the_end_has_the_id_of_its_answer() -> None:
    """Azure's first event, of its filters, has an empty id; those of the answer follow."""
    first = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": []}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "gpt-4o"}
    events = [first, *[chunk | {"choices": [{"index": 0, "delta": {"content": "one two"}}]}] * 2]

    out, is_cut = drive(
        opened(CHAT, 3, name="openai.chat"), [b"data: " + json.dumps(each).encode() + b"\n\n" for each in events]
    )

    last = json.loads(out.split(b"\n\n")[-3].removeprefix(b"data: "))
    assert is_cut
    assert {name: last[name] for name in chunk} == chunk


# -- one JSON array ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["finish", "error"])
@pytest.mark.parametrize("allowed", range(6))
def test_an_array_is_closed_behind_its_last_object(how: str, allowed: int) -> None:
    """However long the answer may be, what goes out is a JSON array whose last object ends it."""
    out, is_cut = drive(opened(ARRAY, allowed), [ARRAY.stream], how)

    objects = json.loads(out)
    assert is_cut
    if how == "finish":
        assert [each["finishReason"] for each in objects[-1]["candidates"]] == ["MAX_TOKENS"]
    else:
        assert objects[-1]["error"] == {"code": 429, "message": "Spent.", "status": "RESOURCE_EXHAUSTED"}
    assert objects[:-1] == json.loads(ARRAY.stream)[: len(objects) - 1]


@given(cuts=st.lists(st.integers(0, 20_000), max_size=60), allowed=st.integers(0, 30))
def test_an_array_is_closed_however_it_comes(cuts: list[int], allowed: int) -> None:
    """Between brackets, commas and objects, in the middle of a string or an escape: it stays an array."""
    out, is_cut = drive(opened(ARRAY, allowed), pieces(ARRAY.stream, cuts))

    objects = json.loads(out)
    assert is_cut or out == ARRAY.stream
    assert objects[: -1 if is_cut else None] == json.loads(ARRAY.stream)[: len(objects) - is_cut]


def test_every_comma_may_come_alone() -> None:
    """Byte by byte, too."""
    out, is_cut = drive(opened(ARRAY, 1), [bytes([byte]) for byte in ARRAY.stream])

    assert is_cut
    assert json.loads(out)


@pytest.mark.parametrize(
    "body", [b'{"candidates": [{"content": {}}]}', b" 17 ", b"", b'["text", [1], "\\"]"] [{', b"}{]["]
)
@given(cuts=st.lists(st.integers(0, 40), max_size=6))
def test_what_is_no_array_passes(body: bytes, cuts: list[int]) -> None:
    """A unary answer has no place for an end; it passes as it came, however much it says."""
    assert drive(opened(ARRAY, 0), pieces(body, cuts)) == (body, False)


def test_an_array_that_has_ended_is_not_ended_again() -> None:
    """Behind the closing bracket nothing can be put."""
    whole = b"".join([ARRAY.stream])
    stream = opened(ARRAY, 10**9)
    stream.split(whole)

    assert stream.split(b'{"candidates": []}') == (b'{"candidates": []}', b"")


# -- compressed --------------------------------------------------------------------------------------------------------

WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15, "deflate without a header": -15}


def coded(coding: str, chunks: list[bytes], *, is_flushed: bool = True) -> Iterator[bytes]:
    """Chunks as a server's compressor gives them, with a flush behind each."""
    coder = zlib.compressobj(wbits=WBITS[coding])
    for chunk in chunks[:-1]:
        yield coder.compress(chunk) + (coder.flush(zlib.Z_SYNC_FLUSH) if is_flushed else b"")
    yield coder.compress(chunks[-1]) + coder.flush()


def decoded(coding: str, data: bytes) -> bytes:
    """The content of a whole stream, its checksum and its length held to it."""
    decoder = zlib.decompressobj(WBITS[coding])
    content = decoder.decompress(data)
    assert (decoder.eof, decoder.unused_data) == (True, b"")
    return content


@pytest.mark.parametrize("coding", WBITS)
@pytest.mark.parametrize("recorded", PLAIN.values(), ids=list(PLAIN))
@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=12), allowed=st.integers(0, 8))
def test_a_compressed_stream_ends_as_a_plain_one(
    recorded: Recording, coding: str, cuts: list[int], allowed: int
) -> None:
    """Decoded, it is what the same stream is uncompressed; as a compressed stream it is whole."""
    chunks = pieces(recorded.stream, cuts)
    plain, is_cut = drive(opened(recorded, allowed), chunks)

    name = coding.partition(" ")[0]
    out, coded_is_cut = drive(opened(recorded, allowed, coding=name), list(coded(coding, chunks)))

    assert coded_is_cut == is_cut
    assert decoded(coding, out) == plain


@pytest.mark.parametrize("coding", WBITS)
def test_a_compressed_stream_that_fits_passes_byte_for_byte(coding: str) -> None:
    """Nothing is coded anew."""
    recorded = CHAT
    chunks = list(coded(coding, list(recorded.events)))

    out, is_cut = drive(opened(recorded, 10**9, coding=coding.partition(" ")[0]), chunks)

    assert (out, is_cut) == (b"".join(chunks), False)


def test_more_lets_a_compressed_chunk_pass() -> None:
    """A chunk that was kept passes as it came when it has been paid."""
    recorded = CHAT
    chunks = list(coded("gzip", [recorded.stream, b"\n"]))
    stream, out = opened(recorded, 0, coding="gzip"), b""
    for chunk in chunks:
        passed, rest = stream.split(chunk)
        while rest:
            assert passed == b""
            stream.allow(1)
            passed, rest = stream.split(rest)
        out += passed

    assert out == b"".join(chunks)


def test_the_header_may_come_alone() -> None:
    """As Python's own gzip files write it."""
    recorded = CHAT
    first, *rest = coded("gzip", list(recorded.events))

    out, is_cut = drive(opened(recorded, 1, coding="gzip"), [first[:10], first[10:], *rest])

    assert is_cut
    assert decoded("gzip", out).endswith(b"data: [DONE]\n\n")


def test_without_flushes_it_passes() -> None:
    """Within a block nothing can be put."""
    recorded = CHAT
    whole = gzip.compress(recorded.stream)
    chunks = pieces(whole, [20, 60, 100])

    assert drive(opened(recorded, 0, coding="gzip"), chunks) == (whole, False)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=8))
def test_any_bytes_pass(coding: str, data: bytes, cuts: list[int]) -> None:
    """What is not of its coding passes as it came."""
    out, is_cut = drive(opened(CHAT, 10**9, coding=coding), pieces(data, cuts))

    assert (out, is_cut) == (data, False)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
def test_other_codings_cannot_be_ended(coding: str) -> None:
    """So nothing is opened for them."""
    found = open_endable(
        "openai.chat", content_type="text/event-stream", content_encoding=coding, count_text=words, allowed=1
    )

    assert found is None


# -- detected ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", STREAMS.values(), ids=list(STREAMS))
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=12), allowed=st.integers(0, 8))
def test_a_detected_stream_ends_as_one_of_its_format(recorded: Recording, cuts: list[int], allowed: int) -> None:
    """What its first event told is held to it; the event that told it has passed, wherever it was cut."""
    chunks = pieces(recorded.stream, cuts)
    _, known_is_cut = drive(opened(recorded, allowed), chunks)

    out, is_cut = drive(opened(recorded, allowed, name=tapping.AUTO), chunks)

    assert is_cut or out == recorded.stream
    assert is_cut <= known_is_cut


@pytest.mark.parametrize("recorded", STREAMS.values(), ids=list(STREAMS))
@pytest.mark.parametrize("allowed", range(6))
def test_a_detected_stream_is_held_to_its_first_event(recorded: Recording, allowed: int) -> None:
    """Where events come whole, nothing passes that would not pass if the route named the format."""
    for chunks in ([recorded.stream], [recorded.head, *recorded.events, recorded.tail]):
        known = drive(opened(recorded, allowed), chunks)

        assert drive(opened(recorded, allowed, name=tapping.AUTO), chunks) == known


def test_a_detected_stream_may_be_compressed() -> None:
    """Both together."""
    recorded = CHAT

    out, is_cut = drive(
        opened(recorded, 2, name=tapping.AUTO, coding="gzip"), list(coded("gzip", list(recorded.events)))
    )

    assert is_cut
    assert decoded("gzip", out).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("body", [b"data: nothing known\n\n" * 500, b'data: {"object": "list"}\n\n' * 9])
def test_what_no_format_says_passes(body: bytes) -> None:
    """A stream that nobody knows, or whose format has no end, passes."""
    stream = opened(CHAT, 0, name=tapping.AUTO)

    assert drive(stream, pieces(body, [100, 5000])) == (body, False)
    assert (stream.finish(), stream.fail("Spent.")) == (b"", b"")


def held(value: Any) -> int:
    """Bytes that a stream keeps, about."""
    return sum(len(each) for each in vars(value).values() if isinstance(each, bytes))


def test_memory_is_bounded() -> None:
    """An object, a head and a string without end leave little behind."""
    array = opened(ARRAY, 10**9)
    array.split(b'[{"a": "')
    unknown = opened(CHAT, 0, name=tapping.AUTO)
    for _ in range(3000):
        array.split(b"x" * 4096)
        unknown.split(b": comment\n\n" * 400)

    assert held(vars(array)["_framing"]) < 2 * tapping.sse.MAX_EVENT
    assert held(unknown) < 2 * tapping.sse.MAX_EVENT
