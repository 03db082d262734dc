"""
Whether the host lets threads of ours run.
"""

from __future__ import annotations

import sys

__all__ = ["threads_run"]


def threads_run() -> bool:
    """
    Tell whether a thread that is started runs: uWSGI without ``enable-threads`` runs none but the one that serves.
    """
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is None or bool(uwsgi.opt.get("enable-threads") or uwsgi.opt.get("threads"))
