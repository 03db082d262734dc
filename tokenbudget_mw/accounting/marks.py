"""
Marks of calls that run: slots in a mapped file, beside the segments. A slot is taken when a call begins and given back
when it has ended; what another process finds in one is a call whose process died.

A file is `SLOTS` slots of `SLOT_SIZE` bytes; the first holds the header. A slot is: checksum (CRC-32, 4 bytes), length
(4 bytes), number (8 bytes), body (a `Mark` as msgpack). The length is stored last, and zero is a free slot. Slots are
used again at once, so the files are as large as the most calls that ran together, however long any of them runs: marks
know nothing of segments, which come and go.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import struct
from collections import defaultdict
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.accounting.segments import FRAME, allocate
from tokenbudget_mw.values import Charged, Held, Mark, Opened, Orphan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["SLOTS", "Marks", "Slot", "read_orphans"]

log = logging.getLogger("tokenbudget_mw")

SLOT_SIZE = 2048
SLOTS = 512
"""Slots a file, the header's included."""

MOST_FILES = 128
"""Most files a process: 65,000 calls at once. Further ones have no mark, which is counted."""

FEW = 64
"""When no more slots than this are free, the next file is made, outside of any request."""

MAGIC = b"TBMARKS\x01"
LONGEST_BODY = SLOT_SIZE - 16

_NUMBER = struct.Struct("@Q")
_CUT, _CUT_NAME = 64, 255
"""Characters that the texts of a mark keep that is too long for its slot; those that say who pays keep more."""

_NAMES = frozenset({"key_id", "user_id", "team_id", "project_id", "tenant_id"})

Slot = tuple[mmap.mmap, int]
"""A file's memory, and the slot's offset in it."""

_put_frame = FRAME.pack_into
_put_number = _NUMBER.pack_into
_encode = msgspec.msgpack.Encoder(enc_hook=str).encode
_decode = msgspec.msgpack.Decoder(Mark).decode


class Marks:
    """
    The marks of one process.

    `put` and `clear` take no lock: a slot belongs to one call from the step that takes it to the step that gives it back.

    Args:
        make: Gives what returns the path of a new file, whose folder is there, or raises `OSError`; held weakly, because
            whoever has marks also makes their paths.

    Attributes:
        unmarked: Number of calls that found no slot.
    """

    __slots__ = ("_files", "_free", "_is_failing", "_make", "_numbers", "unmarked")

    def __init__(self, make: Callable[[], Callable[[], Path] | None]) -> None:
        self._make = make
        self._files: list[tuple[Path, mmap.mmap]] = []
        self._free: list[Slot] = []
        self._numbers = itertools.count(1)  # next() is one step
        self._is_failing = False
        self.unmarked = 0

    def __len__(self) -> int:
        """
        Number of marks.
        """
        return len(self._files) * (SLOTS - 1) - len(self._free)

    def put(self, mark: Mark) -> Slot | None:
        """
        Keep *mark* until its slot is cleared; None where there is no slot.
        """
        try:
            body = _encode(mark)
        except Exception:  # noqa: BLE001 - a value of any type may refuse in its own way
            body = b""
        length = len(body)
        if not 0 < length <= LONGEST_BODY:
            body = _encode(_mended(mark))
            length = len(body)
        slot = self._take()
        if slot is None or length > LONGEST_BODY:
            self._miss(slot)
            return None
        memory, start = slot
        try:
            memory[start + 16 : start + 16 + length] = body
            _put_number(memory, start + 8, next(self._numbers))
            _put_frame(memory, start, crc32(body), length)
        except ValueError:  # the files were removed since the slot was taken: the app ends
            self._miss(None)
            return None
        return slot

    def _take(self) -> Slot | None:
        try:
            return self._free.pop()
        except IndexError:
            pass
        if not self._is_failing:  # else the flusher tries again, outside of any request
            self.grow()
        try:
            return self._free.pop()
        except IndexError:
            return None

    def _miss(self, slot: Slot | None) -> None:
        self.unmarked += 1
        if slot is not None:
            self._free.append(slot)

    def clear(self, slot: Slot) -> None:
        """
        Forget the mark in *slot*: its call has ended, and what it used is on the spool.
        """
        memory, start = slot
        if not memory.closed:  # else the call began before a fork, and its mark is the parent's
            _put_frame(memory, start, 0, 0)
            self._free.append(slot)

    def grow(self) -> None:
        """
        Make the next file, if there may be one. Says once that there is none, and does not raise.
        """
        make = self._make()
        if len(self._files) >= MOST_FILES or make is None:
            return
        try:
            path = make()
            memory = _make_file(path)
        except OSError as exc:
            if not self._is_failing:
                self._is_failing = True
                log.warning(
                    "Calls cannot be marked on the usage spool (%s): should this process be killed, nobody learns of those "
                    "that run.",
                    exc.strerror or type(exc).__name__,
                )
            return
        self._is_failing = False
        self._files.append((path, memory))
        self._free[:0] = [(memory, number * SLOT_SIZE) for number in range(SLOTS - 1, 0, -1)]

    def tend(self) -> None:
        """
        Have slots ready, where marks are used at all.
        """
        if self._is_failing or (self._files and len(self._free) <= FEW):
            self.grow()

    def remove(self) -> bool:
        """
        Remove the files, unless some call is marked; then nothing changes, and False is returned.
        """
        if len(self):
            return False
        files, self._files, self._free = self._files, [], []
        for path, memory in files:
            memory.close()
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:  # a file system that has become one to read from, for instance
                log.error("A file of the usage spool's marks could not be removed (%s).", type(exc).__name__)  # noqa: TRY400
        return True

    def abandon(self) -> None:
        """
        Give back what a fork has copied into this process.
        """
        for _, memory in self._files:
            memory.close()


def read_orphans(instance_id: str, files: Iterable[bytes]) -> list[Orphan]:
    """
    Return the calls that are marked in the *files* of instance *instance_id*, oldest first.

    A slot that cannot be read is left out: its call had not begun, or had just ended.
    """
    opened: dict[str, tuple[int, Opened]] = {}
    others: defaultdict[str, list[Held | Charged]] = defaultdict(list)
    for number, mark in sorted((each for data in files for each in _marks(data)), key=lambda each: each[0]):
        if isinstance(mark, Opened):
            opened.setdefault(mark.call_id, (number, mark))
        else:
            others[mark.call_id].append(mark)
    return [
        Orphan(instance_id, number, first, tuple(others.get(call_id, ())))
        for call_id, (number, first) in opened.items()
    ]


def _marks(data: bytes) -> Iterator[tuple[int, Mark]]:
    if data[: len(MAGIC)] != MAGIC:
        return
    for start in range(SLOT_SIZE, len(data) - SLOT_SIZE + 1, SLOT_SIZE):
        check, length = FRAME.unpack_from(data, start)
        if not 0 < length <= LONGEST_BODY:
            continue
        body = data[start + 16 : start + 16 + length]
        if crc32(body) != check:
            continue
        try:
            yield _NUMBER.unpack_from(data, start + 8)[0], _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


def _make_file(path: Path) -> mmap.mmap:
    size = SLOTS * SLOT_SIZE
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        allocate(file, size)
        memory = mmap.mmap(file, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    memory[: len(MAGIC)] = MAGIC
    return memory


def _mended(mark: Mark) -> Mark:
    """
    Return *mark* in few bytes: texts cut, labels and batch left out.
    """
    changes = {
        name: _cut(getattr(mark, name), _CUT_NAME if name in _NAMES else _CUT) for name in mark.__struct_fields__
    }
    if isinstance(mark, Charged):
        usage = mark.usage
        changes["usage"] = replace(
            usage, **{name: _cut(getattr(usage, name), _CUT) for name in usage.__struct_fields__}
        )
    return replace(mark, **changes)


def _cut(value: object, longest: int) -> object:
    if isinstance(value, dict):
        return None
    if isinstance(value, str):
        return value[:longest].encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, -(2**63)), 2**63 - 1)
    return value
