"""
A segment: one file of a spool on disk, of a fixed size, mapped into memory while records are put into it.

It begins with a header of `HEADER_SIZE` bytes. Then come the frames: checksum (CRC-32, 4 bytes), length (4 bytes), body
(a `UsageRecord` as msgpack). The length is stored last, in one step: a process that is killed in the midst of a frame
leaves a length of zero, which is where a reader stops. The file is allocated in full beforehand, because a store into
a hole of a mapped file kills the process when the disk is full.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import struct
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self
from zlib import crc32

import msgspec

from tokenbudget_mw.values import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FRAME",
    "HEADER_SIZE",
    "DamagedSegmentError",
    "Item",
    "Segment",
    "allocate",
    "checksum",
    "ids_in",
    "sync_folder",
]

MAGIC = b"TBSPOOL\x01"
VERSION = 1
HEADER_SIZE = 128

FRAME = struct.Struct("@II")
"""Checksum and length of a body; native, so that the length is stored in one step."""

_FIXED = struct.Struct("@8sIIQQ32s36s")  # magic, version, header size, number, process id, instance id, boot id
_CHECK = struct.Struct("@I")  # of what is fixed, at _FIXED.size
_FIRST = struct.Struct("@Q")  # sequence of the first record, at _FIRST_AT
_PROGRESS = struct.Struct("@QQ")  # sequence and end of the last record that is in the sink, at _PROGRESS_AT
_FIRST_AT = _FIXED.size + _CHECK.size
_PROGRESS_AT = _FIRST_AT + _FIRST.size

_SMALL = 4096
"""Up to this many bytes a checksum keeps the GIL, so that no other thread runs within a put."""

_decode = msgspec.msgpack.Decoder(UsageRecord).decode


class DamagedSegmentError(Exception):
    """
    A file is no segment that this version can read.
    """


Item = tuple[UsageRecord, "Segment | None", int]
"""A record, its segment (None where only memory holds it), and the offset behind its frame, in bytes."""


def checksum(body: bytes) -> int:
    """
    Return the CRC-32 of *body*, in pieces so small that the GIL is kept.
    """
    check = 0
    for start in range(0, len(body), _SMALL):
        check = crc32(body[start : start + _SMALL], check)
    return check


class Segment:
    """
    One file of a spool.

    Attributes:
        path: The file.

        size: Its size, in bytes.

        map: Its memory while records are put into it; None afterwards, and in a process that replays it.

        file: File descriptor for `sync`, -1 where nobody syncs.

        end: Offset behind the last frame.

        committed: Offset behind the last frame whose record is in the sink.

        is_damaged: Whether some frame cannot be read.
    """

    __slots__ = ("committed", "end", "file", "is_damaged", "map", "path", "size")

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.map: mmap.mmap | None = None
        self.file = -1
        self.end = HEADER_SIZE if size else 0
        self.committed = self.end
        self.is_damaged = False

    @classmethod
    def make(cls, path: Path, size: int, instance_id: str, number: int, *, is_synced: bool = False) -> Self:
        """
        Make the file and map it.

        Args:
            path: A path that does not exist.

            size: Size of the file, in bytes.

            instance_id: Whose records it will hold.

            number: Its place among the segments of this instance.

            is_synced: Whether `sync` will be called.

        Raises:
            OSError: The file cannot be made, or has no room. Nothing of it stays.
        """
        segment = cls(path, size)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            allocate(file, size)
            segment.map = memory = mmap.mmap(file, size)
            if is_synced:
                segment.file = os.dup(file)
                sync_folder(path.parent)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        _write_header(memory, instance_id, number)
        return segment

    @classmethod
    def open(cls, path: Path) -> tuple[Self, list[Item]]:
        """
        Read the segment of a process that has died.

        Returns:
            The segment, and what was not committed of it. Frames that cannot be read are left out and make it damaged.

        Raises:
            DamagedSegmentError: Not even the header can be read.

            OSError: The file cannot be read.
        """
        data = path.read_bytes()
        segment = cls(path, len(data))
        segment.end = segment.committed = _read_header(data)
        items = segment._load(data, segment.committed, len(data), len(data))
        if items:
            segment.end = items[-1][2]  # what lies behind can never be committed
        return segment, items

    def warm(self) -> None:
        """
        Touch every page of a fresh segment: else the first store into each costs microseconds, within a put.
        """
        if self.map is not None:
            for offset in range(mmap.PAGESIZE, self.size, mmap.PAGESIZE):
                self.map[offset] = 0

    def write_first(self, sequence: int) -> None:
        """
        Note the sequence number of the first record.
        """
        if self.map is not None:
            _FIRST.pack_into(self.map, _FIRST_AT, sequence)

    def load(self, start: int, stop: int, most: int) -> list[Item]:
        """
        Read up to *most* records between the offsets *start* and *stop*.

        Raises:
            OSError: The file cannot be read.
        """
        return self._load(self.path.read_bytes() if self.map is None else self.map, start, stop, most)

    def commit(self, end: int, sequence: int) -> None:
        """
        Note that the records before offset *end* are in the sink, the last with *sequence*.

        Raises:
            OSError: The note could not be written.
        """
        self.committed = end
        if self.map is not None:
            _PROGRESS.pack_into(self.map, _PROGRESS_AT, sequence, end)
            return
        file = os.open(self.path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            os.lseek(file, _PROGRESS_AT, os.SEEK_SET)
            os.write(file, _PROGRESS.pack(sequence, end))
        finally:
            os.close(file)

    def is_done(self) -> bool:
        """
        Whether every record of it is in the sink.
        """
        return self.committed >= self.end

    def sync(self) -> None:
        """
        Wait until what was put is on the disk.

        Raises:
            OSError: The disk failed.
        """
        if self.file >= 0:
            _sync(self.file)

    def close(self) -> None:
        """
        Give the memory back.
        """
        mapped, self.map = self.map, None
        if mapped is not None:
            mapped.close()

    def close_file(self) -> None:
        """
        Give the file descriptor back.
        """
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)

    def remove(self) -> None:
        """
        Remove the file.
        """
        self.close()
        self.path.unlink(missing_ok=True)

    def _load(self, data: bytes | mmap.mmap, start: int, stop: int, most: int) -> list[Item]:
        # leaves `end` alone: whoever puts moves it meanwhile
        items: list[Item] = []
        for end, body in islice(_frames(data, start, stop), most):
            record = _read_body(body)
            if record is None:
                self.is_damaged = True
            else:
                items.append((record, self, end))
        return items


def _frames(data: bytes | mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, bytes | None]]:
    """
    Yield the end and the body of each frame; None for a body that does not fit its checksum, or the file.
    """
    while start + FRAME.size <= stop:
        check, length = FRAME.unpack_from(data, start)
        if not length:
            return
        end = start + FRAME.size + length
        if end > stop:
            yield stop, None
            return
        body = data[start + FRAME.size : end]
        yield end, body if crc32(body) == check else None
        start = end


def ids_in(path: Path) -> Iterator[str]:
    """
    Give the ids of the records in the segment at *path*, also of those that are in the sink.

    Raises:
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    for _, body in _frames(data, HEADER_SIZE, len(data)):
        record = _read_body(body)
        if record is not None:
            yield record.id


def _read_body(body: bytes | None) -> UsageRecord | None:
    try:
        return None if body is None else _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _write_header(memory: mmap.mmap, instance_id: str, number: int) -> None:
    ids = instance_id.encode("ascii"), boot_id().encode("ascii")
    fixed = _FIXED.pack(MAGIC, VERSION, HEADER_SIZE, number, os.getpid(), *ids)
    memory[len(MAGIC) : _FIRST_AT] = fixed[len(MAGIC) :] + _CHECK.pack(crc32(fixed))
    _PROGRESS.pack_into(memory, _PROGRESS_AT, 0, HEADER_SIZE)
    memory[: len(MAGIC)] = MAGIC  # last: without it, the file counts as never used


def _read_header(data: bytes) -> int:
    """
    Return the offset at which replaying begins.
    """
    if not any(data[: len(MAGIC)]):
        return len(data)  # its process was killed before it was used, perhaps even before it was allocated
    if len(data) < HEADER_SIZE:
        raise DamagedSegmentError("The file is shorter than a header.")
    fixed, (check,) = data[: _FIXED.size], _CHECK.unpack_from(data, _FIXED.size)
    if data[: len(MAGIC)] != MAGIC or crc32(fixed) != check:
        raise DamagedSegmentError("The header is damaged.")
    if _FIXED.unpack(fixed)[1] != VERSION:
        raise DamagedSegmentError("The segment is of another version.")
    _, committed = _PROGRESS.unpack_from(data, _PROGRESS_AT)
    # a cursor that cannot be right is no cursor: what is in the sink already is known there
    return committed if _may_be_end(data, committed) else HEADER_SIZE


def _may_be_end(data: bytes, offset: int) -> bool:
    """
    Whether a frame ends at *offset*, as far as those before it can be followed.
    """
    end = HEADER_SIZE
    while end < offset and end + FRAME.size <= len(data):
        length = FRAME.unpack_from(data, end)[1]
        if not length:
            return False
        end += FRAME.size + length
        if end > len(data):
            return True  # a damaged frame is in the way
    return end == offset


def allocate(file: int, size: int) -> None:
    """
    Give *file* room for *size* bytes, so that storing into its mapping cannot fail later.

    Raises:
        OSError: There is no room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as exc:
            if exc.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:  # what file systems say that cannot allocate
                raise
        else:
            return
    zeros = bytes(min(size, 2**20))
    while size > 0:
        size -= os.write(file, zeros[:size])


def _sync(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)


def sync_folder(folder: Path) -> None:
    """
    Wait until the names in *folder* are on the disk.

    Raises:
        OSError: The disk failed.
    """
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@functools.cache
def boot_id() -> str:
    """
    Return the id of the system's current boot, empty where it has none.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:36]
    except (OSError, ValueError):
        return ""
