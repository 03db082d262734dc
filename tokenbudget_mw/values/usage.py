"""
Usage and money: what a call used, what it cost, and the row that says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

__all__ = ["Price", "Quote", "Usage", "UsageRecord"]


class Usage(msgspec.Struct, frozen=True, gc=False):
    """
    Tokens that a model call used, in one meaning for all providers.

    Attributes:
        input_tokens: All input tokens, those read from and written to a cache included.

        output_tokens: All output tokens, reasoning included.

        cache_read_tokens: Input tokens read from a cache (part of *input_tokens*).

        cache_write_tokens: Input tokens written to a cache, any lifetime (part of *input_tokens*).

        cache_write_1h_tokens: Those of *cache_write_tokens* that were written for the longer lifetime: an hour at
            Anthropic's, twelve at OpenAI's.

        reasoning_tokens: Output tokens spent on reasoning (part of *output_tokens*).

        model: Model as the response names it.

        provider: Provider, if the shape tells.

        service_tier: Tier that served it, as the provider names it.

        source: ``provider`` (its own figures), ``counted`` (from the text that passed), ``reported`` (by the handler),
            ``estimated`` (from the prompt).

        complete: Whether the response came to its proper end.

        audio_input_tokens: Input tokens of audio (part of *input_tokens*).

        audio_output_tokens: Output tokens of audio (part of *output_tokens*).

        others: What further models used for the same answer, each at its own price: Anthropic's advisor, one that declined,
            OpenAI's that draws. No part of the figures above.
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
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    others: tuple[Usage, ...] = ()


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

        cache_write_1h: The same for the longer lifetime; None takes *cache_write*.

        reasoning: Per reasoning token; None takes *output*.

        source: Where the figures come from.

        valid_from: Epoch seconds from which it holds; None for ever before.

        valid_until: Epoch seconds at which it ends; None for never.

        purpose: Key purpose it is for; None for any.

        completion_window: Batch completion window it is for (``24h``); None for any.

        above_input: It is for calls with more input tokens than this; 0 for all.

        service_tier: Tier it is for, as the provider names it (``flex``); None for any.

        audio_input: Per input token of audio; None takes *input*.

        audio_output: Per output token of audio; None takes *output*.
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
    above_input: int = 0
    service_tier: str | None = None
    audio_input: int | None = None
    audio_output: int | None = None


class Quote(msgspec.Struct, frozen=True, gc=False):
    """
    The price that applies to a call, and how sure it is.

    Attributes:
        price: The price; None where the model has none and the policy is ``flag``.

        kind: ``known``, ``ceiling`` (no price: the ceiling is charged) or ``unpriced`` (no price: flagged, nothing charged).
    """

    price: Price | None
    kind: Literal["known", "ceiling", "unpriced"] = "known"


class UsageRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    One row of usage: what happened, who pays, what it cost. Unique by (*instance_id*, *sequence*), and by *id*.

    Never holds a key, a prompt or a response text. New fields come last: spools hold records of older versions. Moments are microseconds since the epoch, durations microseconds.
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
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None

    @property
    def total_tokens(self) -> int:
        """
        Input and output tokens together.
        """
        return self.input_tokens + self.output_tokens
