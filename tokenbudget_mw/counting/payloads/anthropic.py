"""
Bodies of Anthropic's API: messages.

Its tokenizer is not public; texts are counted with o200k and the family's factor. Frames are what the documentation's
examples of token counting leave after their texts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads import media
from tokenbudget_mw.counting.payloads.fields import Request, Target
from tokenbudget_mw.counting.payloads.parts import add_json, add_sealed, add_strings, is_own

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.meter import Meter

__all__ = ["MESSAGES", "add_messages", "target"]

PROMPT_FRAME = (3, 8)
MESSAGE_FRAME = (3, 5)
SYSTEM_FRAME = (0, 4)
BLOCK_FRAME = (2, 8)
TOOLS_FRAME = (346, 530)
"""The system prompt that tools bring along, by Anthropic's table: 159 to 530 tokens, 346 for current models."""

CLIENT_TOOLS = (None, "custom")

# a model may be an ARN, with slashes and colons in it; the first one is where it begins, found once
ACTION = re.compile(
    r"(?>.*?/models?/+)(.+?)(?:(?<!:):+(stream)?rawpredict|(?<!/)/+invoke(-with-response-stream)?)[/\s]*$",
    re.IGNORECASE | re.DOTALL,
)
COUNTING = ("count_tokens", "count-tokens:rawpredict")


class Message(msgspec.Struct):
    """
    One message of a conversation.
    """

    role: str = "user"
    content: Any = None


class MessagesRequest(Request):
    """
    Body of ``POST /v1/messages``.
    """

    messages: list[Message] = msgspec.field(default_factory=list)
    system: str | list[Any] | None = None
    tools: list[Any] | None = None
    output_format: Any = None
    output_config: Any = None
    mcp_servers: Any = None
    context_management: Any = None
    container: Any = None
    thread: Any = None


MESSAGES = msgspec.json.Decoder(MessagesRequest)


def target(path: str) -> Target:
    """
    Return what *path* is for: Bedrock's and Vertex AI's names the model. Counting tokens is free.

    >>> target("/model/anthropic.claude-sonnet-4-5-20250929-v1:0/invoke-with-response-stream")
    Target(model='anthropic.claude-sonnet-4-5-20250929-v1:0', stream=True, has_input=True, has_output=True)
    """
    if path.rstrip("/ \t\r\n").rpartition("/")[2].lower() in COUNTING:
        return Target(has_input=False, has_output=False)
    found = ACTION.match(path)
    return Target() if found is None else Target(found[1], (found[2] or found[3]) is not None)


def add_messages(request: MessagesRequest, meter: Meter) -> None:
    """
    Add a conversation's system prompt, messages and tools to *meter*.
    """
    meter.guess(*PROMPT_FRAME)
    if request.system is not None:
        meter.guess(*SYSTEM_FRAME)
        add_content(request.system, meter)
    for message in request.messages:
        meter.guess(*MESSAGE_FRAME)
        add_content(message.content, meter)
    for schema in (request.output_format, request.output_config):
        if isinstance(schema, dict):
            add_strings(meter, schema)
    if request.mcp_servers or request.context_management or request.container or request.thread:
        meter.is_whole = False
    if request.tools:
        meter.is_whole = meter.is_whole and is_own(request.tools, CLIENT_TOOLS)
        meter.guess(*TOOLS_FRAME)
        for tool in request.tools:
            meter.step()
            add_json(meter, tool)


def add_content(content: Any, meter: Meter) -> None:
    """
    Add a text, or a list of content blocks and of what they contain.
    """
    stack = [content]
    while stack:
        meter.step()
        item = stack.pop()
        if isinstance(item, str):
            meter.text(item)
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            kind = item.get("type")
            stack.extend(BLOCKS.get(kind if isinstance(kind, str) else "", _add_unknown)(item, meter))
        elif item is not None:
            add_strings(meter, item)


# -- blocks: each adds itself and returns the contents that are left to add -------------------------------------------


def _add_text(block: dict[str, Any], _meter: Meter) -> list[Any]:
    return [block.get("text")]


def _add_thinking(block: dict[str, Any], meter: Meter) -> list[Any]:
    if not block.get("thinking"):
        add_sealed(meter, block.get("signature"))  # it is left out, and the model reads what is sealed
    return [block.get("thinking")]


def _add_redacted(block: dict[str, Any], meter: Meter) -> list[Any]:
    add_sealed(meter, block.get("data"))
    return []


def _add_image(block: dict[str, Any], meter: Meter) -> list[Any]:
    source = block.get("source")
    meter.guess(*media.anthropic_image(source.get("data") if isinstance(source, dict) else None))
    return []


def _add_document(block: dict[str, Any], meter: Meter) -> list[Any]:
    labels = [block.get("title"), block.get("context")]
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if isinstance(source, dict) and kind == "text":
        return [*labels, source.get("data")]
    if isinstance(source, dict) and kind == "content":
        return [*labels, source.get("content")]
    meter.guess(*media.FILE_TOKENS)
    return labels


def _add_tool_use(block: dict[str, Any], meter: Meter) -> list[Any]:
    meter.guess(*BLOCK_FRAME)
    add_json(meter, block.get("input"))
    return [block.get("name")]


def _add_tool_result(block: dict[str, Any], meter: Meter) -> list[Any]:
    meter.guess(*BLOCK_FRAME)
    return [block.get("content")]


def _add_unknown(block: dict[str, Any], meter: Meter) -> list[Any]:
    add_strings(meter, block)
    return []


BLOCKS: dict[str, Callable[[dict[str, Any], Meter], list[Any]]] = {
    "text": _add_text,
    "thinking": _add_thinking,
    "redacted_thinking": _add_redacted,
    "image": _add_image,
    "document": _add_document,
    "tool_use": _add_tool_use,
    "tool_result": _add_tool_result,
}
