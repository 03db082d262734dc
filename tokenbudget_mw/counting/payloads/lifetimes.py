"""
Whether a request may ask that its prompt be cached for the longer lifetime: where that costs more, more is held for it.
"""

from __future__ import annotations

from tokenbudget_mw.counting.payloads.spoken import MAX_BYTES, has_escapes, hides_words

__all__ = ["asks_long_cache"]

_LIFETIME = b'"ttl"'
"""What Anthropic, Bedrock and OpenAI call it; without one, a cache has the shorter."""


def asks_long_cache(body: bytes) -> bool:
    """
    Tell whether *body*, of any format, may ask for the longer lifetime.

    >>> asks_long_cache(b'{"cache_control": {"type": "ephemeral", "ttl": "1h"}}'), asks_long_cache(b'{"messages": []}')
    (True, False)
    """
    if body.rfind(_LIFETIME) >= 0:  # twice as fast from the end, in CPython
        return True
    # in a long body nobody looks whether an escape goes on as a hidden word
    return has_escapes(body) if len(body) > MAX_BYTES else hides_words(body)
