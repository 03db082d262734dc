"""
From settings to a spool: which one, and where it keeps its files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

from tokenbudget_mw.accounting.spool import MemorySpool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import URL

    from tokenbudget_mw.accounting.base import Spool
    from tokenbudget_mw.accounting.inheritance import Heir
    from tokenbudget_mw.accounting.mmap_spool import Full

__all__ = ["default_folder", "open_spool", "spool_folder", "threads_for"]

log = logging.getLogger("tokenbudget_mw")

SpoolMode = Literal["memory", "kill_safe", "power_safe_window", "power_safe"]


def open_spool(
    mode: SpoolMode,
    folder: Path | None,
    *,
    queue: int,
    most_bytes: int,
    full: Full,
    patience: float,
    heir: Heir | None = None,
) -> Spool:
    """
    Open the spool that *mode* names. Makes no file.

    Args:
        mode: What a record outlives, as in the setting `spool`.

        folder: Where the files go; None keeps records in memory, whatever *mode* says.

        queue: Most records that wait in memory where there are no files.

        most_bytes: Most bytes of files of this process.

        full: What happens when there is no room.

        patience: How long ``block`` waits, in seconds.

        heir: Says what becomes of calls whose process died.
    """
    if mode == "memory" or folder is None:
        return MemorySpool(queue)
    if sys.platform == "win32":
        log.warning("This system has no lock that ends with its process: usage that waits is kept in memory only.")
        return MemorySpool(queue)
    from tokenbudget_mw.accounting.mmap_spool import MmapSpool

    return MmapSpool(
        folder, queue=queue, most_bytes=most_bytes, full=full, patience=patience, durability=mode, heir=heir
    )


def spool_folder(directory: str | None, url: URL | None, environ: Mapping[str, str]) -> Path | None:
    """
    Return the folder of a spool: *directory*, as in the setting `spool_dir`, else that of the database at *url*, if there is one.
    """
    if directory:
        return Path(directory)
    return None if url is None else default_folder(url, environ)


def default_folder(url: URL, environ: Mapping[str, str]) -> Path | None:
    """
    Return where the records for the database at *url* wait: a folder of the user's, another one for each database.

    A process that finds a folder replays what is in it into its own database, so two apps with two databases must not
    share one. None for a database in memory, which nobody else can write to, and for a user without a home.
    """
    books = _identify(url)
    if books is None:
        return None
    state = environ.get("XDG_STATE_HOME") or _home_state()
    if state is None:
        log.warning("There is no home directory for the usage spool, so it is in memory only. Set `spool_dir`.")
        return None
    return Path(state) / "tokenbudget-mw" / "spool" / hashlib.sha256(books.encode()).hexdigest()[:16]


def threads_for(url: URL) -> bool | None:
    """
    Return what the flusher is told of threads where it writes to *url*: False where connections share a cache, as those to
    Django's test database in memory do. SQLite locks whole tables of one, and waits for nobody there: a statement of the app's
    would fail at once ("database table is locked") while the thread writes. So usage waits until somebody asks for it.
    """
    return False if url.get_backend_name() == "sqlite" and "cache=shared" in unquote(str(url)) else None


def _identify(url: URL) -> str | None:
    """
    Return what tells the database at *url* from every other on this machine; not its password, which changes.
    """
    database = url.database
    if url.get_backend_name() == "sqlite":
        if database in {None, "", ":memory:"} or "mode=memory" in unquote(str(url)):
            return None
        database = os.path.abspath(str(database))  # noqa: PTH100 - a file that need not exist, links left as they are
    return str(url.set(drivername=url.get_backend_name(), password="", database=database))


def _home_state() -> str | None:
    try:
        return str(Path.home() / ".local" / "state")
    except RuntimeError:
        return None
