"""
The readers of lines, of JSON objects and of Amazon's event streams.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw import tapping
from tokenbudget_mw.tapping.eventstream import FrameReader
from tokenbudget_mw.tapping.eventstream import frame as framed
from tokenbudget_mw.tapping.json_values import ValueReader
from tokenbudget_mw.tapping.ndjson import LineReader


def read(reader, data: bytes, size: int) -> list[bytes]:
    events = []
    for at in range(0, len(data), size):
        events += reader.feed(data[at : at + size])
    return [reader.data(event) for event in events + reader.close()]


SIZES = pytest.mark.parametrize("size", [1, 2, 7, 1_000])


class TestLines:
    @SIZES
    def test_lines(self, size: int) -> None:
        """Lines are values, empty ones none; the last needs no end."""
        assert read(LineReader(), b'{"a":1}\n\n{"b":2}\r\n \n{"c"', size) == [b'{"a":1}', b'{"b":2}\r', b'{"c"']

    def test_overlong_line(self) -> None:
        """Of a line beyond the bound the end is kept, and the next one is read whole."""
        found = read(LineReader(max_event=50), b"x" * 200 + b"end\nnext\n", 10)

        assert found[0].endswith(b"end")
        assert len(found[0]) <= 60
        assert found[1:] == [b"next"]


TRICKY = [{"a": "]}{["}, {"b": '\\"}'}, {"c": [[{}]]}, {"d": {"e": "\\\\"}}, {}]


class TestValues:
    @SIZES
    @pytest.mark.parametrize("indent", [None, 1])
    @pytest.mark.parametrize(
        ("head", "between", "tail"),
        [(b"[", b",", b"]"), (b"", b"\n", b"\n"), (b"", b"", b""), (b" [\r\n", b"\n, ", b"")],
    )
    def test_objects(self, size: int, indent: int | None, head: bytes, between: bytes, tail: bytes) -> None:
        """Objects are found in an array, in lines, and one after the other; brackets in texts are none."""
        data = head + between.join(json.dumps(value, indent=indent).encode() for value in TRICKY) + tail

        assert [json.loads(value) for value in read(ValueReader(), data, size)] == TRICKY

    @SIZES
    def test_cut(self, size: int) -> None:
        """An object that is cut off is handed out at the end, as far as it came."""
        assert read(ValueReader(), b'[{"a":1},{"b":"x', size) == [b'{"a":1}', b'{"b":"x']
        assert read(ValueReader(), b'[{"a":1},', size) == [b'{"a":1}']

    @pytest.mark.parametrize("size", [1, 10, 1_000])
    def test_overlong_object(self, size: int) -> None:
        """Of an object beyond the bound the end is kept, in constant memory, and the next one is read."""
        reader = ValueReader(max_event=100)
        data = b'[{"a":[' + b'{"x":"yy"},' * 100 + b'{}],"end":1},{"next":"' + b"z" * 500 + b'"},{"last":1}]'
        found = []
        for at in range(0, len(data), size):
            found += reader.feed(data[at : at + size])
            assert len(reader._rest) <= 100 + size

        assert found[0].endswith(b',"end":1}')
        assert found[-1].endswith(b'{"last":1}')
        assert len(found) == 3

    @given(st.lists(st.binary(max_size=40), max_size=10))
    def test_any_bytes(self, chunks: list[bytes]) -> None:
        """No bytes make it raise, and depth is never below nothing."""
        reader = ValueReader(max_event=50)
        for chunk in chunks:
            reader.feed(chunk)
            assert reader._depth >= 0
        reader.close()


def frame(payload: bytes, **headers: str) -> bytes:
    """One message, with headers that are texts."""
    packed = b"".join(
        bytes([len(name) + 1])
        + b":"
        + name.replace("_", "-").encode()
        + b"\x07"
        + struct.pack(">H", len(value))
        + value.encode()
        for name, value in headers.items()
    )
    return message(packed, payload)


def message(headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return data + struct.pack(">I", zlib.crc32(data))


ONE = frame(b'{"role":"assistant"}', message_type="event", event_type="messageStart", content_type="application/json")
TWO = frame(b'{"usage":{}}', message_type="event", event_type="metadata")
ONE_READ, TWO_READ = b'{"messageStart":{"role":"assistant"}}', b'{"metadata":{"usage":{}}}'


class TestFrames:
    @SIZES
    def test_frames(self, size: int) -> None:
        """A message is its type and its payload."""
        assert read(FrameReader(), ONE + TWO, size) == [ONE_READ, TWO_READ]

    def test_exception(self) -> None:
        """An exception is an error."""
        data = frame(b'{"message":"slow down"}', message_type="exception", exception_type="throttlingException")

        assert read(FrameReader(), data + frame(b"", message_type="error"), 7) == [
            b'{"error":{"message":"slow down"}}',
            b'{"error":""}',
        ]

    @SIZES
    def test_overlong_message(self, size: int) -> None:
        """A message beyond the bound is skipped, the next one is read."""
        data = ONE + frame(b"x" * 500, message_type="event", event_type="x") + TWO

        assert read(FrameReader(max_event=200), data, size) == [ONE_READ, TWO_READ]

    @pytest.mark.parametrize("at", range(0, len(ONE), 3))
    def test_damage(self, at: int) -> None:
        """A damaged message and what is behind it are not read."""
        broken = bytearray(ONE)
        broken[at] ^= 1

        assert read(FrameReader(), TWO + broken + TWO, 50) == [TWO_READ]

    def test_cut(self) -> None:
        """Of a message that is cut off, nothing is read."""
        assert [read(FrameReader(), (ONE + TWO)[:-cut], 9) for cut in (1, len(TWO) - 1)] == [[ONE_READ]] * 2

    def test_header_types(self) -> None:
        """Headers of every type are passed over, those of no type end the headers."""
        sizes = [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (8, 8), (9, 16)]
        packed = b"".join(b"\x01x" + bytes([kind]) + b"\0" * size for kind, size in sizes) + b"\x01x\x06\0\x02ab"
        typed = b"\x0b:event-type\x07\0\x01e"

        assert read(FrameReader(), message(packed + typed, b"{}"), 9) == [b'{"e":{}}']
        assert read(FrameReader(), message(b"\x01x\x63" + typed, b"{}"), 9) == [b'{"":{}}']

    @given(headers=st.binary(max_size=40), payload=st.binary(max_size=20), rest=st.binary(max_size=40))
    def test_any_bytes(self, headers: bytes, payload: bytes, rest: bytes) -> None:
        """No headers, payload or bytes behind them make it raise."""
        assert len(read(FrameReader(), message(headers, payload) + rest, 7)) >= 1


@pytest.mark.parametrize("format", ["anthropic.messages", "auto", "openai.chat"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_bedrock_invokes(format: str, size: int) -> None:  # noqa: A002 - the word of the product
    """A stream of Bedrock's ``invoke-with-response-stream`` has the model's own events inside its frames."""
    events = [
        {"type": "message_start", "message": {"model": "claude", "usage": {"input_tokens": 10, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one two"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 10, "outputTokenCount": 7}},
    ]
    inner = [base64.b64encode(json.dumps(event).encode()).decode() for event in events]
    data = b"".join(framed("chunk", json.dumps({"bytes": each, "p": "abcd"}).encode()) for each in inner)
    tap = tapping.open_tap(format, content_type="application/vnd.amazon.eventstream")
    assert tap is not None
    for at in range(0, len(data), size):
        tap.feed(data[at : at + size])

    found = tap.usage()

    assert (found.input_tokens, found.output_tokens, found.model, found.complete) == (10, 7, "claude", True)


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"bytes": 3}', b'{"bytes": "!"}', b"[1]"])
def test_a_chunk_of_nothing(payload: bytes) -> None:
    """A chunk without an event in it says nothing."""
    assert FrameReader().data(framed("chunk", payload)) == b""
