"""
What the contract of adapters says to a server: requests over real sockets, and their answers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

__all__ = ["CHAT", "LONGEST_WAIT", "MESSAGES", "Answered", "Running", "chat", "eventually", "usage_of"]

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
LONGEST_WAIT = 15.0
"""Seconds after which a server counts as stuck."""


class Running(Protocol):
    """
    A server that runs.

    Attributes:
        port: Its port on the loopback address.

        database: The SQLite file that its usage is written to.
    """

    port: int
    database: Path


@dataclass(frozen=True, slots=True)
class Answered:
    """
    A response, read whole.

    Attributes:
        status: Its status.

        headers: Lower-case names and values.

        body: Its body.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """
        Return the body, parsed.
        """
        return json.loads(self.body)


def chat(*, stream: bool = False, output: int = 50, include_usage: bool = True) -> dict[str, Any]:
    """
    Return a small chat request.
    """
    body: dict[str, Any] = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "one two three four"}],
        "max_tokens": output,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": include_usage}}
    return body


def eventually(look: Callable[[], Any], *, seconds: float = LONGEST_WAIT) -> Any:
    """
    Return the first true answer of *look*, or its last, asked again and again for up to *seconds*.
    """
    pause, left = threading.Event(), seconds
    while not (found := look()) and left > 0:
        pause.wait(0.05)
        left -= 0.05
    return found


def usage_of(input_tokens: int, output_tokens: int, *, model: str = "gpt-4o") -> dict[str, Any]:
    """
    Return a completion that used as many tokens, and says nothing.
    """
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    return {"object": "chat.completion", "model": model, "usage": usage}
