"""
Tokens of a single text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbudget_mw.counting.models import NO_ALIASES
from tokenbudget_mw.counting.tokenizers import Tokenizers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbudget_mw.values import TokenCount

__all__ = ["count_text"]


def count_text(text: str, model: str | None, aliases: Mapping[str, str] = NO_ALIASES) -> TokenCount:
    """
    Return the tokens that *model* makes of *text*. Never raises, and takes bounded time on any text.

    Up to `meter.EXACT_CHARS` characters the text is tokenised; a longer one is sampled.

    Args:
        text: Any text.

        model: Model as a request names it; None counts for an unknown one.

        aliases: Deployment names of the host -> models.
    """
    return Tokenizers(aliases).count(text, model)
