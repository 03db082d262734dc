"""
Marks: what is known of a call that still runs, so that somebody can tell of it should its process die.
"""

from __future__ import annotations

import msgspec

from tokenbudget_mw.values.usage import Usage

__all__ = ["Charged", "Held", "Mark", "Opened", "Orphan"]


class Opened(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """
    A call was admitted. The first mark of each call; without it the others say nothing.

    Attributes:
        call_id: The call's id, which its usage row takes.

        created_at_us: When it began, in microseconds since the epoch.

        rule: What it is charged should its process die: a rule of `rules.settlement.ORPHAN_RULES`.

        model: Model that it asks for; None where its handler reports what it uses.

        input_tokens: Best guess of its prompt, in tokens.

        held_input: Input tokens that were reserved.

        held_output: Output tokens that were reserved.

    The others are as in `UsageRecord`, *batch* as in `Prompt`.
    """

    call_id: str
    created_at_us: int
    rule: str
    method: str
    path: str
    model: str | None = None
    input_tokens: int = 0
    held_input: int = 0
    held_output: int = 0
    route: str | None = None
    provider: str | None = None
    server_address: str | None = None
    server_port: int | None = None
    key_id: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    project_id: str | None = None
    tenant_id: str | None = None
    plan: str | None = None
    access_source: str = "unauthenticated"
    purpose: str = "realtime"
    decision: str = "admitted"
    limit_name: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    service_tier: str | None = None
    batch: dict[str, str] | None = None


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """
    A handler holds what one model call may cost (`Call.reserve`).

    Attributes:
        call_id: Whose.

        place: Its place among the marks of the call.

        model: The model.

        input_tokens: Best guess of the prompt, in tokens.

        held_input: Input tokens that were reserved.

        held_output: Output tokens that were reserved.
    """

    call_id: str
    place: int
    model: str | None
    input_tokens: int
    held_input: int
    held_output: int


class Charged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """
    A handler has said what a model call used; the row is written when the whole call ends.

    Attributes:
        call_id: Whose.

        place: Its place among the marks of the call.

        usage: What was used.

        cost_pico: What it cost, in pico-dollars.

        price_id: As in `UsageRecord`, and so is *price_kind*.

        tags: Labels of its row.

        instead_of: Place of the `Held` that it makes an end of; -1 where there was none.
    """

    call_id: str
    place: int
    usage: Usage
    cost_pico: int
    price_id: str | None
    price_kind: str
    tags: dict[str, str] | None = None
    instead_of: int = -1


Mark = Opened | Held | Charged


class Orphan(msgspec.Struct, frozen=True, gc=False):
    """
    A call whose process died before it ended.

    Attributes:
        instance_id: The process's instance id.

        number: The number of its first mark, unique in the instance.

        opened: Its first mark.

        others: Its further marks.
    """

    instance_id: str
    number: int
    opened: Opened
    others: tuple[Held | Charged, ...] = ()
