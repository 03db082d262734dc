"""
Records that no sink will ever take.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbudget_mw.values import UsageRecord

__all__ = ["FILE_NAME", "DeadLetter", "DeadLetters"]

log = logging.getLogger("tokenbudget_mw")

FILE_NAME = "dead-letters.jsonl"
"""File in the spool's folder for letters that the database has no place for."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """
    A record that was refused for good.

    Attributes:
        record: The record.

        error: Class name of the sink's error. Its text may quote the record, so it is not kept.
    """

    record: UsageRecord
    error: str


class DeadLetters:
    """
    Keeps the last *size* dead letters in memory, and puts each where it outlives the process. The log says the first few, and of a
    flood one a minute, with the number of those that came before.

    Args:
        size: Most letters kept in memory; older ones are forgotten, but stay counted.

        path: JSONL file that a letter is appended to which *store* did not take; made readable by its owner only.

        store: Takes a letter's fields and error, or raises: the database's table.

        clock: Gives monotonic seconds.
    """

    def __init__(
        self,
        size: int = 1_000,
        path: str | os.PathLike[str] | None = None,
        store: Callable[[Mapping[str, Any], str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=size)
        self._path = None if path is None else Path(path)
        self._store = store
        self._clock = clock
        self._transitions = Transitions()
        self._untold = 0
        self.count = 0

    def keep(self, record: UsageRecord, error: Exception) -> None:
        """
        Keep *record*, which *error* refused. Never raises: the records behind it must go on.
        """
        letter = DeadLetter(record, type(error).__name__)
        self.count += 1
        self._letters.append(letter)
        is_told = self._tell(letter)
        fields = msgspec.structs.asdict(record)
        if not self._is_stored(fields, letter.error, is_told=is_told) and self._path is not None:
            self._write(self._path, fields, letter.error)

    def letters(self) -> tuple[DeadLetter, ...]:
        """
        Return what is kept in memory, oldest first.
        """
        return tuple(self._letters)

    def _tell(self, letter: DeadLetter) -> bool:
        if not self._transitions.begins(self._clock()):
            self._untold += 1
            return False
        self._transitions.ends()  # each is a state of its own
        before, self._untold = self._untold, 0
        log.error(
            "A usage record can never be stored and is kept as a dead letter (%s): instance %s, sequence %s.%s",
            letter.error,
            letter.record.instance_id,
            letter.record.sequence,
            f" {before} others were kept since the last such line." if before else "",
        )
        return True

    def _is_stored(self, fields: Mapping[str, Any], error: str, *, is_told: bool) -> bool:
        if self._store is None:
            return False
        try:
            self._store(fields, error)
        except Exception as exc:  # noqa: BLE001 - the file takes what the table does not
            if is_told:
                log.warning("A dead letter could not be stored in the database (%s).", type(exc).__name__)
            return False
        return True

    def _write(self, path: Path, fields: Mapping[str, Any], error: str) -> None:
        # The escapes of json keep what is not valid Unicode, and repr what is not JSON: such a record is why we are here.
        try:
            line = json.dumps({"error": error, "record": fields}, default=repr)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(path, "ab+", opener=_private) as file:
                file.write(b"" if _ends_well(file) else b"\n")
                file.write(f"{line}\n".encode("ascii"))
        except (OSError, TypeError, ValueError) as exc:
            log.error("A dead letter could not be written to its file (%s).", type(exc).__name__)  # noqa: TRY400


def _ends_well(file: IO[bytes]) -> bool:
    # else a process was killed, or the disk was full, in the midst of a letter, and the next one would be lost with it
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
