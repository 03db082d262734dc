"""
Streams that end where their allowance does: however they are cut, at an event, in their own format.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import RECORDINGS, Recording, sse

from tokenbudget_mw import tapping
from tokenbudget_mw.rules.routes import ENDABLE
from tokenbudget_mw.tapping.bounded import BoundedStream
from tokenbudget_mw.tapping.eventstream import FrameReader
from tokenbudget_mw.tapping.framing import FRAMINGS
from tokenbudget_mw.tapping.last_words import LAST_WORDS
from tokenbudget_mw.tapping.sse import MAX_EVENT
from tokenbudget_mw.values import Usage


def chat(*, kind: str = "chat.completion.chunk") -> Recording:
    """Two choices, one of which has ended."""
    head = {"id": "c", "object": kind, "created": 7, "model": "gpt-4o"}

    def chunk(index: int, content: str, finish: str | None = None) -> dict:
        return {**head, "choices": [{"index": index, "delta": {"content": content}, "finish_reason": finish}]}

    events = [chunk(0, "one "), chunk(1, "two "), chunk(1, "", "stop"), *(chunk(0, f"{n} ") for n in range(8))]
    return Recording("openai.chat", tuple(map(sse, events)), usage=Usage(), words=10, body={})


def messages() -> Recording:
    """A text block that stays open."""
    events: list[dict] = [
        {"type": "message_start", "message": {"id": "m", "model": "claude-sonnet-4-5", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"{n} "}} for n in range(10)
    ]
    return Recording("anthropic.messages", tuple(map(sse, events)), usage=Usage(), words=10, body={})


STREAMS = {name: each for name, each in RECORDINGS.items() if each.format in ENDABLE and each.framing != "array"} | {
    "openai.chat": chat(),
    "anthropic.messages": messages(),
}
ALL = pytest.mark.parametrize("recorded", STREAMS.values(), ids=list(STREAMS))


def words(text: str) -> int:
    return len(text.split())


def bounded(recorded: Recording, allowed: int) -> BoundedStream:
    text = tapping.FAMILIES[recorded.format].stream().text
    return BoundedStream(FRAMINGS[recorded.type](), text, LAST_WORDS[recorded.format](), words, allowed)


def passing(recorded: Recording, chunks: list[bytes], allowed: int) -> tuple[bytes, BoundedStream, bool]:
    """What passes until the stream is cut."""
    stream, out = bounded(recorded, allowed), b""
    for chunk in chunks:
        passed, rest = stream.split(chunk)
        out += passed
        if rest:
            return out, stream, True
    return out, stream, False


def text_of(recorded: Recording, data: bytes) -> int:
    """Words of output text in *data*, as the tap counts them."""
    tap = tapping.open_tap(recorded.format, content_type=recorded.type, count_text=words)
    assert tap is not None
    tap.feed(data)
    return tap.usage().output_tokens


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def test_formats_that_can_be_ended_are_known_in_every_room() -> None:
    """Settings and taps agree."""
    assert set(LAST_WORDS) | {tapping.AUTO} == ENDABLE


@ALL
class TestCuts:
    def test_nothing_is_cut_within_the_allowance(self, recorded: Recording) -> None:
        """A stream that is paid for passes byte for byte, and nothing is held back."""
        stream = bounded(recorded, recorded.words)

        for byte in recorded.stream:
            assert stream.split(bytes([byte])) == (bytes([byte]), b"")

    def test_whole_events_pass_up_to_the_allowance(self, recorded: Recording) -> None:
        """In one chunk, exactly the events that fit pass."""
        for allowed in range(recorded.words):
            out, _, is_cut = passing(recorded, [recorded.stream], allowed)

            assert is_cut
            assert recorded.stream.startswith(out)
            assert any(out == b"".join(recorded.events[:n]) for n in range(len(recorded.events)))
            assert text_of(recorded, out) <= allowed + recorded.cut

    @settings(max_examples=40, deadline=None)
    @given(cuts=st.lists(st.integers(0, 20_000), max_size=40), allowed=st.integers(0, 12))
    def test_any_cuts(self, recorded: Recording, cuts: list[int], allowed: int) -> None:
        """However it comes, the stream ends behind an event; at most one goes over, whose beginning had passed."""
        allowed %= recorded.words
        whole, _, _ = passing(recorded, [recorded.stream], allowed)

        out, _, is_cut = passing(recorded, pieces(recorded.stream, cuts), allowed)

        assert is_cut or out == recorded.stream
        ends = [b"".join(recorded.events[:n]) for n in range(len(recorded.events) + 1)]
        assert out in ends
        assert ends.index(whole) <= ends.index(out) <= ends.index(whole) + 1

    def test_more_lets_the_rest_pass(self, recorded: Recording) -> None:
        """What was kept passes when it has been paid, and no event is counted twice."""
        stream, out, rest, granted = bounded(recorded, 0), b"", recorded.stream, 0
        while rest:
            passed, rest = stream.split(rest)
            out += passed
            if rest:
                stream.allow(1)
                granted += 1

        assert out == recorded.stream
        assert granted == recorded.words

    @settings(max_examples=60, deadline=None)
    @given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=8))
    def test_any_bytes(self, recorded: Recording, data: bytes, cuts: list[int]) -> None:
        """No bytes raise, and nothing is lost or made up."""
        chunks = [*pieces(recorded.events[0], []), *pieces(data, cuts)]
        stream = bounded(recorded, 10**9)

        assert all(stream.split(chunk) == (chunk, b"") for chunk in chunks)

    def test_memory_is_constant(self, recorded: Recording) -> None:
        """An event of many megabytes, and events without end, leave little behind."""
        stream = bounded(recorded, 10**9)
        for _ in range(3 * MAX_EVENT // 4096):
            stream.split(b"x" * 4096)
        event = recorded.events[4]
        for _ in range(20_000):
            stream.split(event)

        assert held(stream) < 2 * MAX_EVENT


def held(value: object) -> int:
    """Bytes of *value* and of what it refers to, this package's own."""
    seen: dict[int, object] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type) or callable(item):
            continue
        seen[id(item)] = item
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
        else:
            slots = [
                getattr(item, name, None) for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ())
            ]
            waiting += [*vars(item).values()] if hasattr(item, "__dict__") else slots
    return sum(map(sys.getsizeof, seen.values()))


def ended(recorded: Recording, *, allowed: int = 4) -> list[tuple[str, Any]]:
    """Name and data of the events that end the stream regularly."""
    _, stream, is_cut = passing(recorded, [recorded.stream], allowed)
    assert is_cut
    return read(stream.finish())


def read(data: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in data.decode().strip().split("\n\n"):
        name, _, rest = block.rpartition("data: ")
        found.append((name.removeprefix("event: ").strip(), rest if rest == "[DONE]" else json.loads(rest)))
    return found


class TestLastWords:
    def test_chat(self) -> None:
        """Each open choice ends with its length, under the same id; then the stream is done."""
        (_, chunk), done = ended(STREAMS["openai.chat"])

        assert done == ("", "[DONE]")
        assert (chunk["id"], chunk["model"], chunk["object"]) == ("c", "gpt-4o", "chat.completion.chunk")
        assert chunk["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]

    def test_responses(self) -> None:
        """The response that was begun is incomplete, with the next number."""
        ((name, event),) = ended(STREAMS["openai.responses"])

        assert name == event["type"] == "response.incomplete"
        assert (event["response"]["id"], event["response"]["status"]) == ("resp", "incomplete")
        assert event["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
        assert event["sequence_number"] > 4

    def test_messages(self) -> None:
        """The open block is closed, the stop reason is the maximum, the output that passed is named."""
        stop, delta, end = ended(STREAMS["anthropic.messages"])

        assert stop == ("content_block_stop", {"type": "content_block_stop", "index": 0})
        assert delta[1]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
        assert delta[1]["usage"]["output_tokens"] >= 4
        assert end == ("message_stop", {"type": "message_stop"})

    def test_gemini(self) -> None:
        """The candidate finishes at the maximum."""
        ((_, chunk),) = ended(STREAMS["gemini"])

        assert [each["finishReason"] for each in chunk["candidates"]] == ["MAX_TOKENS"]
        assert chunk["modelVersion"] == "gemini-2.5-flash"

    def test_ollama(self) -> None:
        """One more line is done."""
        _, stream, _ = passing(STREAMS["ollama"], [STREAMS["ollama"].stream], 4)

        line = json.loads(stream.finish())

        assert (line["model"], line["done"], line["done_reason"]) == ("qwen3:8b", True, "length")
        assert line["message"] == {"role": "assistant", "content": ""}

    def test_cohere(self) -> None:
        """The content that is open ends, and the message at its maximum."""
        names = [name for name, _ in ended(STREAMS["cohere"], allowed=12)]

        assert names == ["content-end", "message-end"]

    def test_bedrock(self) -> None:
        """The block is closed and the message stops, in sound binary messages."""
        _, stream, _ = passing(STREAMS["bedrock.converse"], [STREAMS["bedrock.converse"].stream], 4)

        reader = FrameReader()
        events = [json.loads(reader.data(each)) for each in reader.feed(stream.finish())]

        assert events == [
            {"contentBlockStop": {"contentBlockIndex": 1}},
            {"messageStop": {"stopReason": "max_tokens"}},
            {"metadata": {}},
        ]

    @ALL
    def test_the_tap_takes_it_for_an_end(self, recorded: Recording) -> None:
        """What is put at the end is an end in the eyes of a reader of that format; an error is none."""
        for allowed in (0, 4):
            out, stream, _ = passing(recorded, [recorded.stream], allowed)
            ends, fails = (self.tapped(recorded, out + last) for last in (stream.finish(), stream.fail("Spent.")))

            assert (ends.complete, fails.complete) == (True, False)

    def tapped(self, recorded: Recording, data: bytes) -> Any:
        tap = tapping.open_tap(recorded.format, content_type=recorded.type, count_text=words)
        assert tap is not None
        tap.feed(data)
        return tap.usage()

    @ALL
    def test_errors_name_the_reason(self, recorded: Recording) -> None:
        """The message is in the error."""
        assert b"Limit 'x' reached." in bounded(recorded, 0).fail("Limit 'x' reached.")
