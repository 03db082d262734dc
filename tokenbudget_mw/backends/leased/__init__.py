"""
``leased+redis://``: quota that a process reserves ahead in another backend and admits from at no round trip.
"""

from __future__ import annotations

from tokenbudget_mw.backends.leased.backend import AsyncLeasedBackend, LeasedBackend, Terms, make_stock

__all__ = ["AsyncLeasedBackend", "LeasedBackend", "Terms", "make_stock"]
