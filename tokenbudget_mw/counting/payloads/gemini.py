"""
Bodies of Google's Gemini API: ``generateContent`` and ``streamGenerateContent``; the path names the model.

Media by Google's guide to tokens: an image of at most 384 pixels a side has 258 tokens, a larger one 258 a tile of 768
pixels; a second of video has 263, a second of audio 32. Names are read in both spellings, as Google's servers do.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads import media
from tokenbudget_mw.counting.payloads.fields import Choices, Request, Size, Target
from tokenbudget_mw.counting.payloads.parts import add_encoded, add_json, add_strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.meter import Meter

__all__ = ["CONTENT_FRAME", "GENERATE", "HEAD", "add_data", "add_generate", "target"]

CONTENT_FRAME = (1, 5)
IMAGE, TILE, SMALL = 258, 768, 384
IMAGE_MOST = 1_120
AUDIO, VIDEO = 32, 263
AUDIO_BYTES_A_SECOND = (16_000, 1_000)
VIDEO_BYTES_A_SECOND = (250_000, 12_500)
"""2 Mbit/s is usual, 100 kbit/s the least that anything can be seen at."""

FUNCTIONS = {"functionDeclarations", "function_declarations"}

ACTION = re.compile(r"/models/+([^/:]+):+(\w+)|/tunedmodels/+([^/:]+):+(\w+)", re.IGNORECASE)


class Config(msgspec.Struct):
    """
    ``generationConfig``.
    """

    max_output: Size | None = msgspec.field(default=None, name="maxOutputTokens")
    max_output_tokens: Size | None = None
    candidates: Choices | None = msgspec.field(default=None, name="candidateCount")
    candidate_count: Choices | None = None
    schema: Any = msgspec.field(default=None, name="responseSchema")
    json_schema: Any = msgspec.field(default=None, name="responseJsonSchema")
    response_schema: Any = None
    response_json_schema: Any = None


class GenerateHead(Request):
    """
    What a body says beside its prompt.
    """

    config: Config | None = msgspec.field(default=None, name="generationConfig")
    generation_config: Config | None = None
    serviceTier: Any = None  # noqa: N815 - the wire's own word

    def __post_init__(self) -> None:
        self.service_tier = self.serviceTier or self.service_tier

    def sizes(self) -> tuple[int | None, ...]:
        """
        Return the maxima of one answer.
        """
        return tuple(size for config in self.configs() for size in (config.max_output, config.max_output_tokens))

    def answers(self) -> int:
        """
        Return how many answers it asks for.
        """
        counts = (count for config in self.configs() for count in (config.candidates, config.candidate_count))
        return max((count or 1 for count in counts), default=1)

    def configs(self) -> tuple[Config, ...]:
        """
        Return the configurations, in either spelling.
        """
        return tuple(config for config in (self.config, self.generation_config) if config is not None)


class GenerateRequest(GenerateHead):
    """
    The whole body.
    """

    contents: Any = None
    content: Any = None
    requests: Any = None
    instances: Any = None
    system: Any = msgspec.field(default=None, name="systemInstruction")
    system_instruction: Any = None
    tools: Any = None
    cached: Any = msgspec.field(default=None, name="cachedContent")
    cached_content: Any = None


HEAD = msgspec.json.Decoder(GenerateHead)
GENERATE = msgspec.json.Decoder(GenerateRequest)


def target(path: str) -> Target:
    """
    Return what *path* is for. Counting tokens is free, embeddings have no output.

    >>> target("/v1beta/models/gemini-2.5-flash:streamGenerateContent")
    Target(model='gemini-2.5-flash', stream=True, has_input=True, has_output=True)
    """
    found = ACTION.search(path)
    if found is None:
        return Target()
    model, action = (found[1], found[2]) if found[1] else (found[3], found[4])
    action = action.lower()
    return Target(model, action.startswith("stream"), action != "counttokens", "generate" in action)


def add_generate(request: GenerateRequest, meter: Meter) -> None:
    """
    Add a request's contents, system instruction and tools to *meter*.
    """
    meter.approximate()
    asked = (request.contents, request.content, request.requests, request.instances)
    for content in (request.system, request.system_instruction, *asked):
        if content is not None:
            _add_contents(content, meter)
    if request.cached is not None or request.cached_content is not None:
        meter.is_whole = False
    if request.tools is not None:
        meter.is_whole = meter.is_whole and _is_functions(request.tools)
        add_json(meter, request.tools)
    for config in request.configs():
        for schema in (config.schema, config.json_schema, config.response_schema, config.response_json_schema):
            if schema is not None:
                add_json(meter, schema)


def _is_functions(tools: Any) -> bool:
    """
    Return whether *tools* are functions of the app's, so that Gemini finds nothing by itself.
    """
    return all(
        isinstance(tool, dict) and tool.keys() <= FUNCTIONS for tool in (tools if isinstance(tools, list) else [tools])
    )


def _add_contents(content: Any, meter: Meter) -> None:
    """
    Add contents: each an object with ``parts``, or a text; one or a list of them.
    """
    stack = [content]
    while stack:
        meter.step()
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict) and ("parts" in item or "content" in item):
            meter.guess(*CONTENT_FRAME)
            stack.extend(item[name] for name in ("parts", "content") if item.get(name) is not None)
        elif isinstance(item, dict):
            _add_part(item, meter)
        elif item is not None:
            add_strings(meter, item)


def _add_part(part: dict[str, Any], meter: Meter) -> None:
    for name, value in part.items():
        PARTS.get(name.replace("_", "").lower(), _add_other)(value, meter)


def _add_text(text: Any, meter: Meter) -> None:
    if isinstance(text, str):
        meter.text(text)
    elif text is not None:
        add_strings(meter, text)


def add_data(blob: Any, meter: Meter) -> None:
    """
    Add a file that is part of the request: an object with its base64 in ``data``, and its content type.
    """
    blob = blob if isinstance(blob, dict) else {}
    data = blob.get("data")
    kind = str(blob.get("mimeType") or blob.get("mime_type") or "")[:6]
    size = len(data) * 3 // 4 if isinstance(data, str) else 0
    if kind == "image/":
        meter.guess(*_image(data))
    elif kind == "audio/":
        meter.guess(*(AUDIO * math.ceil(size / rate) for rate in AUDIO_BYTES_A_SECOND))
    elif kind == "video/":
        meter.guess(*(VIDEO * math.ceil(size / rate) for rate in VIDEO_BYTES_A_SECOND))
    else:
        add_encoded(
            meter, str(blob.get("mimeType") or blob.get("mime_type") or ""), data if isinstance(data, str) else ""
        )


def _image(data: Any) -> tuple[int, int]:
    size = media.image_size(data) if isinstance(data, str) else None
    if size is None:
        return IMAGE, IMAGE_MOST
    tiles = 1 if max(size) <= SMALL else math.ceil(size[0] / TILE) * math.ceil(size[1] / TILE)
    return IMAGE * tiles, max(IMAGE * tiles, IMAGE_MOST)


def _add_file(_file: Any, meter: Meter) -> None:
    meter.guess(*media.FILE_TOKENS)


def _add_nothing(_value: Any, _meter: Meter) -> None:
    return


def _add_other(value: Any, meter: Meter) -> None:
    add_strings(meter, value)


PARTS: dict[str, Callable[[Any, Meter], None]] = {
    "text": _add_text,
    "inlinedata": add_data,
    "filedata": _add_file,
    "role": _add_nothing,
    "thought": _add_nothing,
    "thoughtsignature": _add_nothing,
    "videometadata": _add_nothing,
}
"""What a part holds, in one spelling; of functions and code, every text counts."""
