"""
Who owns which folder of a spool: whoever holds the lock in it, and the system takes the lock from the dead.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["MARKS_SUFFIX", "SUFFIX", "Claim", "is_instance", "seize_dead"]

SUFFIX = ".segment"
MARKS_SUFFIX = ".marks"
_LOCK = "lock"
_INSTANCE = re.compile("[0-9a-f]{32}")
_OLD = 60.0
"""Seconds after which a folder without segments is no longer one that a process is just making."""


class Claim:
    """
    A folder with the segments of one instance, locked for as long as this object, or the process, lives.

    Attributes:
        path: The folder. Its name is the instance id.
    """

    __slots__ = ("_file", "path")

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self._file = file

    @classmethod
    def make(cls, root: Path, instance_id: str) -> Self:
        """
        Make a folder in *root*, which is made, too.

        Raises:
            OSError: That is not possible.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = root / instance_id
        path.mkdir(mode=0o700, exist_ok=True)
        file = _open_lock(path, os.O_CREAT)
        try:
            _lock(file, waits=True)
        except OSError:
            os.close(file)
            raise
        return cls(path, file)

    @classmethod
    def seize(cls, path: Path) -> Self | None:
        """
        Claim the folder of a process that has died; None where it lives, or where somebody else was quicker.

        Raises:
            PermissionError: It is another user's.
        """
        try:
            file = _open_lock(path)
        except PermissionError:
            raise
        except OSError:
            return None
        try:
            _lock(file, waits=False)
            is_ours = os.fstat(file).st_nlink > 0  # else the one who was quicker has removed it
        except OSError:
            is_ours = False
        if not is_ours:
            os.close(file)
            return None
        return cls(path, file)

    @property
    def instance_id(self) -> str:
        """
        Whose records they are.
        """
        return self.path.name

    def segments(self) -> list[Path]:
        """
        Return the segments, oldest first.
        """
        return sorted(self.path.glob(f"*{SUFFIX}"))

    def marks(self) -> list[Path]:
        """
        Return the files with marks of calls.
        """
        return sorted(self.path.glob(f"*{MARKS_SUFFIX}"))

    def release(self) -> None:
        """
        Let go of the folder, and leave it.
        """
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def remove(self) -> None:
        """
        Let go of the folder, and remove it if nothing but the lock is left in it.
        """
        with contextlib.suppress(OSError):  # it goes the next time somebody looks
            if [path.name for path in self.path.iterdir()] == [_LOCK]:
                (self.path / _LOCK).unlink()
                self.path.rmdir()
        self.release()

    def __del__(self) -> None:
        self.release()


def is_instance(path: Path) -> bool:
    """
    Whether *path* is named as the folder of a process.
    """
    return _INSTANCE.fullmatch(path.name) is not None


def seize_dead(root: Path, own: str, closed: Callable[[Path], None]) -> Iterator[Claim]:
    """
    Claim every folder in *root* that has segments or marks and no living owner, but not the one of instance *own*.

    *closed* is told of folders that this process may not open.
    """
    try:
        folders = sorted(path for path in root.iterdir() if is_instance(path) and path.name != own)
    except OSError:
        return  # no process has spooled anything here yet
    for folder in folders:
        try:
            claim = Claim.seize(folder)
            is_left = claim is not None and bool(claim.segments() or claim.marks())
        except PermissionError:
            closed(folder)
            continue
        except OSError:  # no file can be opened: not even whether there is anything can be told now
            continue
        if claim is not None and is_left:
            yield claim
            continue
        is_old = _age(folder) > _OLD
        if claim is not None and is_old:
            claim.remove()
        elif claim is not None:
            claim.release()
        elif is_old:
            with contextlib.suppress(OSError):  # its owner lives, and has a lock in it
                folder.rmdir()


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _open_lock(folder: Path, flags: int = 0) -> int:
    # closed at exec: a program that the app starts must not keep the lock of the app alive
    return os.open(folder / _LOCK, os.O_RDWR | flags | getattr(os, "O_CLOEXEC", 0), 0o600)


def _lock(file: int, *, waits: bool) -> None:
    if sys.platform == "win32":
        raise OSError("This system has no lock that ends with its process.")
    import fcntl  # does not exist everywhere

    fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
