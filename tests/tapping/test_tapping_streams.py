"""
Event streams: whatever the cuts, whatever the provider's habits, the same usage.
"""

# ruff: noqa: A001, A002 - the words of the product

from __future__ import annotations

import gzip
import itertools
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw import tapping
from tokenbudget_mw.tapping.stream import BATCH
from tokenbudget_mw.values import Usage


def words(text: str) -> int:
    return len(text.split())


def sse(*events: object, end: str = "\n\n", done: bool = True) -> bytes:
    lines = [f"data: {event if isinstance(event, str) else json.dumps(event)}" for event in events]
    return "".join(line + end for line in lines + ["data: [DONE]"] * done).encode()


def chunk(content: str | None = "hi ", *, usage: object = None, finish: str | None = None, **more: object) -> dict:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return {"model": "gpt-4o-2024-08-06", "choices": [choice], "usage": usage, **more}


def last(usage: object, **more: object) -> dict:
    return {"model": "gpt-4o-2024-08-06", "choices": [], "usage": usage, **more}


FIGURES = {
    "prompt_tokens": 100,
    "completion_tokens": 30,
    "total_tokens": 130,
    "prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 8, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
OPENAI = sse(*[chunk() for _ in range(12)], chunk("", finish="stop"), last(FIGURES, service_tier="default"))
OPENAI_USAGE = Usage(
    input_tokens=100,
    output_tokens=30,
    cache_read_tokens=64,
    cache_write_tokens=8,
    reasoning_tokens=20,
    model="gpt-4o-2024-08-06",
    provider="openai",
    service_tier="default",
)


def anthropic_events(*, stop: bool = True, delta: bool = True) -> list[dict]:
    start = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 200,
        "cache_read_input_tokens": 1000,
        "cache_creation": {"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 150},
        "output_tokens": 1,
        "service_tier": "standard",
    }
    events: list[dict] = [
        {"type": "message_start", "message": {"id": "m", "model": "claude-sonnet-4-5", "content": [], "usage": start}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "let me "}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "the answer "}},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "name": "look ", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"q": 1}'}},
    ]
    final = {"output_tokens": 42, "cache_read_input_tokens": None, "output_tokens_details": {"thinking_tokens": 7}}
    if delta:
        events.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": final})
    return events + [{"type": "message_stop"}] * stop


def anthropic(**options: bool) -> bytes:
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in anthropic_events(**options)).encode()


ANTHROPIC = anthropic()
ANTHROPIC_USAGE = Usage(
    input_tokens=1210,
    output_tokens=42,
    cache_read_tokens=1000,
    cache_write_tokens=200,
    cache_write_1h_tokens=150,
    reasoning_tokens=7,
    model="claude-sonnet-4-5",
    provider="anthropic",
    service_tier="standard",
)

STREAMS = {"openai.chat": (OPENAI, OPENAI_USAGE), "anthropic.messages": (ANTHROPIC, ANTHROPIC_USAGE)}


def read(*chunks: bytes, format: str = "openai.chat", encoding: str = "", count_text=words) -> Usage:
    tap = tapping.open_tap(
        format, content_type="text/event-stream; charset=utf-8", content_encoding=encoding, count_text=count_text
    )
    assert tap is not None
    for piece in chunks:
        tap.feed(piece)
    return tap.usage()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_sources_before_a_stream_do_not_make_a_text_of_its_frames() -> None:
    """An app may send its own events first, as long as a batch; then the chunks' text alone is output."""
    sources = sse({"type": "sources", "pages": ["word " * 10_000]}, done=False)
    found = read(sources, *[sse(chunk("hi "), done=False)] * 2_000, sse(chunk("end", finish="stop")))

    assert found.output_tokens < 10_010 + 2_000
    assert found.complete


def test_compaction_is_charged() -> None:
    """What Anthropic took to compact the conversation stands in no other figure; its other iterations do."""
    compacted = {"type": "compaction", "input_tokens": 1000, "output_tokens": 200, "cache_read_input_tokens": 5}
    final = {"output_tokens": 42, "iterations": [compacted, {**compacted, "type": "message"}, "x"]}
    event = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": final}
    found = read(
        anthropic(delta=False, stop=False) + f"data: {json.dumps(event)}\n\n".encode(), format="anthropic.messages"
    )

    assert (found.input_tokens, found.output_tokens, found.cache_read_tokens) == (1210 + 1005, 42 + 200, 1000 + 5)


def test_an_advisor_is_another_model() -> None:
    """What Anthropic's advisor used stands in no other figure, at another model's price; speed is a tier of its own."""
    advised = {
        "type": "advisor_message",
        "model": "claude-opus-5",
        "input_tokens": 823,
        "output_tokens": 1612,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 0,
    }
    final = {"output_tokens": 42, "speed": "fast", "iterations": [advised, {**advised, "type": "message"}]}
    event = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": final}
    found = read(
        anthropic(delta=False, stop=False) + f"data: {json.dumps(event)}\n\n".encode(), format="anthropic.messages"
    )
    told = tapping.read_response({"usage": {"input_tokens": 1, "cache_read_input_tokens": 0} | final})

    assert (found.input_tokens, found.output_tokens, found.service_tier) == (1210, 42, "fast")
    for usage in (found, told):
        (other,) = usage.others
        assert (other.model, other.input_tokens, other.output_tokens) == ("claude-opus-5", 923, 1612)
        assert other.cache_read_tokens == 100


def test_a_model_that_declined_is_charged_for_what_it_wrote() -> None:
    """Where another model took over, the figures are its own; what the first had written stands in the iterations alone."""
    first = {"type": "message", "model": "claude-sonnet-4-5", "input_tokens": 2, "cache_creation_input_tokens": 10_421}
    written = {**first, "cache_read_input_tokens": 72_769, "output_tokens": 578}
    silent = {**first, "model": "claude-fable-5", "output_tokens": 0}  # declined at once, which costs nothing
    searched = {**written, "model": "claude-opus-4-8"}  # before its own search: in its figures already
    final = {"input_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 79_214}
    final |= {"output_tokens": 13_658, "iterations": [silent, written, searched]}
    final["iterations"].append({**final, "type": "fallback_message", "model": "claude-opus-4-8", "iterations": None})
    event = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": final}
    stream = anthropic(delta=False, stop=False) + f"data: {json.dumps(event)}\n\n".encode()
    told = {"model": "claude-sonnet-4-5", "usage": final}

    for usage in (read(stream, format="anthropic.messages"), tapping.read_response(told)):
        (other,) = usage.others
        assert (usage.model, usage.input_tokens, usage.output_tokens) == ("claude-opus-4-8", 79_216, 13_658)
        assert (other.model, other.input_tokens, other.output_tokens) == ("claude-sonnet-4-5", 83_192, 578)
        assert other.cache_write_tokens == 10_421


@pytest.mark.parametrize("format", STREAMS)
def test_comments_before_the_first_event(format: str) -> None:
    """What keeps the connection alive until the first event hides nothing that this event says."""
    data, expected = STREAMS[format]

    assert read(b": waiting\n\n" * 5 + data, format=format) == expected


@pytest.mark.parametrize("format", STREAMS)
class TestCuts:
    def test_every_boundary(self, format: str) -> None:
        """A stream cut in two at any byte gives the same usage."""
        data, expected = STREAMS[format]

        assert {read(data[:at], data[at:], format=format) for at in range(len(data))} == {expected}

    def test_byte_by_byte(self, format: str) -> None:
        """A stream that drips byte by byte gives the same usage."""
        data, expected = STREAMS[format]

        assert read(*(bytes([byte]) for byte in data), format=format) == expected

    @settings(max_examples=50, deadline=None)
    @given(cuts=st.lists(st.integers(0, 10_000), max_size=40), end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
    def test_random_cuts_and_line_ends(self, format: str, cuts: list[int], end: bytes) -> None:
        """Any cuts with any of the three line ends give the same usage."""
        data, expected = STREAMS[format]

        assert read(*pieces(data.replace(b"\n", end), cuts), format=format) == expected

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate", "two members", "br"])
    @settings(max_examples=20, deadline=None)
    @given(cuts=st.lists(st.integers(0, 10_000), max_size=40))
    def test_encoded(self, format: str, coding: str, cuts: list[int]) -> None:
        """A compressed stream, however cut, gives the same usage."""
        data, expected = STREAMS[format]
        encoded = encode(coding, data)
        header = {"raw deflate": "deflate", "two members": "GZIP"}.get(coding, coding)

        assert read(*pieces(encoded, cuts), format=format, encoding=header) == expected

    def test_long_stream(self, format: str) -> None:
        """A stream longer than what is held at once gives its figures, and holds no more than that."""
        data, expected = STREAMS[format]
        first, rest = data.split(b"\n\n", 1)
        filler = sse({"type": "content_block_delta", "choices": []}, done=False) * (3 * BATCH // 50)
        tap = tapping.open_tap(format, content_type="text/event-stream")
        for piece in pieces(first + b"\n\n" + filler + rest, list(range(0, len(filler), 997))):
            tap.feed(piece)
            assert len(tap._held) < BATCH

        assert tap.usage() == expected

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    @pytest.mark.parametrize("is_cut", [False, True])
    def test_the_end_alone_behind_a_full_batch(self, format: str, end: bytes, is_cut: bool) -> None:
        """An end is seen that comes when all figures were read before it, also where no blank line follows."""
        data, expected = STREAMS[format]
        at = data.rstrip().rindex(b"\n\n") + 2
        before, ending = data[:at] + b": " + b"." * BATCH + b"\n\n", data[at:].rstrip() if is_cut else data[at:]

        assert read(before.replace(b"\n", end), ending.replace(b"\n", end), format=format) == expected


def encode(coding: str, data: bytes) -> bytes:
    if coding == "gzip":
        return gzip.compress(data)
    if coding == "two members":
        return gzip.compress(data[:300]) + gzip.compress(data[300:])
    if coding == "deflate":
        return zlib.compress(data)
    if coding == "br":
        return pytest.importorskip("brotli").compress(data)
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return raw.compress(data) + raw.flush()


class TestOpenAI:
    def test_usage_on_a_chunk_with_choices(self) -> None:
        """Usage that comes on the last chunk with choices counts, though nothing follows it."""
        found = read(sse(chunk(), chunk("x", usage=FIGURES, finish="stop"), done=False))

        assert (found.input_tokens, found.output_tokens, found.complete) == (100, 30, True)

    def test_cumulative_usage(self) -> None:
        """Of usage on every chunk the last one holds, complete or not."""
        counts = [chunk(usage={"prompt_tokens": 9, "completion_tokens": n}) for n in range(1, 40)]

        assert read(sse(*counts)).output_tokens == 39
        cut = read(sse(*counts, done=False))
        assert (cut.output_tokens, cut.source, cut.complete) == (39, "provider", False)

    def test_usage_amid_a_batch(self) -> None:
        """Usage is found though other events come after it."""
        found = read(sse(*[chunk()] * 20, last(FIGURES), *[chunk(None)] * 20))

        assert (found.output_tokens, found.source) == (30, "provider")

    def test_null_usage_counts_text(self) -> None:
        """A stream whose usage is null on every chunk is counted from its text, and is complete by its end."""
        found = read(sse(chunk("one two "), chunk("three"), chunk(None, finish="stop")))

        expected = Usage(output_tokens=3, model="gpt-4o-2024-08-06", provider="openai", source="counted", complete=True)
        assert found == expected

    def test_all_output_is_counted(self) -> None:
        """Reasoning, refusals, tool calls and every choice count as output text."""
        call = {"index": 0, "function": {"name": "find ", "arguments": "a b"}}
        events = [
            chunk("one "),
            {"choices": [{"index": 1, "delta": {"content": "two "}}, {"index": 2, "delta": {"content": "three "}}]},
            {"choices": [{"index": 0, "delta": {"reasoning_content": "think ", "content": None}}]},
            {"choices": [{"index": 0, "delta": {"refusal": "no ", "tool_calls": [call]}}]},
            {"choices": [{"index": 0, "delta": {"function_call": {"arguments": " c"}}}]},
            {"choices": [{"index": 0, "text": " old"}]},
        ]

        assert read(sse(*events)).output_tokens == len(
            ["one", "two", "three", "think", "no", "find", "a", "b", "c", "old"]
        )

    @pytest.mark.parametrize("cut", [0, 1])
    def test_custom_tools_and_speech_are_counted(self, cut: int) -> None:
        """So are the text that a custom tool is called with, and the transcript of what was spoken, in a body that was cut off, too."""
        call = {"index": 0, "type": "custom", "custom": {"name": "run ", "input": "three more words"}}
        spoken = {"audio": {"id": "a", "transcript": " and two", "data": "UklGRiQAAABXQVZF"}}
        stream = read(*[sse({"choices": [{"index": 0, "delta": part}]}) for part in ({"tool_calls": [call]}, spoken)])
        body = {
            "object": "chat.completion",
            "choices": [{"message": {"content": None, "tool_calls": [call], **spoken}}],
        }
        tap = tapping.open_tap("openai.chat", content_type="application/json", count_text=words)
        assert tap is not None
        data = json.dumps(body).encode()
        tap.feed(data[: len(data) - cut])

        assert stream.output_tokens == 6
        assert tap.usage().output_tokens == 6 - cut  # the name, which many things have

    def test_text_that_says_usage(self) -> None:
        """Text about usage, quoted or not, is text."""
        events = [chunk('{"usage": {"prompt_tokens": 1, "completion_tokens": 1}} '), chunk("usage"), chunk('"usage"')]

        found = read(sse(*events))

        assert (found.input_tokens, found.source) == (0, "counted")
        assert found.output_tokens == 6

    def test_error_within_the_stream(self) -> None:
        """A stream that carries an error is not complete, wherever it stands."""
        failed = {"error": {"message": "overloaded", "code": 500}}

        assert not read(sse(chunk(), failed)).complete
        assert not read(sse(*[chunk("x ")] * 20, failed, *[chunk("x ")] * 20)).complete

    def test_t07_cut_stream(self) -> None:
        """A stream that is cut within an event counts what passed, half an event included."""
        data = sse(chunk("one two "), chunk("three four"))

        found = read(data[: data.index(b"three") + 5])

        assert (found.output_tokens, found.source, found.complete) == (3, "counted", False)

    @pytest.mark.parametrize("bad", [-1, 1.5, 2**53, 10**30, "12", True, None, [], float("nan")])
    def test_senseless_figures(self, bad: object) -> None:
        """A usage whose headline figure is no figure is no usage."""
        found = read(sse(chunk("one two"), last({"prompt_tokens": bad, "completion_tokens": 3})))

        assert (found.source, found.input_tokens, found.output_tokens) == ("counted", 0, 2)

    def test_senseless_details(self) -> None:
        """Details that are no figures are dropped, those beyond their total are cut."""
        details = {
            "prompt_tokens_details": {"cached_tokens": 99},
            "completion_tokens_details": {"reasoning_tokens": -5},
        }

        found = read(sse(last({"prompt_tokens": 10, "completion_tokens": 5, **details})))

        assert (found.cache_read_tokens, found.reasoning_tokens) == (10, 0)

    @pytest.mark.parametrize(
        "event", ["", "{", "null", "[]", "3", '"x"', "[" * 100_000, '{"choices": {}}', '{"choices": [null]}', "\ud800"]
    )
    def test_foreign_events(self, event: str) -> None:
        """Events of no known form change nothing and raise nothing."""
        data = b"data: " + event.encode(errors="surrogatepass") + b"\n\n"

        assert read(data, OPENAI) == OPENAI_USAGE
        # a first batch in which nobody finds anything is taken for text
        assert read(data * 10, sse(chunk("one"))).output_tokens == 1 or len(event) > BATCH

    def test_invalid_utf8(self) -> None:
        """Text that is not UTF-8 is counted as well as can be."""
        found = read(sse(chunk("one XX two")).replace(b"XX", b"\xff\xfe"))

        assert (found.output_tokens, found.source) == (3, "counted")

    def test_half_surrogate(self) -> None:
        """A chunk with half a surrogate pair is still counted."""
        assert read(b'data: {"choices": [{"delta": {"content": "a \\ud83d"}}]}\n\n').output_tokens == 2

    def test_without_a_counter(self) -> None:
        """Without a counter, four bytes are a token, rounded up, never nothing."""
        assert read(sse(chunk("five!")), count_text=None).output_tokens == 2

    @given(data=st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        """No bytes make a tap raise."""
        for format in tapping.FAMILIES:
            assert read(data, format=format).output_tokens >= 0
            assert read(data, format=format, encoding="gzip").output_tokens >= 0


class TestAnthropic:
    def test_t07_cut_stream(self) -> None:
        """A stream that breaks off keeps its input figures and counts its output."""
        found = read(anthropic(stop=False, delta=False), format="anthropic.messages")

        assert (found.input_tokens, found.cache_write_1h_tokens) == (1210, 150)
        assert (found.source, found.complete) == ("counted", False)
        assert found.output_tokens == len(["let", "me", "the", "answer", "look", '{"q":', "1}"])

    def test_t07_cut_before_the_stop(self) -> None:
        """With the final figures but no end, the figures hold and the stream is not complete."""
        found = read(anthropic(stop=False), format="anthropic.messages")

        assert (found.output_tokens, found.source, found.complete) == (42, "provider", False)

    def test_error(self) -> None:
        """An error event ends a stream that is not complete."""
        data = anthropic(stop=False, delta=False) + sse(
            {"type": "error", "error": {"type": "overloaded_error"}}, done=False
        )

        assert not read(data, format="anthropic.messages").complete

    def test_without_a_start(self) -> None:
        """A stream whose beginning was not seen has no input figures, and its output is counted, not dropped."""
        data = ANTHROPIC[ANTHROPIC.index(b"event: content_block_start") :]

        found = read(data, format="anthropic.messages")

        assert (found.input_tokens, found.output_tokens, found.source, found.complete) == (0, 7, "counted", True)

    def test_lifetimes_beyond_their_total(self) -> None:
        """Cache writes for an hour are never more than all cache writes."""
        usage = {"cache_creation_input_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 9}}
        start = {"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 1, **usage}}}

        found = read(sse(start, done=False), format="anthropic.messages")

        assert (found.cache_write_tokens, found.cache_write_1h_tokens) == (5, 5)

    def test_final_figures_replace_the_first(self) -> None:
        """Cumulative figures of the last event hold, the input's too."""
        final = {"input_tokens": 11, "cache_read_input_tokens": 2000, "output_tokens": 5}
        data = anthropic(stop=False) + sse({"type": "message_delta", "usage": final}, done=False)

        found = read(data, format="anthropic.messages")

        assert (found.input_tokens, found.output_tokens, found.cache_read_tokens) == (2211, 5, 2000)

    def test_senseless_final_figure(self) -> None:
        """A last figure that is none does not end the count."""
        data = anthropic(stop=False, delta=False) + sse(
            {"type": "message_delta", "usage": {"output_tokens": -4}}, {"type": "message_stop"}, done=False
        )

        found = read(data, format="anthropic.messages")

        assert (found.output_tokens, found.source, found.complete) == (7, "counted", True)
