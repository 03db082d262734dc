"""
Bodies of Amazon Bedrock's Converse; the path names the model.

Its texts are the models' own, whose frames are not published for this API.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads import media
from tokenbudget_mw.counting.payloads.fields import Request, Size, Target
from tokenbudget_mw.counting.payloads.parts import add_json, add_strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.meter import Meter

__all__ = ["CONVERSE", "HEAD", "add_converse", "target"]

MESSAGE_FRAME = (3, 8)
TOOLS_FRAME = (0, 530)

# a model may be an ARN, with slashes in it; the first one is where it begins, found once
ACTION = re.compile(r"(?>.*?/model/+)(.+?)/+converse(-stream)?[/\s]*$", re.IGNORECASE | re.DOTALL)


class Inference(msgspec.Struct):
    """
    ``inferenceConfig``.
    """

    maxTokens: Size | None = None  # noqa: N815 - the wire's own word


class ConverseHead(Request):
    """
    What a body says beside its prompt.
    """

    inferenceConfig: Inference | None = None  # noqa: N815 - the wire's own word
    additionalModelRequestFields: Any = None  # noqa: N815 - the wire's own word
    serviceTier: Any = None  # noqa: N815 - the wire's own word

    def __post_init__(self) -> None:
        if isinstance(self.serviceTier, dict):
            self.service_tier = self.serviceTier.get("type")

    def sizes(self) -> tuple[int | None, ...]:
        """
        Return the maximum.
        """
        return (None if self.inferenceConfig is None else self.inferenceConfig.maxTokens,)

    def answers(self) -> int:
        """
        Return 1: there is no other number.
        """
        return 1


class ConverseRequest(ConverseHead):
    """
    The whole body.
    """

    messages: list[dict[str, Any]] = msgspec.field(default_factory=list)
    system: list[Any] | None = None
    toolConfig: Any = None  # noqa: N815 - the wire's own word
    promptVariables: Any = None  # noqa: N815 - the wire's own word
    outputConfig: Any = None  # noqa: N815 - the wire's own word


HEAD = msgspec.json.Decoder(ConverseHead)
CONVERSE = msgspec.json.Decoder(ConverseRequest)


def target(path: str) -> Target:
    """
    Return what *path* is for.

    >>> target("/model/us.amazon.nova-pro-v1:0/converse-stream")
    Target(model='us.amazon.nova-pro-v1:0', stream=True, has_input=True, has_output=True)
    """
    found = ACTION.match(path)
    return Target() if found is None else Target(found[1], found[2] is not None)


def add_converse(request: ConverseRequest, meter: Meter) -> None:
    """
    Add a conversation's system prompt, messages and tools to *meter*.
    """
    meter.guess(*MESSAGE_FRAME)
    _add_content(request.system, meter)
    for message in request.messages:
        meter.guess(*MESSAGE_FRAME)
        _add_content(message.get("content"), meter)
    if isinstance(request.toolConfig, dict) and request.toolConfig.get("tools"):
        meter.guess(*TOOLS_FRAME)
        add_json(meter, request.toolConfig["tools"])
    if request.promptVariables is not None:
        add_strings(meter, request.promptVariables)
    _add_schema(request.outputConfig, meter)


def _add_schema(config: Any, meter: Meter) -> None:
    """
    Add the JSON schema that answers are to have, which is a text, with its name and description.
    """
    for name in ("textFormat", "structure", "jsonSchema"):
        config = config.get(name) if isinstance(config, dict) else None
    if isinstance(config, dict):
        meter.texts(text for text in config.values() if isinstance(text, str))


def _add_content(content: Any, meter: Meter) -> None:
    """
    Add content blocks, and those inside of the results of tools.
    """
    stack = [content]
    while stack:
        meter.step()
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            for name, value in item.items():
                stack.extend(BLOCKS.get(name, _add_other)(value, meter))
        elif item is not None:
            add_strings(meter, item)


# -- blocks: each adds itself and returns the contents that are left to add -------------------------------------------


def _add_text(value: Any, meter: Meter) -> list[Any]:
    if isinstance(value, str):
        meter.text(value)
        return []
    return [value]


def _add_image(value: Any, meter: Meter) -> list[Any]:
    source = value.get("source") if isinstance(value, dict) else None
    meter.guess(*media.anthropic_image(source.get("bytes") if isinstance(source, dict) else None))
    return []


def _add_document(value: Any, meter: Meter) -> list[Any]:
    source = value.get("source") if isinstance(value, dict) else None
    if isinstance(source, dict) and ("text" in source or "content" in source):
        return [source.get("text"), source.get("content")]
    meter.guess(*media.FILE_TOKENS)
    return []


def _add_video(_value: Any, meter: Meter) -> list[Any]:
    meter.guess(*media.VIDEO_TOKENS)
    return []


def _add_result(value: Any, meter: Meter) -> list[Any]:
    if isinstance(value, dict):
        return [value.get("content")]
    return _add_other(value, meter)


def _add_other(value: Any, meter: Meter) -> list[Any]:
    if value is not None:
        add_strings(meter, value)
    return []


def _add_nothing(_value: Any, _meter: Meter) -> list[Any]:
    return []


BLOCKS: dict[str, Callable[[Any, Meter], list[Any]]] = {
    "text": _add_text,
    "image": _add_image,
    "document": _add_document,
    "video": _add_video,
    "toolResult": _add_result,
    "guardContent": lambda value, _meter: [value],
    "cachePoint": _add_nothing,
}
"""What a block holds; of all others, every text counts."""
