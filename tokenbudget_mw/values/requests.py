"""
Who asks for what: values of a request before it is decided.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbudget_mw.values.limits import Limit

__all__ = ["EMPTY_TAGS", "PURPOSES", "Facts", "LazyHeaders", "Prompt", "Route", "ServedFacts", "Subject", "TokenCount"]

EMPTY_TAGS: Mapping[str, str] = MappingProxyType({})

PURPOSES = ("realtime", "batch", "playground", "platform")
"""What a key may be for."""


class LazyHeaders(Sequence[tuple[str, str]]):
    """
    Headers as a server hands them over: one is read where it is asked for, all are where all are.
    """

    __slots__ = ("_pairs",)

    _pairs: tuple[tuple[str, str], ...]

    @abstractmethod
    def first(self, name: str) -> str | None:
        """
        Return the first value of header *name* (lower case), or None.
        """

    @abstractmethod
    def every(self, name: str) -> Sequence[str]:
        """
        Return all values of header *name* (lower case), in order.
        """

    @abstractmethod
    def read(self) -> Iterable[tuple[str, str]]:
        """
        Return pairs of lower-case name and value, in order, duplicates kept.
        """

    def _all(self) -> tuple[tuple[str, str], ...]:
        try:
            return self._pairs
        except AttributeError:
            self._pairs = tuple(self.read())
            return self._pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[str, str], ...]: ...

    def __getitem__(self, index: int | slice) -> tuple[str, str] | tuple[tuple[str, str], ...]:
        return self._all()[index]


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
    headers: Sequence[tuple[str, str]] = ()
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

    def header_values(self, name: str) -> Sequence[str]:
        """
        Return all values of header *name* (lower case), in order: a request may send one more than once.
        """
        return [value for key, value in self.headers if key == name]


class ServedFacts(Facts, frozen=True):
    """
    Facts whose headers are `LazyHeaders`: a class of their own, because to ask an abstract class whether it has an
    instance takes longer than to look a header up.
    """

    if TYPE_CHECKING:
        headers: LazyHeaders = cast("LazyHeaders", ())

    def header(self, name: str) -> str | None:
        """
        Return the first value of header *name* (lower case), or None.
        """
        return self.headers.first(name)

    def header_values(self, name: str) -> Sequence[str]:
        """
        Return all values of header *name* (lower case), in order.
        """
        return self.headers.every(name)


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

        purpose: What the key is for, out of `PURPOSES`. Tariffs may depend on it.

        source: How the subject was found: ``api_key``, ``address``, ``custom``, ``unauthenticated``.

        limits: Limits of its own: each holds in the place of what counts the same in its plan, in the settings' ``limits``
            and on the route, or beside them. `tokenbudget_mw.own_limits` makes them.
    """

    key: str | None = None
    user: str | None = None
    team: str | None = None
    project: str | None = None
    tenant: str | None = None
    plan: str | None = None
    purpose: str = "realtime"
    source: str = "custom"
    limits: tuple[Limit, ...] = ()

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

        count: How prompts are counted: ``full``, ``sample`` (with *sample*), ``async`` (admitted on an estimate, counted
            in a thread while the call runs, for its row), ``off``.

        sample: Share of the requests whose prompt is counted exactly, 0 to 1.

        limits: Limits of this route, beside those of plans.

        settle: Outcome -> settle rule, where it differs from the default (see `rules.settlement`).

        on_budget_end: What happens to a stream that passes more than was held, where limits leave no more: ``pass`` (it
            goes on, into debt), ``finish`` (it ends as an answer that reached its maximum), ``error``.

        websocket: What of a websocket is a call: the ``connection``, or each ``message`` of the client as well.
    """

    path: str
    format: str | None = None
    methods: frozenset[str] = frozenset()
    count: Literal["full", "sample", "async", "off"] = "full"
    sample: float = 1.0
    limits: tuple[Limit, ...] = ()
    settle: Mapping[str, str] = field(default_factory=lambda: EMPTY_TAGS)
    on_budget_end: Literal["pass", "finish", "error"] = "pass"
    websocket: Literal["connection", "message"] = "connection"


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

        is_spoken: Whether audio may be among what it sends or asks for; only told of models whose audio has a price of its
            own.

        long_cache: Whether it may ask that its prompt be cached for the longer lifetime; where nobody knows, it may. Only
            looked for where that has a price of its own.
    """

    model: str | None
    input: TokenCount
    max_output: int | None = None
    stream: bool = False
    service_tier: str | None = None
    batch: Mapping[str, str] = EMPTY_TAGS
    choices: int = 1
    is_spoken: bool = False
    long_cache: bool = True
