"""
Values that must not be seen, and how to show what stands around them.
"""

from __future__ import annotations

import hmac
import re

__all__ = ["Secret", "redact_url"]

# up to the last `@`: passwords may hold one that nobody has escaped, or spaces; and names of users one, too (`app@server`)
_PASSWORD = re.compile(r"(?<=://)([^/:]*):.*(?=@)", re.DOTALL)
_QUERY_SECRET = re.compile(r"(?i)(?<=[?&])([^=&\s]*(?:pass|secret|token|key)[^=&\s]*)=[^&\s]*")


class Secret:
    """
    A text that shows itself to nobody who prints it.

    Args:
        value: The text.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    @property
    def value(self) -> str:
        """
        The text itself.
        """
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "Secret('***')" if self._value else "Secret('')"

    def __reduce__(self) -> str:
        raise TypeError("A Secret is not pickled. Read it from the environment where it is needed.")


def redact_url(url: str) -> str:
    """
    Return *url* without its password.

    >>> redact_url("redis://:hunter2@localhost/0"), redact_url("postgresql://app:hunter2@db/app")
    ('redis://:***@localhost/0', 'postgresql://app:***@db/app')
    """
    return _QUERY_SECRET.sub(r"\1=***", _PASSWORD.sub(r"\1:***", url))
