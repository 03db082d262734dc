"""What single endpoints cannot be limited by, and what holds for their limits beside what they say."""

import pytest
from asgi_rig import subject_of

from tokenbudget_mw.errors import BackendUnavailableError, BudgetExceeded, ConfigurationError
from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.testing.budget import BudgetTester
from tokenbudget_mw.values import Facts


def test_a_limit_with_an_end_belongs_into_the_settings() -> None:
    """It would hold for ever here, so that it is refused where it is declared."""
    ending = {"limit": "9/minute", "until": "2090-12-24"}

    with pytest.raises(ConfigurationError, match="no limit with an end"):
        EndpointLimit.parse((ending,), name="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "policy", "is_refused"),
    [
        ("9/minute", "deny", True),
        ("9/minute", "allow", False),
        ({"limit": "9/minute", "on_backend_error": "deny"}, "allow", True),
    ],
)
def test_without_a_backend_the_settings_policy_holds(
    text: str, policy: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint's limit that says nothing of it does what the settings say while the backend is away."""
    tester = BudgetTester({"identify": subject_of, "on_backend_error": policy})

    def away(*_: object, **__: object) -> None:
        raise BackendUnavailableError

    monkeypatch.setattr(tester.core.guard.backend, "reserve", away)
    limit, facts = EndpointLimit.parse((text,), name="x"), Facts("GET", "/", headers=(("x-subject", "k1"),))

    if is_refused:
        with pytest.raises(BudgetExceeded, match="cannot be checked"):
            limit.admit(tester.core, facts)
    else:
        limit.admit(tester.core, facts)
    tester.close()
