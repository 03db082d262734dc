"""
A WSGI response that says how many blocks it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized

__all__ = ["SizedResponse"]


class SizedResponse:
    """
    A response of so many blocks: a server may take the length of the only one for the length of the body (PEP 3333,
    "Handling the Content-Length Header").

    Args:
        response: What a server would get otherwise.

        blocks: What has their number.

        close: Ends the response.
    """

    def __init__(self, response: Iterable[bytes], blocks: Sized, close: Callable[[], None]) -> None:
        self._response = response
        self._blocks = blocks
        self.close = close

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response)
