"""
Bodies of Google's interactions.

What a request refers to on Google's side (an earlier interaction, a cache, what an agent does by itself) is not in it and not
counted: its tokens show in the usage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from tokenbudget_mw.counting.payloads.fields import MAX_MODEL, Request, Size
from tokenbudget_mw.counting.payloads.gemini import CONTENT_FRAME, add_data
from tokenbudget_mw.counting.payloads.media import FILE_TOKENS
from tokenbudget_mw.counting.payloads.parts import add_json, add_strings, is_own

if TYPE_CHECKING:
    from tokenbudget_mw.counting.meter import Meter

__all__ = ["HEAD", "INTERACTION", "add_interaction"]

MEDIA = ("image", "audio", "video", "document")
INNER = ("content", "summary", "result")
"""Fields of a step, a turn or a content that hold further contents."""

UNSEEN = (*INNER, "type", "role", "signature")
"""Fields of those that are no text that the model reads."""


class Config(msgspec.Struct):
    """
    ``generation_config``.
    """

    max_output_tokens: Size | None = None


class InteractionHead(Request):
    """
    What a body says beside its prompt.
    """

    agent: Annotated[str, msgspec.Meta(max_length=MAX_MODEL)] | None = None
    generation_config: Config | None = None

    def __post_init__(self) -> None:
        self.model = self.model or self.agent

    def sizes(self) -> tuple[int | None, ...]:
        """
        Return the maxima of one answer.
        """
        return (None if self.generation_config is None else self.generation_config.max_output_tokens,)

    def answers(self) -> int:
        """
        Return 1: there is one answer.
        """
        return 1


class InteractionRequest(InteractionHead):
    """
    The whole body.
    """

    input: Any = None
    system_instruction: Any = None
    tools: list[Any] | None = None
    response_format: Any = None
    previous_interaction_id: Any = None
    cached_content: Any = None


HEAD = msgspec.json.Decoder(InteractionHead)
INTERACTION = msgspec.json.Decoder(InteractionRequest)


def add_interaction(request: InteractionRequest, meter: Meter) -> None:
    """
    Add a request's input, system instruction and tools to *meter*.
    """
    meter.approximate()
    for content in (request.system_instruction, request.input):
        if content is not None:
            _add_contents(content, meter)
    if any(each is not None for each in (request.agent, request.previous_interaction_id, request.cached_content)):
        meter.is_whole = False
    if request.tools:
        meter.is_whole = meter.is_whole and is_own(request.tools, ("function",))
        add_json(meter, request.tools)
    if request.response_format is not None:
        add_json(meter, request.response_format)


def _add_contents(content: Any, meter: Meter) -> None:
    """
    Add contents: each a text, a content, or a step or turn that holds contents; one or a list of them.
    """
    stack = [content]
    while stack:
        meter.step()
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict) and item.get("type") in MEDIA:
            _add_media(item, meter)
        elif isinstance(item, dict):
            if "type" not in item or any(name in item for name in INNER):
                meter.guess(*CONTENT_FRAME)
            add_strings(meter, [value for name, value in item.items() if name not in UNSEEN])
            stack.extend(item[name] for name in INNER if item.get(name) is not None)
        elif item is not None:
            add_strings(meter, item)


def _add_media(item: dict[str, Any], meter: Meter) -> None:
    if item.get("data") is None:
        meter.guess(*FILE_TOKENS)
    else:
        add_data(item, meter)
