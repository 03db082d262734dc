"""
Records that no sink will ever take.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from tokenbudget_mw.values import UsageRecord

__all__ = ["DeadLetter", "DeadLetters"]

log = logging.getLogger("tokenbudget_mw")


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
    Keeps the last *size* dead letters in memory, says each one, and writes each to a file if there is one.

    Args:
        size: Most letters kept in memory; older ones are forgotten, but stay counted.

        path: JSONL file that each letter is appended to, made readable by its owner only.
    """

    def __init__(self, size: int = 1_000, path: str | os.PathLike[str] | None = None) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=size)
        self._path = None if path is None else Path(path)
        self.count = 0

    def keep(self, record: UsageRecord, error: Exception) -> None:
        """
        Keep *record*, which *error* refused. Never raises: the records behind it must go on.
        """
        letter = DeadLetter(record, type(error).__name__)
        self.count += 1
        self._letters.append(letter)
        log.error(
            "A usage record can never be stored and is kept as a dead letter (%s): instance %s, sequence %s.",
            letter.error,
            record.instance_id,
            record.sequence,
        )
        if self._path is not None:
            self._write(self._path, letter)

    def letters(self) -> tuple[DeadLetter, ...]:
        """
        Return what is kept in memory, oldest first.
        """
        return tuple(self._letters)

    def _write(self, path: Path, letter: DeadLetter) -> None:
        # The escapes of json keep what is not valid Unicode, and repr what is not JSON: such a record is why we are here.
        try:
            line = json.dumps({"error": letter.error, "record": msgspec.structs.asdict(letter.record)}, default=repr)
            with open(path, "a", encoding="ascii", opener=_private) as file:
                file.write(line + "\n")
        except (OSError, TypeError, ValueError) as exc:
            log.error("A dead letter could not be written to its file (%s).", type(exc).__name__)  # noqa: TRY400


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
