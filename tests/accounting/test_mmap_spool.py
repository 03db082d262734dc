"""
The spool on disk: what a process that dies leaves behind is found once, and whatever the disk does, the app goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections import deque
from pathlib import Path

import pytest

from tokenbudget_mw.accounting import claims, mmap_spool, segments
from tokenbudget_mw.accounting.base import Spool
from tokenbudget_mw.accounting.claims import Claim
from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.errors import SpoolFullError
from tokenbudget_mw.values import Opened

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")

SMALL = 2**16
"""Bytes of a segment that is soon full, in these tests."""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def leave(root, feed):
    """
    Leave records behind as a process that was killed does: its files stay, its lock is gone.
    """

    def leave(count: int = 3, **options):
        spool = MmapSpool(root, segment_bytes=SMALL, **options)
        records = feed(spool, count)
        kill(spool)
        return spool, records

    return leave


OTHER_USER = """
import os
from pathlib import Path
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
spool = MmapSpool(Path(), look_every=0.0)
os.setuid(54321)
for _ in range(2):
    spool.tend()
    print(len(spool))
"""


def kill(spool) -> None:
    spool._mine.get().claim.release()


def drain(spool, most=1_000):
    spool.tend()
    records = []
    while batch := spool.take(most):
        records += batch
        spool.commit(len(batch))
    return records


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


class TestQueue:
    def test_take_does_not_forget(self, root, feed):
        """
        What is taken but not committed is taken again, in the same order.
        """
        spool = MmapSpool(root)
        records = feed(spool, 5)

        assert spool.take(3) == records[:3]
        assert spool.take(4) == records[:4]
        assert len(spool) == 5

    def test_commit_forgets_the_oldest(self, root, feed):
        """
        A commit forgets as many records as it says, from the oldest on.
        """
        spool = MmapSpool(root)
        records = feed(spool, 5)
        spool.take(3)

        spool.commit(2)

        assert spool.take(9) == records[2:]
        assert (spool.recorded, len(spool)) == (5, 3)

    def test_only_what_was_taken_can_be_committed(self, root, feed):
        """
        A commit of records that nobody has looked at is an error, and forgets nothing.
        """
        spool = MmapSpool(root)
        feed(spool, 2)
        spool.take(1)

        with pytest.raises(ValueError, match="1 are, got 2"):
            spool.commit(2)
        assert len(spool) == 2

    def test_the_listener_hears_every_put(self, root, feed):
        """
        The listener gets the number of waiting records, and the greatest number where a segment was begun.
        """
        spool, heard = MmapSpool(root), []
        spool.listen(heard.append)

        feed(spool, 3)
        spool.commit(len(spool.take(3)))
        feed(spool)

        assert heard == [sys.maxsize, 2, 3, 1]

    @pytest.mark.parametrize("fails", [False, True], ids=["file", "memory"])
    def test_a_flusher_may_be_quicker_than_the_put(self, root, feed, monkeypatch, fails):
        """
        A record that is taken and committed before its put has returned was counted all the same, never less than nothing.
        """
        spool, depths = MmapSpool(root), []

        class Quick(deque):
            def append(self, item):
                super().append(item)
                spool.commit(len(spool.take(10)))
                depths.append(len(spool))

        def refuse(*_):
            raise OSError

        if fails:
            monkeypatch.setattr(segments, "allocate", refuse)
        spool._mine.get().waiting = Quick()
        feed(spool, 3)

        assert depths == [0, 0, 0]

    def test_it_is_a_spool(self, root):
        """
        The class keeps the Protocol (checked by the type checker, too), and makes no file before it must.
        """
        spool: Spool = MmapSpool(root)

        assert (len(spool), spool.folder, spool.tend()) == (0, root, 60.0)
        assert not root.exists()

    def test_folders_are_private(self, root, feed):
        """
        Nobody but the owner looks into the spool.
        """
        spool = MmapSpool(root)
        feed(spool)

        assert [path.stat().st_mode & 0o777 for path in (root, root / spool.instance_id)] == [0o700, 0o700]

    def test_many_segments(self, root, feed):
        """
        Records go from segment to segment, come out in order, and a segment that is done is removed.
        """
        spool = MmapSpool(root, segment_bytes=SMALL)
        records = feed(spool, 2_000)
        assert len(files(root)) > 3

        assert drain(spool, 300) == records
        spool.tend()

        assert len(files(root)) == 3  # lock, current, spare

    def test_the_next_segment_is_ready(self, root, feed, monkeypatch):
        """
        Once tended, a full segment is followed without a new file.
        """
        spool = MmapSpool(root, segment_bytes=SMALL)
        feed(spool)
        spool.tend()
        monkeypatch.setattr(segments.Segment, "make", None)

        feed(spool, SMALL // 100)

        assert spool.recorded == SMALL // 100 + 1

    def test_nothing_stays_when_all_is_written(self, root, feed):
        """
        `close` after the last commit leaves an empty folder, and a later put starts again.
        """
        spool = MmapSpool(root)
        feed(spool, 5)
        drain(spool)
        spool.close()
        assert list(root.iterdir()) == []

        records = feed(spool, 2)

        assert [record.sequence for record in drain(spool)] == [6, 7]
        assert records[0].instance_id == spool.instance_id

    def test_what_waits_stays(self, root, feed):
        """
        `close` with records that wait leaves them where the next process finds them.
        """
        spool = MmapSpool(root)
        records = feed(spool, 5)

        spool.close()
        kill(spool)

        assert drain(MmapSpool(root)) == records

    def test_threads_lose_nothing(self, root, fresh):
        """
        Records put by several threads while another takes are all there, once.
        """
        spool, seen, done = MmapSpool(root, segment_bytes=SMALL, memory=50), [], threading.Event()

        def produce() -> None:
            for _ in range(1_500):
                assert spool.put(fresh(spool))

        def consume() -> None:
            while not done.is_set() or len(spool):
                seen.extend(record.sequence for record in drain(spool, 100))

        producers = [threading.Thread(target=produce) for _ in range(4)]
        consumer = threading.Thread(target=consume)
        for thread in [*producers, consumer]:
            thread.start()
        for thread in producers:
            thread.join()
        done.set()
        consumer.join()

        assert sorted(seen) == list(range(1, 6_001))
        assert (len(spool), spool.dropped) == (0, 0)

    def test_a_put_within_a_put(self, root, fresh, monkeypatch):
        """
        A finalizer that the garbage collector runs within a put may put: both records are kept, in whole frames.
        """
        spool = MmapSpool(root)
        inner, outer, real = fresh(spool), fresh(spool), mmap_spool._put_frame

        def finalize(*frame) -> None:
            monkeypatch.setattr(mmap_spool, "_put_frame", real)
            assert spool.put(inner)
            real(*frame)

        monkeypatch.setattr(mmap_spool, "_put_frame", finalize)
        spool.put(outer)

        assert spool.take(9) == [outer, inner]
        assert [item[0] for item in segments.Segment.open(spool._mine.get().segment.path)[1]] == [outer, inner]

    def test_an_interrupted_put_leaves_no_hole(self, root, feed, fresh, monkeypatch):
        """
        A put that a signal's exception ends has not happened: the next takes its place, and the spool is not stuck.
        """
        spool, real = MmapSpool(root), mmap_spool._put_frame
        first = feed(spool)

        def interrupt(*_frame) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(mmap_spool, "_put_frame", interrupt)
        with pytest.raises(KeyboardInterrupt):
            spool.put(fresh(spool))
        monkeypatch.setattr(mmap_spool, "_put_frame", real)
        last = feed(spool)
        kill(spool)

        assert drain(MmapSpool(root)) == first + last == spool.take(9)


class TestMemoryBound:
    def test_t13_memory_is_bounded_and_nothing_is_lost(self, root, feed):
        """
        Of a backlog only *memory* records are kept in memory; the others are read from the files, in order, once.
        """
        spool = MmapSpool(root, segment_bytes=SMALL, memory=10)

        records = feed(spool, 1_000)
        assert len(spool._mine.get().waiting) == 10
        assert len(spool) == 1_000

        assert drain(spool, 64) == records
        more = feed(spool, 25)
        assert drain(spool, 64) == more
        assert len(spool) == 0

    def test_puts_between_takes_keep_the_order(self, root, feed):
        """
        While it reads from files, new records queue up behind.
        """
        spool = MmapSpool(root, segment_bytes=SMALL, memory=5)
        records, seen = feed(spool, 40), []

        while batch := spool.take(7):
            if len(records) < 300:
                records += feed(spool, 9)
            seen += batch
            spool.commit(len(batch))

        assert seen == records

    def test_what_spills_while_memory_is_emptied_comes_after_it(self, root, feed):
        """
        Records that fill memory just as the flusher has found it empty come before those that only the file holds: a commit of
        the latter would pass the former, and a killed process would lose them.
        """
        spool, late = MmapSpool(root, segment_bytes=SMALL, memory=3), []

        class Emptied(deque):
            def __len__(self):
                if not super().__len__() and not late:
                    late.append(feed(spool, 5))
                    return 0
                return super().__len__()

        spool._mine.get().waiting = Emptied()

        assert drain(spool) == []
        assert drain(spool) == late[0]

    def test_a_put_while_the_file_is_read_is_not_written_over(self, root, feed):
        """
        The file is read back while a thread puts more into it: each record keeps its place, and all are there.
        """
        spool = MmapSpool(root, memory=1)
        feed(spool, 3_000)
        putting = threading.Thread(target=feed, args=(spool, 3_000))
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            putting.start()
            seen = drain(spool, 10_000)
            putting.join()
        finally:
            sys.setswitchinterval(before)
        seen += drain(spool)

        assert [record.sequence for record in seen] == list(range(1, 6_001))

    def test_memory_that_ends_with_a_file_does_not_hold_up_what_comes(self, root, feed, caplog):
        """
        Where the last record in memory is the last of its file as well, that file may go before the next is read.
        """
        fitting = MmapSpool(root / "measured", segment_bytes=SMALL)
        while fitting.disk_bytes <= SMALL:
            feed(fitting, 1)
        last_of_file = len(fitting) - 1

        spool = MmapSpool(root, segment_bytes=SMALL, memory=last_of_file)
        records = feed(spool, last_of_file + 5)

        assert drain(spool, last_of_file) == records
        assert len(spool) == 0
        assert not caplog.records

    def test_a_frame_that_cannot_be_read_back_is_not_waited_for(self, root, feed, caplog):
        """
        Damage in a segment of its own costs the record, is said, keeps the file, and leaves nothing that waits for ever.
        """
        spool = MmapSpool(root, segment_bytes=SMALL, memory=1)
        records = feed(spool, 3)
        store = spool._mine.get()
        store.segment.map[store.spill[1] + 30] ^= 0xFF

        assert drain(spool) == [records[0], records[2]]
        assert len(spool) == 0
        feed(spool, 1_000)
        drain(spool)
        assert "is damaged and is kept" in caplog.text


class TestFull:
    def test_t13_bytes_are_bounded(self, root, feed, caplog):
        """
        A spool that holds all the bytes it may drops the newest, counts it, says it once, and goes on when there is room.
        """
        spool = MmapSpool(root, most_bytes=3 * SMALL, segment_bytes=SMALL)

        records = feed(spool, 5_000)
        assert spool.dropped > 0
        assert spool.disk_bytes == 3 * SMALL
        kept = drain(spool)
        assert kept == records[: len(kept)]
        assert (len(kept), spool.recorded) == (5_000 - spool.dropped, 5_000 - spool.dropped)
        feed(spool)

        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
        assert f"full ({3 * SMALL} bytes)" in caplog.messages[0]
        assert "has room again" in caplog.messages[1]

    def test_raise(self, root, feed):
        """
        Told so, a full spool raises, and has counted.
        """
        spool = MmapSpool(root, most_bytes=2 * SMALL, segment_bytes=SMALL, full="raise")

        with pytest.raises(SpoolFullError, match="spool_full"):
            feed(spool, 5_000)

        assert spool.dropped == 1
        assert drain(spool) != []
        feed(spool)

    def test_block_waits_for_room(self, root, feed, fresh):
        """
        Told so, a put waits until the flusher has made room.
        """
        spool = MmapSpool(root, most_bytes=2 * SMALL, segment_bytes=SMALL, full="block", patience=60.0)
        heard = threading.Event()
        spool._refuse = None  # nothing may be refused
        real_wait = spool._mine.get().room.wait

        def wait(left):
            heard.set()
            return real_wait(left)

        spool._mine.get().room.wait = wait
        blocked = threading.Thread(target=feed, args=(spool, 1_000))
        blocked.start()

        while blocked.is_alive():
            assert heard.wait(10) or not blocked.is_alive()
            drain(spool)
        drain(spool)

        assert (spool.recorded, spool.dropped, len(spool)) == (1_000, 0, 0)

    def test_block_gives_up(self, root, feed):
        """
        A put that has waited long enough drops its record, and counts it.
        """
        spool = MmapSpool(root, most_bytes=2 * SMALL, segment_bytes=SMALL, full="block", patience=0.0)

        feed(spool, 5_000)

        assert spool.dropped > 0
        assert spool.recorded + spool.dropped == 5_000


class TestDisk:
    def test_no_folder_is_no_reason_to_stop(self, root, feed, caplog):
        """
        Where the folder cannot be made, records are kept in memory; this is said once, and counted.
        """
        root.write_text("a file")
        spool = MmapSpool(root)

        records = feed(spool, 5)

        assert drain(spool) == records
        assert (spool.unprotected, spool.dropped) == (5, 0)
        assert len(caplog.records) == 1
        assert "cannot make a file" in caplog.messages[0]

    def test_it_recovers(self, root, feed, caplog, time):
        """
        When the disk has room again, records go to files again, without a system call in a put.
        """
        root.write_text("a file")
        spool = MmapSpool(root, clock=time)
        records = feed(spool, 2)
        root.unlink()

        spool.tend()
        time.now += 5
        records += feed(spool, 2)
        kill(spool)

        assert "has a file again" in caplog.messages[1]
        assert spool.unprotected == 2
        assert drain(MmapSpool(root)) == records[2:]
        assert drain(spool) == records

    def test_it_does_not_ask_a_full_disk_all_the_time(self, root, feed, time, monkeypatch):
        """
        A disk that refused is asked again after some seconds, and never by a put.
        """
        asked = []

        def refuse(*_args, **_options):
            asked.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Claim, "make", refuse)
        spool = MmapSpool(root, clock=time)
        for _ in range(20):
            feed(spool, 10)
            spool.tend()
            time.now += 1

        assert len(asked) == 1 + 4

    @pytest.mark.parametrize("memory", [10, 10_000])
    def test_a_folder_that_somebody_removes(self, root, feed, time, caplog, memory):
        """
        Without its folder a spool goes on, loses no more than was in the removed files alone, and makes a new folder.
        """
        spool = MmapSpool(root, segment_bytes=SMALL, memory=memory, clock=time)
        feed(spool, 500)
        spool.tend()
        shutil.rmtree(root)

        feed(spool, 2_000)
        assert spool.unprotected > 0
        left = len(drain(spool))
        time.now += 5
        spool.tend()
        records = feed(spool, 500)

        assert left == 2_500 if memory == 10_000 else left < 2_500
        assert "cannot make a file" in caplog.text
        assert len(spool) == 500
        assert drain(spool) == records
        assert len(spool) == 0

    def test_files_that_cannot_be_removed_do_not_keep_it_from_closing(self, root, feed, caplog):
        """
        As on a disk that has become one to read from: it is said, and whoever closes goes on with what else there is to close.
        """
        spool = MmapSpool(root)
        spool.unmark(spool.mark(Opened("1" * 32, 0, "review", "POST", "/")))
        feed(spool)
        drain(spool)
        shutil.rmtree(root)
        root.write_text("no folder")

        spool.close()

        assert [message.partition(" could not be removed (")[0] for message in caplog.messages] == [
            "A file of the usage spool's marks",
            *["A segment of the usage spool"] * 2,
        ]

    def test_memory_is_bounded_then_too(self, root, feed, caplog):
        """
        Without files, the queue's bound holds, with the same policy and the same words.
        """
        root.write_text("a file")
        spool = MmapSpool(root, queue=3)

        records = feed(spool, 5)

        assert drain(spool) == records[:3]
        assert (spool.dropped, spool.unprotected) == (2, 3)
        assert "full" in caplog.messages[1]

    @pytest.mark.parametrize("memory", [10, 10_000])
    def test_t13_the_disk_fills_up_while_it_runs(self, root, feed, fresh, monkeypatch, memory):
        """
        Records before, while and after the disk is full all come out, once, also those that only the files hold.
        """
        spool, make = MmapSpool(root, segment_bytes=SMALL, memory=memory), segments.Segment.make

        def refuse(*_args, **_options):
            raise OSError(errno.ENOSPC, "No space left on device")

        records = feed(spool, 500)
        monkeypatch.setattr(segments.Segment, "make", refuse)
        records += feed(spool, 500)
        assert spool.unprotected > 0
        monkeypatch.setattr(segments.Segment, "make", make)
        spool.tend()
        records += feed(spool, 500)

        assert sorted(record.sequence for record in drain(spool, 70)) == list(range(1, 1_501))
        assert len(spool) == 0

    def test_a_real_limit_is_no_signal(self, root):
        """
        A process that may not write files of that size goes on in memory: no signal ends it.
        """
        assert _run(
            root,
            """
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
feed(5)
print(spool.unprotected, len(spool.take(9)), os.listdir(root / spool.instance_id))
""",
        ) == ("5 5 ['lock']")

    def test_progress_that_cannot_be_noted_is_no_error(self, root, feed, caplog):
        """
        A cursor that cannot be written costs a replay, which the sink knows, and nothing else.
        """
        spool = MmapSpool(root, segment_bytes=SMALL)
        feed(spool, 500)
        spool.tend()  # unmaps what is full
        spool._mine.get().sealed[0].path = spool._mine.get().sealed[0].path.with_name("gone")

        assert [record.sequence for record in drain(spool, 3)] == list(range(1, 501))
        assert "could not be noted" in caplog.messages[0]


class TestInheritance:
    def test_t12_records_of_the_dead_are_replayed(self, root, leave):
        """
        What a dead process has left is taken as it was, under its own instance id, once, and then cleared away.
        """
        dead, records = leave(500)
        spool = MmapSpool(root)

        assert drain(spool) == records
        assert records[0].instance_id == dead.instance_id != spool.instance_id
        assert spool.replayed == 500
        assert list(root.iterdir()) == []

    def test_the_segment_that_stood_ready_is_cleared_away_too(self, root, leave, caplog):
        """
        A segment of which nothing is left to replay goes with the others, though it is the last.
        """
        dead, records = leave(3)
        dead.tend()
        assert [path.name for path in sorted(root.rglob("*.segment"))] == ["00000001.segment", "00000002.segment"]
        spool = MmapSpool(root)

        assert drain(spool) == records
        assert list(root.iterdir()) == []
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    def test_folders_are_claimed_one_at_a_time(self, root, leave):
        """
        Of a thousand folders a process opens one, for it may open no more than a thousand files; another process helps.
        """
        left = [record for _ in range(6) for record in leave(3)[1]]
        one, other, seen = MmapSpool(root), MmapSpool(root), []

        for spool in (one, other):
            spool.tend()
        held = [len(spool) for spool in (one, other)]
        for spool in (one, other):
            seen += drain(spool)

        assert held == [3, 3]
        assert one.replayed == 15
        assert sorted(seen, key=_place) == sorted(left, key=_place)
        assert list(root.iterdir()) == []

    def test_a_folder_that_cannot_be_looked_into_holds_up_no_other(self, root, leave, monkeypatch):
        """
        Where no file can be opened any more, what was found is replayed, and the rest at the next look.
        """
        records, segments_of, tries = [*leave(3)[1], *leave(3)[1]], Claim.segments, []

        def no_descriptor(claim):
            tries.append(claim.path)
            if len(tries) == 1:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return segments_of(claim)

        monkeypatch.setattr(Claim, "segments", no_descriptor)
        spool = MmapSpool(root, look_every=0.0)
        first = drain(spool)

        assert sorted(first + drain(spool), key=_place) == sorted(records, key=_place)

    def test_only_what_was_not_committed(self, root, feed):
        """
        What the dead process had brought to the sink is not replayed.
        """
        dead = MmapSpool(root, segment_bytes=SMALL)
        records = feed(dead, 500)
        dead.commit(len(dead.take(333)))
        kill(dead)

        assert drain(MmapSpool(root), 50) == records[333:]

    def test_own_records_go_along(self, root, leave, feed):
        """
        One batch may hold the process's own records and those of several dead ones; each commit reaches its own segment.
        """
        _, first = leave(3)
        _, second = leave(4)
        spool = MmapSpool(root)
        own = feed(spool, 2)

        spool.tend()
        batch = spool.take(4)
        assert batch[:2] == own
        spool.commit(3)
        spool._mine.get().inheritance.release()  # killed here
        kill(spool)
        rest = drain(MmapSpool(root))

        left = [*first, *second]
        left.remove(batch[2])
        assert sorted(rest, key=_place) == sorted(left, key=_place)

    def test_the_living_are_left_alone(self, root, feed):
        """
        Segments of a process that lives are not touched.
        """
        living, spool = MmapSpool(root), MmapSpool(root)
        records = feed(living, 3)

        assert drain(spool) == []
        assert drain(living) == records

    def test_t12_two_want_the_same(self, root, leave):
        """
        Of many that look at the same moment, in threads of their own, exactly one gets each record.
        """
        left = [record for _ in range(5) for record in leave(20)[1]]
        barrier, got = threading.Barrier(6), []

        def race() -> None:
            spool = MmapSpool(root)
            barrier.wait()
            got.extend(drain(spool))

        threads = [threading.Thread(target=race) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(got, key=_place) == sorted(left, key=_place)
        assert list(root.iterdir()) == []

    def test_who_comes_late_gets_nothing(self, root, leave):
        """
        A lock that was opened before the winner removed the folder is no claim.
        """
        dead, _ = leave()
        folder = root / dead.instance_id
        file = claims._open_lock(folder)
        drain(MmapSpool(root))

        assert os.fstat(file).st_nlink == 0
        os.close(file)
        assert Claim.seize(folder) is None

    @pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which files are open")
    def test_looks_at_the_living_leave_no_file_open(self, root, feed):
        """
        A worker looks every minute for as long as it lives, and others live beside it.
        """
        living = MmapSpool(root)
        feed(living, 1)
        other = MmapSpool(root)
        other.tend()
        before = len(list(Path("/proc/self/fd").iterdir()))

        for _ in range(3):
            assert Claim.seize(root / living.instance_id) is None

        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_looks_are_a_minute_apart(self, root, leave, time):
        """
        It looks at the start and every 60 seconds.
        """
        spool = MmapSpool(root, clock=time)
        assert spool.tend() == 60.0
        leave()

        time.now += 59.0
        assert (spool.tend(), len(spool)) == (1.0, 0)
        time.now += 1.0

        assert (spool.tend(), len(spool)) == (60.0, 3)

    def test_damaged_segments_are_put_aside(self, root, leave, caplog):
        """
        What can be read is replayed; a file in which something cannot is kept, counted and said; nothing is raised.
        """
        dead, records = leave(3)
        folder = root / dead.instance_id
        path = folder / "00000001.segment"
        data = bytearray(path.read_bytes())
        data[-1] = 1  # a frame's checksum without a body: harmless
        data[segments.HEADER_SIZE + 60] ^= 0xFF
        path.write_bytes(data)
        (folder / "00000002.segment").write_bytes(b"\x01" * 500)
        (folder / "00000003.segment").write_bytes(b"\x02" * 5)
        spool = MmapSpool(root)

        assert drain(spool) == records[1:]

        assert (spool.quarantined, spool.replayed) == (3, 2)
        assert files(root) == [f"damaged/{dead.instance_id}-0000000{n}.segment" for n in (1, 2, 3)]
        assert sum("is damaged" in message for message in caplog.messages) == 3
        assert drain(MmapSpool(root)) == []

    def test_a_file_that_cannot_be_read_now_waits(self, root, leave, monkeypatch, caplog):
        """
        A segment that the system does not give now is left for the next look.
        """
        _, records = leave(3)

        def refuse(_path):
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(segments.Segment, "open", refuse)
            assert drain(MmapSpool(root)) == []

        assert "cannot be read now" in caplog.messages[0]
        assert drain(MmapSpool(root)) == records

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_t12_folders_of_another_user_are_told_of(self, leave):
        """
        A pod that runs as another user than the last one must not leave its usage where it is without a word.
        """
        first, _ = leave(3)
        leave(3)
        first.folder.chmod(0o777)

        done = subprocess.run(
            [sys.executable, "-c", OTHER_USER], cwd=first.folder, capture_output=True, text=True, check=True, timeout=60
        )

        assert done.stdout.split() == ["0", "0"]
        assert done.stderr.count("another user's folders") == 1
        assert "uid 54321" in done.stderr

    def test_empty_folders_are_tidied_when_they_are_old(self, root):
        """
        A folder without segments may belong to a process that is just starting; an old one goes.
        """
        folders = [root / ("ab" * 16), root / ("cd" * 16)]
        Claim.make(root, folders[0].name).release()
        folders[1].mkdir()  # not even a lock yet
        drain(MmapSpool(root))
        assert all(folder.is_dir() for folder in folders)

        for folder in folders:
            os.utime(folder, (0, 0))
        drain(MmapSpool(root))

        assert list(root.iterdir()) == []

    def test_foreign_files_stay(self, root, leave):
        """
        What is no folder of an instance is not looked at, and a folder with somebody's own file in it stays.
        """
        dead, records = leave(3)
        (root / dead.instance_id / "notes").write_text("mine")
        (root / "notes").write_text("mine")

        assert drain(MmapSpool(root)) == records
        assert files(root) == [f"{dead.instance_id}/lock", f"{dead.instance_id}/notes", "notes"]

    def test_what_is_left_at_the_end_is_not_called_lost(self, root, feed, caplog):
        """
        Whoever reads the last line of a process learns where the rest lies, and who writes it.
        """
        flusher = Flusher(
            MmapSpool(root), CallableSink(lambda _records: 1 / 0), threads=False, pause=lambda _seconds: None
        )
        feed(flusher._spool, 3)

        flusher.close(timeout=0.01)

        assert caplog.messages[-1] == (
            f"3 usage records were not written at the end: the next process that records writes those in {root}."
        )

    def test_t11_the_flusher_replays_without_a_record_of_its_own(self, root, leave):
        """
        A flusher that is woken brings what it finds to the sink, without a put.
        """
        _, records = leave(40)
        rows, wrote = [], threading.Event()

        def write(batch):
            rows.extend(batch)
            wrote.set()

        flusher = Flusher(MmapSpool(root), CallableSink(write), interval=0.0)
        flusher.wake()

        assert wrote.wait(10)
        assert flusher.close()
        assert rows == records
        assert list(root.iterdir()) == []


class TestFork:
    def test_a_child_has_its_own_life(self, root):
        """
        A forked child has another instance id, an empty spool, its own folder; the parent's goes on unharmed.
        """
        assert _run(root, _FORK.format(hooks=True)) == "True 0 [1] | True 4 [1, 2, 3, 4]"

    def test_a_fork_without_hooks_is_seen(self, root):
        """
        A fork made in C calls no Python hook: the process id alone tells the child.
        """
        assert _run(root, _FORK.format(hooks=False)) == "True 0 [1] | True 4 [1, 2, 3, 4]"

    def test_a_child_does_not_keep_its_parent_alive(self, root):
        """
        A lock survives in a forked child's copy of the file; the child lets go of it, so the parent's death is seen.
        """
        assert (
            _run(
                root,
                """
feed(3)
read, write = os.pipe()
ready, say = os.pipe()
if os.fork() == 0:
    os.write(say, b"x")
    os.read(read, 1)
    os._exit(0)
os.read(ready, 1)
print(Claim.seize(root / spool.instance_id), end=" ")
spool._mine.get().claim.release()  # the parent's copy
claim = Claim.seize(root / spool.instance_id)
print(claim is not None)
os.write(write, b"x")
os.wait()
""",
            )
            == "None True"
        )

    def test_a_program_that_is_started_keeps_nothing(self, root):
        """
        Files of the spool are closed in programs that the app starts.
        """
        assert (
            _run(
                root,
                """
import subprocess
feed(3)
listed = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False).stdout
print(str(root) in listed)
""",
            )
            == "False"
        )


class TestPower:
    @pytest.fixture
    def synced(self, monkeypatch):
        calls = []
        real = segments._sync

        def sync(file):
            calls.append(file)
            real(file)

        monkeypatch.setattr(segments, "_sync", sync)
        return calls

    def test_kill_safe_does_not_wait_for_the_disk(self, root, feed, synced):
        """
        The default never syncs.
        """
        spool = MmapSpool(root, segment_bytes=SMALL)

        feed(spool, 1_000)
        drain(spool)
        spool.close()

        assert synced == []

    def test_power_safe_is_on_the_disk_when_put_returns(self, root, feed, synced):
        """
        Every put waits for a sync that began after it.
        """
        spool = MmapSpool(root, segment_bytes=SMALL, durability="power_safe")

        feed(spool, 5)

        assert len(synced) == 5
        drain(spool)
        spool.close()
        assert list(root.iterdir()) == []

    def test_power_safe_crosses_segments(self, root, feed, synced):
        """
        The last records of a full segment are synced, too, and its file is given back.
        """
        spool = MmapSpool(root, segment_bytes=SMALL, durability="power_safe")
        before = _count_open_files()

        records = feed(spool, 600)
        assert drain(spool) == records
        spool.close()

        assert len(synced) >= 600
        assert _count_open_files() == before

    def test_one_sync_serves_many(self, root, fresh, monkeypatch):
        """
        Threads that put while a sync is under way share the next one.
        """
        spool = MmapSpool(root, durability="power_safe")
        calls, gate, entered = [], threading.Event(), threading.Event()

        def sync(file):
            calls.append(file)
            entered.set()
            assert gate.wait(20)

        monkeypatch.setattr(segments, "_sync", sync)
        tickets, real = [], spool._mine.get().syncer.sync
        arrived = threading.Semaphore(0)

        def ask():
            arrived.release()
            real()
            tickets.append(1)

        spool._mine.get().syncer.sync = ask
        threads = [threading.Thread(target=spool.put, args=(fresh(spool),)) for _ in range(8)]
        threads[0].start()
        assert entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        for _ in threads:
            assert arrived.acquire(timeout=10)
        gate.set()
        for thread in threads:
            thread.join()

        assert len(tickets) == 8
        assert len(calls) <= 3  # the first, one for all others, and perhaps one for who came between the two

    def test_the_window_is_synced_by_a_thread(self, root, feed, monkeypatch):
        """
        Under `power_safe_window` a thread syncs what was put, and stops with the spool.
        """
        synced, again = threading.Event(), []

        def sync(file):
            again.append(file)
            synced.set()

        monkeypatch.setattr(segments, "_sync", sync)
        monkeypatch.setattr(mmap_spool, "SYNC_EVERY", 0.001)
        spool = MmapSpool(root, durability="power_safe_window")

        feed(spool, 5)

        assert synced.wait(10)
        drain(spool)
        spool.close()
        assert len(again) <= 5  # nothing new, no sync

    def test_the_thread_ends_with_its_spool(self, root, feed, monkeypatch):
        """
        A spool that is forgotten takes its thread along.
        """
        monkeypatch.setattr(mmap_spool, "SYNC_EVERY", 0.001)
        spool = MmapSpool(root, durability="power_safe_window")
        feed(spool)
        thread = next(each for each in threading.enumerate() if each.name == "tokenbudget-sync")
        gone = weakref.ref(spool._mine.get())

        del spool
        thread.join(10)

        assert not thread.is_alive()
        assert gone() is None

    def test_a_disk_that_fails_is_said_once(self, root, feed, monkeypatch, caplog):
        """
        A sync that fails is an error line, once, and not the app's problem.
        """

        def fail(_file):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(segments, "_sync", fail)
        spool = MmapSpool(root, durability="power_safe")

        feed(spool, 5)

        assert caplog.messages == ["The usage spool cannot be synced (OSError): a power cut may lose usage."]
        assert len(spool) == 5


_FORK = """
if not {hooks}:
    os.register_at_fork = lambda **_: None
    spool = MmapSpool(root)
feed(3)
before = spool.instance_id
if os.fork() == 0:
    print(spool.instance_id != before, len(spool), end=" ")
    feed(1)
    print([record.sequence for record in spool.take(9)], end=" | ", flush=True)
    os._exit(0)
os.wait()
feed(1)
print(spool.instance_id == before, len(spool), [record.sequence for record in spool.take(9)])
"""


def _run(root, body: str) -> str:
    script = f"""
import os, pathlib, resource
root = pathlib.Path({str(root)!r})
from tokenbudget_mw.accounting.claims import Claim
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
from tokenbudget_mw.values import UsageRecord
def feed(count):
    for _ in range(count):
        number, instance = spool.next_sequence(), spool.instance_id
        spool.put(UsageRecord(id="", instance_id=instance, sequence=number, created_at_us=0, method="", path=""))
spool = MmapSpool(root)
{body}
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _count_open_files() -> int:
    with contextlib.suppress(OSError):
        return len(list(Path("/proc/self/fd").iterdir()))
    return 0  # the system does not say


def _place(record):
    return record.instance_id, record.sequence
