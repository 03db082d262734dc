"""
Marks of calls that run: what a killed process had under way is found once, and what ended is not found at all.
"""

from __future__ import annotations

import errno
import os
import sys

import pytest

from tokenbudget_mw.accounting import marks as marks_module
from tokenbudget_mw.accounting.marks import SLOTS, read_orphans
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
from tokenbudget_mw.values import Charged, Held, Opened, Orphan, Usage, UsageRecord

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")

SMALL = 2**16
"""Bytes of a segment that is soon full, in these tests."""


class Heir:
    """
    One row for each orphan.
    """

    def __init__(self) -> None:
        self.found: list[Orphan] = []
        self.taken_over: list[Orphan] = []

    def records_of(self, orphan):
        self.found.append(orphan)
        row = {"created_at_us": 0, "method": "POST", "path": "/", "settle_reason": "orphaned"}
        row |= {"id": orphan.opened.call_id, "instance_id": f"{orphan.instance_id}-o", "sequence": orphan.number}
        return [UsageRecord(**row)]

    def take_over(self, orphans):
        self.taken_over.extend(orphans)


def opened(call_id: str = "a" * 32, **changes) -> Opened:
    values = {
        "created_at_us": 1_700_000_000_000_000,
        "rule": "review",
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
        "input_tokens": 90,
        "held_input": 100,
        "held_output": 500,
        "tenant_id": "acme",
        "access_source": "custom",
    }
    return Opened(call_id, **(values | changes))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def heir():
    return Heir()


def kill(spool) -> None:
    """Let go of its lock, as the system does for a process that was killed."""
    spool._mine.get().claim.release()


def drain(spool):
    spool.tend()
    records = []
    while batch := spool.take(1_000):
        records += batch
        spool.commit(len(batch))
    return records


def test_a_call_of_a_killed_process_is_found_once(root, heir):
    """
    What was marked and not ended is an orphan for the next process that looks, and for nobody after it.
    """
    dead, mark = MmapSpool(root), opened()
    dead.mark(mark)
    kill(dead)
    spool = MmapSpool(root, heir=heir)

    (row,) = drain(spool)

    assert (row.id, row.instance_id, row.settle_reason) == ("a" * 32, f"{dead.instance_id}-o", "orphaned")
    assert heir.found == heir.taken_over == [Orphan(dead.instance_id, 1, mark)]
    assert spool.orphaned == 1
    assert drain(MmapSpool(root, heir=heir)) == []
    assert list(root.iterdir()) == []


def test_a_call_that_ended_is_no_orphan(root, heir):
    """
    A settled call clears its mark; what a process leaves behind that had no call under way is removed in silence.
    """
    dead = MmapSpool(root)
    dead.unmark(dead.mark(opened()))
    kill(dead)

    assert drain(MmapSpool(root, heir=heir)) == []
    assert list(root.iterdir()) == []


def test_a_mark_outlives_the_segments_around_it(root, heir, feed):
    """
    A call that runs while segments fill, are committed and removed keeps its mark, and its end still clears it.
    """
    dead = MmapSpool(root, segment_bytes=SMALL)
    slots = [dead.mark(opened(f"{number:032x}")) for number in range(2)]
    for _ in range(5):
        feed(dead, 500)
        assert len(drain(dead)) == 500
    dead.unmark(slots[0])
    kill(dead)

    (row,) = drain(MmapSpool(root, heir=heir))

    assert row.id == f"{1:032x}"


def test_records_come_before_orphans(root, heir, feed):
    """
    A process killed between a call's record and the end of its mark leaves both: the record is written first.
    """
    dead = MmapSpool(root)
    dead.mark(opened())
    (record,) = feed(dead)
    kill(dead)
    spool = MmapSpool(root, heir=heir)

    assert [each.instance_id for each in drain(spool)] == [record.instance_id, f"{dead.instance_id}-o"]


@pytest.mark.parametrize("is_written", [False, True])
def test_a_call_that_has_its_record_is_no_orphan(root, heir, is_written):
    """
    Killed between a call's record and the end of its mark, it is neither written again nor charged to counters again: also
    where the sink has its record already, and may have deleted the row since.
    """
    dead = MmapSpool(root)
    dead.mark(opened("b" * 32))
    dead.mark(opened("c" * 32))
    row = {"id": "b" * 32, "instance_id": dead.instance_id, "sequence": dead.next_sequence()}
    dead.put(UsageRecord(**row, created_at_us=0, method="POST", path="/"))
    if is_written:
        drain(dead)
    kill(dead)
    spool = MmapSpool(root, heir=heir)

    written = drain(spool)
    spool.tend()

    assert [each.id for each in written] == ["b" * 32] * (not is_written) + ["c" * 32]
    assert [each.opened.call_id for each in heir.taken_over] == ["c" * 32]


def test_adopted_twice_is_the_same_row(root, heir):
    """
    Who adopts may die as well, before or after the row is written: the next one gets the same row.
    """
    dead = MmapSpool(root)
    dead.mark(opened())
    kill(dead)
    first = MmapSpool(root, heir=heir)
    first.tend()
    rows = first.take(10)
    first._mine.get().inheritance.release()  # killed here

    assert drain(MmapSpool(root, heir=heir)) == rows
    assert len(heir.taken_over) == 1


def test_without_an_heir_marks_stay(root, heir):
    """
    A process that cannot say what becomes of calls leaves them to one that can.
    """
    dead = MmapSpool(root)
    dead.mark(opened())
    kill(dead)

    assert drain(MmapSpool(root)) == []
    assert len(drain(MmapSpool(root, heir=heir))) == 1


def test_an_heir_that_fails_is_asked_again(root, heir, caplog):
    """
    Where prices cannot be had, the marks stay for the next look, and the log says so.
    """
    dead = MmapSpool(root)
    dead.mark(opened())
    kill(dead)
    broken = Heir()
    broken.records_of = lambda _: 1 / 0

    assert drain(MmapSpool(root, heir=broken)) == []
    assert "cannot be read now (ZeroDivisionError)" in caplog.text
    assert len(drain(MmapSpool(root, heir=heir))) == 1


def test_the_marks_of_one_call_belong_together(root, heir):
    """
    Reservations and charges come with their call, in order, and without it they say nothing.
    """
    dead = MmapSpool(root)
    first, held = opened(), Held("a" * 32, 1, "gpt-4o", 5, 6, 7)
    charged = Charged("a" * 32, 2, Usage(1, 2), 3, "p", "known", {"f": "x"}, 1)
    for mark in (first, held, charged, Held("b" * 32, 1, "gpt-4o", 5, 6, 7)):
        dead.mark(mark)
    kill(dead)
    drain(MmapSpool(root, heir=heir))

    assert heir.found == [Orphan(dead.instance_id, 1, first, (held, charged))]


def test_a_clean_end_with_open_calls_leaves_their_marks(root, heir):
    """
    A process that closes while a call runs removes its segments and keeps the mark; when the call ends, nothing is left.
    """
    spool = MmapSpool(root)
    slot = spool.mark(opened())
    spool.close()
    left = [path.suffix for path in root.rglob("*") if path.is_file()]
    spool.unmark(slot)
    spool.close()

    assert left.count(".marks") == 1
    assert list(root.iterdir()) == []


def test_after_a_clean_end_the_call_is_found(root, heir):
    """
    The same process may end before the call does: then the call is an orphan.
    """
    dead = MmapSpool(root)
    dead.mark(opened())
    dead.close()
    kill(dead)

    assert len(drain(MmapSpool(root, heir=heir))) == 1


def test_slots_are_used_again(root):
    """
    A hundred thousand calls, one after another, need one file; as many at once as it has slots need a second.
    """
    spool = MmapSpool(root)
    for _ in range(2_000):
        spool.unmark(spool.mark(opened()))
    one = len(list(root.rglob("*.marks")))
    slots = [spool.mark(opened()) for _ in range(SLOTS)]

    assert (one, len(list(root.rglob("*.marks")))) == (1, 2)
    assert None not in slots


def test_slots_are_made_ready_outside_of_requests(root):
    """
    When few slots are left, the flusher makes the next file.
    """
    spool = MmapSpool(root)
    for _ in range(SLOTS - 20):
        spool.mark(opened())
    spool.tend()

    assert len(list(root.rglob("*.marks"))) == 2


def test_a_call_that_begins_while_the_files_go_has_no_mark(root, monkeypatch):
    """
    A slot whose file is removed the moment it is taken is no error of the request.
    """
    spool = MmapSpool(root)
    marks = spool._mine.get().marks
    spool.unmark(spool.mark(opened()))
    take = marks_module.Marks._take

    def late(self):
        slot = take(self)
        for _, memory in self._files:
            memory.close()
        return slot

    monkeypatch.setattr(marks_module.Marks, "_take", late)

    assert spool.mark(opened("b" * 32)) is None
    assert marks.unmarked == 1


def test_more_calls_than_may_be_are_counted(root, monkeypatch):
    """
    Files are bounded: a call beyond them runs without a mark, and is counted.
    """
    monkeypatch.setattr(marks_module, "MOST_FILES", 1)
    spool = MmapSpool(root)
    slots = [spool.mark(opened()) for _ in range(SLOTS)]

    assert slots.count(None) == spool.unmarked == 1


def test_a_full_disk_costs_the_marks_and_nothing_else(root, monkeypatch, caplog, heir):
    """
    Where no file can be made, that is said once; when there is room again, the flusher makes one.
    """

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = MmapSpool(root)
    with monkeypatch.context() as patched:
        patched.setattr(marks_module, "allocate", refuse)
        assert [spool.mark(opened()) for _ in range(3)] == [None] * 3
    assert caplog.text.count("cannot be marked") == 1
    spool.tend()

    assert spool.mark(opened()) is not None
    assert spool.unmarked == 3


@pytest.mark.parametrize(
    ("mark", "path"),
    [
        (opened(path="/" + "x" * 5_000), "/" + "x" * 63),
        (opened(path="/\ud800"), "/?"),
        (opened(batch={"custom_id": "x" * 5_000}), "/v1/chat/completions"),
    ],
    ids=["long", "surrogate", "batch"],
)
def test_t14_no_mark_is_too_bad(root, heir, mark, path):
    """
    Texts without end and lone surrogates are cut and mended; who pays stays as it is.
    """
    dead = MmapSpool(root)
    dead.mark(mark)
    kill(dead)
    drain(MmapSpool(root, heir=heir))

    (orphan,) = heir.found
    assert (orphan.opened.path, orphan.opened.tenant_id, orphan.opened.held_output) == (path, "acme", 500)


def test_what_fits_no_slot_touches_no_other(root, heir):
    """
    Names that do not fit even when they are cut leave no mark, and the marks beside it whole.
    """
    dead, names = MmapSpool(root), ("key_id", "user_id", "team_id", "project_id", "tenant_id")
    dead.mark(opened("b" * 32))
    missed = dead.mark(opened(**dict.fromkeys(names, "é" * 5_000)))
    dead.mark(opened("c" * 32))
    kill(dead)

    assert missed is None
    assert [row.id[0] for row in drain(MmapSpool(root, heir=heir))] == ["b", "c"]


def test_t12_torn_at_any_byte(root, heir):
    """
    A process that is killed in the midst of a mark leaves a free slot, or the whole mark: nothing between is read.
    """
    spool = MmapSpool(root)
    spool.mark(opened())
    (path,) = root.rglob("*.marks")
    whole = path.read_bytes()
    start = marks_module.SLOT_SIZE
    end = start + 16 + len(marks_module._encode(opened()))
    (place,) = [at for at in range(start, len(whole), start) if any(whole[at : at + 8])]

    for cut in range(8, end - start):
        torn = bytearray(whole)
        torn[place + cut : place + end - start] = bytes(end - start - cut)  # what was not stored yet
        torn[place : place + 8] = bytes(8)  # the length comes last
        assert read_orphans("i", [bytes(torn)]) == []
    for at in range(place + 16, place + end - start):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        assert read_orphans("i", [bytes(damaged)]) == []
    assert len(read_orphans("i", [whole])) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_leaves_its_parents_marks(root, heir):
    """
    A call that began before a fork is the parent's: its end in the child clears nothing, and the child marks on its own.
    """
    dead = MmapSpool(root)
    slot = dead.mark(opened())
    child = os.fork()
    if child == 0:
        try:
            dead.unmark(slot)
            dead.mark(opened("c" * 32))
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    spool = MmapSpool(root, heir=heir)
    of_the_child = [row.id for row in drain(spool)]
    kill(dead)

    assert of_the_child == ["c" * 32]
    assert [row.id for row in drain(MmapSpool(root, heir=heir))] == ["a" * 32]
