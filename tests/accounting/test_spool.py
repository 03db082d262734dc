"""
The spool in memory: bounded, counted, never in the way, one a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from tokenbudget_mw.accounting.base import Spool
from tokenbudget_mw.accounting.spool import MemorySpool


class TestQueue:
    def test_take_does_not_forget(self, feed):
        """
        What is taken but not committed is taken again, in the same order.
        """
        spool = MemorySpool()
        records = feed(spool, 5)

        assert spool.take(3) == records[:3]
        assert spool.take(4) == records[:4]
        assert len(spool) == 5

    def test_commit_forgets_the_oldest(self, feed):
        """
        A commit forgets as many records as it says, from the oldest on.
        """
        spool = MemorySpool()
        records = feed(spool, 5)
        spool.take(3)

        spool.commit(2)

        assert spool.take(9) == records[2:]
        assert spool.recorded == 5

    def test_only_what_was_taken_can_be_committed(self, feed):
        """
        A commit of records that nobody has looked at is an error, and forgets nothing.
        """
        spool = MemorySpool()
        feed(spool, 2)
        spool.take(1)

        with pytest.raises(ValueError, match="1 are, got 2"):
            spool.commit(2)
        assert len(spool) == 2

    def test_sequences_start_at_one(self):
        """
        Sequence numbers count from 1 and never repeat.
        """
        spool = MemorySpool()

        assert [spool.next_sequence() for _ in range(3)] == [1, 2, 3]

    def test_two_spools_are_two_instances(self):
        """
        Every spool has its own instance id of 32 hexadecimal digits.
        """
        first, second = MemorySpool(), MemorySpool()

        assert first.instance_id != second.instance_id
        assert len(bytes.fromhex(first.instance_id)) == 16
        assert first.instance_id == first.instance_id

    def test_the_listener_hears_every_put(self, feed):
        """
        The listener gets the number of waiting records, 1 where none waited.
        """
        spool, heard = MemorySpool(), []
        spool.listen(heard.append)

        feed(spool, 2)
        spool.take(2)
        spool.commit(2)
        feed(spool)

        assert heard == [1, 2, 1]

    def test_it_is_a_spool(self):
        """
        The class keeps the Protocol (checked by the type checker, too).
        """
        spool: Spool = MemorySpool()

        assert len(spool) == 0

    def test_size_must_hold_something(self):
        """
        A spool without room is a configuration error, said at once.
        """
        with pytest.raises(ValueError, match="size=0"):
            MemorySpool(0)


class TestFull:
    def test_t13_the_newest_is_dropped_and_counted(self, feed):
        """
        A full spool keeps what it has and counts what it cannot take.
        """
        spool = MemorySpool(3)
        records = feed(spool, 5)

        assert spool.take(9) == records[:3]
        assert (spool.recorded, spool.dropped) == (3, 2)

    def test_put_says_that_it_dropped(self, fresh):
        """
        `put` returns False for a dropped record and True for a kept one.
        """
        spool = MemorySpool(1)

        assert spool.put(fresh(spool)) is True
        assert spool.put(fresh(spool)) is False

    def test_a_dropped_record_wakes_nobody(self, feed):
        """
        The listener hears of kept records only.
        """
        spool, heard = MemorySpool(1), []
        spool.listen(heard.append)

        feed(spool, 3)

        assert heard == [1]

    def test_one_log_line_a_transition(self, feed, caplog):
        """
        Becoming full is one error line, having room again one warning, however many records drop in between.
        """
        spool = MemorySpool(4)

        feed(spool, 50)
        spool.take(4)
        spool.commit(1)
        feed(spool, 5)  # full again before it had half its room: still the same story
        spool.take(4)
        spool.commit(3)
        spool.take(4)

        levels = [record.levelname for record in caplog.records]
        assert levels == ["ERROR", "WARNING"]
        assert "full (4 records)" in caplog.messages[0]
        assert "50 usage records were dropped" in caplog.messages[1]

    def test_threads_lose_nothing(self, fresh):
        """
        Records put by several threads while another takes are all there, once, and the books of the spool agree.
        """
        spool, seen, done = MemorySpool(500), [], threading.Event()

        def produce() -> None:
            for _ in range(2_000):
                spool.put(fresh(spool))

        def consume() -> None:
            while not done.is_set() or len(spool):
                batch = spool.take(100)
                seen.extend(record.sequence for record in batch)
                spool.commit(len(batch))

        producers = [threading.Thread(target=produce) for _ in range(4)]
        consumer = threading.Thread(target=consume)
        for thread in [*producers, consumer]:
            thread.start()
        for thread in producers:
            thread.join()
        done.set()
        consumer.join()

        assert len(seen) == len(set(seen)) == spool.recorded
        assert spool.recorded + spool.dropped == 8_000


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
class TestFork:
    def test_a_child_has_its_own_life(self):
        """
        A forked child has another instance id, an empty queue, sequences from 1 and no drops; the parent keeps its own.
        """
        assert _in_child(
            "spool.instance_id != before, len(spool), spool.take(9), spool.next_sequence(), spool.dropped"
        ) == ("(True, 0, [], 1, 0)")

    def test_a_fork_without_hooks_is_seen(self):
        """
        A fork made in C calls no Python hook: the process id alone tells the child.
        """
        assert (
            _in_child("spool.instance_id != before, len(spool), spool.next_sequence()", hooks=False) == "(True, 0, 1)"
        )

    def test_a_process_id_that_comes_again_is_no_parent(self):
        """
        A child with the process id of the process whose state it inherited is told apart by the hook.
        """
        assert _in_child("spool.instance_id != before, len(spool), spool.next_sequence()", pid=7) == "(True, 0, 1)"


def _in_child(expression: str, *, hooks: bool = True, pid: int | None = None) -> str:
    script = f"""
import os
if not {hooks}:
    os.register_at_fork = lambda **_: None
if {pid}:
    os.getpid = lambda: {pid}
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.values import UsageRecord
spool = MemorySpool(2)
before = spool.instance_id
for number in range(4):
    spool.put(UsageRecord(id="", instance_id=before, sequence=spool.next_sequence(), created_at_us=0, method="", path=""))
spool.take(1)
assert (len(spool), spool.dropped) == (2, 2)
if os.fork() == 0:
    print(({expression}), flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert (spool.instance_id, len(spool), spool.next_sequence(), spool.dropped) == (before, 2, 5, 2)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
