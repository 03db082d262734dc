"""
Bodies of Ollama's own API: ``/api/chat``, ``/api/generate``, ``/api/embed``.

Each model brings its template, whose tokens are not known here. What the server cuts off a prompt that is longer than its
context is counted nevertheless: it shows in the usage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads import openai
from tokenbudget_mw.counting.payloads.fields import MAX_OUTPUT, Request, Target
from tokenbudget_mw.counting.payloads.openai_tools import add_tools
from tokenbudget_mw.counting.payloads.parts import add_json, add_strings

if TYPE_CHECKING:
    from tokenbudget_mw.counting.meter import Meter

__all__ = ["HEAD", "REQUEST", "add_request", "target"]

TEMPLATE_FRAME = (4, 12)
IMAGE = (600, 3_000)
"""256 to some 3,000 tokens, by model and size."""


class RequestHead(Request):
    """
    What a body says beside its prompt.
    """

    options: Any = None

    def sizes(self) -> tuple[int | None, ...]:
        """
        Return the maximum; a negative one is none.
        """
        most = self.options.get("num_predict") if isinstance(self.options, dict) else None
        return (most if type(most) is int and 0 <= most <= MAX_OUTPUT else None,)

    def answers(self) -> int:
        """
        Return 1: there is no other number.
        """
        return 1

    @property
    def is_stream(self) -> bool:
        """
        Whether it asks for a stream: it does, unless it says no.
        """
        return self.stream is not False


class OllamaRequest(RequestHead):
    """
    The whole body.
    """

    messages: list[dict[str, Any]] = msgspec.field(default_factory=list)
    prompt: str | None = None
    suffix: str | None = None
    template: str | None = None
    system: str | None = None
    input: str | list[str] | None = None
    context: list[int] | None = None
    images: list[Any] | None = None
    tools: list[dict[str, Any]] | None = None
    format: Any = None


HEAD = msgspec.json.Decoder(RequestHead)
REQUEST = msgspec.json.Decoder(OllamaRequest)


def target(path: str) -> Target:
    """
    Return what *path* is for: embeddings have no output and no stream.
    """
    last = path.rstrip("/ \t\r\n").rpartition("/")[2].lower()
    return Target(has_output=last not in ("embed", "embeddings"))


def add_request(request: OllamaRequest, meter: Meter) -> None:
    """
    Add a request's prompt, in whatever field it stands, to *meter*.
    """
    meter.guess(*TEMPLATE_FRAME)
    for message in request.messages:
        _add_message(message, meter)
    inputs = request.input if isinstance(request.input, list) else [request.input]
    for text in (request.system, request.prompt, request.suffix, request.template, *inputs):
        if text:
            meter.step()
            meter.text(text)
    meter.frame += len(request.context or ())
    _add_images(request.images, meter)
    if request.tools:
        add_tools([tool.get("function", tool) for tool in request.tools], meter)
    if isinstance(request.format, dict):
        add_json(meter, request.format)


def _add_message(message: dict[str, Any], meter: Meter) -> None:
    meter.step()
    meter.guess(*TEMPLATE_FRAME)
    for name in ("content", "thinking"):
        if message.get(name) is not None:
            openai.add_content(message[name], meter)
    if message.get("tool_calls") is not None:
        add_strings(meter, message["tool_calls"])
    _add_images(message.get("images"), meter)


def _add_images(images: Any, meter: Meter) -> None:
    for _ in images if isinstance(images, list) else ():
        meter.step()
        meter.guess(*IMAGE)
