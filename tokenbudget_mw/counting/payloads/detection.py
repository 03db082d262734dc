"""
The format of a request that no route names: by its path, else by its fields.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = ["AUTO", "format_of"]

AUTO = "auto"
"""The format that is detected."""

_PATHS: tuple[tuple[str, str], ...] = (
    ("openai.chat", r"/chat/completions"),
    ("openai.completions", r"/completions"),
    ("openai.embeddings", r"/v1/embeddings|/deployments/[^/]+/embeddings"),
    ("openai.responses", r"/responses(?:/input_tokens)?|/v1/decisions"),
    ("openai.images", r"/images/(?:generations|edits|variations)"),
    ("openai.audio", r"/audio/(?:transcriptions|translations|speech)"),
    ("anthropic.messages", r"/v1/messages(?:/count_tokens)?"),
    ("bedrock.converse", r"/converse(?:-stream)?"),
    ("gemini", r"/(?:tuned)?models/[^/:]+:(?!(?:stream)?rawpredict)\w+"),  # which is for other makers' models
    ("gemini.interactions", r"/v1(?:(?:alpha|beta)\d*)?/(?:projects/[^/]+/locations/[^/]+/)?interactions"),
    ("cohere", r"/v2/(?:chat|embed)"),
    ("ollama", r"/api/(?:chat|generate|embed|embeddings)"),
)
_PATH = re.compile("(?:" + "|".join(f"({pattern})" for _, pattern in _PATHS) + r")[/\s]*$", re.IGNORECASE)


RAW = msgspec.Raw(b"")


class _Keys(msgspec.Struct, gc=False):
    model: Any = None
    messages: msgspec.Raw = RAW
    contents: msgspec.Raw = RAW
    content: msgspec.Raw = RAW
    input: msgspec.Raw = RAW
    prompt: msgspec.Raw = RAW
    instructions: msgspec.Raw = RAW
    inferenceConfig: msgspec.Raw = RAW  # noqa: N815 - the wire's own word
    toolConfig: msgspec.Raw = RAW  # noqa: N815 - the wire's own word
    options: msgspec.Raw = RAW
    keep_alive: msgspec.Raw = RAW
    system: msgspec.Raw = RAW
    anthropic_version: msgspec.Raw = RAW
    documents: msgspec.Raw = RAW
    texts: msgspec.Raw = RAW
    message: msgspec.Raw = RAW
    chat_history: msgspec.Raw = RAW

    def has(self, *names: str) -> bool:
        """
        Return whether one of the fields is given, and is not null.
        """
        return any(bytes(getattr(self, name)) not in (b"", b"null") for name in names)


_keys = msgspec.json.Decoder(_Keys)


def format_of(path: str, body: bytes = b"") -> str:
    """
    Return the format that a request most likely has; OpenAI's chat where nothing tells.

    >>> format_of("/llm", b'{"contents": [{"parts": [{"text": "Hi"}]}]}')
    'gemini'
    """
    found = _PATH.search(path)
    if found is not None and found.lastindex is not None:
        return _PATHS[found.lastindex - 1][0]
    try:
        keys = _keys.decode(body)
    except (ValueError, RecursionError):
        return "openai.chat"  # whose reader says what is wrong with it
    if keys.has("messages"):
        return next((name for name, fields in _DIALECTS if keys.has(*fields)), "openai.chat")
    if keys.has("input", "instructions"):
        return "openai.embeddings" if "embed" in str(keys.model) else "openai.responses"
    return next((name for name, fields in _OTHERS if keys.has(*fields)), "openai.chat")


_DIALECTS = (
    ("bedrock.converse", ("inferenceConfig", "toolConfig")),
    ("ollama", ("options", "keep_alive")),
    ("anthropic.messages", ("system", "anthropic_version")),
    ("cohere", ("documents",)),
)
"""Format -> fields of which only it has one beside ``messages``."""

_OTHERS = (
    ("gemini", ("contents", "content")),
    ("cohere", ("texts", "message", "chat_history")),
    ("ollama", ("options", "keep_alive")),
    ("openai.completions", ("prompt",)),
)
"""Format -> fields of which only it has one without ``messages``."""
