"""
Answers of every provider family as they go over the wire: streamed and whole, with the usage that they mean.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, replace

from tokenbudget_mw.values import Usage

__all__ = ["RECORDINGS", "Recording", "frame", "sse"]


@dataclass(frozen=True)
class Recording:
    """
    One answer.

    Attributes:
        format: Its wire format.

        events: Its stream, event by event, framed.

        usage: What it used.

        words: Words of its output text, in the stream and in the body.

        body: The same answer as a body.

        type: Content type of the stream.

        head, tail: What stands around the events.

        cut: Output of the stream without its last figures, if earlier ones say more than its text.

        framing: How the stream is framed, where a format has several ways.

        counted: Source of its usage without figures: ``none`` where it has no text to count.
    """

    format: str
    events: tuple[bytes, ...]
    usage: Usage
    words: int
    body: dict
    type: str = "text/event-stream"
    head: bytes = b""
    tail: bytes = b""
    cut: int = 0
    framing: str = ""
    counted: str = "counted"

    @property
    def stream(self) -> bytes:
        """The whole stream."""
        return self.head + b"".join(self.events) + self.tail


def sse(event: dict) -> bytes:
    """One server-sent event, with its name if it has one."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def openai_responses() -> Recording:
    """Reasoning, text that speaks of usage, a tool call; each text comes twice, piecewise and whole."""
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 8},
        "output_tokens": 30,
        "output_tokens_details": {"reasoning_tokens": 20},
        "total_tokens": 130,
    }
    text = 'one "usage": {"input_tokens": 1, "output_tokens": 1} two'
    output = [
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "let me think "}]},
        {"type": "message", "id": "msg", "content": [{"type": "output_text", "text": text, "annotations": []}]},
        {"type": "function_call", "id": "fc", "name": " find ", "arguments": '{"q": 1}', "call_id": "call"},
    ]
    head = {"id": "resp", "object": "response", "error": None, "instructions": "be brief", "model": "gpt-5-2025-08-07"}
    begun = {**head, "status": "in_progress", "output": [], "usage": None, "service_tier": "auto", "metadata": {}}
    body = {**begun, "status": "completed", "output": output, "usage": usage, "service_tier": "default"}
    place = {"item_id": "x", "output_index": 0}
    pieces = [
        ("response.output_item.added", {"item": {"type": "reasoning", "id": "rs", "summary": []}}),
        ("response.reasoning_summary_text.delta", {"delta": "let me ", "obfuscation": "a b c"}),
        ("response.reasoning_summary_text.delta", {"delta": "think "}),
        ("response.reasoning_summary_text.done", {"text": "let me think "}),
        ("response.output_item.done", {"item": output[0]}),
        ("response.content_part.added", {"part": {"type": "output_text", "text": ""}}),
        *(("response.output_text.delta", {"delta": f"{word} ", "logprobs": []}) for word in text.split(" ")),
        ("response.output_text.done", {"text": text}),
        ("response.output_item.added", {"item": {"type": "function_call", "name": " find ", "arguments": ""}}),
        ("response.function_call_arguments.delta", {"delta": '{"q": '}),
        ("response.function_call_arguments.delta", {"delta": "1}"}),
        ("response.function_call_arguments.done", {"arguments": '{"q": 1}'}),
        ("response.output_item.done", {"item": output[2]}),
    ]
    events = [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]
    events += [{"type": kind, **place, **more} for kind, more in pieces]
    events += [{"type": "response.completed", "response": body}]
    return Recording(
        "openai.responses",
        tuple(sse({**event, "sequence_number": number}) for number, event in enumerate(events)),
        Usage(100, 30, 64, 8, 0, 20, "gpt-5-2025-08-07", "openai", "default"),
        words=len(["let", "me", "think", *text.split(), "find", '{"q":', "1}"]),
        body=body,
    )


def gemini() -> Recording:
    """Thoughts, text that speaks of usage, a function call; usage on every chunk, and no mark at the end."""
    texts = ['one "usageMetadata": {"promptTokenCount": 1, ', '"candidatesTokenCount": 1} two ']
    parts: list[dict] = [
        {"text": "let me think ", "thought": True},
        *({"text": text} for text in texts),
        {"functionCall": {"name": "find ", "args": {"q": 1}}},
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
    ]

    def chunk(parts: list[dict], answer: int | None, finish: str | None = None) -> dict:
        candidate = {"content": {"parts": parts, "role": "model"}, "index": 0}
        usage = {
            "promptTokenCount": 90,
            "toolUsePromptTokenCount": 10,
            "cachedContentTokenCount": 50,
            "thoughtsTokenCount": 13,
            "totalTokenCount": 113 + (answer or 0),
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}],
            **({} if answer is None else {"candidatesTokenCount": answer}),
        }
        ended = {} if finish is None else {"finishReason": finish}
        return {"candidates": [candidate | ended], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}

    answers = [None, 1, 2, 3, 4]
    chunks = [chunk([part], answer) for part, answer in zip(parts, answers, strict=True)]
    chunks.append(chunk([{"text": ""}], 7, "STOP"))
    words = " ".join(["let me think", *texts, 'find {"q": 1}']).split()
    usage = Usage(100, 20, 50, 0, 0, 13, "gemini-2.5-flash", "google")
    body = chunk(parts, 7, "STOP")
    return Recording("gemini", tuple(sse(each) for each in chunks), usage, len(words), body, cut=17)


def gemini_interactions() -> Recording:
    """A thought, text that speaks of figures, a call of a function; figures on the way, the last ones at the end."""
    texts = ["one ", '"usage": {"total_input_tokens": 1} ', "two "]
    figures = {
        "total_tokens": 120,
        "total_input_tokens": 90,
        "total_tool_use_tokens": 10,
        "total_cached_tokens": 50,
        "total_thought_tokens": 13,
    }
    head = {"id": "v1_fake", "object": "interaction", "model": "gemini-3.5-flash", "service_tier": "flex"}
    usage = {**figures, "total_output_tokens": 7}
    call = {"type": "function_call", "id": "f1", "name": "find "}

    def told(kind: str, **fields: object) -> bytes:
        return f"event: {kind}\n".encode() + sse({"event_type": kind, **fields})

    def delta(index: int, **fields: object) -> bytes:
        return told("step.delta", index=index, delta=fields, metadata={"total_usage": figures})

    events = [
        told("interaction.created", interaction=head | {"status": "in_progress"}),
        told("step.start", index=0, step={"type": "thought"}),
        delta(0, type="thought_summary", content={"type": "text", "text": "let me think "}),
        told("step.stop", index=0),
        told("step.start", index=1, step={"type": "model_output"}),
        *(delta(1, type="text", text=text) for text in texts),
        told("step.start", index=2, step=call),
        delta(2, type="arguments_delta", arguments='{"q": 1}'),
        told("step.stop", index=2),
        told("interaction.completed", interaction=head | {"status": "requires_action", "usage": usage}),
    ]
    steps = [
        {"type": "thought", "summary": [{"type": "text", "text": "let me think "}]},
        {"type": "model_output", "content": [{"type": "text", "text": text} for text in texts]},
        {**call, "arguments": {"q": 1}},
    ]
    body = head | {"status": "requires_action", "usage": usage, "steps": steps}
    words = " ".join(["let me think", *texts, 'find {"q": 1}']).split()
    found = Usage(100, 20, 50, 0, 0, 13, "gemini-3.5-flash", "google", "flex")
    return Recording("gemini.interactions", tuple(events), found, len(words), body, cut=13)


def gemini_array() -> Recording:
    """The same as a JSON array that comes piecewise, as without ``alt=sse``."""
    plain = gemini()
    chunks = [json.dumps(json.loads(event.partition(b"data: ")[2]), indent=2).encode() for event in plain.events]
    events = tuple((b",\r\n" if number else b"") + chunk for number, chunk in enumerate(chunks))
    return replace(plain, events=events, type="application/json", head=b"[", tail=b"\n]\n", framing="array")


def ollama() -> Recording:
    """Thinking, text that speaks of figures, a call of a tool; the figures stand on the last line."""
    texts = ["one ", '"prompt_eval_count": 1, ', '"eval_count": 1} ', "two "]
    calls = [{"function": {"name": "find ", "arguments": {"q": 1}}}]
    head = {"model": "qwen3:8b", "created_at": "2025-01-01T00:00:00Z"}
    messages = [{"thinking": "let me "}, {"thinking": "think "}, *({"content": text} for text in texts)]
    messages += [{"content": "", "tool_calls": calls}]
    figures = {"total_duration": 9, "load_duration": 1, "prompt_eval_count": 26, "prompt_eval_duration": 3}
    ended = {"done_reason": "stop", "done": True, **figures, "eval_count": 30, "eval_duration": 5}
    lines = [{**head, "message": {"role": "assistant", **message}, "done": False} for message in messages]
    lines.append({**head, "message": {"role": "assistant", "content": ""}, **ended})
    whole = {"role": "assistant", "content": "".join(texts), "thinking": "let me think ", "tool_calls": calls}
    events = tuple(json.dumps(line).encode() + b"\n" for line in lines)
    words = "".join(["let me think ", *texts, 'find {"q": 1}']).split()
    usage = Usage(26, 30, model="qwen3:8b", provider="ollama")
    return Recording("ollama", events, usage, len(words), {**head, "message": whole, **ended}, "application/x-ndjson")


def frame(name: str, payload: object, kind: str = "event") -> bytes:
    """One message of Amazon's event stream."""
    values = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for key, value in values.items()
    )
    data = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(data), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + data
    return message + struct.pack(">I", zlib.crc32(message))


def bedrock() -> Recording:
    """Reasoning, text that speaks of usage, a tool; the usage comes behind the stop, the cache outside its input."""
    usage = {
        "inputTokens": 10,
        "outputTokens": 30,
        "totalTokens": 130,
        "cacheReadInputTokens": 70,
        "cacheWriteInputTokens": 20,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 15}, {"ttl": "5m", "inputTokens": 5}],
    }
    texts = ["one ", '{"usage": {"inputTokens": 1, ', '"outputTokens": 1}} ', "two "]
    tool = {"toolUseId": "t", "name": "find "}
    events = [("messageStart", {"role": "assistant", "p": "abcd"})]
    events += [
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": text}}, "p": "ab"})
        for text in ("let me ", "think ")
    ]
    events += [("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "a b c"}}})]
    events += [("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": text}, "p": "abc"}) for text in texts]
    events += [("contentBlockStop", {"contentBlockIndex": 1})]
    events += [("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": tool}})]
    events += [
        ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": piece}}})
        for piece in ('{"q": ', "1}")
    ]
    events += [("messageStop", {"stopReason": "tool_use"})]
    last = {"usage": usage, "metrics": {"latencyMs": 9}, "serviceTier": {"type": "flex"}}
    events += [("metadata", last)]
    blocks = [
        {"reasoningContent": {"reasoningText": {"text": "let me think ", "signature": "a b c"}}},
        {"text": "".join(texts)},
        {"toolUse": {**tool, "input": {"q": 1}}},
    ]
    body = {"output": {"message": {"role": "assistant", "content": blocks}}, "stopReason": "tool_use", **last}
    words = "".join(["let me think ", *texts, 'find {"q": 1}']).split()
    return Recording(
        "bedrock.converse",
        tuple(frame(name, payload) for name, payload in events),
        Usage(100, 30, 70, 20, 15, 0, None, "aws", "flex"),
        len(words),
        body,
        "application/vnd.amazon.eventstream",
    )


def cohere() -> Recording:
    """A plan, a tool, thinking and text that speaks of usage; what is billed differs from the tokens."""
    usage = {
        "billed_units": {"input_tokens": 9.0, "output_tokens": 30.0},
        "tokens": {"input_tokens": 99.0, "output_tokens": 40.0},
        "cached_tokens": 2.0,
    }
    texts = ["one ", '{"usage": {"billed_units": ', '{"input_tokens": 1}}} ', "two "]
    call = {"id": "c", "type": "function", "function": {"name": "find ", "arguments": ""}}
    messages: list[tuple[str, dict]] = [("message-start", {"role": "assistant", "content": [], "tool_calls": []})]
    messages += [("tool-plan-delta", {"tool_plan": text}) for text in ("I will ", "look ")]
    messages += [("tool-call-start", {"tool_calls": call})]
    messages += [("tool-call-delta", {"tool_calls": {"function": {"arguments": piece}}}) for piece in ('{"q": ', "1} ")]
    messages += [("content-start", {"content": {"type": "text", "text": ""}})]
    messages += [("content-delta", {"content": {"thinking": "let me think "}})]
    messages += [("content-delta", {"content": {"text": text}}) for text in texts]
    messages += [("citation-start", {"citations": {"start": 0, "end": 3, "text": "one", "sources": []}})]
    events = [{"type": kind, "index": 0, "delta": {"message": message}} for kind, message in messages]
    events += [{"type": "content-end", "index": 0}, {"type": "tool-call-end", "index": 0}]
    events += [{"type": "message-end", "id": "c", "delta": {"finish_reason": "COMPLETE", "usage": usage}}]
    whole = {
        "role": "assistant",
        "tool_plan": "I will look ",
        "tool_calls": [{**call, "function": {"name": "find ", "arguments": '{"q": 1} '}}],
        "content": [{"type": "thinking", "thinking": "let me think "}, {"type": "text", "text": "".join(texts)}],
    }
    body = {"id": "c", "finish_reason": "COMPLETE", "message": whole, "usage": usage}
    words = "".join(["I will look ", 'find {"q": 1} ', "let me think ", *texts]).split()
    usage_meant = Usage(9, 30, cache_read_tokens=2, provider="cohere")
    return Recording("cohere", tuple(sse(event) for event in events), usage_meant, len(words), body)


def completions() -> Recording:
    """Two prompts answered in turns; the usage comes behind both, without choices."""
    usage = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
    usage |= {"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": 2}}
    head = {"id": "cmpl", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct"}
    texts = ["one ", '"usage": {"prompt_tokens": 1, ', '"completion_tokens": 1} ', "two "]

    def chunk(index: int, text: str, finish: str | None = None) -> dict:
        return {**head, "choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": finish}]}

    chunks = [{**chunk(at % 2, text), "usage": None} for at, text in enumerate(texts)]
    chunks += [chunk(0, "", "stop"), chunk(1, "", "length"), {**head, "choices": [], "usage": usage}]
    ends = {0: "stop", 1: "length"}
    choices = [
        {"index": at, "text": "".join(texts[at::2]), "logprobs": None, "finish_reason": end} for at, end in ends.items()
    ]
    return Recording(
        "openai.completions",
        (*map(sse, chunks), b"data: [DONE]\n\n"),
        Usage(12, 9, reasoning_tokens=2, model="gpt-3.5-turbo-instruct", provider="openai"),
        len("".join(texts).split()),
        {**head, "choices": choices, "usage": usage},
    )


def images() -> Recording:
    """Partial pictures, then the whole one with the usage behind it; no model, no text."""
    usage = {"total_tokens": 1556, "input_tokens": 500, "output_tokens": 1056}
    usage |= {"input_tokens_details": {"text_tokens": 12, "image_tokens": 488}}
    head = {"created_at": 1, "size": "1024x1024", "quality": "medium", "background": "opaque", "output_format": "png"}
    picture = {"b64_json": "iVBORw0KGgoAAAANSUhEUg=="}
    events = [
        {"type": "image_generation.partial_image", **picture, **head, "partial_image_index": number}
        for number in range(5)
    ]
    events += [{"type": "image_generation.completed", **picture, **head, "usage": usage}]
    body = {"created": 1, "data": [picture], **head, "usage": usage}
    meant = Usage(500, 1056, provider="openai")
    return Recording("openai.images", tuple(sse(event) for event in events), meant, 0, body, counted="none")


def transcript() -> Recording:
    """A transcript in pieces, then whole, with the usage; the detail's name lacks an s."""
    text = 'one "usage": {"input_tokens": 1, "output_tokens": 1} two'
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    usage |= {"input_token_details": {"text_tokens": 4, "audio_tokens": 10}}
    events = [{"type": "transcript.text.delta", "delta": f"{word} ", "logprobs": []} for word in text.split(" ")]
    events += [{"type": "transcript.text.done", "text": text, "usage": usage}]
    meant = Usage(14, 45, provider="openai", audio_input_tokens=10)
    body = {"text": text, "usage": usage}
    return Recording("openai.audio", tuple(map(sse, events)), meant, len(text.split()), body, framing="transcript")


def speech() -> Recording:
    """Speech in base64, and the usage at its end; as a body it is audio, which nothing reads."""
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    events = [{"type": "speech.audio.delta", "audio": "UklGRiQAAABXQVZF"}] * 5
    events += [{"type": "speech.audio.done", "usage": usage}]
    meant = Usage(14, 101, provider="openai")
    return Recording(
        "openai.audio",
        tuple(map(sse, events)),
        meant,
        0,
        {"text": "", "usage": usage},
        framing="speech",
        counted="none",
    )


_ALL = (
    completions(),
    openai_responses(),
    gemini(),
    gemini_interactions(),
    gemini_array(),
    ollama(),
    bedrock(),
    cohere(),
    images(),
    transcript(),
    speech(),
)

RECORDINGS = {f"{each.format} {each.framing}".strip(): each for each in _ALL}
"""Format, and framing where there are several -> an answer in it."""
