"""
Sinks that need no database, and how they are found.
"""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import accounting_rig
import msgspec
import pytest

from tokenbudget_mw.accounting import sinks
from tokenbudget_mw.accounting.sinks import CallableSink, JsonlSink, NullSink, open_sink
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.errors import ConfigurationError, PermanentSinkError

SEEN = []


def collect(records) -> None:
    SEEN.extend(records)


def batch(count: int) -> list:
    spool = MemorySpool()
    return [accounting_rig.make(spool) for _ in range(count)]


def read(path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestJsonl:
    def test_a_line_a_record(self, tmp_path):
        """
        Each record is one JSON object with the record's field names, in order.
        """
        path, records = tmp_path / "usage.jsonl", batch(3)
        sink = JsonlSink(path)

        assert sink.write(records) == 3

        assert read(path) == [msgspec.structs.asdict(record) for record in records]
        assert path.stat().st_mode & 0o077 == 0

    def test_a_rotated_file_is_left_alone(self, tmp_path):
        """
        When the file is moved away, the next batch begins a new one.
        """
        path = tmp_path / "usage.jsonl"
        sink = JsonlSink(path)
        sink.write(batch(1))

        path.rename(tmp_path / "old.jsonl")
        sink.write(batch(2))

        assert len(read(path)) == 2
        assert len(read(tmp_path / "old.jsonl")) == 1

    def test_a_short_write_goes_on(self, tmp_path, monkeypatch):
        """
        A write that takes only a part is continued until the batch is whole.
        """
        write = os.write
        monkeypatch.setattr(sinks.os, "write", lambda file, data: write(file, data[:100]))

        JsonlSink(tmp_path / "usage.jsonl").write(batch(3))

        assert len(read(tmp_path / "usage.jsonl")) == 3

    def test_a_full_disk_leaves_no_half_batch(self, tmp_path, monkeypatch):
        """
        When the disk fills up amid a batch, nothing of the batch stays, and the error is a transient one.
        """
        path, write, answers = tmp_path / "usage.jsonl", os.write, [True, False]

        def fill(file: int, data: memoryview) -> int:
            if not answers.pop(0):
                raise OSError(28, "No space left on device")
            return write(file, data[:100])

        sink = JsonlSink(path)
        sink.write(batch(1))
        before = path.read_bytes()
        monkeypatch.setattr(sinks.os, "write", fill)

        with pytest.raises(OSError, match="No space"):
            sink.write(batch(3))
        assert path.read_bytes() == before

    def test_t12_a_batch_behind_a_torn_line_is_whole(self, tmp_path):
        """
        Behind the half line of a process that was killed while it wrote, each record of the batch has a line of its own.
        """
        path, records = tmp_path / "usage.jsonl", batch(2)
        sink = JsonlSink(path)
        sink.write(records)
        torn = path.read_bytes()[:-100]
        path.write_bytes(torn)

        sink.write(records)

        lines = path.read_bytes().removeprefix(torn).splitlines()
        assert lines[0] == b""
        assert [msgspec.json.decode(line) for line in lines[1:]] == [msgspec.structs.asdict(each) for each in records]

    def test_t14_a_lone_surrogate_is_permanent(self, tmp_path):
        """
        A record that is no JSON is refused for good, and the batch leaves nothing in the file.
        """
        good, bad = batch(2)
        sink = JsonlSink(tmp_path / "usage.jsonl")

        with pytest.raises(PermanentSinkError):
            sink.write([good, msgspec.structs.replace(bad, path="/\ud800")])
        assert not (tmp_path / "usage.jsonl").exists()


class TestOthers:
    def test_a_function_gets_the_batch(self):
        """
        The function sees every record; its own return value does not matter.
        """
        seen = []

        assert CallableSink(seen.extend).write(batch(3)) == 3
        assert [record.sequence for record in seen] == [1, 2, 3]

    def test_a_function_that_fails_is_heard(self):
        """
        What the function raises reaches the flusher as it is.
        """

        def fail(_records) -> None:
            raise TimeoutError

        with pytest.raises(TimeoutError):
            CallableSink(fail).write(batch(1))

    def test_null_takes_everything(self):
        """
        The null sink counts.
        """
        assert NullSink().write(batch(4)) == 4

    @pytest.mark.parametrize("url", ["null://", f"python://{__name__}:collect", "jsonl:///x.jsonl"])
    def test_close_twice(self, url, monkeypatch):
        """
        Closing a sink twice is no error.
        """
        monkeypatch.setitem(__import__("sys").modules, __name__, SimpleNamespace(collect=collect))
        sink = open_sink(url)

        sink.close()
        sink.close()


class TestOpen:
    def test_jsonl_paths(self, tmp_path, monkeypatch):
        """
        Three slashes begin a relative path, four an absolute one, as in database URLs.
        """
        monkeypatch.chdir(tmp_path)

        open_sink("jsonl:///relative.jsonl").write(batch(1))
        open_sink(f"jsonl:///{tmp_path}/absolute.jsonl").write(batch(1))

        assert {path.name for path in tmp_path.iterdir()} == {"relative.jsonl", "absolute.jsonl"}

    def test_python_calls_the_function(self, monkeypatch):
        """
        ``python://module:function`` hands records to the function.
        """
        seen = []
        monkeypatch.setattr("json.collect", seen.extend, raising=False)

        open_sink("python://json:collect").write(batch(2))

        assert len(seen) == 2

    def test_a_plugin_is_found_by_its_entry_point(self, monkeypatch):
        """
        A scheme that is not ours is looked up among the entry points.
        """
        plugin = NullSink()
        entry = SimpleNamespace(load=lambda: lambda _url: plugin)
        monkeypatch.setattr(sinks, "entry_points", lambda group, name: [entry] if name == "kafka" else [])

        assert open_sink("kafka://broker") is plugin

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("jsnl:///x", "Did you mean 'jsonl'"),
            ("kafka://x", "Known schemes: jsonl, null, python"),
            ("plain", "No sink has the scheme 'plain'"),
            ("jsonl://", "names no file"),
            ("jsonl://usage.jsonl", "names no file"),
            ("python://nowhere_at_all:f", "names no function"),
            ("python://json:nothing", "names no function"),
            ("python://", "names no function"),
            ("python://json:__doc__", "names a str"),
        ],
    )
    def test_a_wrong_url_is_told(self, url, message):
        """
        A URL that names no sink fails at once, with what is wrong and what there is.
        """
        with pytest.raises(ConfigurationError, match=message):
            open_sink(url)
