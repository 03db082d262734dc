"""
The flusher: when it writes, what it does when it cannot, and that nothing is lost or written twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import types

import accounting_rig
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.accounting.dead_letters import DeadLetters
from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.errors import PermanentSinkError
from tokenbudget_mw.transitions import FEW


class TestWhen:
    def test_nothing_waits(self, rig):
        """
        An empty spool gives nothing to wait for and touches no sink.
        """
        _, sink, flusher = rig()

        assert flusher.tick() is None
        assert sink.batches == []

    def test_who_was_idle_writes_at_once(self, rig, feed, time):
        """
        The first record after a pause waits for nothing, whatever else is there goes along.
        """
        spool, sink, flusher = rig(interval=0.25)

        feed(spool, 2)
        assert flusher.tick() is None
        time.now += 0.25
        feed(spool)
        assert flusher.tick() is None

        assert sink.batches == [2, 1]

    def test_a_record_lingers(self, rig, feed, time):
        """
        After a write, records wait for company until the interval since it has passed.
        """
        spool, sink, flusher = rig(interval=0.25)
        feed(spool)
        flusher.tick()

        time.now += 0.05
        feed(spool)
        assert flusher.tick() == pytest.approx(0.2)
        time.now += 0.15
        feed(spool)
        assert flusher.tick() == pytest.approx(0.05)
        assert sink.batches == [1]
        time.now += 0.06

        assert flusher.tick() is None
        assert sink.batches == [1, 2]

    def test_enough_rows_do_not_linger(self, rig, feed):
        """
        A full batch is written at once; the rest lingers.
        """
        spool, sink, flusher = rig(rows=10, interval=0.25)
        feed(spool, 12)

        assert flusher.tick() == 0.25
        assert sink.batches == [10]
        assert len(spool) == 2

    def test_a_backlog_has_no_pause(self, rig, feed):
        """
        While whole batches wait, the next is due at once.
        """
        spool, _, flusher = rig(rows=10)
        feed(spool, 30)

        assert [flusher.tick(), flusher.tick(), flusher.tick()] == [0.0, 0.0, None]


class TestTransient:
    def test_records_wait_for_the_sink(self, rig, feed, time):
        """
        What fails for now is written later, once.
        """
        spool, sink, flusher = rig(rows=3)
        sink.answers = [ConnectionError(), TimeoutError()]
        feed(spool, 3)

        while (delay := flusher.tick()) is not None:
            time.pause(delay)

        assert sorted(sink.sequences) == [1, 2, 3]
        assert flusher.stats().retries == 2

    def test_back_off_doubles_to_its_cap(self, rig, feed, time):
        """
        The waits between tries grow twofold, full jitter below them, up to the cap, for ever.
        """
        asked = []
        spool, sink, flusher = rig(rows=1, retry_cap=1.0, jitter=lambda low, high: asked.append((low, high)) or high)
        sink.answers = [ConnectionError()] * 2_000
        feed(spool)

        while (delay := flusher.tick()) is not None:
            time.pause(delay)

        assert asked[:5] == [(0.0, 0.1), (0.0, 0.2), (0.0, 0.4), (0.0, 0.8), (0.0, 1.0)]
        assert asked[-1] == (0.0, 1.0)
        assert sink.sequences == [1]

    def test_no_try_before_its_time(self, rig, feed, time):
        """
        While it backs off, new records and further ticks do not hit the sink.
        """
        spool, sink, flusher = rig(rows=1)
        sink.answers = [ConnectionError(), None]
        feed(spool)

        assert flusher.tick() == pytest.approx(0.1)
        feed(spool, 5)
        time.now += 0.05

        assert flusher.tick() == pytest.approx(0.05)
        assert len(sink.answers) == 1

    def test_one_log_line_a_transition(self, rig, feed, time, caplog):
        """
        A sink that goes away is one line, its return another; neither quotes the error's text.
        """
        spool, sink, flusher = rig(rows=1)
        sink.answers = [ConnectionError("postgresql://user:secret@host")] * 7
        feed(spool, 3)

        while (delay := flusher.tick()) is not None:
            time.pause(delay)

        assert caplog.messages == [
            "The usage sink takes no records (ConnectionError): they wait and are tried again.",
            "The usage sink takes records again, after 7 failed tries.",
        ]

    def test_a_sink_that_comes_and_goes_for_an_hour_fills_no_log(self, rig, feed, time, caplog):
        """
        Every other write fails: it is said at first, then once a minute; that it has gone for good is said within one, too.
        """
        spool, sink, flusher = rig(interval=0.25)
        for _ in range(7_200):
            sink.answers = [ConnectionError()]
            feed(spool)
            while (delay := flusher.tick()) is not None:
                time.pause(delay)
            time.pause(0.4)
        lines, tries = len(caplog.messages), flusher.stats().retries
        sink.answers = [ConnectionError()] * 30
        feed(spool)
        for _ in range(15):
            time.pause(flusher.tick())

        assert (tries, lines) == (7_200, pytest.approx(2 * 65, abs=4))
        assert "takes no records" in caplog.messages[-1]

    def test_t13_an_hour_without_a_database(self, rig, feed, time):
        """
        Over an hour of failure memory stays bounded and drops are counted; afterwards all that was kept is stored.
        """
        spool, sink, flusher = rig(size=2_000)
        sink.answers = [ConnectionError()] * 1_000
        end = time.now + 3_600

        while time.now < end:
            feed(spool, 20)
            flusher.tick()
            time.pause(5.0)
        assert len(spool) == 2_000
        assert flusher.stats().is_failing
        sink.answers = []
        assert flusher.flush()

        stats = flusher.stats()
        assert len(sink.rows) == 2_000
        assert stats.dropped == 14_400 - 2_000
        assert (stats.depth, stats.lag, stats.is_failing) == (0, 0.0, False)


class TestPermanent:
    def test_t14_poison_goes_alone(self, rig, feed):
        """
        Of 5,000 records with 7 bad ones, 4,993 are stored and 7 are dead letters.
        """
        spool, sink, flusher = rig(rows=1_000)
        sink.poison = {1, 2, 999, 1_000, 1_001, 3_333, 5_000}
        feed(spool, 5_000)

        assert flusher.flush()

        assert len(sink.rows) == 4_993
        assert {letter.record.sequence for letter in flusher.dead_letters.letters()} == sink.poison
        stats = flusher.stats()
        assert (stats.flushed, stats.dead_letters, stats.last_error) == (4_993, 7, "PermanentSinkError")

    def test_a_failure_amid_the_halves(self, rig, feed, time):
        """
        When the sink goes away while a batch is being cut, the stored half is not written again.
        """
        spool, sink, flusher = rig(rows=4)
        sink.answers = [PermanentSinkError(), None, ConnectionError()]
        feed(spool, 4)

        assert flusher.tick() > 0
        assert sink.sequences == [1, 2]
        assert len(spool) == 2
        assert flusher.flush()

        assert sink.sequences == [1, 2, 3, 4]
        assert sink.duplicates == 0

    @settings(max_examples=60, deadline=None)
    @given(
        answers=st.lists(st.sampled_from([None, ConnectionError(), PermanentSinkError(), MemoryError()]), max_size=40),
        poison=st.sets(st.integers(1, 60)),
        rows=st.integers(1, 20),
        size=st.integers(5, 60),
        puts=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    )
    def test_exactly_once(self, answers, poison, rows, size, puts):
        """
        Whatever fails in whatever order, each record put is dropped, dead, or stored exactly once.
        """
        time = accounting_rig.FakeTime()
        spool, sink, flusher = accounting_rig.build(time, size=size, rows=rows)
        sink.answers, sink.poison, kept = list(answers), poison, []
        for count in puts:
            before = spool.recorded
            records = accounting_rig.put(spool, count)
            kept.extend(record.sequence for record in records[: spool.recorded - before])
            delay = flusher.tick()
            time.pause(delay or 0.0)

        assert flusher.flush(10_000)

        dead = {letter.record.sequence for letter in flusher.dead_letters.letters()}
        assert sink.duplicates == 0
        assert sorted([*sink.sequences, *dead]) == kept
        assert len(kept) + spool.dropped == sum(puts)


class TestDeadLetters:
    def test_the_log_names_and_does_not_quote(self, fresh, caplog):
        """
        The line has instance and sequence, and nothing of the record or of the error's text.
        """
        record = fresh(MemorySpool())

        DeadLetters().keep(record, PermanentSinkError("canary"))

        assert record.instance_id in caplog.text
        assert "sequence 1" in caplog.text
        assert "canary" not in caplog.text

    def test_memory_is_bounded(self, fresh):
        """
        Only the last letters are kept, all are counted.
        """
        spool, letters = MemorySpool(), DeadLetters(size=2)

        for _ in range(5):
            letters.keep(fresh(spool), PermanentSinkError())

        assert [letter.record.sequence for letter in letters.letters()] == [4, 5]
        assert letters.count == 5

    @pytest.mark.parametrize("tags", [{"a": "\ud800"}, {"a": "\x00" * 9}, {"cost": float("nan")}, {"a": {1, 2}}])
    def test_t14_the_file_takes_what_no_sink_does(self, tmp_path, fresh, tags):
        """
        Surrogates, NULs, NaN and objects are written to the file as JSON lines that can be read again.
        """
        path = tmp_path / "dead.jsonl"
        spool = MemorySpool()
        letters = DeadLetters(path=path)

        letters.keep(msgspec.structs.replace(fresh(spool), tags=tags), PermanentSinkError())
        letters.keep(fresh(spool), PermanentSinkError())

        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["record"]["sequence"] for line in lines] == [1, 2]
        assert lines[0]["error"] == "PermanentSinkError"
        assert path.stat().st_mode & 0o077 == 0

    def test_a_letter_behind_a_torn_one_is_whole(self, tmp_path, fresh):
        """
        A process was killed in the midst of a letter: the next one has a line of its own.
        """
        path, spool = tmp_path / "dead.jsonl", MemorySpool()
        path.write_text('{"error": "E", "rec')

        for _ in range(2):
            DeadLetters(path=path).keep(fresh(spool), PermanentSinkError())

        lines = path.read_text().splitlines()
        assert [json.loads(line)["record"]["sequence"] for line in lines[1:]] == [1, 2]

    def test_t14_a_flood_is_told_in_few_lines(self, fresh, caplog):
        """
        Of thousands the first few are named, then one a minute, with the number of the others.
        """

        def refuse(*_letter):
            raise OSError

        time, spool = accounting_rig.FakeTime(), MemorySpool()
        letters = DeadLetters(store=refuse, clock=time)

        for _ in range(1_000):
            letters.keep(fresh(spool), PermanentSinkError())
        time.pause(60.0)
        letters.keep(fresh(spool), PermanentSinkError())

        assert letters.count == 1_001
        assert len(caplog.messages) == 2 * (FEW + 1)
        assert caplog.messages[-2].endswith("sequence 1001. 995 others were kept since the last such line.")

    @pytest.mark.parametrize("tags", [{("no", "key"): 1}, {}])
    def test_a_file_that_fails_stops_nothing(self, tmp_path, fresh, caplog, tags):
        """
        A directory in the file's place, or a record beyond JSON, is a log line; the letter is kept in memory.
        """
        letters = DeadLetters(path=tmp_path)

        letters.keep(msgspec.structs.replace(fresh(MemorySpool()), tags=tags), PermanentSinkError())

        assert len(letters.letters()) == 1
        assert "could not be written" in caplog.messages[-1]


class TestFlush:
    def test_t12_close_drains(self, rig, feed):
        """
        Closing writes what waits, closes the sink, and says that nothing is left.
        """
        spool, sink, flusher = rig(rows=10)
        feed(spool, 25)

        assert flusher.close() is True

        assert len(sink.rows) == 25
        assert sink.closed == 1

    def test_a_flush_does_not_sit_out_a_back_off(self, rig, feed, time):
        """
        A flush tries at once, also when the next try would be seconds away.
        """
        spool, sink, flusher = rig(rows=1, jitter=lambda _low, _high: 30.0)
        sink.answers = [ConnectionError()]
        feed(spool)
        assert flusher.tick() == 30.0

        assert flusher.flush(timeout=1.0)
        assert time.pauses == []

    def test_a_flush_gives_up_in_time(self, rig, feed, time):
        """
        With the sink away, a flush ends at its timeout, says so, and keeps every record.
        """
        spool, sink, flusher = rig()
        sink.answers = [ConnectionError()] * 1_000
        feed(spool, 5)
        start = time.now

        assert flusher.flush(timeout=2.0) is False

        assert time.now - start == pytest.approx(2.0)
        assert len(spool) == 5

    def test_what_is_left_at_the_end_is_said(self, rig, feed, caplog):
        """
        Records that could not be written before the end are counted in one error line.
        """
        spool, sink, flusher = rig()
        sink.answers = [ConnectionError()] * 1_000
        feed(spool, 5)

        assert flusher.close(timeout=1.0) is False

        assert caplog.messages[-1] == "5 usage records were not written at the end: they are lost."
        assert sink.closed == 1

    def test_t11_a_replay_changes_nothing(self, rig, feed):
        """
        The same records, put a second time, are one row each.
        """
        spool, sink, flusher = rig()
        records = feed(spool, 5)
        for record in records:
            spool.put(record)

        assert flusher.flush()

        assert len(sink.rows) == 5
        assert sink.duplicates == 5

    def test_lag_grows_while_the_sink_is_away(self, rig, feed, time):
        """
        The snapshot tells how long the oldest record has waited, how many wait, and why.
        """
        spool, sink, flusher = rig(rows=1)
        sink.answers = [ConnectionError()] * 5
        feed(spool, 3)
        flusher.tick()
        time.now += 42

        stats = flusher.stats()
        assert (stats.depth, stats.lag, stats.last_error, stats.is_failing) == (3, 42.0, "ConnectionError", True)

    def test_lag_is_of_the_oldest_while_a_backlog_shrinks(self, rig, feed, time):
        """
        When the sink is back, what waits behind the first batches has waited no less for that.
        """
        spool, sink, flusher = rig(rows=1)
        sink.answers = [ConnectionError()]
        feed(spool, 2)
        flusher.tick()
        time.now += 40
        feed(spool, 2)
        flusher.tick()
        time.now += 2
        lags = [flusher.stats().lag]
        for _ in range(3):
            flusher.tick()
            lags.append(flusher.stats().lag)

        assert lags == [42.0, 2.0, 2.0, 0.0]


class TestThread:
    def test_it_starts_with_the_first_record(self, feed):
        """
        No record, no thread; the first record brings one, which `close` ends.
        """
        spool, sink, written = MemorySpool(), _Signalling(), threading.active_count()
        flusher = Flusher(spool, sink, interval=0.0)
        assert threading.active_count() == written

        feed(spool)

        assert sink.wrote.wait(10)
        assert sink.thread == "tokenbudget-flusher"
        assert flusher.close()
        assert threading.active_count() == written

    def test_a_flush_makes_it_hurry(self, feed):
        """
        A flush does not wait for the interval, and returns when the thread has written everything.
        """
        spool, sink = MemorySpool(), _Signalling()
        flusher = Flusher(spool, sink, interval=3_600.0, rows=10)
        feed(spool, 35)

        assert flusher.flush(10)
        assert sink.rows == 35
        assert flusher.close()

    def test_it_starts_again_after_a_close(self, feed):
        """
        An app that is started a second time in one process meters again.
        """
        spool, sink = MemorySpool(), _Signalling()
        flusher = Flusher(spool, sink, interval=3_600.0)
        feed(spool)
        flusher.close()

        feed(spool)

        assert flusher.flush(10)
        assert sink.rows == 2
        assert flusher.close()

    def test_full_batches_wake_it(self, feed):
        """
        A lingering thread writes as soon as a whole batch is there.
        """
        spool, sink = MemorySpool(), _Signalling()
        flusher = Flusher(spool, sink, interval=3_600.0, rows=100)

        feed(spool, 100)

        assert sink.wrote.wait(10)
        assert flusher.close()
        assert sink.rows == 100

    def test_records_that_come_while_it_lies_down_wake_it(self, feed):
        """
        A batch that fills up between the thread's look at the spool and its wait does not wait for the interval.
        """
        spool, sink, looks = MemorySpool(), _Signalling(), [99, 0]  # the first look is the put's own wake

        def clock() -> float:
            if looks:
                feed(spool, looks.pop())
            return 0.0

        flusher = Flusher(spool, sink, interval=3_600.0, rows=100, clock=clock)

        feed(spool)

        assert sink.wrote.wait(10)
        flusher.close()

    def test_records_without_a_put_are_woken_for(self, feed):
        """
        `wake` finds records that were in the spool before anybody listened.
        """
        spool, sink = MemorySpool(), _Signalling()
        feed(spool, 3)
        flusher = Flusher(spool, sink, interval=0.0)

        flusher.wake()

        assert sink.wrote.wait(10)
        assert flusher.close()

    def test_a_hanging_sink_does_not_hold_the_end(self, feed, caplog):
        """
        A write that does not return leaves `close` at its timeout, with the sink still open.
        """
        spool, sink = MemorySpool(), _Signalling()
        sink.gate.clear()
        flusher = Flusher(spool, sink, interval=0.0)
        feed(spool)
        assert sink.entered.wait(10)

        assert flusher.close(timeout=0.01) is False

        assert "hangs" in caplog.messages[-1]
        assert sink.closed == 0
        sink.gate.set()
        assert flusher.close(10)

    def test_a_record_that_comes_as_the_thread_goes_to_wait(self, feed, monkeypatch):
        """
        The garbage collector closes streams in the flusher's own thread, too, and what they used wakes the flusher.
        """
        spool, sink, wait, left = MemorySpool(), _Signalling(), threading.Condition.wait, [1]

        def collecting(condition, timeout=None):
            if threading.current_thread().name == "tokenbudget-flusher" and left:
                feed(spool, left.pop())
            return wait(condition, timeout)

        flusher = Flusher(spool, sink, interval=0.01)
        monkeypatch.setattr(threading.Condition, "wait", collecting)
        feed(spool)

        assert flusher.flush(10)
        threading.Thread(target=feed, args=(spool,), daemon=True).start()
        assert flusher.close(10)

    def test_a_thread_that_cannot_start_is_no_error(self, feed, monkeypatch, caplog):
        """
        Without a thread a put still succeeds, and the last flush writes the records.
        """

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        spool, sink = MemorySpool(), _Signalling()
        flusher = Flusher(spool, sink)
        monkeypatch.setattr(threading.Thread, "start", refuse)

        feed(spool, 3)

        assert "cannot run" in caplog.messages[0]
        assert flusher.close()
        assert sink.rows == 3

    def test_a_thread_that_could_not_start_is_tried_again(self, feed, monkeypatch, caplog):
        """
        Where the system has threads again, the next record after a second brings one; what waits meanwhile is told.
        """
        moments, start, tried = [0.0], threading.Thread.start, []

        def refuse(thread: threading.Thread) -> None:
            tried.append(thread)
            raise RuntimeError("can't start new thread")

        spool, sink = MemorySpool(), _Signalling()
        flusher = Flusher(spool, sink, interval=0.0, clock=lambda: moments[0])
        monkeypatch.setattr(threading.Thread, "start", refuse)
        feed(spool, 100)
        flusher.stats()
        moments[0] = 0.9
        feed(spool)
        lag = flusher.stats().lag
        monkeypatch.setattr(threading.Thread, "start", start)

        moments[0] = 1.0
        feed(spool)

        assert flusher.flush(10)
        assert (sink.thread, sink.rows, lag) == ("tokenbudget-flusher", 102, 0.9)
        assert (len(tried), len(caplog.messages)) == (1, 1)
        assert flusher.close()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_thread_that_an_error_ended_is_started_again(self, feed, caplog):
        """
        Whatever gets through to a thread, a timeout of gevent's for instance, ends it for a second and not for ever.
        """
        moments, spool, sink = [0.0], MemorySpool(), _Ending()
        flusher = Flusher(spool, sink, interval=0.0, clock=lambda: moments[0])
        feed(spool)
        assert sink.entered.wait(10)
        sink.threads[0].join(10)

        feed(spool, 2)
        moments[0] = 1.0
        feed(spool)

        assert sink.wrote.wait(10)
        assert flusher.close()
        assert (sink.rows, len(set(sink.threads)), len(caplog.messages)) == (4, 2, 1)

    def test_a_spool_that_cannot_be_tended_is_written(self, rig, feed, time, monkeypatch, caplog):
        """
        A process that cannot look for what others left, for want of a file descriptor say, writes its own all the same.
        """

        def no_descriptor() -> None:
            raise OSError(24, "Too many open files")

        spool, sink, flusher = rig()
        monkeypatch.setattr(spool, "tend", no_descriptor)

        feed(spool)
        flusher.tick()
        time.now += 10.0
        feed(spool)
        flusher.tick()

        assert sink.sequences == [1, 2]
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "OSError" in caplog.messages[0]

    @pytest.mark.parametrize(("options", "expected"), [({}, 0), ({"enable-threads": True}, 1), ({"threads": b"4"}, 1)])
    def test_uwsgi_without_threads_has_none(self, feed, monkeypatch, caplog, options, expected):
        """
        Where uWSGI runs no threads none is started, this is said once, and a flush does the work.
        """
        monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt=options))
        spool, sink, before = MemorySpool(), _Signalling(), threading.active_count()
        flusher = Flusher(spool, sink, interval=3_600.0)

        feed(spool, 3)

        assert threading.active_count() - before == expected
        assert len(caplog.records) == 1 - expected
        assert flusher.flush(10)
        assert sink.rows == 3
        flusher.close()


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
@pytest.mark.parametrize("hooks", [True, False])
class TestFork:
    def test_t12_a_child_sends_its_own_records_once(self, tmp_path, hooks):
        """
        After a fork with records waiting and the thread alive, parent and child each send what they put, once, and end.
        """
        rows = _run_forking(tmp_path / "rows.txt", hooks=hooks, child_ends="sys.exit()")

        assert rows["parent"] == [1, 2, 3, 4]
        assert rows["child"] == [1, 2]
        assert len(rows) == 2

    def test_a_child_without_records_sends_nothing(self, tmp_path, hooks):
        """
        A child that puts nothing writes nothing, at its regular end either.
        """
        rows = _run_forking(tmp_path / "rows.txt", hooks=hooks, child_puts=0, child_ends="sys.exit()")

        assert rows == {"parent": [1, 2, 3, 4]}

    def test_a_child_that_flushes_needs_no_exit(self, tmp_path, hooks):
        """
        The child's thread runs: a flush before `os._exit`, which runs no exit handler, is enough.
        """
        ends = "print(flusher.flush(20) and threading.active_count() == 2 or os.abort()); os._exit(0)"
        rows = _run_forking(tmp_path / "rows.txt", hooks=hooks, child_ends=ends)

        assert rows["child"] == [1, 2]


def _run_forking(path, *, hooks: bool, child_ends: str, child_puts: int = 2) -> dict[str, list[int]]:
    script = f"""
import os, sys, threading
if not {hooks}:
    os.register_at_fork = lambda **_: None
from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.values import UsageRecord

parent = os.getpid()
def write(records):
    with open({str(path)!r}, "a") as file:
        for record in records:
            file.write(f"{{'parent' if os.getpid() == parent else 'child'}} {{record.instance_id}} {{record.sequence}}\\n")
def put(count):
    for _ in range(count):
        number = spool.next_sequence()
        spool.put(UsageRecord(id="", instance_id=spool.instance_id, sequence=number, created_at_us=0, method="", path=""))

spool = MemorySpool()
flusher = Flusher(spool, CallableSink(write), interval=3600.0)
put(3)
assert threading.active_count() == 2
if os.fork() == 0:
    put({child_puts})
    {child_ends}
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
put(1)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    rows: dict[str, list[int]] = {}
    instances = set()
    for line in path.read_text().splitlines():
        who, instance, sequence = line.split()
        instances.add((who, instance))
        rows.setdefault(who, []).append(int(sequence))
    assert len(instances) == len(rows) == len({instance for _, instance in instances})
    return rows


class _Signalling:
    """
    A sink that tells when it is called, and can be made to hang.
    """

    def __init__(self) -> None:
        self.wrote, self.entered, self.gate = threading.Event(), threading.Event(), threading.Event()
        self.gate.set()
        self.rows = self.closed = 0
        self.thread = ""

    def write(self, records) -> int:
        self.entered.set()
        assert self.gate.wait(30)
        self.rows += len(records)
        self.thread = threading.current_thread().name
        self.wrote.set()
        return len(records)

    def close(self) -> None:
        self.closed += 1


class _Ending(_Signalling):
    """
    A sink that ends the first thread that writes, by the one error of which Python says nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads = []

    def write(self, records) -> int:
        self.threads.append(threading.current_thread())
        self.entered.set()
        if len(self.threads) == 1:
            raise SystemExit
        return super().write(records)
