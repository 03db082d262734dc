"""
Walks over values of unknown shape: strings are counted, the rest weighs little; in bounded time and depth.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads.media import ANTHROPIC_IMAGE, FILE_TOKENS
from tokenbudget_mw.encoded import is_encoded

if TYPE_CHECKING:
    from collections.abc import Container

    from tokenbudget_mw.counting.meter import Meter

__all__ = ["add_encoded", "add_json", "add_sealed", "add_strings", "add_written", "is_own"]

_TEXTS = ("text/", "application/json", "application/xml", "application/x-", "application/javascript")
_WORDED = (str, dict, list)
_encode = msgspec.json.Encoder().encode


def add_json(meter: Meter, value: Any) -> None:
    """
    Add *value* as the JSON text that the model is likely to read, to the meter as an approximation.
    """
    meter.approximate()
    meter.text(_encode(value).decode())


def add_strings(meter: Meter, value: Any) -> None:
    """
    Add every string in *value*, keys included. Encoded data (base64, a data URL) counts as a file, not as text; a short
    one as a picture at most.

    Raises:
        TooManyPartsError: There are more of them than a prompt may have.
    """
    meter.approximate()
    stack = [value]
    while stack:
        meter.step()
        item = stack.pop()
        if isinstance(item, str):
            if is_encoded(item):
                meter.guess(FILE_TOKENS[0], min(FILE_TOKENS[1], max(ANTHROPIC_IMAGE[1], len(item))))
            else:
                meter.text(item)
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif item is not None:
            meter.frame += 1


def add_written(meter: Meter, value: Any) -> None:
    """
    Add every text in *value*, keys included; encoded data is not among them.

    Raises:
        TooManyPartsError: There are more of them than a prompt may have.
    """
    texts: list[str] = []
    stack = [value]
    while stack:
        meter.step()
        item = stack.pop()
        if isinstance(item, dict):
            texts.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend([each for each in item if isinstance(each, _WORDED)])  # of numbers there may be many
        elif isinstance(item, str) and not is_encoded(item):
            texts.append(item)
    meter.approximate()
    meter.texts(texts)


def is_own(tools: list[Any], types: Container[object]) -> bool:
    """
    Return whether *tools* are all of these *types*, the app's own: what the provider's tools find is input, too.
    """
    return all(isinstance(tool, dict) and tool.get("type") in types for tool in tools)


def add_sealed(meter: Meter, data: Any) -> None:
    """
    Add reasoning that only its provider can read, by its length.
    """
    size = len(data) if isinstance(data, str) else 0
    meter.guess(size // 6, size)


def add_encoded(meter: Meter, kind: str, data: str) -> None:
    """
    Add a file of the content type *kind* whose base64 is *data*: what is text is counted as text, the rest guessed.
    """
    if not kind.lower().startswith(_TEXTS):
        meter.guess(*FILE_TOKENS)
        return
    meter.approximate()
    try:
        meter.text(base64.b64decode(data).decode(errors="replace"))
    except ValueError:
        meter.guess(*FILE_TOKENS)
