"""
The core: every part, plugged together, as the adapters and the web protocols use it. `wiring` makes one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from tokenbudget_mw.backends.base import away_since, clock_behind
from tokenbudget_mw.operators import Operators
from tokenbudget_mw.processes import PerProcess
from tokenbudget_mw.settings.changes import change_limits, changed_policy
from tokenbudget_mw.upkeep.health import Health
from tokenbudget_mw.upkeep.outcomes import Outcomes
from tokenbudget_mw.upkeep.work import Aside, Unfinished
from tokenbudget_mw.values import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from tokenbudget_mw.accounting.base import Spool
    from tokenbudget_mw.accounting.flusher import Flusher
    from tokenbudget_mw.guard import AsyncGuard, Guard
    from tokenbudget_mw.identify import Identifier
    from tokenbudget_mw.operators import Explanation
    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.rules.routes import RouteTable
    from tokenbudget_mw.rules.tariffs import Tariffs
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.tapping.base import Tap
    from tokenbudget_mw.upkeep.heartbeat import Heartbeat
    from tokenbudget_mw.upkeep.work import Work
    from tokenbudget_mw.values import Decision, Facts, Prompt, Route, Subject, TokenCount, UsageRecord

    RenderRefusal = Callable[[Refusal, Decision, Facts], Refusal | None]

__all__ = ["Core", "Meter"]


class Meter(Protocol):
    """
    Reads tokens out of requests and responses, in every format that is known.
    """

    def parse(self, route: Route, body: bytes, path: str = "") -> Any:
        """
        Do the first half of `read_prompt`, which takes what this returns as *parsed*. Raises `PayloadError`, too.
        """
        ...

    def read_prompt(self, route: Route, body: bytes, path: str = "", parsed: Any = None) -> Prompt:
        """
        Read a whole request body. Raises `PayloadError` where it makes no sense. Some formats name the model in the path.
        """
        ...

    def bound_prompt(self, route: Route, content_length: int | None, head: bytes, path: str = "") -> Prompt:
        """
        Bound a request body that is too long to read, by its length.
        """
        ...

    def recount(
        self, route: Route, body: bytes, path: str = "", *, is_cancelled: Callable[[], bool] = ...
    ) -> TokenCount:
        """
        Count a whole request body exactly, in a thread that may take its time; raises where *is_cancelled* says so.
        """
        ...

    def recount_aside(
        self, route: Route, body: bytes, path: str = "", *, is_cancelled: Callable[[], bool] = ...
    ) -> Future[TokenCount] | None:
        """
        The same, in a thread of the meter's; None where too many wait already.
        """
        ...

    def count(self, text: str, model: str | None) -> TokenCount:
        """
        Count a text's tokens for *model*.
        """
        ...

    def learn(self, model: str | None, estimate: TokenCount, actual: int) -> None:
        """
        Learn that a prompt for *model*, counted as *estimate*, had *actual* input tokens by the provider's usage.
        """
        ...

    def open_tap(
        self,
        format: str,  # noqa: A002 - the word that routes use
        content_type: str,
        content_encoding: str,
        model: str | None,
        *,
        is_counted: bool = True,
    ) -> Tap | None:
        """
        Return a reader of a response; None where it cannot be read. Without *is_counted* it tokenises nothing.
        """
        ...

    def read_response(self, response: object) -> Usage:
        """
        Read the usage out of any provider's response object or dict.
        """
        ...

    def close(self) -> None:
        """
        Give back what was opened.
        """
        ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Core:
    """
    Every part, plugged together.

    Attributes:
        settings: What the user wrote, checked.

        routes: Which paths are metered, and how.

        identifier: Who asks.

        meter: Tokens of requests and responses.

        tariffs: Prices.

        model_name: Gives a model's one name, however a request spells it; counters of limits per model go by it.

        guard: Admission and settlement, for threads.

        async_guard: The same, for event loops.

        spool: Where usage records wait.

        flusher: Writes them.

        heartbeat: Keeps open reservations alive.

        clock: Gives the moment, in epoch seconds.

        timer: Measures durations, in seconds.

        closers: Called at the end, in order.

        render_refusal: The host's own rendering of refusals (see the setting).

        outcomes: How often calls ended in which way.
    """

    settings: Settings
    routes: RouteTable
    identifier: Identifier
    meter: Meter
    tariffs: Tariffs
    model_name: Callable[[str], str]
    guard: Guard
    async_guard: AsyncGuard
    spool: Spool
    flusher: Flusher
    heartbeat: Heartbeat
    clock: Callable[[], float] = time.time
    timer: Callable[[], float] = time.perf_counter
    closers: list[Callable[[], None]] = field(default_factory=list)
    render_refusal: RenderRefusal | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)
    _unfinished: PerProcess[Unfinished] = field(default_factory=lambda: PerProcess(Unfinished))
    _aside: PerProcess[Aside] = field(default_factory=lambda: PerProcess(Aside))
    _changing: Lock = field(default_factory=Lock)

    def change_limits(self, changes: Mapping[str, Any]) -> None:
        """
        Put other limits in the place of those that hold, in this process, from the next request on.

        What was counted stays counted: a limit of the same scopes, unit and window goes on where it stood, whatever its
        amount. Requests in flight are settled by the limits that admitted them.

        Args:
            changes: Any of ``plans``, ``limits``, ``overrides`` and ``default_plan``, as in the settings; each is whole.

        Raises:
            ConfigurationError: Something is wrong. Then nothing has changed.
        """
        with self._changing:
            settings = change_limits(self.settings, changes)
            admission = self.guard.admission
            admission = replace(admission, policy=changed_policy(settings, admission.policy))
            # each is one assignment, and a request reads it once
            self.settings = settings
            self.guard.admission = self.async_guard.admission = admission

    def explain(self, subject: Subject, *, route: Route | None = None, model: str | None = None) -> Explanation:
        """
        Say which limits apply to *subject* now, where each comes from, what is left of it, and when it frees. Waits for
        the backend: on an event loop, ask in a thread.

        Args:
            subject: Whose limits.

            route: On which route; without it limits per route are left out.

            model: For which model; without it limits per model are left out.
        """
        return self.operators().explain(subject, route=route, model=model)

    def operators(self) -> Operators:
        """
        Return what looks at the limits that hold now, and corrects them. `change_limits` makes it out of date.
        """
        guard = self.guard
        return Operators(guard.admission, guard.backend, self.clock, guard.starter, self.model_name)

    def record(self, record: UsageRecord) -> None:
        """
        Hand *record* to the spool. What happens when that is full is said by ``spool_full``.

        Raises:
            SpoolFullError: It is full, and ``spool_full`` is ``raise``.
        """
        self.spool.put(record)

    def aside(self, work: Callable[[], object]) -> None:
        """
        Do *work* soon, in a thread, so that the caller's event loop does not wait for it.
        """
        self._aside.get().submit(work)

    def off_loop(self, work: Callable[[], object]) -> None:
        """
        Do *work* here and now, or `aside` where here is an event loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            work()
        else:
            self.aside(work)

    def end_at_close(self, work: Work) -> None:
        """
        End *work* when this closes, should it still be there and nobody have ended it.
        """
        self._unfinished.get().add(work)

    def health(self) -> Health:
        """
        Say how this process does. Asks neither backend nor database.
        """
        guard, outcomes = self.guard, self.outcomes
        return Health(
            backend_away_since=away_since(guard.backend),
            books_away=guard.starter.is_away,
            open_reservations=len(self.heartbeat),
            flusher=self.flusher.stats(),
            outcomes=outcomes.ended(),
            refusals=outcomes.refused(),
            spool_exposed=self.spool.is_exposed,
            clock_behind=clock_behind(guard.backend, self.clock()),
        )

    def flush(self, timeout: float = 10.0) -> bool:
        """
        Write what waits, count what is counted aside, and say whether all of it was done within *timeout* seconds.
        """
        ends = time.monotonic() + timeout
        is_counted = self._aside.get().wait(timeout)
        return self.flusher.flush(max(0.0, ends - time.monotonic())) and is_counted

    def close(self, timeout: float = 2.0) -> None:
        """
        Write what waits, for up to *timeout* seconds, and give back threads and connections.

        A later request starts again what it needs: test clients end an app's lifespan and begin another.
        """
        self._unfinished.get().end()
        self._aside.get().stop()
        self.flusher.close(timeout)
        for closer in self.closers:
            closer()
