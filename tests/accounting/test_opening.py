"""
Which spool the settings mean, and where it keeps its files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from tokenbudget_mw import wiring
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
from tokenbudget_mw.accounting.opening import default_folder, open_spool, threads_for
from tokenbudget_mw.accounting.sinks import NullSink
from tokenbudget_mw.accounting.spool import MemorySpool

STATE = {"XDG_STATE_HOME": "/state"}
OPTIONS = {"queue": 10, "most_bytes": 2**20, "full": "drop_newest", "patience": 0.1}


def folder(url: str | URL, environ=STATE) -> Path | None:
    return default_folder(make_url(url), environ)


class TestFolder:
    def test_it_lies_in_the_state_directory(self):
        """
        The folder is the user's, and its name tells nothing of the database.
        """
        found = folder("postgresql://app:secret@db/books")

        assert found.parent == Path("/state/tokenbudget-mw/spool")
        assert len(bytes.fromhex(found.name)) == 8

    def test_without_the_variable_it_lies_at_home(self, monkeypatch):
        """
        The base directory specification's default holds where its variable is unset.
        """
        monkeypatch.setattr(Path, "home", lambda: Path("/home-of-app"))

        assert folder("postgresql://db/books", {}).is_relative_to("/home-of-app/.local/state/tokenbudget-mw")

    def test_a_user_without_a_home_is_told(self, monkeypatch, caplog):
        """
        Nowhere to write is no error: records are in memory, and the mend is said.
        """

        def homeless():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)

        assert folder("postgresql://db/books", {}) is None
        assert "Set `spool_dir`" in caplog.messages[0]

    @pytest.mark.parametrize(
        "other",
        [
            "postgresql://app@db/others",
            "postgresql://app@db2/books",
            "postgresql://app@db:5433/books",
            "postgresql://other@db/books",
            "postgresql://app@db/books?options=-csearch_path%3Dother",
            "mysql://app@db/books",
            "sqlite:///books",
        ],
    )
    def test_two_databases_have_two_folders(self, other):
        """
        Records never go to the database of another app.
        """
        assert folder("postgresql://app@db/books") != folder(other)

    def test_a_new_password_or_driver_is_the_same_database(self):
        """
        What was left behind before the password changed is found after it.
        """
        first = folder("postgresql://app:one@db/books")

        assert first == folder("postgresql+psycopg://app:two@db/books") == folder("postgresql://app@db/books")

    def test_a_relative_file_is_another_in_another_directory(self, tmp_path, monkeypatch):
        """
        `sqlite:///books.db` is as many databases as there are working directories.
        """
        here = folder("sqlite:///books.db")
        monkeypatch.chdir(tmp_path)

        assert here != folder("sqlite:///books.db") == folder(f"sqlite:///{tmp_path}/books.db")

    @pytest.mark.parametrize(
        "url",
        [
            "sqlite://",
            "sqlite:///:memory:",
            "sqlite:///file:x?mode=memory&uri=true",
            URL.create("sqlite", database="file:x?mode=memory&cache=shared", query={"uri": "true"}),
        ],
    )
    def test_a_database_in_memory_has_none(self, url):
        """
        Nobody can replay into a database that ends with its process.
        """
        assert folder(url) is None


class TestThreads:
    @pytest.mark.parametrize(
        ("url", "threads"),
        [
            (URL.create("sqlite", database="file:x?mode=memory&cache=shared", query={"uri": "true"}), False),
            (make_url("sqlite:///file:x?mode=memory&cache=shared&uri=true"), False),
            (make_url("sqlite:///books.db"), None),
            (make_url("sqlite://"), None),
            (make_url("postgresql://localhost/cache=shared"), None),
        ],
    )
    def test_a_cache_that_connections_share_is_written_by_no_thread(self, url, threads):
        """
        SQLite locks whole tables of it, so that whoever else uses one fails.
        """
        assert threads_for(url) is threads


class TestSpool:
    @pytest.mark.parametrize("mode", ["kill_safe", "power_safe_window", "power_safe"])
    def test_files(self, tmp_path, mode):
        """
        Every mode but `memory` has files.
        """
        spool = open_spool(mode, tmp_path, **OPTIONS)

        assert isinstance(spool, MmapSpool)
        assert (spool.folder, spool._durability) == (tmp_path, mode)

    @pytest.mark.parametrize(("mode", "place"), [("memory", Path("x")), ("kill_safe", None)])
    def test_memory(self, mode, place):
        """
        `memory` has none, and neither has a spool without a place.
        """
        assert isinstance(open_spool(mode, place, **OPTIONS), MemorySpool)

    def test_a_system_without_locks_has_memory(self, tmp_path, monkeypatch, caplog):
        """
        Where nothing tells the living from the dead, records are in memory, and this is said.
        """
        monkeypatch.setattr(sys, "platform", "win32")

        assert isinstance(open_spool("kill_safe", tmp_path, **OPTIONS), MemorySpool)
        assert "in memory only" in caplog.messages[0]


class TestWired:
    @pytest.fixture
    def wire(self, tmp_path):
        cores = []

        def wire(*, sink=None, **settings):
            given = {"identify": "ip", "database": f"sqlite:///{tmp_path / 'books.db'}", **settings}
            cores.append(wiring.wire(given, sink=sink))
            return cores[-1]

        yield wire
        for core in cores:
            core.close()

    def test_the_default_is_safe(self, wire, monkeypatch, tmp_path):
        """
        Without a setting, records of a process that is killed are kept.
        """
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

        spool = wire().spool

        assert isinstance(spool, MmapSpool)
        assert spool.folder.is_relative_to(tmp_path / "state")
        assert spool._durability == "kill_safe"

    def test_the_settings_reach_it(self, wire, tmp_path):
        """
        Folder, bytes and policy are those of the settings.
        """
        options = {"spool_bytes": 2**22, "spool_full": "block", "spool_wait": 0.5, "queue": 7}
        spool = wire(spool="power_safe", spool_dir=str(tmp_path / "mine"), **options).spool

        found = spool._most_segments * spool._segment_bytes, spool._full, spool._patience, spool._queue
        assert (spool.folder, spool._durability) == (tmp_path / "mine", "power_safe")
        assert found == (2**22, "block", 0.5, 7)

    def test_memory_where_it_is_wanted_or_must_be(self, wire, tmp_path):
        """
        A sink that is handed in has no name that another process could know, unless the settings give a folder.
        """
        assert isinstance(wire(spool="memory").spool, MemorySpool)
        assert isinstance(wire(database="sqlite://").spool, MemorySpool)
        assert isinstance(wire(sink=NullSink()).spool, MemorySpool)
        assert isinstance(wire(sink=NullSink(), spool_dir=str(tmp_path / "mine")).spool, MmapSpool)

    def test_two_apps_do_not_mix(self, wire, tmp_path):
        """
        Two databases, two folders: neither app replays what the other has left.
        """
        first, second = wire(), wire(database=f"sqlite:///{tmp_path / 'other.db'}")

        assert first.spool.folder != second.spool.folder
