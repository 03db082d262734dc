"""
What limits count: requests, tokens, money, calls at the same time.
"""

from __future__ import annotations

from collections.abc import Container

from tokenbudget_mw.settings.reading import Invalid, did_you_mean
from tokenbudget_mw.values import Unit

__all__ = ["read_unit"]

SYMBOLS = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}

UNITS: dict[str, Unit] = {
    "": "requests",
    "requests": "requests",
    "request": "requests",
    "tokens": "tokens",
    "token": "tokens",
    "input tokens": "input_tokens",
    "output tokens": "output_tokens",
    "concurrent": "concurrent",
    "concurrent requests": "concurrent",
    "concurrent calls": "concurrent",
}

MEANT = {
    "prompt tokens": "input tokens",
    "completion tokens": "output tokens",
    "rps": "requests/second",
    "rpm": "requests/minute",
    "rph": "requests/hour",
    "rpd": "requests/day",
    "tpm": "tokens/minute",
    "tph": "tokens/hour",
    "tpd": "tokens/day",
}
"""What others call them."""


def read_unit(prefix: str | None, what: str, currencies: Container[str]) -> tuple[str | None, Unit]:
    """
    Read what stands around an amount.

    >>> read_unit("$", "", ()), read_unit(None, "input tokens", ())
    (('USD', 'money'), (None, 'input_tokens'))

    Args:
        prefix: The currency before the amount, if there is one.

        what: What stands behind it.

        currencies: Those that have a rate.

    Returns:
        The currency, if it is money, and the unit.

    Raises:
        Invalid: It cannot be read.
    """
    words = " ".join(what.lower().split())
    if prefix is None and len(words) == 3 and (words.upper() == "USD" or words.upper() in currencies):
        return words.upper(), "money"
    if prefix is not None:
        if words:
            raise Invalid(f"an amount of money is not counted in '{what}'; write '$5/month'")
        return SYMBOLS.get(prefix, prefix.upper()), "money"
    unit = UNITS.get(words)
    if unit is None:
        if what[:1] in SYMBOLS:
            raise Invalid(f"'{what[:1]}' stands before the amount: write '{what[:1]}5/month'")
        meant = MEANT.get(words.replace("_", " "))
        hint = f"; did you mean '{meant}'?" if meant else did_you_mean(words, [word for word in UNITS if word])
        raise Invalid(f"unknown unit '{what}'{hint}")
    return None, unit
