"""
Why calls ended, and why they were refused: counted under names that are known in advance.
"""

from __future__ import annotations

import os
import re
from typing import Any

import asgi_rig
import pytest
import wsgi_rig

from tokenbudget_mw.errors import BudgetExceeded, CredentialError
from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.rules.messages import CODES
from tokenbudget_mw.rules.settlement import DEFAULT_SETTLE
from tokenbudget_mw.testing.provider import FakeProvider, Script
from tokenbudget_mw.upkeep.outcomes import OUTCOMES, REASONS, Outcomes
from tokenbudget_mw.values import Facts, Subject


def counted(counts: Any) -> dict[str, int]:
    """What is not zero."""
    return {name: count for name, count in counts.items() if count}


def wsgi(script: Script | None = None, **settings: Any) -> wsgi_rig.Rig:
    return wsgi_rig.Rig(FakeProvider(script).wsgi, **settings)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [(Script(), "complete"), (Script(status=500), "status_5xx"), (Script(output_tokens=0), "empty")],
)
def test_an_end_is_counted_by_its_name(script: Script, outcome: str) -> None:
    """What stands on the row is what is counted."""
    rig = wsgi(script)
    rig.run(wsgi_rig.chat())

    assert [row.settle_reason for row in rig.rows()] == [outcome]
    assert counted(rig.core.health().outcomes) == {outcome: 1}
    assert counted(rig.core.health().refusals) == {}


def test_refusals_are_counted_by_their_reason() -> None:
    """By limit, by credentials, by body; without a row, too."""
    rig = wsgi(plans={"one": ["1 request/minute"]}, record_refusals=False)
    for body, changes in (
        (wsgi_rig.chat(), {}),
        (wsgi_rig.chat(), {}),
        (wsgi_rig.chat(), {"subject": None}),
        (b"no JSON", {"subject": "k2"}),
    ):
        rig.run(body, **changes)

    health = rig.core.health()
    assert counted(health.refusals) == {"limit": 1, "unauthenticated": 1, "invalid_body": 1}
    assert counted(health.outcomes) == {"complete": 1, "refused": 3}
    assert len(rig.rows()) == 1


def test_a_handlers_reservation_is_counted_once() -> None:
    """The refusal that a handler lets through ends as its response does."""
    from tokenbudget_mw.calls.call import current

    def app(environ: Any, start_response: Any) -> Any:
        with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            raise AssertionError

    rig = wsgi_rig.Rig(app)
    rig.run(PATH_INFO="/plain/x")

    assert counted(rig.core.health().refusals) == {"limit": 1}
    assert counted(rig.core.health().outcomes) == {"status_4xx": 1}


def test_a_limit_on_an_endpoint_outside_of_routes_is_counted() -> None:
    """No call runs there, so the limit itself counts."""
    rig = wsgi()
    limit = EndpointLimit.parse(("1 request/minute",), name="x")
    facts = Facts("GET", "/x", (("x-subject", "k1"),))
    limit.admit(rig.core, facts)
    with pytest.raises(BudgetExceeded):
        limit.admit(rig.core, facts)

    assert counted(rig.core.health().refusals) == {"limit": 1}


def test_what_limits_alone_let_through_is_counted() -> None:
    """Where requests without a model leave no row, they are counted all the same; so is what is charged late."""
    calls: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        from tokenbudget_mw.calls.call import current

        calls.append(current())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    rig = asgi_rig.Rig(app, record_requests=False)
    rig.run(asgi_rig.request(b""), path="/plain/x")
    calls[0].charge({"prompt_tokens": 3, "completion_tokens": 2})

    assert counted(rig.core.health().outcomes) == {"complete": 1, "late": 1}


def test_reasons_of_others_make_no_names() -> None:
    """What a host's own `identify` says is counted as other."""

    def identify(facts: Facts) -> Subject:
        raise CredentialError("no", code=f"code-{facts.path}")

    rig = wsgi(identify=identify)
    rig.run(wsgi_rig.chat())

    assert counted(rig.core.health().refusals) == {"other": 1}
    assert set(rig.core.health().refusals) == set(REASONS) == {*CODES, "other"}
    assert set(rig.core.health().outcomes) == set(OUTCOMES) == {*DEFAULT_SETTLE, "late", "refused", "other"}


def test_a_fork_counts_for_itself() -> None:
    """What the parent counted is not counted twice."""
    outcomes = Outcomes()
    outcomes.end("complete")
    outcomes.end("no such outcome")

    reading, writing = os.pipe()
    if not (child := os.fork()):
        outcomes.end("empty")
        os.write(writing, repr(counted(outcomes.ended())).encode())
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reading, 1000) == b"{'empty': 1}"
    assert counted(outcomes.ended()) == {"complete": 1, "other": 1}
    os.close(reading)
    os.close(writing)


LINE = re.compile(r"(?P<name>[a-z_]+)(?:\{(?P<label>[a-z]+)=\"(?P<value>[a-z0-9_]+)\"\})? (?P<count>\d+(?:\.\d+)?)")


def test_prometheus_text() -> None:
    """Every line is a comment or a sample of a family that was announced; the figures are those of the snapshot."""
    rig = wsgi(plans={"one": ["1 request/minute"]})
    rig.run(wsgi_rig.chat())
    rig.run(wsgi_rig.chat())
    rig.rows()

    text = rig.core.health().prometheus()

    families = re.findall(r"^# TYPE (\w+) (?:counter|gauge)$", text, re.MULTILINE)
    samples = [LINE.fullmatch(line) for line in text.splitlines() if not line.startswith("#")]
    assert all(samples)
    assert {sample["name"] for sample in samples if sample} == set(families)
    assert 'tokenbudget_calls_total{outcome="complete"} 1\n' in text
    assert 'tokenbudget_refusals_total{reason="limit"} 1\n' in text
    assert "tokenbudget_records_written_total 2\n" in text
    assert text.endswith("tokenbudget_books_up 1\n")
