"""
Bodies of OpenAI's API: chat completions, completions, embeddings.

Messages and tools are counted by the rules of OpenAI's cookbook ("How to count tokens with tiktoken", MIT), which give
the API's own figures for its examples. What the cookbook has no rule for is an approximation, and the count says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads import media
from tokenbudget_mw.counting.payloads.fields import NO_TARGET, Request, Target
from tokenbudget_mw.counting.payloads.openai_tools import add_tools
from tokenbudget_mw.counting.payloads.parts import add_encoded, add_json, add_sealed, add_strings
from tokenbudget_mw.encoded import is_encoded
from tokenbudget_mw.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.meter import Meter

__all__ = [
    "CHAT",
    "COMPLETION",
    "EMBEDDING",
    "FRAME",
    "REPLY_PRIMING",
    "TOOL_CALL",
    "UNPUBLISHED_FRAME",
    "add_chat",
    "add_completion",
    "add_content",
    "add_embedding",
    "prompts_of",
    "target",
]


# -- chat -------------------------------------------------------------------------------------------------------------


class Message(msgspec.Struct, gc=False):
    """
    One message of a chat.
    """

    role: str = "user"
    content: Any = None
    name: str | None = None
    refusal: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None


class ChatRequest(Request):
    """
    Body of ``POST /v1/chat/completions``.
    """

    messages: list[Message] = msgspec.field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None
    response_format: Any = None
    prediction: Any = None
    documents: Any = None
    chat_template: Any = None
    chat_template_kwargs: Any = None


@dataclass(frozen=True, slots=True)
class Frame:
    """
    Tokens that stand around the texts of a chat.

    Attributes:
        message: Each message.

        name: Each name of a message's author.

        function: Each tool.
    """

    message: int = 3
    name: int = 1
    function: int = 7


REPLY_PRIMING = 3
FRAME = Frame()
FRAMES = {"gpt-4": Frame(function=10), "gpt-3.5": Frame(function=10)}
FIRST_CHAT_MODEL = ("gpt-3.5-turbo-0301", Frame(message=4, name=-1, function=10))

PUBLISHED = frozenset({"gpt-4o", "gpt-4", "gpt-3.5", "gpt-4.1"})
"""Families whose message frame is known; reasoning models differ from the rule by a token or two."""

UNPUBLISHED_FRAME = (0, 4)

DEPLOYMENT = re.compile(
    r"/deployments/([^/]+)/(?:chat/completions|completions|embeddings|images/\w+|audio/\w+)[/\s]*$", re.IGNORECASE
)
"""Where Azure's paths name the model."""

TOOL_CALL = 3


def target(path: str) -> Target:
    """
    Return what *path* is for: Azure's names a deployment, which runs whatever model the body names.

    >>> target("/openai/deployments/our-gpt/chat/completions").model
    'our-gpt'
    """
    found = DEPLOYMENT.search(path)
    return NO_TARGET if found is None else Target(found[1])


def add_chat(request: ChatRequest, meter: Meter) -> None:
    """
    Add a chat's messages, tools and response format to *meter*.
    """
    family = meter.family
    frame = FIRST_CHAT_MODEL[1] if family.name == FIRST_CHAT_MODEL[0] else FRAMES.get(family.family, FRAME)
    if family.family not in PUBLISHED:
        meter.guess(*UNPUBLISHED_FRAME)
    messages = request.messages
    meter.step(len(messages))
    meter.frame += frame.message * len(messages) + REPLY_PRIMING
    texts: list[str] = []
    for message in messages:
        texts.append(message.role)
        content = message.content
        if type(content) is str:
            texts.append(content)
        elif content is not None:
            add_content(content, meter)
        if not (
            message.name is None
            and message.tool_calls is None
            and message.tool_call_id is None
            and message.function_call is None
            and message.refusal is None
            and message.reasoning_content is None
            and message.reasoning is None
            and message.reasoning_details is None
        ):
            _add_rest(message, meter, frame)
    meter.texts(texts)
    if request.tools or request.functions:
        functions = [tool.get("function", tool) for tool in request.tools or ()] + (request.functions or [])
        add_tools(functions, meter, frame.function)
    if isinstance(request.response_format, dict):
        add_format(request.response_format, meter)
    for field in (request.prediction, request.documents, request.chat_template, request.chat_template_kwargs):
        if field is not None:
            add_strings(meter, field)


def _add_rest(message: Message, meter: Meter, frame: Frame) -> None:
    """
    Add what most messages have not.
    """
    if message.name is not None:
        meter.text(message.name)
        meter.frame += frame.name
    rest = (message.refusal, message.tool_call_id)
    for field in (*rest, message.reasoning_content, message.reasoning):
        if field is not None:
            add_strings(meter, field)
    details = message.reasoning_details
    for detail in details if isinstance(details, list) else (details,):
        _add_detail(detail, meter)
    if message.tool_calls is not None:
        _add_tool_calls(message.tool_calls, meter)
    if message.function_call is not None:
        _add_tool_calls([message.function_call], meter)


def _add_detail(detail: Any, meter: Meter) -> None:
    """
    Add a piece of reasoning as OpenRouter has it: text with its signature, or sealed data.
    """
    if isinstance(detail, dict):
        add_sealed(meter, detail.get("data"))
        detail = {name: value for name, value in detail.items() if name != "data" and not _is_signature(name, value)}
    if detail is not None:
        add_strings(meter, detail)


def _is_signature(name: str, value: Any) -> bool:
    return name == "signature" and isinstance(value, str) and is_encoded(value)


def add_format(response_format: dict[str, Any], meter: Meter) -> None:
    """
    Add the schema that answers are to have: OpenAI's, or one beside it.
    """
    if "json_schema" in response_format:
        add_json(meter, response_format["json_schema"])
    elif len(response_format) > 1:
        add_strings(meter, response_format)


def add_content(content: Any, meter: Meter) -> None:
    """
    Add a message's content: a text, or a list of texts and parts.
    """
    for part in content if isinstance(content, list) else (content,):
        meter.step()
        if isinstance(part, str):
            meter.text(part)
        elif isinstance(part, dict):
            kind = part.get("type")
            PARTS.get(kind if isinstance(kind, str) else "", _add_unknown)(part, meter)
        else:
            add_strings(meter, part)


def _add_text_part(part: dict[str, Any], meter: Meter) -> None:
    text = part.get("text")
    if isinstance(text, str):
        meter.text(text)
    else:
        add_strings(meter, part)


def _add_image_part(part: dict[str, Any], meter: Meter) -> None:
    image = part.get("image_url")
    inner = image if isinstance(image, dict) else {"url": image, "detail": part.get("detail")}
    meter.guess(*media.openai_image(meter.family.name, inner.get("url"), inner.get("detail")))


def _add_audio_part(part: dict[str, Any], meter: Meter) -> None:
    clip = part.get("input_audio")
    meter.guess(*media.audio(clip.get("data") if isinstance(clip, dict) else None))


def _add_file_part(part: dict[str, Any], meter: Meter) -> None:
    inner = part.get("file")
    data = (inner if isinstance(inner, dict) else part).get("file_data")
    kind, _, encoded = data.removeprefix("data:").partition(";base64,") if isinstance(data, str) else ("", "", "")
    add_encoded(meter, kind, encoded)


def _add_video_part(_part: dict[str, Any], meter: Meter) -> None:
    meter.guess(*media.VIDEO_TOKENS)


def _add_unknown(part: dict[str, Any], meter: Meter) -> None:
    add_strings(meter, part)


PARTS: dict[str, Callable[[dict[str, Any], Meter], None]] = {
    "text": _add_text_part,
    "input_text": _add_text_part,
    "output_text": _add_text_part,
    "image_url": _add_image_part,
    "input_image": _add_image_part,
    "computer_screenshot": _add_image_part,
    "input_audio": _add_audio_part,
    "file": _add_file_part,
    "input_file": _add_file_part,
    "audio_url": _add_file_part,
    "document_url": _add_file_part,
    "video_url": _add_video_part,
    "input_video": _add_video_part,
}


def _add_tool_calls(calls: Any, meter: Meter) -> None:
    for call in calls if isinstance(calls, list) else (calls,):
        meter.step()
        meter.guess(TOOL_CALL, 2 * TOOL_CALL)
        function = call.get("function", call) if isinstance(call, dict) else call
        add_strings(meter, function)


# -- completions and embeddings ---------------------------------------------------------------------------------------


class CompletionRequest(Request):
    """
    Body of ``POST /v1/completions``.
    """

    prompt: str | list[Any] | None = None
    suffix: str | None = None


class EmbeddingRequest(Request):
    """
    Body of ``POST /v1/embeddings``.
    """

    input: str | list[Any] | None = None


def add_completion(request: CompletionRequest, meter: Meter) -> None:
    """
    Add a completion's prompts to *meter*; none stands for one token that ends a text.
    """
    if request.prompt is None:
        meter.frame += 1
    else:
        _add_input(request.prompt, meter, "prompt")
    if request.suffix:
        meter.text(request.suffix)
        meter.approximate()


def add_embedding(request: EmbeddingRequest, meter: Meter) -> None:
    """
    Add an embedding's inputs to *meter*.
    """
    if request.input is not None:
        _add_input(request.input, meter, "input")


def prompts_of(request: CompletionRequest) -> int:
    """
    Return how many prompts the request has, each of which is answered.
    """
    prompt = request.prompt
    return max(1, len(prompt)) if isinstance(prompt, list) and not _is_tokens(prompt) else 1


def _add_input(value: str | list[Any], meter: Meter, param: str) -> None:
    """
    Add a text, tokens, or a list of either.
    """
    if isinstance(value, str):
        meter.text(value)
        return
    if _is_tokens(value):
        meter.frame += len(value)
        return
    texts = [item for item in value if isinstance(item, str)]
    arrays = [item for item in value if isinstance(item, list)]
    tokens = list(chain.from_iterable(arrays))
    if len(texts) + len(arrays) < len(value) or not all(arrays) or (arrays and not _is_tokens(tokens)):
        raise PayloadError(f"The body's `{param}` must be a string, tokens, or an array of either.", param=param)
    meter.step(len(value))
    meter.texts(texts)
    meter.frame += len(tokens)


def _is_tokens(value: list[Any]) -> bool:
    return set(map(type, value)) == {int}


def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


CHAT = _decoder(ChatRequest)
COMPLETION = _decoder(CompletionRequest)
EMBEDDING = _decoder(EmbeddingRequest)
