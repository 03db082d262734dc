"""
Walks over values of unknown shape: strings are counted, the rest weighs little; in bounded time and depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads.media import FILE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Container

    from tokenbudget_mw.counting.meter import Meter

__all__ = ["add_json", "add_strings", "is_opaque", "is_own"]

OPAQUE_CHARS = 1_024
_encode = msgspec.json.Encoder().encode


def add_json(meter: Meter, value: Any) -> None:
    """
    Add *value* as the JSON text that the model is likely to read, to the meter as an approximation.
    """
    meter.approximate()
    meter.text(_encode(value).decode())


def add_strings(meter: Meter, value: Any) -> None:
    """
    Add every string in *value*, keys included. Encoded data (base64, a data URL) counts as a file, not as text.

    Raises:
        TooManyPartsError: There are more of them than a prompt may have.
    """
    meter.approximate()
    stack = [value]
    while stack:
        meter.step()
        item = stack.pop()
        if isinstance(item, str):
            if is_opaque(item):
                meter.guess(*FILE_TOKENS)
            else:
                meter.text(item)
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif item is not None:
            meter.frame += 1


def is_own(tools: list[Any], types: Container[object]) -> bool:
    """
    Return whether *tools* are all of these *types*, the app's own: what the provider's tools find is input, too.
    """
    return all(isinstance(tool, dict) and tool.get("type") in types for tool in tools)


def is_opaque(text: str) -> bool:
    """
    Return whether *text* is encoded data rather than something to read.
    """
    if text.startswith("data:"):
        return True
    head = text[:OPAQUE_CHARS]
    return len(text) > OPAQUE_CHARS and head.isascii() and len(head.split(None, 1)) == 1
