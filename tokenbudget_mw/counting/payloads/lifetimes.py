"""
Whether a request may ask that its prompt be cached for the longer lifetime: where that costs more, more is held for it.
"""

from __future__ import annotations

from tokenbudget_mw.counting.payloads.spoken import HIDDEN, MAX_BYTES

__all__ = ["asks_long_cache"]

_LIFETIME = b'"ttl"'
"""What Anthropic, Bedrock and OpenAI call it; without one, a cache has the shorter."""

_ESCAPED = b"\\u00"
"""What a hidden word begins with. In a long body nobody looks whether it goes on as one, which takes twenty times as long."""


def asks_long_cache(body: bytes) -> bool:
    """
    Tell whether *body*, of any format, may ask for the longer lifetime.

    >>> asks_long_cache(b'{"cache_control": {"type": "ephemeral", "ttl": "1h"}}'), asks_long_cache(b'{"messages": []}')
    (True, False)
    """
    if _LIFETIME in body:
        return True
    return _ESCAPED in body if len(body) > MAX_BYTES else HIDDEN.search(body) is not None
