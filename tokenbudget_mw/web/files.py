"""
Files that a WSGI server sends by itself (PEP 3333, "Optional Platform-Specific File Handling"), where it recognises what its
``wsgi.file_wrapper`` gave.
"""

from __future__ import annotations

from typing import Any

__all__ = ["is_file", "watch_files"]

WRAPPER = "wsgi.file_wrapper"


class _Watched:
    """
    A wrapper that is a function, and remembers what it gave: uWSGI's gives the file itself, which need not be iterable.
    """

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self.given: Any = None

    def __call__(self, *args: Any) -> Any:
        self.given = self._wrapper(*args)
        return self.given


def watch_files(environ: dict[str, Any]) -> None:
    """
    Let `is_file` recognise what the wrapper in *environ* will give, where that has no type of its own.
    """
    wrapper = environ.get(WRAPPER)
    if wrapper is not None and not isinstance(wrapper, type | _Watched):
        environ[WRAPPER] = _Watched(wrapper)


def is_file(environ: dict[str, Any], content: object) -> bool:
    """
    Tell whether *content* is what the server's wrapper gave, so that it must reach the server as it is.
    """
    wrapper = environ.get(WRAPPER)
    if isinstance(wrapper, _Watched):
        return content is wrapper.given and content is not None
    return isinstance(wrapper, type) and isinstance(content, wrapper)
