"""
What settings mean, in plain words: what is enforced for whom, and what looks like a mistake.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenbudget_mw.backends import is_in_process
from tokenbudget_mw.rules.layers import counted
from tokenbudget_mw.rules.policy import Plan
from tokenbudget_mw.settings.limit_times import describe_anchor
from tokenbudget_mw.settings.model import Settings
from tokenbudget_mw.settings.secret import redact_url
from tokenbudget_mw.units import PICO_PER_NANO, format_duration, format_moment, format_quantity, format_usd
from tokenbudget_mw.values import Limit, Route, Unit

__all__ = ["describe", "describe_database", "describe_limit", "reference", "says_nothing", "warnings_of"]

_NOUNS: dict[Unit, str] = {
    "requests": "requests",
    "tokens": "tokens",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "concurrent": "calls",
}
_BACKEND_ERRORS = {
    "allow": "lets requests pass",
    "deny": "refuses requests",
    "local": "gives each process its share of the limits",
}
_LONG_DEADLINE = 2.0
"""Seconds beyond which a deadline was probably meant in milliseconds."""

_UNKNOWN_PRICES = {
    "deny": "is refused",
    "ceiling": "is charged the ceiling price",
    "flag": "is charged nothing, and its rows are flagged",
}
_TYPES = {
    "Identify": "str or callable",
    "tuple[Route, ...]": "list of paths or dicts",
    "Mapping[str, Plan]": "dict of lists or dicts",
    "tuple[Limit, ...]": "list of limits",
    "Mapping[str, tuple[Limit, ...]]": "dict of lists of limits",
    "OnBackendError": "'allow', 'deny' or 'local'",
    "Mode": "'enforce' or 'shadow'",
    "Literal['ignore', 'protect']": "'ignore' or 'protect'",
    "Literal['deny', 'ceiling', 'flag']": "'deny', 'ceiling' or 'flag'",
    "Literal['auto', 'openai', 'anthropic', 'problem']": "'auto', 'openai', 'anthropic' or 'problem'",
    "Literal['tiktoken', 'fastokens']": "'tiktoken' or 'fastokens'",
    "Literal['start', 'background']": "'start' or 'background'",
    "Mapping[str, Any]": "dict of objects or str",
    "Literal['memory', 'kill_safe', 'power_safe_window', 'power_safe']": "'memory', 'kill_safe', 'power_safe_window' or 'power_safe'",
    "Literal['drop_newest', 'block', 'raise']": "'drop_newest', 'block' or 'raise'",
    "float": "seconds",
    "str | None": "str",
    "tuple[str, ...]": "list of str",
    "Secret": "str",
    "tuple[Price, ...]": "list of dicts",
    "Price": "dict",
    "Mapping[str, Decimal]": "dict of numbers",
    "Mapping[str, str]": "dict of str",
    "Mapping[str, Mapping[str, str]]": "dict of str, or of dicts of str",
    "str | Callable[..., Any] | None": "callable or str",
}
"""Declared types, as a user of the dict writes them."""

_IDENTIFY = {"api_key": "its API key", "ip": "the client's address"}
_BY_ADDRESS = frozenset({"user", "team", "project", "tenant"})


def describe(settings: Settings) -> list[str]:
    """
    Say in sentences what will be enforced for whom; the last ones, which begin with ``Warning:``, say what looks wrong.
    """
    return [*_sentences(settings), *(f"Warning: {warning}" for warning in warnings_of(settings))]


def _sentences(settings: Settings) -> Iterator[str]:
    if not settings.enabled:
        yield "The middleware is switched off (`enabled` is False): nothing is metered, nobody is limited."
        return
    if settings.mode == "shadow":
        yield "Shadow mode: limits are decided and recorded, and nobody is refused."
    if is_in_process(settings.backend):
        yield f"Counters live in {settings.backend.partition(':')[0]}://, in each process its own."
    else:
        away = _BACKEND_ERRORS[settings.on_backend_error]
        yield f"Counters live in {redact_url(settings.backend)}; while it does not answer, the middleware {away}."
    yield f"The books are kept in {describe_database(settings)}."
    yield f"A request's subject is found by {_IDENTIFY.get(str(settings.identify), 'a function of the host')}."
    yield from _routes(settings)
    for plan in settings.plans.values():
        yield from _plan(plan, is_default=plan.name == settings.default_plan)
    if settings.limits:
        yield "Everybody, whatever the plan:"
        yield from _lines(settings.limits)
    for name, limits in settings.overrides.items():
        yield f"For {' '.join(name.split(':', 1))}, in the place of what counts the same elsewhere:"
        yield from _lines(limits)
    if (
        not settings.plans
        and not settings.limits
        and not settings.overrides
        and not any(route.limits for route in settings.routes)
    ):
        yield "There are no limits: requests are metered, and nobody is refused."
    if settings.prepaid:
        yield "Accounts pay before: one whose balance is at or below zero is refused until it is topped up."
    yield f"A model without a price {_UNKNOWN_PRICES[settings.unknown_price]}."
    if _has_calendar(settings):
        yield f"Calendar periods begin at midnight in {settings.timezone}."


def describe_database(settings: Settings) -> str:
    """
    Say which database it is, without its password.
    """
    if settings.database is None:
        return f"Django's database '{settings.database_alias}'"
    return redact_url(settings.database)


def _routes(settings: Settings) -> Iterator[str]:
    if not settings.routes:
        yield "No routes are named, so every path is metered, as requests."
    for route in settings.routes:
        yield _route(route)
        yield from _lines(route.limits)
    if settings.routes:
        fate = "is metered as a request" if settings.default == "protect" else "passes unmetered"
        yield f"Every other path {fate}."
    if settings.exempt:
        yield f"Never metered: {', '.join(settings.exempt)}."


def _route(route: Route) -> str:
    methods = f"{'/'.join(sorted(route.methods))} " if route.methods else ""
    meaning = f"metered as {route.format}" if route.format else "metered as a request, and by what its handler reports"
    counted = {
        "full": "",
        "async": "; prompts are admitted on an estimate, and counted meanwhile",
        "off": "; prompts are not counted",
        "sample": f"; {route.sample:.0%} of the prompts are counted",
    }
    ended = {"pass": "", "finish": "; its streams end with the budget", "error": "; its streams fail with the budget"}
    talk = "; each message of a websocket is a call" if route.websocket == "message" else ""
    return f"{methods}{route.path} is {meaning}{counted[route.count]}{ended[route.on_budget_end]}{talk}."


def _plan(plan: Plan, *, is_default: bool) -> Iterator[str]:
    notes = ["the default"] if is_default else []
    if plan.mode == "shadow":
        notes.append("shadow: refuses nobody")
    note = f" ({', '.join(notes)})" if notes else ""
    yield (
        f"Plan '{plan.name}'{note}, for each {plan.holder}:"
        if plan.limits
        else f"Plan '{plan.name}'{note} has no limits."
    )
    yield from _lines(plan.limits)


def _lines(limits: tuple[Limit, ...]) -> Iterator[str]:
    for limit in limits:
        yield f"  {describe_limit(limit)}{_afterwards(limit, limits)}"


def _afterwards(limit: Limit, others: Iterable[Limit]) -> str:
    if limit.until is None:
        return ""
    again = [
        other.text
        for other in others
        if other.until is None and other.mode == limit.mode and counted(other) == counted(limit)
    ]
    if again:
        return f" Afterwards {' and '.join(again)} again."
    return " It stands beside the others: none of this list counts the same scopes, unit and window."


def describe_limit(limit: Limit) -> str:
    """
    Say in a sentence what *limit* promises.

    >>> from tokenbudget_mw.settings.limits import parse_limit
    >>> describe_limit(parse_limit("40k tokens/minute per tenant"))
    "At most 40k tokens in any minute, for each tenant ('tokens-minute-tenant')."
    """
    scopes = " and ".join(limit.per)
    whom = "for everybody together" if limit.per == ("global",) else f"for each {scopes}"
    shadow = "; shadow: refuses nobody" if limit.mode == "shadow" else ""
    until = "" if limit.until is None else f", until {format_moment(limit.until)}"
    return f"At most {_amount(limit)}{_over(limit)}, {whom}{until} ('{limit.name}'{shadow})."


def _amount(limit: Limit) -> str:
    if limit.unit == "money":
        return format_usd(limit.amount * PICO_PER_NANO)
    noun = _NOUNS[limit.unit]
    at_a_time = " at a time" if limit.unit == "concurrent" else ""
    return f"{format_quantity(limit.amount)} {noun.removesuffix('s') if limit.amount == 1 else noun}{at_a_time}"


def _over(limit: Limit) -> str:
    if limit.window is None:
        return ""
    if limit.window.seconds is None:
        period, anchor = limit.window.period or "", limit.window.anchor
        begins = "" if anchor == 1 else f" that begins {describe_anchor(period, anchor)}"
        return f" in a calendar {period}{begins}"
    return f" in any {format_duration(limit.window.seconds).removeprefix('1 ')}"


def says_nothing(settings: Settings) -> bool:
    """
    Whether *settings* limit nobody and know callers by API keys alone, as those do that nobody has made.
    """
    return settings.identify == "api_key" and not (settings.routes or settings.plans or settings.limits)


def warnings_of(settings: Settings, clock: Callable[[], float] = time.time) -> list[str]:
    """
    Say what works, but is probably not meant. *clock* gives the moment, in epoch seconds.
    """
    if not settings.enabled:
        return []
    return [*(text for find in _SUSPICIONS for text in find(settings)), *_ended(settings, clock())]


def _ended(settings: Settings, now: float) -> Iterator[str]:
    for limit in _all_limits(settings):
        if limit.until is not None and limit.until <= now:
            yield f"'{limit.text}' has ended at {format_moment(limit.until)}: it holds no more, and can be removed."


def _all_limits(settings: Settings) -> Iterator[Limit]:
    yield from settings.limits
    for plan in settings.plans.values():
        yield from plan.limits
    for own in settings.overrides.values():
        yield from own
    for route in settings.routes:
        yield from route.limits


def _has_calendar(settings: Settings) -> bool:
    return any(limit.window is not None and limit.window.period is not None for limit in _all_limits(settings))


def _memory_of_many(settings: Settings) -> Iterator[str]:
    if is_in_process(settings.backend) and settings.workers > 1:
        yield (
            f"`backend` is {settings.backend.partition(':')[0]}:// and `workers` is {settings.workers}: each process counts for itself, so up to"
            f" {settings.workers} times every limit gets through. Use redis://."
        )


def _unpriced_money(settings: Settings) -> Iterator[str]:
    if settings.unknown_price == "flag" and any(limit.unit == "money" for limit in _all_limits(settings)):
        yield (
            "there are money limits and `unknown_price` is 'flag': models without a price pass them free of charge."
            " Use 'ceiling' or 'deny'."
        )


def _empty_plans(settings: Settings) -> Iterator[str]:
    for plan in settings.plans.values():
        if not plan.limits:
            yield f"plan '{plan.name}' has no limits: who has it is limited by `limits` alone."


def _planless(settings: Settings) -> Iterator[str]:
    if settings.plans and settings.default_plan is None:
        yield "`default_plan` is not set: subjects without a plan are limited by `limits` alone."


def _scopes_without_value(settings: Settings) -> Iterator[str]:
    if settings.identify != "ip":
        return
    for limit in _all_limits(settings):
        for scope in _BY_ADDRESS.intersection(limit.per):
            yield f"'{limit.text}' counts per {scope}, which an address has not: with `identify` 'ip' it never applies."


def _routeless(settings: Settings) -> Iterator[str]:
    if settings.routes and all(route.format is None for route in settings.routes):
        return
    if not settings.routes and any(limit.unit not in {"requests", "concurrent"} for limit in _all_limits(settings)):
        yield (
            "there are limits on tokens or money, and no `routes` with a `format`: they count only what handlers report"
            " with `current().charge(...)`."
        )


def _pepperless(settings: Settings) -> Iterator[str]:
    if settings.identify == "api_key" and not settings.pepper:
        yield "`pepper` is not set: no API key can be made or recognized. Set TOKENBUDGET_PEPPER, the same for app and commands."


def _query_keys(settings: Settings) -> Iterator[str]:
    if settings.query_keys:
        yield "`query_keys` lets API keys stand in URLs, which servers, proxies and browsers write to logs."


def _zeros(settings: Settings) -> Iterator[str]:
    for limit in _all_limits(settings):
        if limit.amount == 0:
            yield f"'{limit.text}' allows nothing: it refuses every request that is not free."


def _idle_limits(settings: Settings) -> Iterator[str]:
    groups = (settings.limits, *(plan.limits for plan in settings.plans.values()), *settings.overrides.values())
    for limits in groups:
        standing = [limit for limit in limits if limit.until is None]
        for limit in standing:
            alike = [each for each in standing if each.mode == limit.mode and counted(each) == counted(limit)]
            smaller = next((each for each in alike if each.amount < limit.amount), None)
            if smaller is not None:
                yield f"'{limit.text}' never refuses: '{smaller.text}' beside it counts the same, and is smaller."


def _exempt_routes(settings: Settings) -> Iterator[str]:
    for route in settings.routes:
        if route.path in settings.exempt:
            yield f"'{route.path}' stands in `routes` and in `exempt`: spelt so it is never metered."


def _trusts_everybody(settings: Settings) -> Iterator[str]:
    for network in settings.trusted_proxies:
        if network in {"0.0.0.0/0", "::/0"}:
            yield f"`trusted_proxies` holds {network}: any client can say where it comes from."


def _policies_without_files(settings: Settings) -> Iterator[str]:
    if settings.spool == "memory" and settings.spool_full != "drop_newest":
        yield f"`spool_full` is '{settings.spool_full}', but `spool` is 'memory', where the newest is always dropped."


def _patience(settings: Settings) -> Iterator[str]:
    if settings.deadline > _LONG_DEADLINE:
        yield (
            f"`deadline` is {format_duration(settings.deadline)}: so long may a request wait for a backend that does not answer."
            " It is in seconds: 50 ms are 0.05."
        )


_SUSPICIONS: tuple[Callable[[Settings], Iterable[str]], ...] = (
    _memory_of_many,
    _unpriced_money,
    _empty_plans,
    _planless,
    _scopes_without_value,
    _routeless,
    _pepperless,
    _patience,
    _query_keys,
    _zeros,
    _idle_limits,
    _exempt_routes,
    _trusts_everybody,
    _policies_without_files,
)


def reference() -> list[tuple[str, str, str, str]]:
    """
    Return name, type, default and meaning of every setting, in order, for the documentation.
    """
    return [
        (each.name, _TYPES.get(str(each.type), str(each.type)), _default(each), str(each.metadata["doc"]))
        for each in dataclasses.fields(Settings)
        if each.name != "database_alias"
    ]


def _default(setting: dataclasses.Field[Any]) -> str:
    if setting.name == "ceiling":
        return "{'input': '150', 'output': '600', 'per': '1M tokens'}"
    if setting.name == "pepper":
        return "unset"
    if setting.default is dataclasses.MISSING:
        return "{}"
    return repr(list(setting.default) if isinstance(setting.default, tuple) else setting.default)
