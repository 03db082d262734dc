"""
The settings that have parts: the database, routes, plans.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast, get_args

from tokenbudget_mw.rules.layers import counted
from tokenbudget_mw.rules.messages import ANY_LANGUAGE, CODES, check
from tokenbudget_mw.rules.policy import Plan
from tokenbudget_mw.rules.routes import ENDABLE, FORMATS, normalise
from tokenbudget_mw.rules.settlement import DEFAULT_SETTLE, ORPHAN_RULES, ORPHANED, SETTLE_RULES
from tokenbudget_mw.settings import reading
from tokenbudget_mw.settings.limits import SCOPES, Context, read_limits
from tokenbudget_mw.settings.reading import Invalid, Problems, did_you_mean, kind_of, text
from tokenbudget_mw.values import Limit, Mode, Route, Scope

__all__ = ["read_database", "read_messages", "read_plans", "read_routes", "read_top_limits"]

_PLAN_KEYS = ("limits", "holder", "mode")
_ROUTE_KEYS = ("path", "format", "methods", "count", "sample", "limits", "settle", "on_budget_end", "websocket")
_METHODS = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE", "WEBSOCKET")
_LOOKALIKES = frozenset({"ORDERPATCH", "PROPPATCH"})
"""Methods of WebDAV that look like one of these."""

_ALIKE = 0.66
"""How alike a method is that was meant to be one of these (1 is the same)."""

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")
"""A token, as methods are (RFC 9110, section 9.1)."""

_COUNTS = ("full", "sample", "async", "off")
_read_url = reading.url("sqlite:///tokenbudget.db")


def read_database(value: Any) -> tuple[str | None, str | None]:
    """
    Read a database URL or ``{"alias": ...}``; return the URL and the alias, of which one is None.
    """
    if not isinstance(value, Mapping):
        return _read_url(value), None
    if set(value) != {"alias"}:
        raise Invalid("a database is a URL, or a dict such as {'alias': 'default'} that names one of Django's")
    return None, text(value["alias"])


def read_plans(value: Any, context: Context, problems: Problems) -> Mapping[str, Plan]:
    """
    Read plans by name; each is a list of limits or a dict.
    """
    if isinstance(value, Mapping):
        plans = [_plan(name, plan, context, problems) for name, plan in value.items()]
        return {plan.name: plan for plan in plans}
    problems.add("plans", f"a dict of plans by name is expected, not {kind_of(value)}")
    return {}


def _plan(name: Any, value: Any, context: Context, problems: Problems) -> Plan:
    path, called = f"plans.{name}", str(name)
    if isinstance(value, Plan):
        return value
    with problems.at(path):
        called = text(name)
    parts = value if isinstance(value, Mapping) and "limit" not in value else {"limits": value}
    problems.unknown_keys(parts, _PLAN_KEYS, path)
    holder: Scope = "key"
    mode: Mode = context.mode
    with problems.at(f"{path}.holder"):
        holder = cast("Scope", reading.choice(*SCOPES)(parts.get("holder", "key")))
    with problems.at(f"{path}.mode"):
        wanted = reading.choice(*get_args(Mode))(parts.get("mode", "enforce"))
        mode = "shadow" if "shadow" in {wanted, mode} else "enforce"
    here = replace(context, place="plan", holder=holder, mode=mode)
    at = f"{path}.limits" if parts is value else path
    limits = read_limits(parts.get("limits", ()), here, at, problems)
    return Plan(called, name_apart(limits, ()), holder, mode)


def read_top_limits(value: Any, plans: Mapping[str, Plan], context: Context, problems: Problems) -> tuple[Limit, ...]:
    """
    Read the limits that hold for everybody.
    """
    limits = read_limits(value, context, "limits", problems)
    return name_apart(limits, [limit.name for plan in plans.values() for limit in plan.limits])


def name_apart(limits: tuple[Limit, ...], taken: Iterable[str]) -> tuple[Limit, ...]:
    """
    Give every limit a name of its own among those that one request can meet, by a number at the end.

    The same limit given twice is kept once. A limit with an end has the name of the one in whose place it holds.
    """
    names = set(taken)
    apart: list[Limit] = []
    named: dict[tuple[str, object], str] = {}
    for limit in sorted(dict.fromkeys(limits), key=_is_ending):
        name, count = limit.name, 1
        stands_for = named.get((name, counted(limit))) if _is_ending(limit) else None
        while stands_for is None and name in names:
            count += 1
            name = f"{limit.name}-{count}"
        chosen = stands_for or name
        names.add(chosen)
        named.setdefault((limit.name, counted(limit)), chosen)
        apart.append(limit if chosen == limit.name else replace(limit, name=chosen))
    return tuple(apart)


def _is_ending(limit: Limit) -> bool:
    return limit.until is not None


def read_routes(value: Any, taken: Iterable[str], context: Context, problems: Problems) -> tuple[Route, ...]:
    """
    Read routes, each a path or a dict.

    Args:
        value: What stands in the settings.

        taken: Names of limits that a request can meet beside those of its route.

        context: For the routes' limits.

        problems: Where to note what is wrong.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, list | tuple):
        problems.add("routes", f"a list of routes is expected, not {kind_of(value)}")
        return ()
    names = tuple(taken)
    routes = {at: _route(item, f"routes[{at}]", names, context, problems) for at, item in enumerate(value)}
    found = {at: route for at, route in routes.items() if route is not None}
    _note_twins(found, problems)
    return tuple(found.values())


def _route(value: Any, path: str, taken: tuple[str, ...], context: Context, problems: Problems) -> Route | None:
    """
    Read a route; None where nobody knows its path.
    """
    if isinstance(value, Route):
        return value
    parts = {"path": value} if isinstance(value, str) else value
    if not isinstance(parts, Mapping):
        problems.add(path, f"a route is a path or a dict, not {kind_of(value)}")
        return None
    problems.unknown_keys(parts, _ROUTE_KEYS, path)
    found: dict[str, Any] = {}
    if parts.get("path") is None:
        problems.add(path, "a route needs its 'path', such as '/v1/chat/completions' or '/v1/*'")
    for name, reader in _ROUTE_READERS.items():
        if parts.get(name) is not None:
            with problems.at(f"{path}.{name}"):
                found |= reader(parts[name])
    if found.get("count") == "sample" and "sample" not in found:
        problems.add(f"{path}.count", "'sample' needs its share; write 'sample:0.1'")
    if found.get("on_budget_end", "pass") != "pass" and found.get("format") not in ENDABLE:
        known = ", ".join(sorted(ENDABLE))
        problems.add(f"{path}.on_budget_end", f"ending a stream needs the route's 'format', one of {known}")
    if "limits" in parts:
        here = replace(context, place="route", holder="key")
        limits = read_limits(parts["limits"], here, f"{path}.limits", problems)
        found["limits"] = name_apart(limits, taken)
    return Route(**found) if "path" in found else None


def _read_path(value: Any) -> dict[str, Any]:
    path = text(value)
    if path != "*" and not path.startswith("/"):
        raise Invalid(f"a path begins with '/', not '{path}'")
    if "*" in path[:-1] or any(mark in path for mark in "{}<>?#"):
        raise Invalid(f"'{path}' is a pattern; give an exact path, or a prefix that ends in '*' such as '/v1/*'")
    return {"path": path}


def _read_format(value: Any) -> dict[str, Any]:
    found = text(value)
    if found not in FORMATS:
        raise Invalid(f"unknown format '{found}'{did_you_mean(found, FORMATS)}")
    return {"format": found}


def _read_methods(value: Any) -> dict[str, Any]:
    return {"methods": frozenset(map(_method, reading.items(text)(value)))}


def _method(value: str) -> str:
    method = value.strip().upper()
    if not _METHOD.fullmatch(method):
        raise Invalid(f"'{value}' is no method; write them like ['GET', 'POST']")
    if method not in _METHODS and method not in _LOOKALIKES:
        # servers take any other, too; but what is nearly one of these was meant to be it, and would pass unmetered
        near = difflib.get_close_matches(method, _METHODS, n=1, cutoff=_ALIKE)
        if near:
            raise Invalid(f"unknown method '{value}'; did you mean '{near[0]}'?")
    return method


def _read_count(value: Any) -> dict[str, Any]:
    name, colon, share = text(value).partition(":")
    if name not in _COUNTS:
        raise Invalid(f"unknown way of counting '{name}'{did_you_mean(name, _COUNTS)}")
    if not colon:
        return {"count": name}
    if name != "sample":
        raise Invalid(f"'{name}' has no share; only 'sample:0.1' has")
    try:
        number = float(share)
    except ValueError:
        raise Invalid(f"'{share}' is no share; write 'sample:0.1'") from None
    return {"count": name, **_read_sample(number)}


def _read_sample(value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Invalid("a share is a number from 0 to 1")
    return {"sample": float(value)}


def _read_settle(value: Any) -> dict[str, Any]:
    rules = reading.pairs(text)(value)
    for outcome, rule in rules.items():
        if outcome not in DEFAULT_SETTLE:
            raise Invalid(f"unknown outcome '{outcome}'{did_you_mean(outcome, DEFAULT_SETTLE)}")
        known = ORPHAN_RULES if outcome == ORPHANED else SETTLE_RULES
        if rule not in known:
            raise Invalid(f"unknown rule '{rule}' for '{outcome}'{did_you_mean(rule, sorted(known))}")
    return {"settle": rules}


def _read_on_budget_end(value: Any) -> dict[str, Any]:
    return {"on_budget_end": reading.choice("pass", "finish", "error")(value)}


def _read_websocket(value: Any) -> dict[str, Any]:
    return {"websocket": reading.choice("connection", "message")(value)}


_ROUTE_READERS = {
    "path": _read_path,
    "format": _read_format,
    "methods": _read_methods,
    "sample": _read_sample,
    "count": _read_count,
    "settle": _read_settle,
    "on_budget_end": _read_on_budget_end,
    "websocket": _read_websocket,
}


def read_messages(value: Any) -> Mapping[str, Mapping[str, str]]:
    """
    Read what refusals say: reason -> template, or language -> reason -> template.
    """
    if not isinstance(value, Mapping):
        raise Invalid(f"a dict is expected, not {kind_of(value)}")
    groups = {name: given for name, given in value.items() if isinstance(given, Mapping)}
    if not groups:
        groups = {ANY_LANGUAGE: value}
    elif len(groups) < len(value):
        raise Invalid("messages are given by reason, or by language and reason, not both; '*' is any language")
    return {text(name).lower(): _read_templates(templates) for name, templates in groups.items()}


def _read_templates(value: Any) -> Mapping[str, str]:
    templates = reading.pairs(text)(value)
    for code, template in templates.items():
        if code not in CODES:
            raise Invalid(f"unknown reason '{code}'{did_you_mean(code, CODES)}")
        try:
            check(template)
        except ValueError as exc:
            raise Invalid(f"the message for '{code}' is no template: {exc}") from None
    return templates


def _note_twins(routes: Mapping[int, Route], problems: Problems) -> None:
    """
    Note routes of which the second can never be reached.
    """
    seen: dict[tuple[str, bool], list[Route]] = {}
    for at, route in routes.items():
        is_prefix = route.path.endswith("*")
        earlier = seen.setdefault((normalise(route.path.removesuffix("*")), is_prefix), [])
        if any(not other.methods or not route.methods or other.methods & route.methods for other in earlier):
            problems.add(f"routes[{at}]", f"'{route.path}' is covered by another route of the same path")
        earlier.append(route)
