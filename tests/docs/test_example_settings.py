"""
The settings on the pages are settings.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from tokenbudget_mw import Settings
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.tables import metadata

Load = Callable[[str], ModuleType]


@pytest.mark.parametrize("name", ["settings_full", "shadow", "tariffs", "identify_user"])
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
