"""
Request bodies whose prompts count to a wanted number of tokens.

``a1a1…`` is a token a character in OpenAI's encodings: letters and digits are never one piece. A prompt is cut into
messages of at most `MOST_A_MESSAGE` tokens; chat framing costs 3 tokens a request and 4 a message.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

__all__ = ["LEAST", "body_of", "prompt_of"]

A_REQUEST, A_MESSAGE = 3, 4
LEAST = A_REQUEST + A_MESSAGE
"""Tokens of the shortest chat: one empty message. A smaller prompt is sent as this one."""

MOST_A_MESSAGE = 8_000

PAIR = "a1"


@lru_cache(maxsize=8192)
def prompt_of(tokens: int) -> msgspec.Raw:
    """
    Return the messages of a chat that counts to *tokens* tokens (to `LEAST` where that is more), as JSON.

    >>> bytes(prompt_of(10))
    b'[{"role":"user","content":"a1a"}]'
    """
    left = max(tokens, LEAST) - A_REQUEST
    messages = []
    while left > 0:
        # what is left over must be enough for a message of its own
        size = left if left <= MOST_A_MESSAGE else min(MOST_A_MESSAGE, left - A_MESSAGE)
        messages.append({"role": "user", "content": _text(size - A_MESSAGE)})
        left -= size
    return msgspec.Raw(msgspec.json.encode(messages))


def _text(tokens: int) -> str:
    return (PAIR * (tokens // 2 + 1))[:tokens]


def body_of(model: str, tokens: int, max_tokens: int) -> bytes:
    """
    Return the body of a chat request: *tokens* go in, at most *max_tokens* come out.
    """
    return msgspec.json.encode({"model": model, "max_tokens": max_tokens, "messages": prompt_of(tokens)})
