"""
Limits and books for tests of apps: in memory, on a clock that stands still. The fixture `tokenbudget` is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.calls.call import running
from tokenbudget_mw.calls.recording import new_id
from tokenbudget_mw.charging import charge
from tokenbudget_mw.rules.admission import Request, decide
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.testing.provider import FakeProvider, Script
from tokenbudget_mw.values import Cost, Decision, Facts, Route, Subject, Usage
from tokenbudget_mw.wiring import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbudget_mw.values import UsageRecord

__all__ = ["BudgetTester"]

IN_MEMORY = {"backend": "memory://", "database": "sqlite://", "spool": "memory"}
PREFIX = "Bearer tb_test_"
NANO = 1_000_000_000
LEASE = 1.0
REFUSALS = frozenset({401, 402, 429})


class BudgetTester:
    """
    A core for tests, and what a test wants to do to it and ask of it.

    Args:
        settings: The app's settings, of which backend, database and spool are replaced by such in memory. API keys,
            the default of ``identify``, are replaced by `headers`; another ``identify`` is left as it is.

    Attributes:
        clock: The clock of limits and rows; ``clock.advance(60)`` moves it.

        core: Every part, plugged together; adapters take it in place of settings.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        given = {**(settings or {}), **IN_MEMORY}
        if given.get("identify", "api_key") == "api_key":
            given["identify"] = self._identify
        self.clock = FakeClock()
        self._subjects: dict[str, Subject] = {}
        self._records: list[UsageRecord] = []
        # a test's limits are those that it was given, whatever the environment says
        checked = Settings.from_mapping(given, {})
        self.core = wire(checked, clock=self.clock, sink=CallableSink(self._records.extend))

    def headers(self, subject: Subject) -> dict[str, str]:
        """
        Return headers of a request that *subject* makes, where ``identify`` is ``api_key``.
        """
        name = f"{len(self._subjects)}"
        self._subjects[PREFIX + name] = subject
        return {"authorization": PREFIX + name}

    def set_usage(
        self,
        subject: Subject,
        *,
        requests: int = 0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        dollars: float = 0,
        model: str | None = None,
        path: str | None = None,
    ) -> None:
        """
        Let the limits see so much more usage of *subject*, as of now; the books see nothing of it.

        Args:
            subject: Who used it.

            requests: Requests.

            input_tokens: Input tokens.

            output_tokens: Output tokens.

            dollars: Money, in US dollars.

            model: Model of limits per model.

            path: Path of a request whose route's limits count it, too.

        Raises:
            ValueError: No limit counts *subject*, so there is nothing to set.
        """
        reservation = self._reserve(subject, Cost(), model, path).reservation
        if reservation is None:
            raise ValueError(f"No limit counts {subject}: has it a plan, and an id for the scope of the plan's limits?")
        self.core.guard.settle(reservation, Cost(requests, input_tokens, output_tokens, round(dollars * NANO)))

    def charge(
        self,
        subject: Subject,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        model: str | None = None,
    ) -> Usage:
        """
        Charge a model call to *subject*: to its limits, at the model's price, and with a row on the books.
        """
        usage = Usage(input_tokens, output_tokens, model=model)
        return charge(self.core, subject, usage, model=model)

    def provider(self, **script: Any) -> FakeProvider:
        """
        Return a fake provider that behaves as *script* says (see `Script`); a ``delay`` passes on this clock.

        ``tokenbudget.provider(abort_at=3)``, ``(usage="never")``, ``(usage="twice")``, ``(delay=2.0)``, ``(status=503)``.
        """
        return FakeProvider(Script(**script), clock=self.clock)

    def decide(
        self, subject: Subject, cost: Cost | None = None, *, model: str | None = None, path: str = "/"
    ) -> Decision:
        """
        Ask the limits whether *subject* may make a request of *cost* (one request by default), and take nothing.
        """
        decision = self._reserve(subject, cost or Cost(requests=1), model, path)
        if decision.reservation is not None:
            self.core.guard.settle(decision.reservation, Cost())
        return decision

    def assert_refused(self, response: Any, *, limit: str | None = None, status: int | None = None) -> None:
        """
        Assert that *response* is a refusal.

        Args:
            response: A test client's response (Starlette, httpx, Flask, Django, requests), or a decision of `decide`.

            limit: Name of the limit that must be among those that refused, as ``"requests-minute"``.

            status: The status that it must have: one of 401, 402 and 429, where None is given.
        """
        found = _status_of(response)
        wanted = REFUSALS if status is None else {status}
        assert found in wanted, f"status {found} is no refusal with {sorted(wanted)}"
        if limit is not None:
            refused = _refused_by(response)
            assert limit in refused, f"refused by {refused}, not by {limit!r}"

    def rows(self) -> list[UsageRecord]:
        """
        Return the rows of the books, oldest first.
        """
        assert self.core.flush(), "the rows were not written in time"
        return list(self._records)

    def close(self) -> None:
        """
        End the core's threads.
        """
        # WSGI ends a request when its response is closed, and tests seldom close those of a test client
        running.set(None)
        self.core.close()

    def _identify(self, facts: Facts) -> Subject | None:
        return self._subjects.get(facts.header("authorization") or "")

    def _reserve(self, subject: Subject, cost: Cost, model: str | None, path: str | None) -> Decision:
        route = Route("*") if path is None else self.core.routes.match("POST", path)
        name = None if model is None else self.core.model_name(model)
        guard, now = self.core.guard, self.clock()
        plan = guard.admission.plan(Request(new_id(now), subject, route, name, cost, cost), now)
        if plan is None:
            return Decision(admitted=True)
        # held, even where requests alone are limited, which are else charged for good
        plan = replace(plan, ask=replace(plan.ask, lease=LEASE))
        return decide(plan, guard.backend.reserve(plan.ask, now), now=now)


def _status_of(response: Any) -> int:
    status = response.status if hasattr(response, "admitted") else response.status_code
    return int(status)


def _refused_by(response: Any) -> list[str]:
    if hasattr(response, "refused_by"):
        return list(response.refused_by)
    # Flask parses in `get_json`, everybody else in `json`
    parse = getattr(response, "get_json", None) or response.json
    body = parse()
    return list(body.get("violated-policies", ())) if isinstance(body, dict) else []
