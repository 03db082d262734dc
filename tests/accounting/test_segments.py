"""
Segments: what was put is read back, whatever happened to the file since.
"""

from __future__ import annotations

import errno
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.accounting import segments
from tokenbudget_mw.accounting.encoding import LONGEST_BODY, encode, encode_mended
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
from tokenbudget_mw.accounting.segments import FRAME, HEADER_SIZE, DamagedSegmentError, Segment, checksum
from tokenbudget_mw.values import UsageRecord

COUNT = 4


@pytest.fixture
def segment(tmp_path, feed):
    """
    The file of a segment with `COUNT` records, and the ends of their frames.
    """
    spool = MmapSpool(tmp_path / "spool", segment_bytes=2**16)
    feed(spool, COUNT)
    store = spool._mine.get()
    return store.segment.path, [item[2] for item in store.waiting]


def sequences(path):
    return [record.sequence for record, _, _ in Segment.open(path)[1]]


class TestOpen:
    def test_everything_is_read(self, segment):
        """
        A segment gives back its records, in order, with the offsets behind them.
        """
        path, ends = segment

        opened, items = Segment.open(path)

        assert [(record.sequence, end) for record, _, end in items] == list(zip(range(1, COUNT + 1), ends, strict=True))
        assert (opened.committed, opened.is_damaged) == (HEADER_SIZE, False)

    @pytest.mark.parametrize("is_mapped", [True, False])
    def test_what_is_committed_is_not_read_again(self, tmp_path, feed, is_mapped):
        """
        The cursor lies in the file, whether it was noted in mapped memory or written.
        """
        spool = MmapSpool(tmp_path / "spool", segment_bytes=2**16)
        feed(spool, COUNT)
        current, items = spool._mine.get().segment, list(spool._mine.get().waiting)
        if not is_mapped:
            current.close()

        current.commit(items[1][2], 2)

        assert sequences(current.path) == [3, 4]

    def test_t12_torn_at_any_offset(self, segment):
        """
        A file that ends, or is zero, from any byte on gives back every record before it, and never an error of its own.
        """
        path, ends = segment
        data = path.read_bytes()
        for cut in range(ends[-1] + FRAME.size):
            whole = [number for number, end in enumerate(ends, 1) if end <= cut]
            for torn in (data[:cut], data[:cut] + bytes(FRAME.size)):
                path.write_bytes(torn)
                found = _readable(path)
                assert found == whole or (cut < HEADER_SIZE and found is None)

    def test_t12_every_byte_of_a_frame_may_be_missing(self, segment):
        """
        A process killed within a put leaves a body without a length: the records before it are whole, nothing is damaged.
        """
        path, ends = segment
        data = path.read_bytes()
        start = ends[-2]
        for written in range(ends[-1] - start - FRAME.size + 1):
            body = data[start + FRAME.size : start + FRAME.size + written]
            path.write_bytes(data[:start] + bytes(FRAME.size) + body + bytes(len(data) - start - FRAME.size - written))
            opened, items = Segment.open(path)
            assert ([item[0].sequence for item in items], opened.is_damaged) == ([1, 2, 3], False)

    @settings(max_examples=200, deadline=None)
    @given(position=st.integers(0, 3_000), value=st.integers(0, 255))
    def test_no_byte_is_trusted(self, tmp_path_factory, position, value):
        """
        One wrong byte anywhere costs at most the frames from it on, and no reader an error of its own.
        """
        path, good = _written(tmp_path_factory)
        data = bytearray(good)
        data[position] = value
        path.write_bytes(data)

        found = _readable(path)

        assert found is None or [record for record in found if record not in range(1, COUNT + 1)] == []

    def test_a_bad_frame_does_not_hide_those_behind_it(self, segment):
        """
        A frame with a wrong checksum is left out and makes the segment damaged; the next ones are read.
        """
        path, ends = segment
        data = bytearray(path.read_bytes())
        data[ends[0] + FRAME.size + 20] ^= 0xFF
        path.write_bytes(data)

        opened, items = Segment.open(path)

        assert [item[0].sequence for item in items] == [1, 3, 4]
        assert opened.is_damaged

    def test_a_body_that_is_no_record_is_damage(self, tmp_path):
        """
        A frame whose checksum fits but whose body is no usage record is left out and makes the segment damaged.
        """
        segment = Segment.make(tmp_path / "s", 4096, "a" * 32, 1)
        body = msgspec.msgpack.encode(["no", "record"])
        segment.map[HEADER_SIZE + FRAME.size : HEADER_SIZE + FRAME.size + len(body)] = body
        FRAME.pack_into(segment.map, HEADER_SIZE, checksum(body), len(body))
        segment.close()

        opened, items = Segment.open(tmp_path / "s")

        assert (items, opened.is_damaged) == ([], True)

    @pytest.mark.parametrize("behind", [0, 1, FRAME.size - 1])
    def test_a_cursor_beyond_a_file_that_is_full_replays_everything(self, segment, behind):
        """
        The same where the last frame leaves no room for another.
        """
        path, ends = segment
        data = bytearray(path.read_bytes()[: ends[-1] + behind])
        segments._PROGRESS.pack_into(data, segments._PROGRESS_AT, 0, 2**40)
        path.write_bytes(data)

        assert sequences(path) == list(range(1, COUNT + 1))

    @pytest.mark.parametrize("cursor", [2**40, 2**16 - 1, segments.HEADER_SIZE + 1, 0])
    def test_a_cursor_that_cannot_be_right_replays_everything(self, segment, cursor):
        """
        The sink knows what it has: a cursor beyond the file, behind all frames or amid one is no reason to leave records out.
        """
        path, _ = segment
        data = bytearray(path.read_bytes())
        segments._PROGRESS.pack_into(data, segments._PROGRESS_AT, 0, cursor)
        path.write_bytes(data)

        assert sequences(path) == [1, 2, 3, 4]

    def test_another_version_is_not_guessed_at(self, segment, monkeypatch):
        """
        A segment of another version is left to whoever can read it.
        """
        path, _ = segment
        monkeypatch.setattr(segments, "VERSION", 2)

        with pytest.raises(DamagedSegmentError, match="another version"):
            Segment.open(path)

    @pytest.mark.parametrize("size", [0, 5, 4096])
    def test_a_file_that_was_never_used_is_empty(self, tmp_path, size):
        """
        A process killed while it made a segment leaves zeros, or less, which is no damage.
        """
        (tmp_path / "s").write_bytes(bytes(size))

        opened, items = Segment.open(tmp_path / "s")

        assert (items, opened.is_done(), opened.is_damaged) == ([], True, False)


class TestMake:
    def test_the_header_says_whose_it_is(self, tmp_path):
        """
        Magic, version, instance, process, boot: somebody who finds the file knows where it comes from.
        """
        Segment.make(tmp_path / "s", 4096, "ab" * 16, 7).close()

        magic, version, size, number, pid, instance, boot = segments._FIXED.unpack(
            (tmp_path / "s").read_bytes()[: segments._FIXED.size]
        )

        assert (magic, version, size, number, pid) == (segments.MAGIC, 1, HEADER_SIZE, 7, os.getpid())
        assert instance == b"ab" * 16
        assert boot.rstrip(b"\0").decode() == segments.boot_id()

    def test_the_file_is_private_and_allocated(self, tmp_path):
        """
        Only its owner reads it, and its whole size is allocated, so that no store can find the disk full.
        """
        Segment.make(tmp_path / "s", 2**16, "a" * 32, 1).close()

        status = (tmp_path / "s").stat()
        assert status.st_mode & 0o777 == 0o600
        assert status.st_blocks * 512 >= 2**16

    def test_nothing_stays_of_what_could_not_be_made(self, tmp_path, monkeypatch):
        """
        A file without room is removed again.
        """

        def refuse(*_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(segments, "allocate", refuse)

        with pytest.raises(OSError, match="No space"):
            Segment.make(tmp_path / "s", 4096, "a" * 32, 1)
        assert list(tmp_path.iterdir()) == []

    def test_systems_without_fallocate_write_zeros(self, tmp_path, monkeypatch):
        """
        Where the system cannot allocate, the file is written in full.
        """
        monkeypatch.delattr(os, "posix_fallocate", raising=False)

        Segment.make(tmp_path / "s", 3 * 2**20 + 5, "a" * 32, 1).close()

        assert (tmp_path / "s").stat().st_size == 3 * 2**20 + 5

    @pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC])
    def test_file_systems_without_fallocate_write_zeros(self, tmp_path, monkeypatch, number):
        """
        So does a file system that says it cannot allocate; one that is full is full.
        """

        def refuse(*_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)

        if number == errno.ENOSPC:
            with pytest.raises(OSError, match="No space"):
                Segment.make(tmp_path / "s", 4096, "a" * 32, 1)
        else:
            Segment.make(tmp_path / "s", 4096, "a" * 32, 1).close()
            assert (tmp_path / "s").stat().st_size == 4096

    def test_a_fresh_segment_can_be_warmed(self, tmp_path):
        """
        Touching every page changes nothing.
        """
        segment = Segment.make(tmp_path / "s", 2**16, "a" * 32, 1)
        before = segment.map[:]

        segment.warm()

        assert segment.map[:] == before
        segment.close()


class TestEncoding:
    def test_a_record_comes_back(self):
        """
        msgpack and back is the same record.
        """
        record = _record(path="/ü", tags={"a": "b"}, cost_pico=2**63 - 1)

        assert msgspec.msgpack.decode(encode(record), type=UsageRecord) == record
        assert msgspec.msgpack.decode(encode_mended(record), type=UsageRecord) == record

    @pytest.mark.parametrize(
        "fields",
        [
            {"path": "/\ud800"},
            {"cost_pico": 2**80},
            {"cost_pico": -(2**80)},
            {"tags": {"a": "x" * 2**20}},
            {"tags": {str(n): "ü" * 512 for n in range(500)}},
            {"request_model": "m" * 10**6, "path": "\U0001f600" * 10**5, "custom_id": "c" * 10**5},
            {"tags": {"a": object()}},
            {"path": b"\xff"},
        ],
    )
    def test_t14_no_record_is_too_bad(self, fields):
        """
        Whatever is in a record, it becomes one that can be read again, is not long, and has the same sequence.
        """
        body = encode_mended(_record(**fields))

        assert len(body) <= LONGEST_BODY
        assert msgspec.msgpack.decode(body, type=UsageRecord).sequence == 5

    def test_t14_a_poison_record_is_spooled(self, tmp_path):
        """
        `put` takes a record that cannot be encoded, and the sink gets it as it was.
        """
        spool = MmapSpool(tmp_path / "spool")
        record = _record(path="/\ud800", cost_pico=2**80)

        assert spool.put(record)

        assert spool.take(9) == [record]
        assert Segment.open(spool._mine.get().segment.path)[1][0][0].path == "/?"

    def test_a_long_body_is_summed_in_pieces(self):
        """
        The checksum of pieces is that of the whole.
        """
        body = os.urandom(20_001)

        assert checksum(body) == segments.crc32(body)


def _record(**fields) -> UsageRecord:
    values = {"id": "i", "instance_id": "a" * 32, "created_at_us": 0, "method": "GET", "path": "/", **fields}
    return UsageRecord(sequence=5, **values)


def _readable(path):
    try:
        return sequences(path)
    except DamagedSegmentError:
        return None


_made: dict[str, tuple] = {}


def _written(factory):
    if not _made:
        path = factory.mktemp("segment") / "s"
        spool = MmapSpool(path.parent / "spool", segment_bytes=2**16)
        for number in range(1, COUNT + 1):
            record = UsageRecord(id="i", instance_id="a" * 32, sequence=number, created_at_us=0, method="GET", path="/")
            spool.put(record)
        _made["it"] = path, spool._mine.get().segment.path.read_bytes()
    return _made["it"]
