"""
The settings on the pages are settings.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from tokenbudget_mw import Facts, Settings
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.wiring import wire

Load = Callable[[str], ModuleType]


@pytest.mark.parametrize(
    "name",
    [
        "settings_full",
        "shadow",
        "tariffs",
        "identify_user",
        "limit_dicts",
        "settle_rules",
        "ending_streams",
        "websocket_messages",
        "refusal_messages",
        "render_refusal",
    ],
)
def test_settings_on_a_page_are_valid(example: Load, name: str) -> None:
    """The dict passes the checks that an app's start makes."""
    assert Settings.from_mapping(example(name).TOKENBUDGET)


def test_shadow_is_what_the_page_says(example: Load) -> None:
    """The first limit of the plan is enforced, the second is not."""
    settings = Settings.from_mapping(example("shadow").TOKENBUDGET)

    assert [limit.mode for limit in settings.plans["free"].limits] == ["enforce", "shadow"]


def test_tariffs_are_what_the_page_says(example: Load) -> None:
    """Dollars per million tokens become whole pico-dollars per token."""
    settings = Settings.from_mapping(example("tariffs").TOKENBUDGET)

    tune = next(price for price in settings.tariffs if price.model == "my-fine-tune")
    assert (tune.input, tune.output, tune.cache_read) == (3_750_000, 15_000_000, 1_875_000)


def test_limit_strings_mean_what_the_page_says(example: Load) -> None:
    """Each string parses, to the unit, amount and scope in its description."""
    from tokenbudget_mw.settings.limits import parse_limit

    limits = {text: parse_limit(text) for text in example("limit_strings").LIMITS}

    assert limits["60/minute"].unit == limits["60 requests/minute"].unit == "requests"
    assert limits["40k tokens/minute"].amount == 40_000
    assert limits["1M input tokens/day"].unit == "input_tokens"
    assert limits["200k output tokens/10 minutes"].window.seconds == 600
    assert "model" in limits["2M tokens/minute per model"].per
    assert limits["$5/month"].amount == 5_000_000_000
    assert limits["$10k/month per tenant"].per == ("tenant",)
    assert limits["$20/calendar day per team"].window.period == "day"
    assert limits["4 concurrent"].window is None


def test_operators_look_and_correct(example: Load) -> None:
    """
    The lines that are shown are those of the subject's limits, untouched.
    """
    (line,) = example("operators").lines

    assert (line.limit.name, line.remaining, line.is_spent) == ("tokens-day-tenant", 1_000_000, False)


def test_limit_dicts_mean_what_the_page_says(example: Load) -> None:
    """Anchors, an end in the settings' zone, and overrides for whom they name."""
    settings = Settings.from_mapping(example("limit_dicts").TOKENBUDGET)
    month, week, year, requests, increase = settings.plans["pro"].limits

    assert [limit.window.anchor for limit in (month, week, year) if limit.window] == [15, 5, 406]
    assert (requests.until, increase.until, increase.name) == (None, 1_798_066_800.0, requests.name)
    assert settings.overrides["tenant:acme"][0].per == ("tenant",)
    assert settings.overrides["user:alice"][0].per == ("key",)


def test_hosts_give_limits_along(example: Load) -> None:
    """Alice has her own requests, for good, and her own dollars until the year ends; Bob has the plan's."""
    core = wire(example("identify_own_limits").TOKENBUDGET, clock=FakeClock(1_798_750_000.0))  # the last day of 2026

    def amounts(session: str) -> list[int]:
        subject = core.identifier.resolve(Facts("GET", "/", (("x-session", session),)))
        return [line.limit.amount for line in core.explain(subject).limits]

    assert amounts("s3cr3t-session") == [300, 50 * 10**9]
    assert amounts("other-session") == [60, 5 * 10**9]
    core.clock.advance(86_400)  # type: ignore[attr-defined]
    assert amounts("s3cr3t-session") == [300, 5 * 10**9]
    core.close()


def test_refusals_are_what_the_page_says(example: Load) -> None:
    """The second request to an internal path has the body of the function's; another has the usual one."""
    from starlette.testclient import TestClient

    from tokenbudget_mw import ASGIMiddleware

    async def app(scope: object, receive: object, send: Callable[..., object]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[misc]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[misc]

    core = wire(example("render_refusal").TOKENBUDGET)
    client = TestClient(ASGIMiddleware(app, core), client=("203.0.113.7", 1))  # type: ignore[arg-type]
    client.get("/internal/a")

    assert client.get("/internal/a").json() == {"ok": False, "reason": "limit", "limits": ["requests-minute"]}
    assert client.get("/a").json()["status"] == 429
    core.close()


def test_limits_change_as_the_page_says(example: Load) -> None:
    """The function that is shown changes what holds."""
    module = example("change_limits")

    module.on_new_limits({"free": ["90 requests/minute"]})

    assert module.budget.core.settings.plans["free"].limits[0].amount == 90
    module.budget.core.close()


def test_keys_of_an_owner_are_changed_together(
    example: Load, sqlite_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A tenant that does not pay, or is deleted, passes no more; others do.
    """
    monkeypatch.setenv("TOKENBUDGET_PEPPER", "a pepper of this test")
    engine = open_engine(sqlite_database)
    metadata.create_all(engine)
    module = example("owner_keys")
    for tenant in ("acme", "late", "good"):
        module.keys.create(tenant=tenant)

    module.tenant_deleted("acme")
    module.invoice_overdue("late")

    states = {row.tenant_id: row.status for row in module.keys.list()}
    engine.dispose()
    assert states == {"acme": "revoked", "late": "suspended", "good": "active"}
