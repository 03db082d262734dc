"""
``tokenbudget-mw keys``: API keys, from their making to their end.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, many, table
from tokenbudget_mw.cli.usage import LAST_DAY
from tokenbudget_mw.errors import ConfigurationError, CredentialError
from tokenbudget_mw.rules.identity import kid_in
from tokenbudget_mw.settings.changes import policy_of
from tokenbudget_mw.settings.describe import describe_limit
from tokenbudget_mw.settings.limit_times import read_until
from tokenbudget_mw.units import parse_duration
from tokenbudget_mw.values import PURPOSES

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.keys import KeyRow, KeyStore, NewKey
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Limit

__all__ = ["add_arguments", "curl", "run"]

OWNERS = ("user", "team", "project", "tenant")
CHANGES = ("suspend", "resume", "revoke")
KID = "public id: tb_live_<KID>_…; or the whole key"
STATES = ("active", "suspended", "revoked")
MOST = 10_000_000
"""More keys than there are: a list that is cut off without a word lacks the newest."""


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key, and show it once")
    for scope in OWNERS:
        create.add_argument(f"--{scope}", metavar="ID", help=f"{scope} that the key acts for")
    create.add_argument("--plan", metavar="NAME", help="plan in the settings; by default the default plan")
    create.add_argument(
        "--purpose", choices=PURPOSES, default="realtime", help="what it is for; tariffs may depend on it"
    )
    create.add_argument("--expires", metavar="WHEN", help="from when it is refused: 2027-01-31 (UTC), or in '30 days'")
    create.add_argument("--name", default="", help="what its owner calls it")
    _add_limit(create)
    listing = actions.add_parser("list", help="list the keys, the oldest first")
    listing.add_argument("--status", choices=STATES)
    listing.add_argument("--tenant", metavar="ID")
    for name, what in (
        ("suspend", "refuse a key, or all keys of an owner, until they are resumed"),
        ("resume", "accept suspended keys again"),
        ("revoke", "refuse a key, or all keys of an owner, for ever"),
    ):
        change = actions.add_parser(name, help=what)
        change.add_argument("kid", metavar="KID", nargs="?", type=kid_in, help=KID)
        for scope in OWNERS:
            change.add_argument(f"--{scope}", metavar="ID", help=f"all keys of this {scope}")
    for name, what in (
        ("rotate", "make a key that takes the place of another"),
        ("limit", "give a key limits of its own, or take them away"),
    ):
        actions.add_parser(name, help=what).add_argument("kid", metavar="KID", type=kid_in, help=KID)
    actions.choices["rotate"].add_argument(
        "--grace", default="1 day", metavar="DURATION", help="how long the old key stays good (default: 1 day)"
    )
    _add_limit(actions.choices["limit"])
    _add_limit_options(actions.choices["limit"])
    for action in actions.choices.values():
        add_source(action)
        add_json(action)


def _add_limit(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="LIMIT",
        help="limit of its own, as '100 requests/minute' or as the JSON of a limit's dict, in the place of what counts the "
        "same in its plan; repeatable",
    )


def _add_limit_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--until",
        metavar="WHEN",
        help="when these limits end: 2027-01-31 (in the settings' time zone), or in '30 days'",
    )
    parser.add_argument("--clear", action="store_true", help="first take all its own limits away")


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.wiring import open_bars, open_keys

    settings = context.settings()
    bars = open_bars(settings)
    with context.database() as engine:
        store = open_keys(settings, engine, bars=bars)
        result, lines = _ACTIONS[context.args.action](context, settings, store)
    if context.args.action in CHANGES:
        # a refusal by the table is remembered, so that a resumed key may wait for the cache
        is_told = not (bars.has_missed or context.args.action == "resume" or settings.backend.startswith("memory:"))
        result["known_within_seconds"] = 0.0 if is_told else settings.key_cache_ttl
        lines = [f"{lines[0]} {_known(settings, is_told=is_told)}"]
    context.emit(result, lines)
    return 0


def _known(settings: Settings, *, is_told: bool) -> str:
    if is_told:
        return "The app knows at its next request."
    return f"The app knows within {settings.key_cache_ttl:g} s."


def _create(context: Context, settings: Settings, store: KeyStore) -> tuple[dict[str, Any], list[str]]:
    args = context.args
    _check_pepper(settings)
    _check_plan(settings, args.plan)
    made = store.create(
        name=args.name,
        user=args.user,
        team=args.team,
        project=args.project,
        tenant=args.tenant,
        plan=args.plan,
        purpose=args.purpose,
        expires_at=None if args.expires is None else _moment(args.expires, time.time()),
        limits=[_limit_of(text) for text in args.limit],
    )
    own = _own_lines(made.row, settings, store, time.time()) if args.limit else []
    return _shown(made), [*_announce(made, settings), *own]


def _list(context: Context, settings: Settings, store: KeyStore) -> tuple[dict[str, Any], list[str]]:
    del settings
    rows = store.list(status=context.args.status, tenant=context.args.tenant, most=MOST)
    heads = (
        "kid",
        "last4",
        "name",
        "status",
        "plan",
        "tenant",
        "team",
        "project",
        "user",
        "purpose",
        "expires",
        "limits",
    )
    cells = [
        (
            row.kid,
            row.last4,
            row.name,
            row.status,
            row.plan,
            row.tenant_id,
            row.team_id,
            row.project_id,
            row.user_id,
            row.purpose,
            _day(row.expires_at),
            None if row.limits is None else len(json.loads(row.limits)),
        )
        for row in rows
    ]
    return {"keys": [_fields(row) for row in rows]}, table(heads, cells) if rows else ["There are no keys."]


def _switch(context: Context, settings: Settings, store: KeyStore) -> tuple[dict[str, Any], list[str]]:
    del settings
    args = context.args
    owner = {scope: getattr(args, scope) for scope in OWNERS if getattr(args, scope) is not None}
    if (args.kid is None) == (not owner):
        raise BadUseError(f"{args.action}: name one key, or an owner by {', '.join(f'--{scope}' for scope in OWNERS)}.")
    if args.kid is not None:
        row: KeyRow = getattr(store, args.action)(args.kid)
        return _fields(row), [f"Key {row.kid} is {row.status}."]
    rows: tuple[KeyRow, ...] = getattr(store, f"{args.action}_all")(**owner)
    return {"keys": [_fields(row) for row in rows]}, [f"{many(len(rows), 'key')} changed."]


def _rotate(context: Context, settings: Settings, store: KeyStore) -> tuple[dict[str, Any], list[str]]:
    _check_pepper(settings)
    try:
        grace = parse_duration(context.args.grace)
    except ValueError as exc:
        raise BadUseError(f"--grace: {exc}") from exc
    _check_near("--grace", context.args.grace, time.time() + grace)
    made = store.rotate(context.args.kid, grace=grace)
    old = f"Key {context.args.kid} stays good for {context.args.grace} more."
    return {**_shown(made), "replaces": context.args.kid}, [*_announce(made, settings), old]


def _limit(context: Context, settings: Settings, store: KeyStore) -> tuple[dict[str, Any], list[str]]:
    args, now = context.args, time.time()
    limits = [_limit_of(text) for text in args.limit]
    if args.until is not None:
        if not limits:
            raise BadUseError("--until says when a --limit ends; give one.")
        until = datetime.fromtimestamp(_end(args.until, settings.timezone, now), UTC).isoformat()
        limits = [{**({"limit": limit} if isinstance(limit, str) else limit), "until": until} for limit in limits]
    row = store.set_limits(args.kid, limits) if args.clear else None
    if row is None:
        row = store.add_limits(args.kid, limits) if limits else store.get(args.kid)
    return _fields(row), _own_lines(row, settings, store, now)


def _limit_of(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as exc:
        raise BadUseError(f"--limit: this is no JSON: {exc}.") from exc


def _end(text: str, timezone: str, now: float) -> float:
    try:
        end = read_until(text, timezone)
    except ValueError:
        try:
            end = now + parse_duration(text.removeprefix("in "))
        except ValueError as exc:
            raise BadUseError(
                f"--until: {text!r} is neither a date like 2027-01-31 nor a duration like 30 days."
            ) from exc
        _check_near("--until", text, end)
    if end <= now:
        raise BadUseError(f"--until: {text!r} is past.")
    return end


def _own_lines(row: KeyRow, settings: Settings, store: KeyStore, now: float) -> list[str]:
    limits = store.limits_of(row)
    if not limits:
        return [f"Key {row.kid} has no limits of its own."]
    lines = [f"Key {row.kid} has limits of its own. The app knows within {settings.key_cache_ttl:g} s."]
    try:
        held = policy_of(settings).held_for(store.subject_of(row), None, now).placed
    except CredentialError:
        held = ()  # its plan is not in the settings, so that there is nothing to replace
    instead = {each.limit: ", ".join(former.limit.text for former in each.replaced) for each in held}
    for limit in limits:
        others = instead.get(limit)
        lines.append(f"  {describe_limit(limit)}{f' In the place of: {others}.' if others else ''}{_idle(limit, row)}")
    return lines


def _idle(limit: Limit, row: KeyRow) -> str:
    """
    Say so where *limit* counts for an owner that the key does not have.
    """
    lacking = [scope for scope in limit.per if scope in OWNERS and getattr(row, f"{scope}_id") is None]
    return f" It holds nobody: the key has no {' and no '.join(lacking)}." if lacking else ""


_ACTIONS = {
    "create": _create,
    "list": _list,
    "suspend": _switch,
    "resume": _switch,
    "revoke": _switch,
    "rotate": _rotate,
    "limit": _limit,
}


def _check_pepper(settings: Settings) -> None:
    if not settings.pepper:
        raise ConfigurationError(
            "API keys are hashed under a secret pepper, and none is set. Set TOKENBUDGET_PEPPER to the same long random "
            "text here and in the app."
        )


def _check_plan(settings: Settings, plan: str | None) -> None:
    if plan is not None and settings.plans and plan not in settings.plans:
        raise ConfigurationError(f"Unknown plan {plan!r}. Known plans: {', '.join(settings.plans)}.")


def _moment(text: str, now: float) -> float:
    """
    Read a moment: a date or time in ISO 8601 (UTC where it names no zone), or a duration from *now*, in epoch seconds.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            end = now + parse_duration(text.removeprefix("in "))
        except ValueError as exc:
            raise BadUseError(
                f"--expires: {text!r} is neither a date like 2027-01-31 nor a duration like 30 days."
            ) from exc
    else:
        end = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    _check_near("--expires", text, end)
    if end <= now:
        raise BadUseError(f"--expires: {text!r} is past.")
    return end


def _check_near(flag: str, text: str, end: float) -> None:
    if end > LAST_DAY.timestamp():
        raise BadUseError(f"{flag}: {text!r} is too far away.")


def _shown(made: NewKey) -> dict[str, Any]:
    return {"key": made.text, **_fields(made.row)}


def _fields(row: KeyRow) -> dict[str, Any]:
    return {
        "kid": row.kid,
        "last4": row.last4,
        "name": row.name,
        "status": row.status,
        "plan": row.plan,
        "user": row.user_id,
        "team": row.team_id,
        "project": row.project_id,
        "tenant": row.tenant_id,
        "purpose": row.purpose,
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "limits": [] if row.limits is None else json.loads(row.limits),
    }


def _announce(made: NewKey, settings: Settings) -> list[str]:
    route = next((route for route in settings.routes if route.format is not None), None)
    path = route.path.rstrip("*") if route else "/"
    wire = route.format if route and route.format else ""
    return [
        f"Key {made.row.kid} is made. This is the only time that it can be seen:",
        "",
        f"  {made.text}",
        "",
        *curl(made.text, f"http://localhost:8000{path}", wire),
        "",
    ]


def curl(key: str, url: str, wire: str) -> list[str]:
    """
    Return a command that tries *key* at *url*, which speaks format *wire*.
    """
    bodies = {
        "openai.chat": '{"model": "gpt-4o-mini", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}',
        "openai.completions": '{"model": "gpt-3.5-turbo-instruct", "max_tokens": 50, "prompt": "Hello"}',
        "openai.embeddings": '{"model": "text-embedding-3-small", "input": "Hello"}',
        "anthropic.messages": (
            '{"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}'
        ),
    }
    lines = [f"  curl {url} \\", f'    -H "Authorization: Bearer {key}"']
    if wire in bodies:
        lines[-1] += " \\"
        lines += ['    -H "Content-Type: application/json" \\', f"    -d '{bodies[wire]}'"]
    return lines


def _day(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M")
