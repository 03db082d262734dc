"""
``limits+…://``: counters in any storage of the ``limits`` package, at weaker promises.
"""

from __future__ import annotations

from tokenbudget_mw.backends.limits_storage.backend import AsyncLimitsBackend, LimitsBackend, open_colours

__all__ = ["AsyncLimitsBackend", "LimitsBackend", "open_colours"]
