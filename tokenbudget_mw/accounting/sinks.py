"""
Sinks that need no database, and the table that finds a sink by its URL.
"""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import msgspec

from tokenbudget_mw.errors import ConfigurationError, PermanentSinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenbudget_mw.accounting.base import Sink
    from tokenbudget_mw.values import UsageRecord

__all__ = ["CallableSink", "JsonlSink", "NullSink", "open_sink"]


class NullSink:
    """
    Takes every record and keeps none.
    """

    def write(self, records: Sequence[UsageRecord]) -> int:
        """
        Return the number of *records*.
        """
        return len(records)

    def close(self) -> None:
        """
        Do nothing: there are no connections.
        """


class CallableSink:
    """
    Hands every batch to a function, in the flusher's thread.

    Args:
        function: Takes the records. What it raises is tried again, except for `PermanentSinkError`; it must itself know
            a record that comes a second time (by instance and sequence).
    """

    def __init__(self, function: Callable[[Sequence[UsageRecord]], object]) -> None:
        self._function = function

    def write(self, records: Sequence[UsageRecord]) -> int:
        """
        Call the function with *records*, and return their number.
        """
        self._function(records)
        return len(records)

    def close(self) -> None:
        """
        Do nothing: the function is the caller's.
        """


class JsonlSink:
    """
    Appends records to a file, one JSON object a line, a whole batch or nothing of it.

    A process that is killed between the write and its commit writes the batch a second time when it has a spool that
    outlives it: a reader tells such lines by ``instance_id`` and ``sequence``. Of one that is killed in the midst of the write
    a part of a line may stay, which is no JSON; the next batch begins a new line. Several processes may share the file.

    Args:
        path: The file. It is made where it is missing, readable by its owner only.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)

    def write(self, records: Sequence[UsageRecord]) -> int:
        """
        Append *records* and return their number.

        Raises:
            OSError: The file cannot be written now. Nothing of this batch was.
            PermanentSinkError: A record is no JSON.
        """
        batch = _lines(records)
        # Opened for each batch: a rotated file is left alone, and nothing is carried over a fork.
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            _lock(file)
            _append(file, batch)
        finally:
            os.close(file)
        return len(records)

    def close(self) -> None:
        """
        Do nothing: no file is open between two batches.
        """


def open_sink(url: str) -> Sink:
    """
    Return the sink that *url* names.

    ``jsonl:///usage.jsonl`` is relative to the working directory, ``jsonl:////var/log/usage.jsonl`` is not.
    ``python://package.module:function`` calls a function; ``null://`` keeps nothing.

    Raises:
        ConfigurationError: No sink has this scheme, or the URL lacks something.
    """
    scheme = url.partition("://")[0]
    opener = _OPENERS.get(scheme) or _plugin(scheme)
    if opener is None:
        raise ConfigurationError(_unknown(scheme))
    return opener(url)


def _open_jsonl(url: str) -> Sink:
    path = urlsplit(url).path.removeprefix("/")
    if urlsplit(url).netloc or not path:
        raise ConfigurationError(f"{url!r} names no file. Write jsonl:///usage.jsonl or jsonl:////var/log/usage.jsonl.")
    return JsonlSink(path)


def _open_python(url: str) -> Sink:
    module, _, name = url.partition("://")[2].partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(f"{url!r} names no function. Write python://package.module:function.") from exc
    if not callable(function):
        raise ConfigurationError(f"{url!r} names a {type(function).__name__}, which cannot be called.")
    return CallableSink(function)


_OPENERS: dict[str, Callable[[str], Sink]] = {
    "jsonl": _open_jsonl,
    "null": lambda _url: NullSink(),
    "python": _open_python,
}


def _plugin(scheme: str) -> Callable[[str], Sink] | None:
    for entry in entry_points(group="tokenbudget_mw.sinks", name=scheme):
        return cast("Callable[[str], Sink]", entry.load())
    return None


def _unknown(scheme: str) -> str:
    near = difflib.get_close_matches(scheme, _OPENERS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"No sink has the scheme {scheme!r}. Known schemes: {', '.join(sorted(_OPENERS))}.{hint}"


def _lines(records: Sequence[UsageRecord]) -> bytes:
    try:
        return b"".join(msgspec.json.encode(msgspec.structs.asdict(record)) + b"\n" for record in records)
    except (TypeError, ValueError, OverflowError) as exc:  # a lone surrogate, say
        raise PermanentSinkError("A usage record is no JSON.") from exc


def _lock(file: int) -> None:
    if sys.platform != "win32":
        import fcntl  # does not exist everywhere

        fcntl.flock(file, fcntl.LOCK_EX)


def _append(file: int, batch: bytes) -> None:
    start = os.fstat(file).st_size
    is_torn = start > 0 and not _ends_line(file)
    try:
        rest = memoryview(b"\n" + batch if is_torn else batch)
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        os.ftruncate(file, start)  # no half batch stays: it comes again as a whole
        raise


def _ends_line(file: int) -> bool:
    os.lseek(file, -1, os.SEEK_END)
    return os.read(file, 1) == b"\n"
