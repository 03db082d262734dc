"""
The settings: every one of them, what it means, and how it is read.
"""

# ruff: noqa: RUF009 - `_setting` makes a dataclass field

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal, Self

from tokenbudget_mw.rules.policy import Plan
from tokenbudget_mw.rules.refusals import IETF
from tokenbudget_mw.settings import reading
from tokenbudget_mw.settings.environment import from_environment
from tokenbudget_mw.settings.limits import Context
from tokenbudget_mw.settings.own_limits import read_overrides
from tokenbudget_mw.settings.reading import Problems
from tokenbudget_mw.settings.secret import Secret, redact_url
from tokenbudget_mw.settings.structures import read_database, read_messages, read_plans, read_routes, read_top_limits
from tokenbudget_mw.settings.tariffs import MoneyContext, read_ceiling, read_rates, read_tariffs
from tokenbudget_mw.values import Facts, Limit, Mode, OnBackendError, Price, Route, Subject

__all__ = ["DEFAULT_CEILING", "Identify", "Settings", "read_default_plan"]

Identify = str | Callable[[Facts], Subject | None]

DEFAULT_CEILING = Price(id="ceiling", model="*", input=150_000_000, output=600_000_000)
"""$150 and $600 for a million input and output tokens, which no model on a public price list has passed."""

_HOUR, _DAY, _GIGABYTE = 3600.0, 86_400.0, 2**30
_NONE: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NONE


def _setting(doc: str, default: Any, read: reading.Reader[Any] | None = None) -> Any:
    """
    Declare a setting: *read* turns what a user wrote into its value; None where `Settings.from_mapping` does that.
    """
    metadata = {"doc": doc, "read": read}
    if default is _NONE:
        return field(default_factory=_nothing, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """
    What the middleware does, for whom. Made by `from_mapping` or `from_env`, which check everything.

    The fields are documented where they are declared; `reference` lists them.
    """

    backend: str = _setting(
        "Where counters live, as a URL. `memory://` counts in one process only; before `redis://`, `leased+` reserves quota "
        "ahead.",
        "memory://",
        reading.url("redis://localhost:6379/0"),
    )
    database: str | None = _setting(
        "Where the books are kept, as an SQLAlchemy URL; in Django `{'alias': 'default'}`.",
        "sqlite:///tokenbudget.db",
    )
    database_alias: str | None = _setting("The alias in Django's `DATABASES`. Set by `database`.", None)
    identify: Identify = _setting(
        "How a request's subject is found: `api_key`, `ip`, a callable (request facts -> Subject) or a dotted path to one.",
        "api_key",
        reading.identify,
    )
    routes: tuple[Route, ...] = _setting("The metered paths. Without any, every request is metered as a request.", ())
    default: Literal["ignore", "protect"] = _setting(
        "What happens to paths that no route names: `ignore`, or `protect` (metered as a request).",
        "ignore",
        reading.choice("ignore", "protect"),
    )
    plans: Mapping[str, Plan] = _setting(
        "Named sets of limits: a list of limits each, or a dict with `limits`, `holder`, `mode`.", _NONE
    )
    default_plan: str | None = _setting(
        "The plan of subjects that have none. Unset: the plan named `default`, or the only one.",
        None,
        reading.optional(reading.text),
    )
    limits: tuple[Limit, ...] = _setting("Limits that hold for everybody, beside the plans.", ())
    overrides: Mapping[str, tuple[Limit, ...]] = _setting(
        "Limits of single keys, users, teams, projects and tenants, by names such as `tenant:acme`: each in the place of "
        "what counts the same in plans and `limits`, or beside it.",
        _NONE,
    )
    on_backend_error: OnBackendError = _setting(
        "What holds while the backend does not answer: `allow`, `deny`, or `local` (this process's share of the limit).",
        "local",
        reading.choice("allow", "deny", "local"),
    )
    unknown_price: Literal["deny", "ceiling", "flag"] = _setting(
        "What happens to a model without a price: `deny` it, charge the `ceiling`, or `flag` its rows and charge nothing.",
        "ceiling",
        reading.choice("deny", "ceiling", "flag"),
    )
    mode: Mode = _setting(
        "`enforce`, or `shadow`: decide and record, and refuse nobody.", "enforce", reading.choice("enforce", "shadow")
    )
    timezone: str = _setting(
        "IANA name of the time zone whose calendar days, weeks and months count.", "UTC", reading.timezone
    )
    enabled: bool = _setting("Whether anything is counted, refused, charged or recorded.", True, reading.boolean)
    lease: float = _setting(
        "After how long an unsettled reservation gives back what it holds, in seconds or like `10 minutes`.",
        600.0,
        reading.seconds(1, _DAY),
    )
    refusal_cache: float = _setting(
        "For how long at most a shared backend is not asked again what it has just refused, in seconds. 0 asks each time.",
        1.0,
        reading.seconds(0, 60),
    )
    leased_term: float = _setting(
        "How long a process admits from quota that it has reserved ahead in a `leased+` backend, in seconds. A revoked key "
        "may pass so long.",
        1.0,
        reading.seconds(0.25, 60),
    )
    leased_most: int = _setting(
        "For how many requests at most a process reserves at once in a `leased+` backend; it takes what its rate needs.",
        65_536,
        reading.whole(1, 10**6),
    )
    deadline: float = _setting("How long the backend may take to answer, in seconds.", 0.05, reading.seconds(0.001, 60))
    output_reserve: int = _setting(
        "Output tokens that are reserved for a request that names no maximum.", 1024, reading.whole(0, 10**9)
    )
    max_body: int = _setting(
        "How many bytes of a request's body are read for counting.",
        1_048_576,
        reading.whole(1, _GIGABYTE),
    )
    trusted_proxies: tuple[str, ...] = _setting(
        "Addresses and networks of the proxies whose X-Forwarded-For is believed.", (), reading.items(reading.address)
    )
    pepper: Secret = _setting(
        "The secret under which API keys are hashed. Set it by the environment.", Secret(), reading.secret
    )
    query_keys: bool = _setting(
        "Whether an API key may stand in the query string (`?api_key=`), where logs see it.", False, reading.boolean
    )
    key_cache_ttl: float = _setting(
        "How long a key's status is remembered, in seconds.", 10.0, reading.seconds(0, _HOUR)
    )
    seed_from_books: bool = _setting(
        "Whether counters of money and of calendar periods that the backend does not know (a new one, a restart, a lost "
        "Redis) start at what the database says was used.",
        True,
        reading.boolean,
    )
    prepaid: bool = _setting(
        "Whether accounts must have money: one whose balance in the database is at or below zero is refused (402) until it "
        "is topped up.",
        False,
        reading.boolean,
    )
    tariffs: tuple[Price, ...] = _setting("Your own prices. They come before the built-in price book.", ())
    tariff_ttl: float = _setting(
        "After how long the tariffs in the database are read again, in seconds.", 30.0, reading.seconds(1, _HOUR)
    )
    ceiling: Price = _setting(
        "What a model without a price is charged under `unknown_price: ceiling`.", DEFAULT_CEILING
    )
    rates: Mapping[str, Decimal] = _setting(
        "Dollars for one unit of other currencies, such as `{'EUR': '1.08'}`.", _NONE, read_rates
    )
    models: Mapping[str, str] = _setting(
        "Model that a deployment's name stands for, such as `{'my-deployment': 'gpt-4o'}`.",
        _NONE,
        reading.pairs(reading.text),
    )
    tokenizer: Literal["tiktoken", "fastokens"] = _setting(
        "The library that counts tokens: `tiktoken`, or `fastokens` (the extra `[fast]`), faster and seconds slower to start.",
        "tiktoken",
        reading.choice("tiktoken", "fastokens"),
    )
    load_tokenizer: Literal["start", "background"] = _setting(
        "When it is loaded: before the app starts, or in the `background`; until then prompts are estimated by their bytes.",
        "start",
        reading.choice("start", "background"),
    )
    exact_chars: int = _setting(
        "Up to how many characters of a prompt, those of known texts left out, are tokenised; a longer one is sampled.",
        16_384,
        reading.whole(0, 10**7),
    )
    sample_chunks: int = _setting(
        "In how many places a longer prompt is tokenised, 256 characters in each.", 64, reading.whole(2, 4_096)
    )
    precise_counts: bool = _setting(
        "Whether long prompts are sampled twice as densely, at twice the cost.", False, reading.boolean
    )
    counters: Mapping[str, Any] = _setting(
        "Your own token counters, as objects or dotted paths to them, such as `{'my-llama*': 'myapp.tokens.llama'}`.",
        _NONE,
        reading.pairs(reading.counter),
    )
    refusals: Literal["auto", "openai", "anthropic", "problem"] = _setting(
        "How a refusal's body looks: as the route's format has it (`auto`), or always the same.",
        "auto",
        reading.choice("auto", "openai", "anthropic", "problem"),
    )
    messages: Mapping[str, Mapping[str, str]] = _setting(
        "What refusals say, by reason (`{'limit': 'Too fast. {message}'}`), or by language and reason.",
        _NONE,
        read_messages,
    )
    render_refusal: str | Callable[..., Any] | None = _setting(
        "Your own rendering of refusals: a callable or a dotted path to one, (refusal, decision, facts) -> Refusal, or None "
        "for the usual.",
        None,
        reading.optional(reading.function),
    )
    limit_headers: tuple[str, ...] = _setting(
        "Headers that tell where the limits stand: `ietf` (`RateLimit`), `openai` (`x-ratelimit-*`), `anthropic` "
        "(`anthropic-ratelimit-*`), `auto` (those of the route's format); several, or none.",
        IETF,
        reading.items(reading.choice("ietf", "openai", "anthropic", "auto")),
    )
    cors_origins: tuple[str, ...] = _setting(
        "Origins whose scripts may read refusals and limit headers, such as `https://app.example.com`, or `*`; for apps "
        "without a CORS middleware outside of this one.",
        (),
        reading.items(reading.origin),
    )
    workers: int = _setting(
        "How many processes share the limits; each takes its share where `on_backend_error` is `local`.",
        1,
        reading.whole(1, 10_000),
    )
    flush_interval: float = _setting(
        "How often waiting records are written to the database, in seconds.", 0.25, reading.seconds(0.01, _HOUR)
    )
    flush_rows: int = _setting("How many records are written at once at most.", 1000, reading.whole(1, 100_000))
    queue: int = _setting(
        "How many records may wait in memory where the spool has no files; then new ones are dropped, and counted.",
        100_000,
        reading.whole(1, 10**8),
    )
    spool: Literal["memory", "kill_safe", "power_safe_window", "power_safe"] = _setting(
        "What usage outlives while it waits for the database: nothing (`memory`), the process (`kill_safe`), the machine "
        "but for a tenth of a second (`power_safe_window`), or the machine (`power_safe`: every request waits for the disk).",
        "kill_safe",
        reading.choice("memory", "kill_safe", "power_safe_window", "power_safe"),
    )
    spool_dir: str | None = _setting(
        "The folder where usage waits, on a disk that outlives the process; one for all processes of the app. Unset: one "
        "for the database, in the user's state directory.",
        None,
        reading.optional(reading.folder),
    )
    spool_bytes: int = _setting(
        "How many bytes of files a process's spool may have.", _GIGABYTE, reading.whole(2**20, 2**44)
    )
    spool_full: Literal["drop_newest", "block", "raise"] = _setting(
        "What happens when the spool is full: the newest record is dropped and counted (`drop_newest`), waits first "
        "(`block`), or the request fails (`raise`).",
        "drop_newest",
        reading.choice("drop_newest", "block", "raise"),
    )
    spool_wait: float = _setting(
        "How long `spool_full: block` waits, in seconds. An event loop waits along.", 0.1, reading.seconds(0.001, 60)
    )
    record_requests: bool = _setting(
        "Whether requests that used no model are recorded, too. Without it such a request is limited and leaves no row.",
        True,
        reading.boolean,
    )
    record_refusals: bool = _setting("Whether refused requests are recorded, too.", True, reading.boolean)
    exempt: tuple[str, ...] = _setting(
        "Exact paths that are never metered, such as `/healthz`.", (), reading.items(reading.exact_path)
    )

    @classmethod
    def from_mapping(cls, mapping: Any, env: Mapping[str, str] | None = None) -> Self:
        """
        Read the settings from a dict.

        Args:
            mapping: The dict, as in the documentation; anything else is refused.

            env: Environment whose ``TOKENBUDGET_*`` variables override it; none where None.

        Raises:
            ConfigurationError: Something is wrong; the message has a line for each problem.
        """
        problems = Problems()
        if not isinstance(mapping, Mapping):
            problems.add("TOKENBUDGET", f"a dict is expected, not {reading.kind_of(mapping)}")
            problems.raise_if_any()
        names = [each.name for each in dataclasses.fields(cls) if each.name != "database_alias"]
        problems.unknown_keys(mapping, names)
        given = {name: mapping[name] for name in names if name in mapping}
        given |= from_environment(env or {}, dataclasses.fields(cls), problems)
        values = _read(given, problems)
        problems.raise_if_any()
        return cls(**values)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """
        Read the settings from ``TOKENBUDGET_*`` variables alone; structures are JSON.

        Raises:
            ConfigurationError: Something is wrong.
        """
        return cls.from_mapping({}, environ)

    def limit_context(self) -> Context:
        """
        Return what limits mean under these settings.
        """
        return Context(rates=self.rates, mode=self.mode, on_backend_error=self.on_backend_error, timezone=self.timezone)

    def replace(self, **changes: Any) -> Self:
        """
        Return these settings with *changes*, which are values as the fields hold them.
        """
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        shown = []
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            default = each.default_factory() if callable(each.default_factory) else each.default
            if value != default:
                is_url = each.name in {"backend", "database"} and isinstance(value, str)
                shown.append(f"{each.name}={redact_url(str(value)) if is_url else value!r}")
        return f"Settings({', '.join(shown)})"


def _read(given: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for each in dataclasses.fields(Settings):
        read = each.metadata["read"]
        if read is not None and each.name in given:
            with problems.at(each.name):
                values[each.name] = read(given[each.name])
    if "database" in given:
        with problems.at("database"):
            values["database"], values["database_alias"] = read_database(given["database"])
    return values | _read_limits(given, values, problems) | _read_prices(given, values, problems)


def _read_limits(given: Mapping[str, Any], values: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    context = Context(
        rates=values.get("rates"),
        mode=values.get("mode", "enforce"),
        on_backend_error=values.get("on_backend_error", "local"),
        timezone=values.get("timezone", "UTC"),
    )
    plans = read_plans(given.get("plans", {}), context, problems)
    limits = read_top_limits(given.get("limits", ()), plans, context, problems)
    overrides = read_overrides(given.get("overrides", {}), context, problems)
    taken = [limit.name for group in (*(plan.limits for plan in plans.values()), limits) for limit in group]
    routes = read_routes(given.get("routes", ()), taken, context, problems)
    default_plan = read_default_plan(values.get("default_plan"), plans, problems)
    return {
        "plans": MappingProxyType(plans),
        "limits": limits,
        "overrides": MappingProxyType(overrides),
        "routes": routes,
        "default_plan": default_plan,
    }


def read_default_plan(wanted: str | None, plans: Mapping[str, Plan], problems: Problems) -> str | None:
    """
    Return the name of the default plan: *wanted*, or the one that is it by itself.
    """
    name = wanted or _natural_plan(plans)
    if name is not None and name not in plans:
        problems.add("default_plan", f"unknown plan '{name}'{reading.did_you_mean(name, plans)}")
    return name


def _natural_plan(plans: Mapping[str, Plan]) -> str | None:
    if "default" in plans:
        return "default"
    return next(iter(plans)) if len(plans) == 1 else None


def _read_prices(given: Mapping[str, Any], values: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    context = MoneyContext(values.get("rates", {}), values.get("timezone", "UTC"))
    found: dict[str, Any] = {"tariffs": read_tariffs(given.get("tariffs", ()), context, "tariffs", problems)}
    if "ceiling" in given:
        with problems.at("ceiling"):
            found["ceiling"] = read_ceiling(given["ceiling"], context)
    return found
