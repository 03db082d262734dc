"""
What is wrong with the folder of a spool, found without changing anything in it.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenbudget_mw.accounting.claims import is_instance
from tokenbudget_mw.accounting.dead_letters import FILE_NAME
from tokenbudget_mw.accounting.inheritance import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["faults_of"]

ROOM = 2**24
"""Bytes that a process takes when it makes its first files, and some to spare."""


def faults_of(folder: Path) -> Iterator[str]:
    """
    Say what is wrong with the spool in *folder* for a process of this user, and what lies there that a person has to look at.
    """
    place = next(each for each in (folder, *folder.absolute().parents) if os.access(each, os.F_OK))
    if not (place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)):
        yield (
            f"{folder} is for usage that waits, and this user cannot write to {place}: it would be kept in memory only, and be lost "
            "if the process is killed. Give the folder to the app's user, or set `spool_dir`."
        )
    elif shutil.disk_usage(place).free < ROOM:
        yield (
            f"the disk of {folder} is full: usage that waits is kept in memory only, and is lost if the process is killed. Make room "
            "there, or set `spool_dir`."
        )
    if place == folder and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield (
            f"others than its owner may write to {folder}: what anybody leaves there is charged as usage. Take that right away "
            "(chmod 700)."
        )
    letters, damaged = folder / FILE_NAME, folder / DAMAGED
    with suppress(OSError):
        if letters.stat().st_size:
            yield (
                f"usage that the database refused lies in {letters}: `tokenbudget-mw dead-letters load` takes the file; remove it "
                "then."
            )
    with suppress(OSError):
        if any(damaged.iterdir()):
            yield f"in {damaged} lie files that could not be read in whole: usage in them may be missing from the books."
    with suppress(OSError):
        closed = [each for each in folder.iterdir() if is_instance(each) and not os.access(each, os.W_OK | os.X_OK)]
        if closed:
            yield (
                f"{folder} holds folders of another user, such as {closed[0].name}: usage of its processes that died waits in them. "
                "Run all processes of the app as one user, and give it the folders (chown -R)."
            )
