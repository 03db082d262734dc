"""
Every provider family: however its answer is cut, framed, encoded or broken off, the same usage.
"""

# ruff: noqa: A001, A002 - the words of the product

from __future__ import annotations

import gzip
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from recordings import RECORDINGS, Recording, frame, sse

from tokenbudget_mw import tapping
from tokenbudget_mw.counting import payloads
from tokenbudget_mw.rules.routes import FORMATS
from tokenbudget_mw.tapping.eventstream import FrameReader
from tokenbudget_mw.tapping.sse import MAX_EVENT
from tokenbudget_mw.tapping.stream import BATCH
from tokenbudget_mw.values import Usage

ALL = pytest.mark.parametrize("recorded", RECORDINGS.values(), ids=list(RECORDINGS))


def read(recorded: Recording, *chunks: bytes, type: str | None = None, encoding: str = "") -> Usage:
    tap = tapping.open_tap(
        recorded.format,
        content_type=recorded.type if type is None else type,
        content_encoding=encoding,
        count_text=lambda text: len(text.split()),
    )
    assert tap is not None
    for chunk in chunks:
        tap.feed(chunk)
    return tap.usage()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_formats_are_known_in_every_room() -> None:
    """Routes, taps and request readers know the same formats."""
    assert set(tapping.FAMILIES) == set(payloads.FORMATS) == set(FORMATS) - {"auto"}


@ALL
class TestWhole:
    def test_every_boundary(self, recorded: Recording) -> None:
        """A stream cut in two at any byte gives the same usage."""
        data = recorded.stream

        assert {read(recorded, data[:at], data[at:]) for at in range(len(data))} == {recorded.usage}

    def test_byte_by_byte(self, recorded: Recording) -> None:
        """A stream that drips byte by byte gives the same usage."""
        assert read(recorded, *(bytes([byte]) for byte in recorded.stream)) == recorded.usage

    @settings(max_examples=40, deadline=None)
    @given(cuts=st.lists(st.integers(0, 20_000), max_size=40))
    def test_random_cuts(self, recorded: Recording, cuts: list[int]) -> None:
        """Any cuts, of the stream and of its gzip, give the same usage."""
        assert read(recorded, *pieces(recorded.stream, cuts)) == recorded.usage
        assert read(recorded, *pieces(gzip.compress(recorded.stream), cuts), encoding="gzip") == recorded.usage

    @pytest.mark.parametrize("type", ["", "text/plain", "application/octet-stream", "application/json"])
    def test_wrong_content_type(self, recorded: Recording, type: str) -> None:
        """A stream whose content type does not say so is known by its first byte, but where it may be a transcript."""
        data = recorded.stream
        type = "" if recorded.format == "openai.audio" else type

        assert read(recorded, *(data[at : at + 7] for at in range(0, len(data), 7)), type=type) == recorded.usage

    def test_t05_unary_and_stream_agree(self, recorded: Recording) -> None:
        """The same answer as a body gives the same usage, however the body is written."""
        for indent in (None, 2):
            body = json.dumps(recorded.body, indent=indent).encode()
            for size in (1, 50, len(body)):
                chunks = [body[at : at + size] for at in range(0, len(body), size)]
                assert read(recorded, *chunks, type="application/json") == recorded.usage

    def test_long_stream(self, recorded: Recording) -> None:
        """A stream of many batches gives its figures, and no more than a batch is held."""
        many = (4 * BATCH // len(recorded.events[4])) * recorded.events[4]
        data = recorded.head + b"".join(recorded.events[:4]) + many + b"".join(recorded.events[4:]) + recorded.tail
        assert read(recorded, *pieces(data, list(range(0, len(data), 997)))) == recorded.usage

    def test_events_without_figures_are_counted(self, recorded: Recording) -> None:
        """A stream that is cut before its figures is not complete, and the text that passed is counted once."""
        found = read(recorded, recorded.head, *recorded.events[: recorded_end(recorded)])

        assert (found.source, found.complete) == (recorded.counted, False)
        assert found.output_tokens == max(recorded.words, recorded.cut)

    @settings(max_examples=40, deadline=None)
    @given(at=st.integers(0, 20_000))
    def test_t07_cut_anywhere(self, recorded: Recording, at: int) -> None:
        """A stream that breaks off gives no more than the whole, and says whether it is complete."""
        found = read(recorded, recorded.stream[: at % len(recorded.stream)])

        assert found.output_tokens <= max(recorded.words, recorded.usage.output_tokens)
        assert found.input_tokens <= recorded.usage.input_tokens
        if found.complete:
            assert found == recorded.usage

    def test_body_without_figures(self, recorded: Recording) -> None:
        """A body without figures is counted from its text."""
        found = read(recorded, json.dumps(without_figures(recorded)).encode(), type="application/json")

        source = "counted" if recorded.framing == "speech" else recorded.counted
        assert (found.source, found.output_tokens) == (source, recorded.words)

    def test_cut_body(self, recorded: Recording) -> None:
        """A body that is cut off is not complete, and its text is counted as far as it came."""
        body = json.dumps(without_figures(recorded)).encode()

        found = read(recorded, body[:-1], type="application/json")

        assert not found.complete
        assert min(recorded.words, 1) <= found.output_tokens <= recorded.words + 3

    def test_error_body(self, recorded: Recording) -> None:
        """An error has used nothing and completed nothing."""
        found = read(recorded, b'{"error": {"message": "no", "code": 1}}', type="application/json")

        assert (found.input_tokens, found.output_tokens, found.complete) == (0, 0, False)

    @settings(max_examples=100, deadline=None)
    @given(data=st.binary(max_size=200), at=st.integers(0, 5_000))
    def test_any_bytes(self, recorded: Recording, data: bytes, at: int) -> None:
        """No bytes in the middle of a stream make a tap raise."""
        stream, at = recorded.stream, at % len(recorded.stream)

        assert read(recorded, stream[:at] + data + stream[at:]).output_tokens >= 0


def recorded_end(recorded: Recording) -> int:
    """Number of the first event that has the final figures."""
    for number in range(1, len(recorded.events) + 1):
        if read(recorded, recorded.head, *recorded.events[:number]).source == "provider":
            return number - 1
    raise AssertionError


FIGURES = {"usage", "usageMetadata", "meta", "prompt_eval_count", "eval_count"}


def without_figures(recorded: Recording) -> dict:
    return {name: value for name, value in recorded.body.items() if name not in FIGURES}


class TestGemini:
    RECORDED = RECORDINGS["gemini"]

    def test_a_blocked_prompt_is_an_end(self) -> None:
        """A prompt that is not answered costs its input and is complete."""
        blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 8}}

        for found in (
            read(self.RECORDED, b"data: " + json.dumps(blocked).encode() + b"\n\n"),
            read(self.RECORDED, json.dumps(blocked).encode(), type="application/json"),
            read(RECORDINGS["gemini array"], b"[" + json.dumps(blocked).encode() + b"]"),
        ):
            assert (found.input_tokens, found.output_tokens, found.complete) == (8, 0, True)

    def test_error_within_the_stream(self) -> None:
        """A stream with an error in it is not complete."""
        error = b'data: {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}\n\n'

        assert not read(self.RECORDED, *self.RECORDED.events[:3], error).complete

    def test_no_figures_at_all(self) -> None:
        """A stream without usage is counted, and complete by its reason to finish."""
        bare = [event.replace(b"usageMetadata", b"x") for event in self.RECORDED.events]

        found = read(self.RECORDED, *bare)

        assert (found.source, found.complete, found.output_tokens) == ("counted", True, self.RECORDED.words)

    @pytest.mark.parametrize("name", ["gemini", "gemini array"])
    @pytest.mark.parametrize("size", [997, BATCH, 3 * MAX_EVENT])
    def test_overlong_chunk(self, name: str, size: int) -> None:
        """A chunk with an image of megabytes in it, and the only usage behind that, still gives its figures."""
        image = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo" * (2 * MAX_EVENT // 11)}}
        chunk = {"candidates": [{"content": {"parts": [image]}, "finishReason": "STOP"}], "usageMetadata": {}}
        chunk |= {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1290}, "modelVersion": "gemini-3"}
        data = json.dumps(chunk).encode()
        data = b"data: " + data + b"\n\n" if name == "gemini" else b"[" + data + b"]"

        found = read(RECORDINGS[name], *(data[at : at + size] for at in range(0, len(data), size)))

        assert (found.input_tokens, found.output_tokens, found.model, found.complete) == (9, 1290, "gemini-3", True)

    def test_overlong_body(self) -> None:
        """So does a body."""
        image = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo" * (2 * MAX_EVENT // 11)}}
        body = {**self.RECORDED.body, "candidates": [{"content": {"parts": [image]}, "finishReason": "STOP"}]}

        assert read(self.RECORDED, json.dumps(body).encode(), type="application/json") == self.RECORDED.usage


class TestBedrock:
    RECORDED = RECORDINGS["bedrock.converse"]

    def test_exception_within_the_stream(self) -> None:
        """An exception ends a stream that is not complete, and what passed is counted."""
        exception = frame("throttlingException", {"message": "slow down"}, kind="exception")

        found = read(self.RECORDED, *self.RECORDED.events[:6], exception)

        assert (found.source, found.complete, found.output_tokens) == ("counted", False, 7)
        assert not read(self.RECORDED, self.RECORDED.stream, exception).complete

    def test_end_without_figures(self) -> None:
        """An end without usage is an end, and the text is counted."""
        found = read(self.RECORDED, *self.RECORDED.events[:-1], frame("metadata", {"metrics": {"latencyMs": 1}}))

        assert (found.source, found.complete, found.output_tokens) == ("counted", True, self.RECORDED.words)

    def test_damage(self) -> None:
        """Behind a damaged message nothing is read, and the stream is not complete."""
        data = bytearray(self.RECORDED.stream)
        data[len(data) // 2] ^= 0xFF

        found = read(self.RECORDED, bytes(data))

        assert (found.source, found.complete) == ("counted", False)

    def test_passed_on_as_events(self) -> None:
        """An app that passes the events on as text gives the same usage."""
        reader = FrameReader()
        lines = [reader.data(event) for event in reader.feed(self.RECORDED.stream)]

        sent = b"".join(b"data: " + line + b"\n\n" for line in lines)

        assert read(self.RECORDED, sent, type="text/event-stream") == self.RECORDED.usage
        assert read(self.RECORDED, b"\n".join(lines), type="application/x-ndjson") == self.RECORDED.usage

    def test_aws_error_body(self) -> None:
        """Amazon's errors are a message and nothing else."""
        assert not read(self.RECORDED, b'{"message":"The model is not found."}', type="application/json").complete


class TestCohere:
    RECORDED = RECORDINGS["cohere"]

    @pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT"])
    def test_failure(self, reason: str) -> None:
        """An answer that ended in an error is not complete, streamed or whole; its figures hold."""
        streamed = self.RECORDED.stream.replace(b'"COMPLETE"', f'"{reason}"'.encode())
        body = json.dumps({**self.RECORDED.body, "finish_reason": reason}).encode()

        assert read(self.RECORDED, streamed) == replace(self.RECORDED.usage, complete=False)
        assert read(self.RECORDED, body, type="application/json") == replace(self.RECORDED.usage, complete=False)

    def test_embeddings(self) -> None:
        """Embeddings are billed in their meta."""
        body = {"id": "e", "embeddings": {"float": [[0.25]]}, "meta": {"billed_units": {"input_tokens": 8}}}

        found = read(self.RECORDED, json.dumps(body).encode(), type="application/json")

        assert (found.input_tokens, found.output_tokens, found.complete) == (8, 0, True)

    def test_its_own_error_body(self) -> None:
        """Cohere's errors are a message."""
        assert not read(self.RECORDED, b'{"id":"x","message":"invalid api token"}', type="application/json").complete


class TestOllama:
    RECORDED = RECORDINGS["ollama"]

    def test_generate(self) -> None:
        """The older endpoint's text is counted, too."""
        lines = [b'{"model":"m","response":"one two ","thinking":"hm ","done":false}\n'] * 3

        assert read(self.RECORDED, *lines).output_tokens == 9

    @pytest.mark.parametrize("type", ["application/json", "application/x-ndjson", ""])
    def test_embeddings(self, type: str) -> None:
        """Embeddings have figures and no word of being done."""
        body = {"model": "m", "embeddings": [[0.25] * 9], "total_duration": 5, "prompt_eval_count": 8}

        assert read(self.RECORDED, json.dumps(body).encode(), type=type) == Usage(8, 0, model="m", provider="ollama")

    def test_cached_prompt(self) -> None:
        """Where the whole prompt was cached, its count is left out, and the rest holds."""
        found = read(self.RECORDED, self.RECORDED.stream.replace(b'"prompt_eval_count": 26, ', b""))

        assert (found.input_tokens, found.output_tokens, found.source) == (0, 30, "provider")

    def test_error_within_the_stream(self) -> None:
        """A line with an error ends a stream that is not complete."""
        found = read(self.RECORDED, *self.RECORDED.events[:4], b'{"error":"model runner has stopped"}\n')

        assert (found.source, found.complete) == ("counted", False)

    @pytest.mark.parametrize("type", ["application/json", "application/x-ndjson"])
    def test_overlong_line(self, type: str) -> None:
        """An answer of megabytes on one line still gives its figures."""
        body = {**self.RECORDED.body, "message": {"content": "word " * MAX_EVENT}}
        data = json.dumps({"message": body.pop("message"), **body}).encode()

        found = read(self.RECORDED, *(data[at : at + 997] for at in range(0, len(data), 997)), type=type)

        assert (found.input_tokens, found.output_tokens, found.complete) == (26, 30, True)


class TestResponses:
    RECORDED = RECORDINGS["openai.responses"]

    def end(self, kind: str, **response: object) -> Usage:
        last = {"type": kind, "response": {**self.RECORDED.body, **response}}
        return read(self.RECORDED, *self.RECORDED.events[:-1], b"data: " + json.dumps(last).encode() + b"\n\n")

    def test_incomplete_is_an_end(self) -> None:
        """An answer that met its maximum is whole: that is how it ends."""
        assert self.end("response.incomplete", status="incomplete") == self.RECORDED.usage

    def test_failed(self) -> None:
        """A response that failed is not complete; its figures, if it has any, hold."""
        assert self.end("response.failed", status="failed") == replace(self.RECORDED.usage, complete=False)
        found = self.end("response.failed", status="failed", usage=None, error={"code": "server_error"})
        assert (found.source, found.output_tokens, found.complete) == ("counted", self.RECORDED.words, False)

    def test_error_event(self) -> None:
        """An error event ends a stream that is not complete."""
        error = b'event: error\ndata: {"type":"error","code":"x","message":"no"}\n\n'

        assert not read(self.RECORDED, self.RECORDED.stream, error).complete

    @pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled"])
    def test_background(self, status: str) -> None:
        """A body that only says that an answer will come is not complete."""
        body = {**self.RECORDED.body, "status": status, "usage": None, "output": []}

        found = read(self.RECORDED, json.dumps(body).encode(), type="application/json")

        assert (found.output_tokens, found.complete) == (0, False)

    @pytest.mark.parametrize("size", [997, BATCH, 3 * MAX_EVENT])
    def test_overlong_last_event(self, size: int) -> None:
        """A last event with an image of megabytes in it still gives its figures."""
        image = {"type": "image_generation_call", "result": "iVBORw0KGgo" * (2 * MAX_EVENT // 11)}
        response = {"object": "response", "model": "gpt-5", "output": [image], "usage": self.RECORDED.body["usage"]}
        last = {"type": "response.completed", "response": {**response, "user": None, "metadata": {}}}
        data = b"".join(self.RECORDED.events[:-1]) + b"data: " + json.dumps(last).encode() + b"\n\n"

        found = read(self.RECORDED, *(data[at : at + size] for at in range(0, len(data), size)))

        assert (found.input_tokens, found.output_tokens, found.complete) == (100, 30, True)
        assert found.model == ("gpt-5" if size > MAX_EVENT else "gpt-5-2025-08-07")

    DRAWN = {  # noqa: RUF012
        "tool_choice": "auto",
        "tool_usage": {
            "image_gen": {"input_tokens": 1550, "output_tokens": 515, "total_tokens": 2065, "cached_tokens": 9},
            "web_search": {"num_requests": 0},
        },
        "tools": [{"type": "web_search"}, {"type": "image_generation", "model": "gpt-image-2"}],
    }

    @pytest.mark.parametrize("size", [1, 3 * MAX_EVENT])
    @pytest.mark.parametrize("type", ["openai", "sdk", "body"])
    def test_what_was_drawn_is_another_model(self, type: str, size: int) -> None:
        """What the tool used that draws stands beside the usage, before it, behind a picture: in the provider's order and its SDK's."""
        usage = self.RECORDED.body["usage"]
        image = {"type": "image_generation_call", "result": "iVBORw0KGgo" * (size // 11)}
        response = {"object": "response", "output": [image], **self.DRAWN, "usage": usage, "user": None}
        ordered = {"type": "response.completed", "sequence_number": 1, "response": response}
        if type == "sdk":
            ordered = {name: ordered[name] for name in ("response", "sequence_number", "type")}
        data = json.dumps(response if type == "body" else ordered).encode()
        data = data if type == "body" else b"data: " + data + b"\n\n"

        found = read(
            self.RECORDED,
            *(data[at : at + 4096] for at in range(0, len(data), 4096)),
            type="application/json" if type == "body" else None,
        )

        (other,) = found.others
        assert (found.input_tokens, found.output_tokens, found.complete) == (100, 30, True)
        assert (other.model, other.input_tokens, other.output_tokens) == ("gpt-image-2", 1550, 515)
        assert other.cache_read_tokens == 9

    def test_nothing_was_drawn(self) -> None:
        """A tool that was not called used nothing."""
        unused = {"image_gen": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}}

        assert self.end("response.completed", tool_usage=unused) == self.RECORDED.usage

    def test_audio_is_no_text(self) -> None:
        """Pieces of audio are not counted as text, their transcript is."""
        events = [
            {"type": "response.audio.delta", "delta": "UklGR iQAAAB XQVZF"},
            {"type": "response.audio.transcript.delta", "delta": "two words"},
        ]

        found = read(self.RECORDED, *(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events))

        assert found.output_tokens == 2


class TestMedia:
    IMAGES = RECORDINGS["openai.images"]
    TRANSCRIPT = RECORDINGS["openai.audio transcript"]

    @pytest.mark.parametrize("size", [997, BATCH, 3 * MAX_EVENT])
    @pytest.mark.parametrize("is_stream", [False, True])
    def test_overlong_picture(self, size: int, is_stream: bool) -> None:
        """Figures behind a picture of megabytes are found, streamed and whole."""
        picture = {"b64_json": "iVBORw0KGgo" * (2 * MAX_EVENT // 11)}
        usage = self.IMAGES.body["usage"]
        event = {"type": "image_generation.completed", **picture, "usage": usage}
        data = sse(event) if is_stream else json.dumps({"created": 1, "data": [picture], "usage": usage}).encode()

        found = read(
            self.IMAGES,
            *(data[at : at + size] for at in range(0, len(data), size)),
            type="text/event-stream" if is_stream else "application/json",
        )

        assert found == self.IMAGES.usage

    def test_pictures_without_figures_are_not_free(self) -> None:
        """DALL-E gives none; then nothing is known, which is not the same as nothing used."""
        found = read(self.IMAGES, b'{"created": 1, "data": [{"url": "https://x"}]}', type="application/json")

        assert (found.source, found.complete) == ("none", True)

    @pytest.mark.parametrize("type", ["audio/mpeg", "audio/wav", "image/png"])
    def test_media_is_not_read(self, type: str) -> None:
        """What is audio or a picture itself has neither text nor figures."""
        assert tapping.open_tap("openai.audio", content_type=type) is None

    @pytest.mark.parametrize("type", ["text/plain", "text/vtt; charset=utf-8"])
    def test_plain_transcripts(self, type: str) -> None:
        """Subtitles and plain transcripts are all output."""
        found = read(self.TRANSCRIPT, b"one two ", b"three", type=type)

        assert (found.source, found.output_tokens, found.complete) == ("counted", 3, True)

    def test_billed_by_the_minute(self) -> None:
        """A transcript whose usage is a duration is counted from its text."""
        body = json.dumps({"text": "one two", "usage": {"type": "duration", "seconds": 9}}).encode()

        found = read(self.TRANSCRIPT, body, type="application/json")

        assert (found.source, found.output_tokens, found.complete) == ("counted", 2, True)

    def test_error_within_the_stream(self) -> None:
        """An error ends a stream that is not complete."""
        error = sse({"type": "error", "error": {"message": "moderation"}})

        assert not read(self.IMAGES, *self.IMAGES.events[:3], error).complete


@ALL
def test_a_handler_may_report_the_body(recorded: Recording) -> None:
    """What the tap reads of a body, `read_response` reads of the same body as a dict."""
    found = tapping.read_response(recorded.body)

    assert replace(found, source="provider", service_tier=None) == replace(recorded.usage, service_tier=None)
