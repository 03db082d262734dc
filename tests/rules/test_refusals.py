"""How a refusal looks to the client."""

import json

import pytest

from tokenbudget_mw.errors import BudgetExceeded, CredentialError, PayloadError, RefusedError, UnpricedModelError
from tokenbudget_mw.rules.refusals import decision_of_error, limit_headers, render
from tokenbudget_mw.values import CheckState, Decision, Limit, Tally, Window

MINUTE = Limit("requests-minute", "requests", 60, Window(60.0))
MONEY = Limit("money-month", "money", 5_000_000_000, Window(period="month"), algorithm="calendar")
ID = "0192f0c1a2b37c4d8e5f60718293a4b5"


def refused(limit: Limit = MINUTE, *, wait: float | None = 12.2, code: str = "limit", status: int = 429) -> Decision:
    tally = Tally(limit, CheckState(fits=False, remaining=0, reset=41.5, retry_after=wait), 1)
    return Decision(
        admitted=False,
        code=code,
        status=status,
        message="Limit reached.",
        tallies=(tally,),
        refused_by=(limit.name,),
        retry_after=wait,
    )


def headers_of(decision: Decision, style: str = "hybrid") -> dict[str, str]:
    return dict(render(decision, style=style, request_id=ID).headers)


def body_of(decision: Decision, style: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(render(decision, style=style, request_id=ID).body)
    return found


def test_near_reset_asks_to_wait() -> None:
    """A wait of about a minute is told in whole seconds, rounded up, and in milliseconds."""
    headers = headers_of(refused())

    assert headers["retry-after"] == "13"
    assert headers["retry-after-ms"] == "12200"
    assert "x-should-retry" not in headers
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "decision",
    [
        refused(wait=65.1),
        refused(wait=None),
        refused(MONEY, wait=5.0, code="money"),
        refused(code="credits", status=402),
        refused(code="invalid_api_key", status=401),
    ],
)
def test_hopeless_retry_is_said_to_be(decision: Decision) -> None:
    """A wait that is long or that money alone can end tells SDKs not to retry."""
    headers = headers_of(decision)

    assert headers["x-should-retry"] == "false"
    assert "retry-after-ms" not in headers


def test_long_wait_still_says_when() -> None:
    """A wait of more than a minute names its true end."""
    assert headers_of(refused(wait=86_400.0))["retry-after"] == "86400"


def test_wait_is_never_zero() -> None:
    """A wait of less than a second is at least one, since zero means at once."""
    headers = headers_of(refused(wait=0.0001))

    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1")


def test_unknown_key_names_the_scheme() -> None:
    """A 401 says how to authenticate (RFC 9110, section 11.6.1)."""
    assert headers_of(refused(code="invalid_api_key", status=401))["www-authenticate"].startswith("Bearer")


def test_hybrid_body_suits_every_reader() -> None:
    """One body has what the OpenAI SDK, the Anthropic SDK and readers of problem details look for."""
    body = body_of(refused(), "hybrid")

    assert body["type"] == "error"
    assert body["error"] == {
        "message": "Limit reached.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert (body["status"], body["detail"]) == (429, "Limit reached.")
    assert body["violated-policies"] == ["requests-minute"]
    assert body["request_id"] == ID


def test_single_styles() -> None:
    """Each style alone is the shape of its owner."""
    assert set(body_of(refused(), "openai")) == {"error"}
    assert set(body_of(refused(), "anthropic")) == {"type", "error", "request_id"}
    assert body_of(refused(), "problem")["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert headers_of(refused(), "problem")["content-type"] == "application/problem+json"


def test_limit_headers() -> None:
    """Every enforced limit stands in both fields; money in micro-dollars; shadow limits in none."""
    shadow = Limit("shade", "requests", 1, Window(1.0), mode="shadow")
    state = CheckState(fits=True, remaining=1_234_567_890, reset=10.1)
    small = CheckState(fits=True, remaining=59, reset=60.0)

    headers = dict(limit_headers([Tally(MINUTE, small, 1), Tally(MONEY, state, 1), Tally(shadow, small, 1)]))

    assert headers["ratelimit-policy"] == (
        '"requests-minute";q=60;w=60, "money-month";q=5000000;w=2678400;tokenbudget-unit="micro-usd"'
    )
    assert headers["ratelimit"] == '"requests-minute";r=59;t=60, "money-month";r=1234567;t=11'


def test_no_limits_no_headers() -> None:
    """A request that no limit met has no fields to send."""
    assert limit_headers([]) == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CredentialError("Unknown."), 401, "invalid_api_key"),
        (CredentialError("Two.", status=400, code="multiple_credentials"), 400, "multiple_credentials"),
        (PayloadError("Not JSON."), 400, "invalid_body"),
        (PayloadError("Too large.", status=413), 413, "invalid_body"),
        (UnpricedModelError("x"), 400, "unpriced_model"),
    ],
)
def test_errors_become_decisions(error: RefusedError, status: int, code: str) -> None:
    """What goes wrong before admission refuses with its own status and code."""
    decision = decision_of_error(error)

    assert (decision.admitted, decision.status, decision.code) == (False, status, code)
    assert decision.message == str(error)


def test_foreign_errors_are_not_hidden() -> None:
    """An error that is no refusal is raised on."""
    with pytest.raises(RefusedError, match="odd"):
        decision_of_error(RefusedError("odd"))


def test_a_refused_reservation_is_its_decision() -> None:
    """A reservation that a handler was refused gives the decision that refused it."""
    decision = refused()

    assert decision_of_error(BudgetExceeded(decision)) is decision
