"""
The frozen values that travel between the rooms. Read this first.

A request goes once through them: `Facts` -> `Subject` -> `Prompt`, `Cost` -> `Check` -> `Ask` -> `Reply` ->
`Decision` -> (the app runs) -> `Usage` -> `Settlement` -> `UsageRecord`.

Units, everywhere: tokens and requests are whole ``int``; money on a record is whole pico-dollars (``_pico``, 1e-12 USD),
money in a limit counter whole nano-dollars (``_nano``, 1e-9 USD, rounded up); durations and moments are ``float``
seconds (moments since the Unix epoch) unless the name ends in ``_us`` (whole microseconds).

What is made at start is a frozen dataclass; what each request makes anew is a frozen struct, which is made ten times
faster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "EMPTY_TAGS",
    "Ask",
    "Check",
    "CheckState",
    "Cost",
    "Decision",
    "Facts",
    "Hold",
    "Limit",
    "Mode",
    "OnBackendError",
    "Price",
    "Prompt",
    "Quote",
    "Reply",
    "Reservation",
    "Route",
    "Scope",
    "Settlement",
    "Subject",
    "Tally",
    "TokenCount",
    "Unit",
    "Usage",
    "UsageRecord",
    "Window",
]

Unit = Literal["requests", "tokens", "input_tokens", "output_tokens", "money", "concurrent"]
Scope = Literal["key", "user", "team", "project", "tenant", "model", "route", "global"]
Mode = Literal["enforce", "shadow"]
OnBackendError = Literal["allow", "deny", "local"]

EMPTY_TAGS: Mapping[str, str] = MappingProxyType({})


# -- who asks for what ------------------------------------------------------------------------------------------------


class Facts(msgspec.Struct, frozen=True):
    """
    What a server knows of a request before its body is read.

    Attributes:
        method: HTTP method, upper case; ``"WEBSOCKET"`` for a websocket.

        path: Decoded path as the server hands it to the app (``scope["path"]``, ``PATH_INFO``), mount prefix included.

        headers: Pairs of lower-case name and value, in order, duplicates kept.

        client: Peer address as the server knows it, without port; None for a Unix socket.

        query: Raw query string, without the question mark.

        server: Host and port that the server listens on, if it says so.

        raw: The server's own request (ASGI scope, WSGI environ), for an `identify` callable of the host.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    client: str | None = None
    query: str = ""
    server: tuple[str, int | None] | None = None
    raw: Any = None

    def __repr__(self) -> str:
        # headers, query and the server's own request hold credentials
        return f"Facts({self.method} {self.path})"

    def header(self, name: str) -> str | None:
        """
        Return the first value of header *name* (lower case), or None.
        """
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Subject(msgspec.Struct, frozen=True, gc=False):
    """
    Who pays and is limited.

    Attributes:
        key: Public id of the API key, or another id of the credential's holder (for an address ``"ip:203.0.113.7"``).

        user: User id, as the host knows it.

        team: Team id.

        project: Project id.

        tenant: Tenant (organisation, customer) id.

        plan: Name of the plan in the settings; None takes ``default_plan``.

        purpose: What the key is for: ``realtime``, ``batch``, ``playground``, ``platform``. Tariffs may depend on it.

        source: How the subject was found: ``api_key``, ``address``, ``custom``, ``unauthenticated``.
    """

    key: str | None = None
    user: str | None = None
    team: str | None = None
    project: str | None = None
    tenant: str | None = None
    plan: str | None = None
    purpose: str = "realtime"
    source: str = "custom"

    @property
    def account(self) -> str | None:
        """
        The owner of the ledger entries: the widest scope that is known, as ``"tenant:acme"``; None where nobody is.
        """
        if self.tenant is not None:
            return f"tenant:{self.tenant}"
        if self.team is not None:
            return f"team:{self.team}"
        if self.user is not None:
            return f"user:{self.user}"
        return None if self.key is None else f"key:{self.key}"


@dataclass(frozen=True, slots=True)
class Route:
    """
    A metered path, as the settings declare it.

    Attributes:
        path: Exact path, or a prefix that ends in ``*``.

        format: Wire format of request and response (``openai.chat``, …); None where the handler reports its usage.

        methods: Methods that it covers; empty for all.

        count: How prompts are counted: ``full``, ``sample`` (with *sample*), ``async`` (estimated at once, counted later
            in a thread, which teaches the estimate), ``off``.

        sample: Share of the requests whose prompt is counted exactly, 0 to 1.

        limits: Limits of this route, beside those of plans.

        settle: Outcome -> settle rule, where it differs from the default (see `rules.settlement`).
    """

    path: str
    format: str | None = None
    methods: frozenset[str] = frozenset()
    count: Literal["full", "sample", "async", "off"] = "full"
    sample: float = 1.0
    limits: tuple[Limit, ...] = ()
    settle: Mapping[str, str] = field(default_factory=lambda: EMPTY_TAGS)


class TokenCount(msgspec.Struct, frozen=True, gc=False):
    """
    Tokens of a text.

    Attributes:
        estimate: Best guess, in tokens.

        upper: Bound that the truth does not pass in practice, in tokens; what a reservation holds.

        exact: Whether *estimate* is the tokenizer's own count.

        method: How it was found: ``exact``, ``bytes``, ``sampled``, ``learned``, ``none``.

        base: Tokens of the text before the model's factor; 0 where the factor has nothing to learn from it.

        frame: Tokens around the text, which the factor does not touch; 0 where *base* is.
    """

    estimate: int
    upper: int
    exact: bool = False
    method: str = "none"
    base: int = 0
    frame: int = 0


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """
    What a request asks of a model.

    Attributes:
        model: Model as the request names it.

        input: Tokens of the prompt.

        max_output: Most output tokens it allows, all choices together; None where it does not say.

        stream: Whether it asks for a stream.

        service_tier: Requested tier, as the provider names it.

        batch: Batch fields of the request (``batch_id``, ``custom_id``, ``completion_window``, …), if it has any.

        choices: Answers that it asks for.
    """

    model: str | None
    input: TokenCount
    max_output: int | None = None
    stream: bool = False
    service_tier: str | None = None
    batch: Mapping[str, str] = EMPTY_TAGS
    choices: int = 1


# -- limits -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """
    The time over which a limit counts.

    Attributes:
        seconds: Length of a trailing window; None for a calendar period.

        period: ``hour``, ``day``, ``week``, ``month``, ``quarter``, ``year`` of the calendar; None for a trailing window.
    """

    seconds: float | None = None
    period: str | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """
    One promise: at most *amount* of *unit* in any *window*, for each value of the scopes *per*.

    Attributes:
        name: Short id for headers, rows and logs: ``"requests-minute"``; unique in the settings.

        unit: What is counted.

        amount: The most that may be counted: requests, tokens, concurrent calls; nano-dollars where *unit* is ``money``.

        window: Over which time; None for ``concurrent``.

        per: Scopes that together name the counter, ``("key", "model")``.

        algorithm: Name of the window algorithm: ``strict_log``, ``gcra``, ``calendar``, ``concurrent``.

        slots: How finely a trailing window is cut.

        mode: ``shadow`` decides and records, and refuses nobody.

        on_backend_error: What holds while the backend does not answer.

        text: The limit as the user wrote it.
    """

    name: str
    unit: Unit
    amount: int
    window: Window | None
    per: tuple[Scope, ...] = ("key",)
    algorithm: str = "strict_log"
    slots: int = 60
    mode: Mode = "enforce"
    on_backend_error: OnBackendError = "local"
    text: str = ""

    def __hash__(self) -> int:
        # names are unique in the settings; hashing all ten fields takes as long as the rest of a look-up together
        return hash(self.name)


class Cost(msgspec.Struct, frozen=True, gc=False):
    """
    What a request takes from limits, a number a dimension.

    Attributes:
        requests: Requests.

        input_tokens: Input tokens, cached ones included.

        output_tokens: Output tokens, reasoning included.

        money_nano: Nano-dollars, rounded up.

        concurrent: Calls in flight.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money_nano: int = 0
    concurrent: int = 0

    def of(self, unit: Unit) -> int:
        """
        Return the amount in dimension *unit*; ``tokens`` is input and output together.
        """
        if unit == "tokens":
            return self.input_tokens + self.output_tokens
        if unit == "money":
            return self.money_nano
        value: int = getattr(self, unit)
        return value


class Check(msgspec.Struct, frozen=True, gc=False):
    """
    One question to a backend: "may *counter*'s window *window* take *cost* more, below *cap*?"

    Attributes:
        counter: Whose counter, for example ``"key=k1,model=gpt-4o"``. All windows of a counter live together.

        window: Which window of it, for example ``"tokens:60"``. It has no amount in it, so a changed limit keeps its count.

        algorithm: Which window algorithm, a name in `rules.windows`.

        params: The algorithm's own integers (for ``strict_log``: slot length in microseconds, slots a window; for
            ``calendar``: start, end and end of the next period in microseconds since the epoch; for ``concurrent``: none).

        cost: What to take, in the limit's unit.

        cap: The limit's amount.

        enforced: Whether a "no" refuses the request (a shadow limit's does not).

        on_error: What holds while the backend does not answer: ``allow``, ``deny`` or ``local``.

        room: What must be left for the answer to be yes, though only *cost* is taken: for a call that will say its cost
            later, so that a spent limit refuses it.
    """

    counter: str
    window: str
    algorithm: str
    params: tuple[int, ...]
    cost: int
    cap: int
    enforced: bool = True
    on_error: OnBackendError = "local"
    room: int = 0


class Ask(msgspec.Struct, frozen=True, gc=False):
    """
    All checks of one request, decided in one atomic step: every enforced check fits, or nothing is charged.

    The shadow checks (``enforced=False``) are a second all-or-nothing group, charged only when the request is admitted
    and all of them fit; so a shadow limit counts what it would have counted had it been enforced.

    Attributes:
        id: Reservation id, unique (32 hexadecimal digits); a second ask of the same id is answered as the first was.

        tag: Cluster hash tag that all counters share: the tenant, or the widest scope known.

        checks: The questions.

        lease: Seconds after which an unsettled reservation gives back all it holds but requests. At most 1 day.
    """

    id: str
    tag: str
    checks: tuple[Check, ...]
    lease: float = 600.0


class CheckState(msgspec.Struct, frozen=True, gc=False):
    """
    A backend's answer to one `Check`.

    Attributes:
        fits: Whether the cost fitted.

        remaining: What is left below the cap after this request (0 when in debt), in the limit's unit.

        reset: Seconds until everything counted now has left the window.

        retry_after: Seconds until the asked cost fits if nobody else spends; 0.0 where it fits, None where it never can.

        slot: Where it was charged (the algorithm's own number), -1 where it was not.
    """

    fits: bool
    remaining: int
    reset: float = 0.0
    retry_after: float | None = 0.0
    slot: int = -1


class Reply(msgspec.Struct, frozen=True, gc=False):
    """
    A backend's answer to an `Ask`.

    Attributes:
        admitted: Whether every enforced check fitted; if not, nothing was charged.

        states: One `CheckState` a check, in order.

        degraded: Whether a fallback answered because the backend could not.
    """

    admitted: bool
    states: tuple[CheckState, ...]
    degraded: bool = False


class Hold(msgspec.Struct, frozen=True, gc=False):
    """
    What a reservation took from one window, and where.

    Attributes:
        check: The question that was asked.

        slot: Where it was charged.
    """

    check: Check
    slot: int


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """
    An admitted request's claim on its limits, until it is settled.

    Attributes:
        id: As in `Ask`.

        tag: As in `Ask`.

        holds: What was charged.

        units: The limit unit of each hold, in order.

        cost: The whole reserved cost.

        expires_at: When the lease ends, in epoch seconds.
    """

    id: str
    tag: str
    holds: tuple[Hold, ...]
    units: tuple[Unit, ...]
    cost: Cost
    expires_at: float


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """
    The truth about a reservation: each held window is moved to *actual*, at the slot that was charged.

    Settling never refuses, may leave a counter in debt, frees concurrency, and is idempotent by id. A window whose slot
    has left it is not touched. Where the lease has expired before, the actual amounts are charged in full.

    Attributes:
        reservation: What is settled.

        actual: The true amount of each hold, in order, in the hold's unit.
    """

    reservation: Reservation
    actual: tuple[int, ...]


class Tally(msgspec.Struct, frozen=True, gc=False):
    """
    One limit, as a decision saw it.

    Attributes:
        limit: The limit.

        state: The backend's answer.

        cost: What was asked, in the limit's unit.
    """

    limit: Limit
    state: CheckState
    cost: int


class Decision(msgspec.Struct, frozen=True, gc=False):
    """
    Whether a request may run, and why.

    Attributes:
        admitted: Whether it runs.

        code: ``ok``, ``limit``, ``money``, ``credits``, ``unpriced``, ``backend``, ``credential``, ``payload``.

        status: HTTP status of the refusal; 200 where admitted.

        message: One sentence for the caller, safe to show.

        tallies: Every limit that applied.

        refused_by: Names of the limits that refused.

        would_refuse: Names of the shadow limits that would have refused.

        retry_after: Seconds until a retry can succeed; None where none can.

        reservation: What is held; None where refused.

        degraded: Whether a fallback decided because the backend could not.
    """

    admitted: bool
    code: str = "ok"
    status: int = 200
    message: str = ""
    tallies: tuple[Tally, ...] = ()
    refused_by: tuple[str, ...] = ()
    would_refuse: tuple[str, ...] = ()
    retry_after: float | None = None
    reservation: Reservation | None = None
    degraded: bool = False


# -- usage and money --------------------------------------------------------------------------------------------------


class Usage(msgspec.Struct, frozen=True, gc=False):
    """
    Tokens that a model call used, in one meaning for all providers.

    Attributes:
        input_tokens: All input tokens, those read from and written to a cache included.

        output_tokens: All output tokens, reasoning included.

        cache_read_tokens: Input tokens read from a cache (part of *input_tokens*).

        cache_write_tokens: Input tokens written to a cache, any lifetime (part of *input_tokens*).

        cache_write_1h_tokens: Those of *cache_write_tokens* that were written for an hour.

        reasoning_tokens: Output tokens spent on reasoning (part of *output_tokens*).

        model: Model as the response names it.

        provider: Provider, if the shape tells.

        service_tier: Tier that served it, as the provider names it.

        source: ``provider`` (its own figures), ``counted`` (from the text that passed), ``reported`` (by the handler),
            ``estimated`` (from the prompt).

        complete: Whether the response came to its proper end.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    model: str | None = None
    provider: str | None = None
    service_tier: str | None = None
    source: str = "provider"
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Price:
    """
    Prices of one model from one moment on, in pico-dollars per token.

    Attributes:
        id: Stable id for rows: ``"openai/gpt-4o@2024-10-02"``.

        model: Model pattern or name it was found under.

        input: Per input token.

        output: Per output token.

        cache_read: Per input token read from a cache; None takes *input*.

        cache_write: Per input token written to a cache; None takes *input*.

        cache_write_1h: The same for a lifetime of an hour; None takes *cache_write*.

        reasoning: Per reasoning token; None takes *output*.

        source: Where the figures come from.

        valid_from: Epoch seconds from which it holds; None for ever before.

        valid_until: Epoch seconds at which it ends; None for never.

        purpose: Key purpose it is for; None for any.

        completion_window: Batch completion window it is for (``24h``); None for any.
    """

    id: str
    model: str
    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    source: str = "settings"
    valid_from: float | None = None
    valid_until: float | None = None
    purpose: str | None = None
    completion_window: str | None = None


class Quote(msgspec.Struct, frozen=True, gc=False):
    """
    The price that applies to a call, and how sure it is.

    Attributes:
        price: The price; None where the model has none and the policy is ``flag``.

        kind: ``known``, ``ceiling`` (no price: the ceiling is charged) or ``unpriced`` (no price: flagged, nothing charged).
    """

    price: Price | None
    kind: Literal["known", "ceiling", "unpriced"] = "known"


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """
    One row of usage: what happened, who pays, what it cost. Unique by (*instance_id*, *sequence*), and by *id*.

    Never holds a key, a prompt or a response text. Moments are microseconds since the epoch, durations microseconds.
    """

    id: str
    instance_id: str
    sequence: int
    created_at_us: int
    method: str
    path: str
    route: str | None = None
    status: int | None = None
    duration_us: int = 0
    first_byte_us: int | None = None
    request_model: str | None = None
    response_model: str | None = None
    provider: str | None = None
    response_type: str | None = None
    is_stream: bool = False
    server_address: str | None = None
    server_port: int | None = None
    key_id: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    project_id: str | None = None
    tenant_id: str | None = None
    account: str | None = None
    plan: str | None = None
    access_source: str = "unauthenticated"
    purpose: str = "realtime"
    origin: str = "api"
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    usage_source: str = "none"
    cost_pico: int = 0
    price_id: str | None = None
    price_kind: str = "known"
    decision: str = "admitted"
    limit_name: str | None = None
    settle_reason: str = "complete"
    correlation_id: str | None = None
    trace_id: str | None = None
    service_tier: str | None = None
    batch_id: str | None = None
    batch_request_id: str | None = None
    custom_id: str | None = None
    completion_window: str | None = None
    batch_created_at_us: int | None = None
    batch_request_source: str | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def total_tokens(self) -> int:
        """
        Input and output tokens together.
        """
        return self.input_tokens + self.output_tokens
