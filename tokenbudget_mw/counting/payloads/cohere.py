"""
Bodies of Cohere's version 2, chat and embed, and of the chat of version 1.

How messages are framed is not published; the frames of OpenAI's chats are taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads import openai
from tokenbudget_mw.counting.payloads.fields import Request, Target
from tokenbudget_mw.counting.payloads.openai_tools import add_tools
from tokenbudget_mw.counting.payloads.parts import add_strings

if TYPE_CHECKING:
    from tokenbudget_mw.counting.meter import Meter

__all__ = ["REQUEST", "add_request", "target"]

MESSAGE_FRAME = (3, 8)
DOCUMENT_FRAME = (4, 12)


class CohereRequest(Request):
    """
    Body of ``POST /v2/chat`` and ``POST /v2/embed``; *message* and what follows it are of ``POST /v1/chat``.
    """

    messages: list[dict[str, Any]] = msgspec.field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    documents: list[Any] | None = None
    response_format: Any = None
    texts: list[str] | None = None
    images: list[Any] | None = None
    inputs: list[Any] | None = None
    message: Any = None
    chat_history: Any = None
    preamble: Any = None
    tool_results: Any = None


REQUEST = msgspec.json.Decoder(CohereRequest)


def target(path: str) -> Target:
    """
    Return what *path* is for: embeddings have no output.
    """
    return Target(has_output=not path.rstrip("/ \t\r\n").lower().endswith("/embed"))


def add_request(request: CohereRequest, meter: Meter) -> None:
    """
    Add a chat's messages, documents and tools, or what is to be embedded, to *meter*.
    """
    meter.guess(*MESSAGE_FRAME)
    for message in (*request.messages, *(request.inputs or ())):
        _add_message(message, meter)
    for text in (request.message, request.chat_history, request.preamble, request.tool_results):
        if text is not None:
            add_strings(meter, text)
    for document in request.documents or ():
        meter.step()
        meter.guess(*DOCUMENT_FRAME)
        add_strings(meter, document)
    for text in request.texts or ():
        meter.step()
        meter.text(text)
    for image in request.images or ():
        openai.add_content([{"type": "image_url", "image_url": image}], meter)
    if request.tools:
        add_tools([tool.get("function", tool) for tool in request.tools], meter)
    if isinstance(request.response_format, dict):
        openai.add_format(request.response_format, meter)


def _add_message(message: Any, meter: Meter) -> None:
    meter.step()
    meter.guess(*MESSAGE_FRAME)
    if not isinstance(message, dict):
        add_strings(meter, message)
        return
    if message.get("content") is not None:
        openai.add_content(message["content"], meter)
    for name in ("tool_plan", "tool_calls"):
        if message.get(name) is not None:
            add_strings(meter, message[name])
