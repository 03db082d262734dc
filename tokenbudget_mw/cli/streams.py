"""
Where a command's words go: to a terminal, a pipe, a full disk or nowhere, in whatever encoding that has.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["in_utf8", "is_unwritable", "let_go", "one_line", "open_up"]

_UNWRITABLE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\t")} | {
    code: f"\\u{code:04x}" for code in (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
}
"""Characters that steer a terminal: C0 and C1, ends of lines, and what changes the direction of writing."""


def one_line(text: str) -> str:
    r"""
    Return *text* as a terminal may show it: clients choose models, tags and ids.

    >>> print(one_line("gpt\x1b[2J"))
    gpt\x1b[2J
    """
    return text.translate(_CONTROLS)


def open_up() -> None:
    """
    Make both streams take whatever is printed: what their encoding lacks is escaped, and where one is closed, nothing is.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # `print` would take a closed stderr for stdout
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def in_utf8() -> Iterator[None]:
    """
    Let stdout be UTF-8 in the block, for a file that is the same whoever's terminal or cron makes it.
    """
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.encoding, stream.errors
    stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    yield
    stream.reconfigure(encoding=before[0], errors=before[1])  # which flushes, so not after an error


def is_unwritable(error: OSError) -> bool:
    """
    Whether *error* says that the output can be written no further.
    """
    return error.filename is None and error.errno in _UNWRITABLE


def let_go() -> None:
    """
    Leave what is not written yet unwritten, so that the flush at exit does not fail (Python's docs, "Note on SIGPIPE").
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
