"""
Tariffs of the database in the app that runs: read in the background, so that no request waits for the database.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from tokenbudget_mw import threads
from tokenbudget_mw.database.faults import is_missing_schema
from tokenbudget_mw.rules.tariffs import Tariffs

if TYPE_CHECKING:
    import threading
    from typing import Literal

    from tokenbudget_mw.values import Price

__all__ = ["LiveTariffs"]

log = logging.getLogger("tokenbudget_mw")

FIRST_WAIT = 0.25
"""Longest time, in seconds, that the first quote of a process waits for the prices. Later ones never wait."""

LAST_WAIT = 1.0
"""Longest time, in seconds, that the end waits for a reading: a database that hangs must not keep the process from its end."""


class LiveTariffs(Tariffs):
    """
    The prices of all models, those of the database among them, as they were at most a little while ago.

    Args:
        user_tariffs: As of `Tariffs`, like the next four.

        book_lookup: As above.

        unknown: As above.

        ceiling: As above.

        normalise: As above.

        original: As above.

        load: Reads the database's prices.

        ttl: For how long what was read holds, in seconds.

        timer: Seconds that only ever grow.
    """

    def __init__(
        self,
        user_tariffs: Iterable[Price],
        book_lookup: Callable[[str], tuple[Price, ...]],
        unknown: Literal["deny", "ceiling", "flag"],
        ceiling: Price,
        normalise: Callable[[str], str],
        *,
        original: Callable[[str], str] = str,
        load: Callable[[], Iterable[Price]],
        ttl: float,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(user_tariffs, book_lookup, unknown, ceiling, normalise, original=original)
        self._load = load
        self._ttl = ttl
        self._timer = timer
        self._fresh_until = float("-inf")
        self._is_first = True
        self._thread: threading.Thread | None = None
        self._fails = False
        self._has_read = False

    def warm(self) -> None:
        """
        Begin to read the prices, so that the first quote need not wait for them.
        """
        if self._thread is None:
            self._begin()

    def prices_audio(self, model: str | None) -> bool:
        """
        Tell whether audio has a price of its own; see `Tariffs.prices_audio`.
        """
        if self._is_first:  # a request asks for this, and for lengths, before it asks for prices
            self._keep_fresh()
        return super().prices_audio(model)

    def lengths(self, model: str | None, most: int) -> Sequence[int]:
        """
        Return prompt lengths that meet every price of *model*; see `Tariffs.lengths`.
        """
        if self._is_first:
            self._keep_fresh()
        return super().lengths(model, most)

    def close(self) -> None:
        """
        Wait a moment for a reading that is under way.
        """
        if self._thread is not None:
            self._thread.join(LAST_WAIT)

    def _places_of(self, model: str) -> tuple[tuple[Price, ...], ...]:
        if self._timer() >= self._fresh_until:
            self._keep_fresh()
        return self._places(model)

    def _keep_fresh(self) -> None:
        thread = self._thread
        is_warm = self._is_first and self._has_read
        # a forked child has its parent's thread object, which is not alive there: it starts one of its own
        if not is_warm and (thread is None or not thread.is_alive()):
            thread = self._begin()
        self._fresh_until = self._timer() + self._ttl
        if self._is_first and thread is not None:
            self._is_first = False
            thread.join(FIRST_WAIT)
            if thread.is_alive():
                log.warning(
                    "The tariffs in the database were not read within %s s; until they are, the settings and the price "
                    "book hold. `tokenbudget-mw rerate` puts right what is priced meanwhile.",
                    FIRST_WAIT,
                )

    def _begin(self) -> threading.Thread | None:
        self._thread = threads.start(self._read, name="tokenbudget-tariffs")
        return self._thread

    def _read(self) -> None:
        try:
            found = tuple(self._load())
        except Exception as exc:  # noqa: BLE001 - whatever the driver raises, prices known before hold
            if is_missing_schema(exc):
                found = ()  # a schema one step back has no tariffs
            else:
                if not self._fails:
                    log.warning(
                        "The tariffs in the database cannot be read (%s); those known before hold. "
                        "`tokenbudget-mw rerate` puts right what is priced meanwhile.",
                        type(exc).__name__,
                    )
                self._fails = True
                return
        if self._fails:
            log.warning("The tariffs in the database can be read again.")
        self._fails = False
        if found != self.stored:
            self.take_stored(found)
        self._has_read = True
