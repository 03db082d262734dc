"""
JSON bodies: whole, long, broken, encoded.
"""

# ruff: noqa: A001, A002 - the words of the product

from __future__ import annotations

import gzip
import itertools
import json
import sys
import tracemalloc
import zlib

import pytest
from recordings import RECORDINGS, Recording

from tokenbudget_mw import tapping
from tokenbudget_mw.tapping.decoding import DecodingTap, open_decoder
from tokenbudget_mw.tapping.unary import HEAD
from tokenbudget_mw.values import Usage

ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def read(
    body: object, *, format: str = "openai.chat", size: int = 1000, type: str = "application/json", encoding: str = ""
) -> Usage:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    tap = tapping.open_tap(
        format, content_type=type, content_encoding=encoding, count_text=lambda text: len(text.split())
    )
    assert tap is not None
    for at in range(0, len(data), size):
        tap.feed(data[at : at + size])
    return tap.usage()


def chat(content: str = "one two three", **more: object) -> dict:
    message = {"role": "assistant", "content": content}
    return {
        "id": "c",
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        **more,
    }


def message(text: str = "one two", **more: object) -> dict:
    return {
        "type": "message",
        "model": "claude-opus-4-5",
        "content": [
            {"type": "text", "text": text},
            {"type": "tool_use", "name": " look ", "input": {"usage": {"input_tokens": 1, "output_tokens": 1}}},
        ],
        "usage": {"input_tokens": 3, "cache_read_input_tokens": 7, "output_tokens": 4, "service_tier": "batch"},
        **more,
    }


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_openai_body(size: int) -> None:
    """A chat completion gives its figures however it is cut."""
    assert read(chat(service_tier="flex"), size=size) == Usage(
        input_tokens=10, output_tokens=5, model="gpt-4o", provider="openai", service_tier="flex"
    )


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_anthropic_body(size: int) -> None:
    """A message gives its figures, the cache among the input; a tool's input is no usage."""
    assert read(message(), format="anthropic.messages", size=size) == Usage(
        input_tokens=10,
        output_tokens=4,
        cache_read_tokens=7,
        model="claude-opus-4-5",
        provider="anthropic",
        service_tier="batch",
    )


def test_t05_unary_and_stream_agree() -> None:
    """The same answer, unary and streamed, gives the same usage, with the provider's figures and without."""
    chunk = {"model": "gpt-4o", "choices": [{"delta": {"content": "one two three"}}]}
    for usage in ({"prompt_tokens": 10, "completion_tokens": 5}, None):
        events = [chunk, {"model": "gpt-4o", "choices": [], "usage": usage}]
        stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"

        assert read(stream, type="text/event-stream") == read(chat(usage=usage))


def test_embeddings() -> None:
    """Embeddings have input only, and no text to count."""
    body = {
        "data": [{"embedding": [0.1] * 9}],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }

    found = read(body, format="openai.embeddings")
    del body["usage"]

    assert (found.input_tokens, found.output_tokens, found.complete) == (8, 0, True)
    assert read(body, format="openai.embeddings").output_tokens == 0


def test_output_from_the_total() -> None:
    """Where the output figure is left out, it is what the total adds to the prompt."""
    assert read(chat(usage={"prompt_tokens": 8, "total_tokens": 20})).output_tokens == 12


@pytest.mark.parametrize(
    "usage", [None, {}, [], "x", {"prompt_tokens": -1}, {"prompt_tokens": 1, "completion_tokens": "2"}]
)
def test_no_figures(usage: object) -> None:
    """A body without sane figures is counted from its text, and is complete."""
    found = read(chat(usage=usage))

    assert (found.input_tokens, found.output_tokens, found.source, found.complete) == (0, 3, "counted", True)
    assert found.model == "gpt-4o"


def test_no_figures_anthropic() -> None:
    """Text, tool names and tool inputs of a message count."""
    found = read(message(usage=None), format="anthropic.messages")

    assert found.output_tokens == len(
        ["one", "two", "look", '{"usage":', '{"input_tokens":', "1,", '"output_tokens":', "1}}"]
    )


def test_t07_cut_body() -> None:
    """A body that is cut off is not complete, and counted as far as it came."""
    data = json.dumps(chat('one two \\ "three" four')).encode()

    found = read(data[: data.index(b"four")])

    assert (found.output_tokens, found.source, found.complete) == (4, "counted", False)


def test_error_body() -> None:
    """An error is complete in nothing and used nothing."""
    found = read({"error": {"message": "no", "code": 1}})

    assert (found.output_tokens, found.complete) == (0, False)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", 0),
        (b"[]", 0),
        (b"null", 0),
        (b"\xff\xfe", 0),
        (b"PK\3\4\0 a zip", 0),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", 0),
        (("<p>" + "é" * 5_000 + " two").encode(), 2),
        (b'{"image": "' + b"iVBO" * 50_000 + b'", "note": "three more words"}', 3),
        (b"[" * 100_000, 0),
        (b'{"usage":' * 20_000, 3),
        (b"<html>two words", 2),
        (b'{"reply": {"text": "three more words"}, "vector": [1, 2, 3, 4]}', 3),
        (b'{"detail": null}', 0),
    ],
)
def test_foreign_bodies(body: bytes, words: int) -> None:
    """What no family knows is text, where an answer is one; it gives no figures and no error."""
    for format in tapping.FAMILIES:
        found = read(body, format=format)

        is_text = format not in ("openai.embeddings", "openai.images")
        assert (found.input_tokens, found.output_tokens) == (0, words if is_text else 0)
        assert found.source in ("none", "counted")


ALIKE = {
    "openai.responses": ("openai.audio",),
    "cohere": ("ollama",),
    "anthropic.messages": ("gemini.interactions",),
}
"""Formats whose text reads as another's, too, and is counted there."""
ASKED = ("openai.chat", "openai.responses", "anthropic.messages", "gemini", "cohere")
OTHERS = [
    pytest.param(format, spoken, id=f"{format}-{name}")
    for format, (name, spoken) in itertools.product(ASKED, RECORDINGS.items())
    if spoken.format not in ALIKE.get(format, ())
]


@pytest.mark.parametrize(("format", "spoken"), OTHERS)
def test_an_answer_in_another_format(format: str, spoken: Recording) -> None:
    """A response of which its route's format reads nothing is read as what it speaks: figures are figures."""
    for type, data in ((spoken.type, spoken.stream), ("application/json", json.dumps(spoken.body).encode())):
        tap = tapping.open_tap(format, content_type=type)
        assert tap is not None
        for at in range(0, len(data), 50):
            tap.feed(data[at : at + 50])
        found = tap.usage()

        assert (found.input_tokens, found.output_tokens) == (spoken.usage.input_tokens, spoken.usage.output_tokens)
        assert found.source == "provider"


@pytest.mark.parametrize("type", ["text/event-stream", "application/x-ndjson", "application/json", "text/plain", ""])
def test_the_first_byte_knows_better_than_the_content_type(type: str) -> None:
    """A body, JSON lines and an event stream are each read as what they are, whatever they are labelled."""
    body = chat("one two")
    lines = [
        {"model": "m", "choices": [{"delta": {"content": "one"}}]},
        {"model": "m", "choices": [], "usage": body["usage"]},
    ]
    jsonl = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    events = b"".join(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines)
    whole = json.dumps(body).encode()

    for data in (whole, jsonl, events, b"\xef\xbb\xbf" + whole, b"\xef\xbb\xbf" + events):
        assert read(data, type=type).source == "provider"


def test_a_number_that_is_none_hides_no_figures() -> None:
    """Python writes NaN, which is not JSON: the figures behind it are read."""
    body = b'{"model": "m", "choices": [{"logprobs": NaN, "message": {"content": "x"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'

    assert read(body).output_tokens == 2


class TestLongBodies:
    @pytest.mark.parametrize("spaces", [None, 2])
    def test_usage_at_the_end(self, spaces: int | None) -> None:
        """Of a body longer than what is kept, the figures at its end and the model at its beginning are read."""
        body = json.dumps(chat("word " * HEAD), indent=spaces).encode()

        assert read(body, size=65_536) == Usage(input_tokens=10, output_tokens=5, model="gpt-4o", provider="openai")

    def test_embeddings_model_at_the_end(self) -> None:
        """Embeddings name their model behind the vectors."""
        usage = {"prompt_tokens": 8, "total_tokens": 8}
        body = {"object": "list", "data": [0.25] * 400_000, "model": "text-embedding-3-large", "usage": usage}

        found = read(body, format="openai.embeddings", size=65_536)

        assert (found.input_tokens, found.complete) == (8, True)

    def test_planted_usage(self) -> None:
        """A usage object that the model wrote into a tool's input is never taken for the provider's."""
        body = message("word " * HEAD)
        real = body.pop("usage")
        first = {"model": body.pop("model"), "usage": real, **body}

        found = read(first, format="anthropic.messages", size=65_536)

        assert (found.input_tokens, found.source) == (0, "counted")
        assert found.output_tokens == pytest.approx(HEAD, rel=0.01)

    def test_memory(self) -> None:
        """A body of 50 MB takes bounded memory."""
        tap = tapping.open_tap("openai.chat", content_type="application/json", content_encoding="")
        assert tap is not None
        piece = b'{"choices": "' + b"x" * 65_536
        tracemalloc.start()
        for _ in range(800):
            tap.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert peak < 4 * HEAD


class TestOpening:
    def test_nothing_to_read(self) -> None:
        """No format, a format of nobody, an encoding that cannot be undone: no tap."""
        assert tapping.open_tap(None, content_type="application/json") is None
        assert tapping.open_tap("own", content_type="application/json") is None
        for coding in ["compress", "gzip, gzip", "aes128gcm"]:
            assert tapping.open_tap("openai.chat", content_type="text/event-stream", content_encoding=coding) is None

    @pytest.mark.parametrize("type", ["", "text/plain", "application/octet-stream"])
    def test_sniffing(self, type: str) -> None:
        """Without a telling content type, the first byte tells."""
        usage = {"prompt_tokens": 1, "completion_tokens": 2}
        stream = b"data: " + json.dumps(chat(usage=usage)).encode() + b"\n\ndata: [DONE]\n\n"

        assert read(b" \n" + json.dumps(chat()).encode(), type=type, size=1).output_tokens == 5
        assert read(stream, type=type, size=1).output_tokens == 2
        assert read(b"", type=type).complete is False

    @pytest.mark.parametrize("coding", ["gzip", "x-gzip", "identity", " GZIP "])
    def test_encodings(self, coding: str) -> None:
        """Encoded bodies are read, whatever case the header has."""
        data = json.dumps(chat()).encode()

        assert read(data if coding == "identity" else gzip.compress(data), encoding=coding, size=3).output_tokens == 5

    def test_zstd(self) -> None:
        """Zstandard is undone where the interpreter or a backport can."""
        module = pytest.importorskip(ZSTD)

        assert read(module.compress(json.dumps(chat()).encode()), encoding="zstd", size=3).output_tokens == 5

    @pytest.mark.parametrize("size", [1 << 20, 700])
    def test_brotli_that_swells(self, size: int) -> None:
        """Of a body that is far longer than what came of it over the wire all is read, however it is cut."""
        brotli = pytest.importorskip("brotli")
        data = json.dumps(chat("one two three " * 50_000)).encode()

        for quality in (1, 5, 9):
            assert read(brotli.compress(data, quality=quality), encoding="br", size=size).output_tokens == 5

    @pytest.mark.parametrize("size", [1, 3, 1 << 20])
    def test_zstd_in_frames(self, size: int) -> None:
        """A body may be many frames, and some that hold no content: servers end one behind each event."""
        module = pytest.importorskip(ZSTD)
        skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"other"
        data = json.dumps(chat()).encode()
        frames = [module.compress(data[at : at + 20]) for at in range(0, len(data), 20)]

        assert read(skipped.join(frames), encoding="zstd", size=size).output_tokens == 5

    def test_zstd_in_countless_frames(self) -> None:
        """Of frames without content there may be hundreds of thousands in a chunk; to open each would take seconds."""
        module = pytest.importorskip(ZSTD)
        empty = module.compress(b"")
        body = module.compress(json.dumps(chat()).encode())

        assert read(empty * 1_000 + body, encoding="zstd", size=1 << 20).output_tokens == 5
        assert read(empty * 3_000 + body, encoding="zstd", size=1 << 20).source == "none"

    def test_broken_encoding(self) -> None:
        """Bytes that are not of the encoding end the reading, not the response."""
        assert read(b"not gzip at all", encoding="gzip").source == "none"
        assert read(gzip.compress(json.dumps(chat()).encode())[:-20], encoding="gzip").source == "counted"


class _Sink:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def feed(self, chunk: bytes) -> None:
        self.sizes.append(len(chunk))

    def usage(self) -> Usage:
        return Usage()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_bomb(coding: str) -> None:
    """A compression bomb is decoded in small steps, and only so far."""
    bomb = make_bomb(coding)
    decoder, sink = open_decoder(coding), _Sink()
    assert decoder is not None
    tap = DecodingTap(decoder, sink, max_decoded=1 << 22)

    tap.feed(bomb)
    tap.feed(bomb)

    assert max(sink.sizes) <= 1 << 17
    assert 1 << 22 <= sum(sink.sizes) <= (1 << 22) + (1 << 17)


def make_bomb(coding: str) -> bytes:
    zeros = bytes(1 << 24)
    if coding == "br":
        return pytest.importorskip("brotli").compress(zeros, quality=5)
    if coding == "zstd":
        return pytest.importorskip(ZSTD).compress(zeros)
    return gzip.compress(zeros, 1) if coding == "gzip" else zlib.compress(zeros, 1)
