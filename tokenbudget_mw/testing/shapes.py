"""
The bodies that OpenAI and Anthropic send, for `testing.provider`: deterministic, of one token a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["CREATED", "FORMATS", "Reply", "Shape", "data", "event", "words_of"]

VOCABULARY = ["the", "budget", "holds", "and", "every", "token", "is", "counted", "once", "in", "these", "books"]

CREATED = 1_700_000_000
"""Epoch seconds that every response gives as its creation."""

_json = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What the fake provider says to one request.

    Attributes:
        model: Model that answers.

        input_tokens: Input tokens of the usage.

        output_tokens: Output tokens of the usage, and words of the text.

        usages: How often the usage is sent: 0, 1, or 2.
    """

    model: str
    input_tokens: int
    output_tokens: int
    usages: int = 1

    @property
    def words(self) -> list[str]:
        """
        The output, a word a token, each with its space.
        """
        return [f" {VOCABULARY[at % len(VOCABULARY)]}" for at in range(self.output_tokens)]

    @property
    def text(self) -> str:
        """
        The whole output.
        """
        return "".join(self.words)


class Shape:
    """
    The OpenAI chat format, and what the others share with it.
    """

    prompt = "messages"
    system = "system"
    kind = "chat.completion"
    most: tuple[str, ...] = ("max_completion_tokens", "max_tokens")
    stream_type = "text/event-stream"

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """
        Tell whether the request is for a stream.
        """
        del path
        return bool(body.get("stream"))

    def model(self, path: str, body: Mapping[str, Any]) -> object:
        """
        Return the model that is asked for.
        """
        del path
        return body.get("model")

    def input_tokens(self, body: Mapping[str, Any]) -> int:
        """
        Count the words of the prompt in *body*.
        """
        return words_of(body.get(self.system)) + words_of(body.get(self.prompt))

    def max_output(self, body: Mapping[str, Any]) -> int | None:
        """
        Return the most output tokens that *body* asks for.
        """
        return next((body[name] for name in self.most if type(body.get(name)) is int), None)

    def wants_usage(self, body: Mapping[str, Any]) -> bool:
        """
        Tell whether the stream that *body* asks for ends with its usage.
        """
        options = body.get("stream_options")
        return isinstance(options, Mapping) and bool(options.get("include_usage"))

    def whole(self, reply: Reply) -> dict[str, Any]:
        """
        Return the unary response.
        """
        fields = {**self._head(reply, self.kind), "choices": [self._choice(reply.text)]}
        return fields | ({"usage": self._usage(reply)} if reply.usages else {})

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the stream, event by event: one a word, then the end.
        """
        head = self._head(reply, f"{self.kind}.chunk")
        for word in reply.words:
            yield data({**head, "choices": [self._delta(word, None)]})
        yield data({**head, "choices": [self._delta("", "stop")]})
        for _ in range(reply.usages):
            yield data({**head, "choices": [], "usage": self._usage(reply)})
        yield b"data: [DONE]\n\n"

    def error(self, status: int) -> dict[str, Any]:
        """
        Return the body of an error.
        """
        message = f"The fake provider was told to answer {status}."
        return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}

    def _head(self, reply: Reply, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-fake", "object": kind, "created": CREATED, "model": reply.model}

    def _choice(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}

    def _delta(self, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}

    def _usage(self, reply: Reply) -> dict[str, int]:
        total = reply.input_tokens + reply.output_tokens
        return {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": total,
        }


class _Completions(Shape):
    """
    OpenAI's older completions.
    """

    prompt = "prompt"
    kind = "text_completion"

    def _choice(self, text: str) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}

    def _delta(self, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


class _Embeddings(Shape):
    """
    OpenAI's embeddings: no output, no stream.
    """

    prompt = "input"

    def max_output(self, body: Mapping[str, Any]) -> int | None:
        """
        Return 0: vectors are not tokens.
        """
        del body
        return 0

    def whole(self, reply: Reply) -> dict[str, Any]:
        """
        Return the response.
        """
        vectors = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 0.125]}]
        usage = {"prompt_tokens": reply.input_tokens, "total_tokens": reply.input_tokens}
        return {"object": "list", "data": vectors, "model": reply.model} | ({"usage": usage} if reply.usages else {})

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the response: it has no stream.
        """
        yield _json(self.whole(reply))


class _Messages(Shape):
    """
    Anthropic's messages.
    """

    most = ("max_tokens",)

    def wants_usage(self, body: Mapping[str, Any]) -> bool:
        """
        Return True: these streams always carry their usage.
        """
        del body
        return True

    def whole(self, reply: Reply) -> dict[str, Any]:
        """
        Return the unary response.
        """
        text = [{"type": "text", "text": reply.text}]
        usage = {"usage": self._figures(reply, reply.output_tokens)} if reply.usages else {}
        return self._message(reply, text, "end_turn") | usage

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the stream, event by event.
        """
        usage = {"usage": self._figures(reply, 1)} if reply.usages else {}
        yield event("message_start", message=self._message(reply, [], None) | usage)
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for word in reply.words:
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        yield event("content_block_stop", index=0)
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        for _ in range(reply.usages):
            yield event("message_delta", delta=end, usage={"output_tokens": reply.output_tokens})
        yield event("message_stop")

    def error(self, status: int) -> dict[str, Any]:
        """
        Return the body of an error.
        """
        message = f"The fake provider was told to answer {status}."
        return {"type": "error", "error": {"type": "api_error", "message": message}}

    def _message(self, reply: Reply, content: list[Any], stop: str | None) -> dict[str, Any]:
        return {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
        }

    def _figures(self, reply: Reply, output: int) -> dict[str, int]:
        return {"input_tokens": reply.input_tokens, "output_tokens": output}


FORMATS: Mapping[str, Shape] = {
    "/chat/completions": Shape(),
    "/completions": _Completions(),
    "/embeddings": _Embeddings(),
    "/messages": _Messages(),
}
"""End of a path -> the format that is spoken there; the first that fits holds."""


def words_of(value: object) -> int:
    """
    Count the words of all texts in *value*: what the fake provider takes for input tokens.

    >>> words_of([{"role": "user", "content": "how are you"}])
    3
    """
    return sum(len(text.split()) for text in _texts(value))


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(next((value[name] for name in ("content", "parts", "text") if name in value), None))
    elif isinstance(value, Sequence):
        for part in value:
            yield from _texts(part)


def data(fields: Mapping[str, Any]) -> bytes:
    """
    Return a server-sent event.
    """
    return b"data: " + _json(fields) + b"\n\n"


def event(name: str, **fields: Any) -> bytes:
    """
    Return a server-sent event that has a name, in its data too.
    """
    return f"event: {name}\n".encode() + data({"type": name, **fields})
