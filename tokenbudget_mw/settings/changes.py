"""
Limits that change while the app runs: checked as at its start, and put in the place of those that were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.settings import reading
from tokenbudget_mw.settings.model import Settings, read_default_plan
from tokenbudget_mw.settings.own_limits import read_overrides
from tokenbudget_mw.settings.reading import Problems
from tokenbudget_mw.settings.structures import read_plans, read_top_limits

__all__ = ["change_limits", "changed_policy", "policy_of"]

CHANGEABLE = ("plans", "limits", "overrides", "default_plan")


def policy_of(settings: Settings, *, has_books: bool = False) -> Policy:
    """
    Return the rules that *settings* make; *has_books* as of `Policy`.
    """
    return Policy(
        settings.plans,
        settings.limits,
        settings.default_plan,
        settings.timezone,
        routes=settings.routes,
        mode=settings.mode,
        overrides=settings.overrides,
        has_books=has_books,
    )


def change_limits(settings: Settings, changes: Any) -> Settings:
    """
    Return *settings* with other limits.

    Args:
        settings: As they are.

        changes: A dict with any of ``plans``, ``limits``, ``overrides`` and ``default_plan``, as in the settings. Each is
            whole: a plan that ``plans`` does not name is gone. What is not named stays as it is.

    Raises:
        ConfigurationError: Something is wrong; the message has a line for each problem.
    """
    problems = Problems()
    if not isinstance(changes, Mapping):
        problems.add("changes", f"a dict is expected, not {reading.kind_of(changes)}")
        problems.raise_if_any()
    problems.unknown_keys(changes, CHANGEABLE)
    context = settings.limit_context()
    plans = read_plans(changes.get("plans", settings.plans), context, problems)
    limits = read_top_limits(changes.get("limits", settings.limits), plans, context, problems)
    overrides = read_overrides(changes.get("overrides", settings.overrides), context, problems)
    wanted = settings.default_plan if settings.default_plan in plans else None
    if "default_plan" in changes:
        with problems.at("default_plan"):
            wanted = reading.optional(reading.text)(changes["default_plan"])
    default_plan = read_default_plan(wanted, plans, problems)
    problems.raise_if_any()
    return replace(
        settings,
        plans=MappingProxyType(dict(plans)),
        limits=limits,
        overrides=MappingProxyType(dict(overrides)),
        default_plan=default_plan,
    )


def changed_policy(settings: Settings, policy: Policy) -> Policy:
    """
    Return the rules of changed *settings*, by which everything counts where it counted by *policy*.

    Raises:
        ConfigurationError: That cannot be: a limit that everybody shares would move all counters.
    """
    changed = policy_of(settings, has_books=policy.has_books)
    if changed.is_shared and not policy.is_shared:
        raise ConfigurationError(
            "A limit that counts for everybody together (`per global`, or `per model` or `per route` alone) cannot be "
            "added while the app runs, because all counters would begin anew beside it. Put it into the settings and "
            "restart, or count it per tenant."
        )
    # the other way round the counters stay where they are
    changed.is_shared = policy.is_shared
    return changed
