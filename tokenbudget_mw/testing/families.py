"""
The bodies of further provider families, for `testing.provider`: deterministic, of one token a word.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tokenbudget_mw.testing.shapes import CREATED, Reply, Shape, data, event

__all__ = ["FORMATS", "Cohere", "Converse", "Gemini", "Interactions", "Ollama", "Responses"]


class Responses(Shape):
    """
    OpenAI's Responses.
    """

    prompt = "input"
    system = "instructions"
    most = ("max_output_tokens",)

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
        part = {"type": "output_text", "text": reply.text, "annotations": []}
        item = {"type": "message", "id": "msg_fake", "role": "assistant", "status": "completed", "content": [part]}
        usage = self._figures(reply) if reply.usages else None
        return self._response(reply, "completed", output=[item], usage=usage)

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the stream, event by event; usage that is sent twice comes with a second last event.
        """
        yield event("response.created", response=self._response(reply, "in_progress", output=[], usage=None))
        place = {"item_id": "msg_fake", "output_index": 0, "content_index": 0}
        item = {"type": "message", "id": "msg_fake", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        yield event("response.output_item.added", output_index=0, item=item)
        yield event("response.content_part.added", **place, part=part)
        for word in reply.words:
            yield event("response.output_text.delta", **place, delta=word, logprobs=[])
        yield event("response.output_text.done", **place, text=reply.text, logprobs=[])
        part |= {"text": reply.text}
        yield event("response.content_part.done", **place, part=part)
        yield event("response.output_item.done", output_index=0, item=item | {"status": "completed", "content": [part]})
        for _ in range(max(reply.usages, 1)):
            yield event("response.completed", response=self.whole(reply))

    def _response(self, reply: Reply, status: str, *, output: list[Any], usage: object) -> dict[str, Any]:
        return {
            "id": "resp_fake",
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "error": None,
            "model": reply.model,
            "output": output,
            "usage": usage,
        }

    def _figures(self, reply: Reply) -> dict[str, int]:
        total = reply.input_tokens + reply.output_tokens
        return {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens, "total_tokens": total}


class Gemini(Shape):
    """
    Google's Gemini, streams as server-sent events.
    """

    prompt = "contents"
    system = "systemInstruction"

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """
        Tell whether the request is for a stream: its path says so.
        """
        del body
        return path.endswith(":streamGenerateContent")

    def model(self, path: str, body: Mapping[str, Any]) -> object:
        """
        Return the model that the path names.
        """
        del body
        return path.rpartition("/")[2].partition(":")[0]

    def max_output(self, body: Mapping[str, Any]) -> int | None:
        """
        Return the most output tokens that *body* asks for.
        """
        most = (body.get("generationConfig") or {}).get("maxOutputTokens")
        return most if type(most) is int else None

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
        return self._chunk(reply, reply.text, reply.output_tokens, "STOP")

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the stream, event by event, the usage until then on each.
        """
        for number, word in enumerate(reply.words, 1):
            yield data(self._chunk(reply, word, number, None))
        for _ in range(max(reply.usages, 1)):
            yield data(self._chunk(reply, "", reply.output_tokens, "STOP"))

    def _chunk(self, reply: Reply, text: str, output: int, finish: str | None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = finish
        total = reply.input_tokens + output
        usage = {"promptTokenCount": reply.input_tokens, "candidatesTokenCount": output, "totalTokenCount": total}
        figures = {"usageMetadata": usage} if reply.usages else {}
        return {"candidates": [candidate], **figures, "modelVersion": reply.model, "responseId": "fake"}


class Interactions(Shape):
    """
    Google's interactions.
    """

    prompt = "input"
    system = "system_instruction"

    def max_output(self, body: Mapping[str, Any]) -> int | None:
        """
        Return the most output tokens that *body* asks for.
        """
        most = (body.get("generation_config") or {}).get("max_output_tokens")
        return most if type(most) is int else None

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
        step = {"type": "model_output", "content": [{"type": "text", "text": reply.text}]}
        return {**self._interaction(reply, "completed"), **self._figures(reply), "steps": [step]}

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the stream, event by event; usage that is sent twice comes with a second last event.
        """
        yield _told("interaction.created", interaction=self._interaction(reply, "in_progress"))
        yield _told("step.start", index=0, step={"type": "model_output"})
        for word in reply.words:
            yield _told("step.delta", index=0, delta={"type": "text", "text": word})
        yield _told("step.stop", index=0)
        for _ in range(max(reply.usages, 1)):
            ended = self._interaction(reply, "completed") | self._figures(reply)
            yield _told("interaction.completed", interaction=ended)

    def _interaction(self, reply: Reply, status: str) -> dict[str, Any]:
        return {"id": "fake", "object": "interaction", "status": status, "model": reply.model}

    def _figures(self, reply: Reply) -> dict[str, Any]:
        total = reply.input_tokens + reply.output_tokens
        usage = {
            "total_tokens": total,
            "total_input_tokens": reply.input_tokens,
            "total_output_tokens": reply.output_tokens,
        }
        return {"usage": usage} if reply.usages else {}


def _told(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + data({"event_type": kind, **fields})


class Ollama(Shape):
    """
    Ollama's own chat, a JSON object a line.
    """

    stream_type = "application/x-ndjson"

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """
        Tell whether the request is for a stream: it is, unless it says no.
        """
        del path
        return body.get("stream") is not False

    def max_output(self, body: Mapping[str, Any]) -> int | None:
        """
        Return the most output tokens that *body* asks for.
        """
        most = (body.get("options") or {}).get("num_predict")
        return most if type(most) is int and most >= 0 else None

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
        counts = {"prompt_eval_count": reply.input_tokens, "eval_count": reply.output_tokens}
        figures = {"total_duration": 1, **counts} if reply.usages else {}
        return self._line(reply, reply.text) | {"done_reason": "stop", "done": True} | figures

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the stream, line by line.
        """
        for word in reply.words:
            yield msgspec.json.encode(self._line(reply, word)) + b"\n"
        for _ in range(max(reply.usages, 1)):
            last = self.whole(reply) | {"message": {"role": "assistant", "content": ""}}
            yield msgspec.json.encode(last) + b"\n"

    def _line(self, reply: Reply, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"model": reply.model, "created_at": "2025-01-01T00:00:00Z", "message": message, "done": False}


class Converse(Shape):
    """
    Amazon Bedrock's Converse, whose streams are binary.
    """

    stream_type = "application/vnd.amazon.eventstream"

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """
        Tell whether the request is for a stream: its path says so.
        """
        del body
        return path.endswith("-stream")

    def max_output(self, body: Mapping[str, Any]) -> int | None:
        """
        Return the most output tokens that *body* asks for.
        """
        most = (body.get("inferenceConfig") or {}).get("maxTokens")
        return most if type(most) is int else None

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
        message = {"role": "assistant", "content": [{"text": reply.text}]}
        return {"output": {"message": message}, "stopReason": "end_turn", **self._end(reply)}

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the stream, message by message.
        """
        yield _frame("messageStart", {"role": "assistant"})
        for word in reply.words:
            yield _frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}})
        yield _frame("contentBlockStop", {"contentBlockIndex": 0})
        yield _frame("messageStop", {"stopReason": "end_turn"})
        for _ in range(max(reply.usages, 1)):
            yield _frame("metadata", self._end(reply))

    def error(self, status: int) -> dict[str, Any]:
        """
        Return the body of an error.
        """
        return {"message": f"The fake provider was told to answer {status}."}

    def _end(self, reply: Reply) -> dict[str, Any]:
        total = reply.input_tokens + reply.output_tokens
        usage = {"inputTokens": reply.input_tokens, "outputTokens": reply.output_tokens, "totalTokens": total}
        return {"metrics": {"latencyMs": 1}} | ({"usage": usage} if reply.usages else {})


def _frame(name: str, fields: Mapping[str, Any]) -> bytes:
    """
    Return one message of Amazon's event stream.
    """
    named = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for key, value in named.items()
    )
    payload = msgspec.json.encode(fields)
    lengths = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    message = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


class Cohere(Shape):
    """
    Cohere's chat, version 2.
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
        message = {"role": "assistant", "content": [{"type": "text", "text": reply.text}]}
        return {"id": "fake", "message": message, **self._end(reply)}

    def events(self, reply: Reply) -> Iterator[bytes]:
        """
        Return the stream, event by event; usage that is sent twice comes with a second end.
        """
        yield event("message-start", id="fake", delta={"message": {"role": "assistant", "content": []}})
        yield event("content-start", index=0, delta={"message": {"content": {"type": "text", "text": ""}}})
        for word in reply.words:
            yield event("content-delta", index=0, delta={"message": {"content": {"text": word}}})
        yield event("content-end", index=0)
        for _ in range(max(reply.usages, 1)):
            yield event("message-end", id="fake", delta=self._end(reply))

    def error(self, status: int) -> dict[str, Any]:
        """
        Return the body of an error.
        """
        return {"id": "fake", "message": f"The fake provider was told to answer {status}."}

    def _end(self, reply: Reply) -> dict[str, Any]:
        billed = {"input_tokens": float(reply.input_tokens), "output_tokens": float(reply.output_tokens)}
        usage = {"usage": {"billed_units": billed, "tokens": billed}} if reply.usages else {}
        return {"finish_reason": "COMPLETE", **usage}


FORMATS: Mapping[str, Shape] = {
    "/responses": Responses(),
    "/interactions": Interactions(),
    "/api/chat": Ollama(),
    "/v2/chat": Cohere(),
    "/converse": Converse(),
    "/converse-stream": Converse(),
    ":generateContent": Gemini(),
    ":streamGenerateContent": Gemini(),
}
"""End of a path -> the format that is spoken there."""
