"""
The reader of event streams, and the counting of their text.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.tapping.sse import EventReader, data_of
from tokenbudget_mw.tapping.text import HELD, PIECE, TextMeter, strings_of


def read(*pieces: bytes, max_event: int = 1 << 20) -> list[bytes]:
    reader = EventReader(max_event=max_event)
    events = [event for piece in pieces for event in reader.feed(piece)] + reader.close()
    return [data for event in events if (data := data_of(event))]


def dripped(data: bytes, **options: int) -> list[bytes]:
    return read(*(bytes([byte]) for byte in data), **options)


EXAMPLES = [
    (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
    (b"data:one\n\n", [b"one"]),
    (b"data:  one\n\n", [b" one"]),
    (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
    (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
    (b"data: one\n\r\ndata: two\r\n\n", [b"one", b"two"]),
    (b"data: a\ndata: b\ndata:\ndata:c\n\n", [b"a\nb\n\nc"]),
    (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
    (b": a comment\n\n:\n\ndata: one\n: within\n\n", [b"one"]),
    (b"event: x\nid: 3\nretry: 10\ndata: one\n\n", [b"one"]),
    (b"event: x\n\n\n\n\ndata: one\n\n", [b"one"]),
    (b"data: one\n", [b"one"]),
    (b"data: one", [b"one"]),
    (b"data: one\r", [b"one"]),
    (b"database: one\n\nDATA: two\n\n data: three\n\n", []),
    (b"", []),
    (b"\n\n\n", []),
    (b"\xef\xbb", []),
]


@pytest.mark.parametrize(("data", "expected"), EXAMPLES)
def test_events(data: bytes, expected: list[bytes]) -> None:
    """Events are read as the standard says, in one piece, byte by byte and cut in two anywhere."""
    assert read(data) == expected
    assert dripped(data) == expected
    assert all(read(data[:at], data[at:]) == expected for at in range(len(data)))


@given(
    st.lists(
        st.lists(st.binary(max_size=8).filter(lambda b: not set(b) & {10, 13}), min_size=1, max_size=3), max_size=6
    ),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_round_trip(events: list[list[bytes]], end: bytes, cuts: list[int]) -> None:
    """Whatever lines an event has, whatever ends them and wherever the stream is cut, they come out as they went in."""
    data = b"".join(b"".join(b"data: " + line + end for line in lines) + end for lines in events)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})

    found = read(*(data[a:b] for a, b in itertools.pairwise(edges)))

    assert found == [joined for lines in events if (joined := b"\n".join(lines))]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_overlong_event(end: bytes, size: int) -> None:
    """An event beyond the bound is skipped and counted, the next one is read, and no more than the bound is kept."""
    data = b"data: first" + end + b"data: " + b"x" * 500 + b"\ndata: more" + end + b"data: last" + end
    reader = EventReader(max_event=100)
    events = []
    for at in range(0, len(data), size):
        events += reader.feed(data[at : at + size])
        assert len(reader._rest) <= 100 + size

    found = [data_of(event) for event in events + reader.close()]
    if size == 1000:
        assert (len(found), reader.skipped) == (3, 0)
    else:
        assert found[0] == b"first"
        assert found[-1] == b"last"
        assert reader.skipped == 1


@pytest.mark.parametrize("length", range(95, 215))
def test_overlong_event_of_any_length(length: int) -> None:
    """Wherever the bound falls, also within the blank line, the event behind an overlong one is read."""
    for end in (b"\n\n", b"\r\n\r\n"):
        data = b"data: " + b"x" * length + end + b"data: last" + end

        assert dripped(data, max_event=100)[-1] == b"last"


def test_overlong_end() -> None:
    """A stream that ends within an overlong event has no more events."""
    assert read(b"data: " + b"x" * 200, b"yyy", max_event=100) == []


class TestTextMeter:
    def test_counts_once_in_pieces(self) -> None:
        """A long text is counted in bounded pieces, all of it once, and only a bounded part of it waits."""
        seen: list[int] = []

        def count(text: str) -> int:
            seen.append(len(text))
            return len(text)

        meter = TextMeter(count)
        for _ in range(1000):
            meter.add("x" * 999)
            assert meter._length <= HELD

        assert meter.tokens() == 999_000
        assert meter.tokens() == 999_000
        assert max(seen) == PIECE

    def test_a_long_text_is_counted_as_one(self) -> None:
        """A body of a megabyte is left to the tokenizer as one text, of which it may take a sample; the end waits."""
        seen: list[int] = []
        meter = TextMeter(lambda text: seen.append(len(text)) or len(text))

        meter.add("x" * 1_000_000)

        assert seen == [1_000_000 - HELD]
        assert meter.tokens() == 1_000_000
        assert seen[1:] == [PIECE, PIECE]

    def test_counts_late(self) -> None:
        """A short text is not counted before its count is asked for."""
        meter = TextMeter(lambda _: pytest.fail("counted"))

        meter.add("some text")
        meter.add("")

    @pytest.mark.parametrize(
        ("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("é" * 4, 2), ("\ud800", 1)]
    )
    def test_without_a_counter(self, text: str, tokens: int) -> None:
        """Without a counter, four bytes of UTF-8 are a token, rounded up."""
        meter = TextMeter(None)
        meter.add(text)

        assert meter.tokens() == tokens


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"content": "whole"}', "whole"),
        (b'{"content":"cut o', "cut o"),
        (b'{"content" : "a\\nb\\u00e9\\"q\\" \\\\"', 'a\nb\u00e9"q" \\'),
        (b'{"content": "x", "other": "y", "text": "z"', "xz"),
        (b'{"content": null, "content": 3, "content": ["x"]', ""),
        (b'{"content": "cut in escape \\u00', "cut in escape \\u00"),
        (b'{"content": "bad \xff"', "bad \ufffd"),
        (b'{"content": "say \\"content\\": \\"no\\""', 'say "content": "no"'),
    ],
)
def test_strings_of_broken_json(data: bytes, expected: str) -> None:
    """The text of JSON that is cut off is found, escapes undone, nothing found twice."""
    assert strings_of(data, "content", "text") == expected
