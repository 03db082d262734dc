"""
Tokens of a request, before it runs.

`count_text` counts one text, `payloads.read` a request's body. Tokenizers load when the first text is counted, or
earlier with ``encoders.default_encoders().warm()``.
"""

from __future__ import annotations

from tokenbudget_mw.counting.models import ModelFamily, normalise, resolve
from tokenbudget_mw.counting.texts import count_text

__all__ = ["ModelFamily", "count_text", "normalise", "resolve"]
