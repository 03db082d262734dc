"""
Bodies of OpenAI's Responses API.

How the API frames them is not published; the frames of chats are taken. What a request refers to on OpenAI's side (an
earlier response, a conversation, a prompt template) is not in it and not counted: its tokens show in the usage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads import openai
from tokenbudget_mw.counting.payloads.fields import Request, Target
from tokenbudget_mw.counting.payloads.openai_tools import add_tools
from tokenbudget_mw.counting.payloads.parts import add_json, add_sealed, add_strings, is_own

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.meter import Meter

__all__ = ["RESPONSES", "add_responses", "target"]

CLIENT_TOOLS = ("function", "custom")


class ResponsesRequest(Request):
    """
    Body of ``POST /v1/responses``, and of ``POST /v1/decisions``, whose questions are asked about the input.
    """

    input: str | list[Any] | None = None
    instructions: str | list[Any] | None = None
    tools: list[Any] | None = None
    text: Any = None
    prompt: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    questions: Any = None


RESPONSES = msgspec.json.Decoder(ResponsesRequest)


def target(path: str) -> Target:
    """
    Return what *path* is for: counting tokens is free.
    """
    is_counting = path.rstrip("/ \t\r\n").lower().endswith("/input_tokens")
    return Target(has_input=not is_counting, has_output=not is_counting)


def add_responses(request: ResponsesRequest, meter: Meter) -> None:
    """
    Add a request's instructions, input and tools to *meter*.
    """
    meter.guess(*openai.UNPUBLISHED_FRAME)
    for field in (request.instructions, request.input):
        if isinstance(field, str):
            _add_message({"content": field}, meter)
        for item in field if isinstance(field, list) else ():
            _add_item(item, meter)
    meter.frame += openai.REPLY_PRIMING
    if request.previous_response_id is not None or request.conversation is not None or request.prompt is not None:
        meter.is_whole = False
    if request.tools:
        add_tools(request.tools, meter)
        meter.is_whole = meter.is_whole and is_own(request.tools, CLIENT_TOOLS)
    if request.questions is not None:
        add_json(meter, request.questions)
    if isinstance(request.text, dict) and "format" in request.text:
        add_json(meter, request.text["format"])
    if isinstance(request.prompt, dict) and "variables" in request.prompt:
        add_strings(meter, request.prompt["variables"])


def _add_reference(_item: dict[str, Any], meter: Meter) -> None:
    meter.is_whole = False


def _add_item(item: Any, meter: Meter) -> None:
    meter.step()
    if not isinstance(item, dict):
        add_strings(meter, item)
        return
    kind = item.get("type", "message")
    ITEMS.get(kind if isinstance(kind, str) else "", _add_unknown)(item, meter)


def _add_message(item: dict[str, Any], meter: Meter) -> None:
    meter.frame += openai.FRAME.message + 1  # and its role
    if item.get("content") is not None:
        openai.add_content(item["content"], meter)


def _add_call(item: dict[str, Any], meter: Meter) -> None:
    meter.guess(openai.TOOL_CALL, 2 * openai.TOOL_CALL)
    add_strings(meter, [item.get("name"), item.get("arguments"), item.get("input")])


def _add_output(item: dict[str, Any], meter: Meter) -> None:
    meter.frame += openai.FRAME.message
    if item.get("output") is not None:
        openai.add_content(item["output"], meter)


def _add_reasoning(item: dict[str, Any], meter: Meter) -> None:
    for field in ("summary", "content"):
        if item.get(field) is not None:
            add_strings(meter, item[field])
    add_sealed(meter, item.get("encrypted_content"))


def _add_unknown(item: dict[str, Any], meter: Meter) -> None:
    add_strings(meter, item)


ITEMS: dict[str, Callable[[dict[str, Any], Meter], None]] = {
    "message": _add_message,
    "function_call": _add_call,
    "custom_tool_call": _add_call,
    "function_call_output": _add_output,
    "custom_tool_call_output": _add_output,
    "computer_call_output": _add_output,
    "reasoning": _add_reasoning,
    "item_reference": _add_reference,
}
