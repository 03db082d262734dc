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

from tokenbudget_mw.values.decisions import (
    CROWDED,
    CheckState,
    Decision,
    Hold,
    Reply,
    Reservation,
    Seed,
    Settlement,
    Tally,
)
from tokenbudget_mw.values.limits import (
    NOTHING,
    ONE_REQUEST,
    ROOM,
    Ask,
    Check,
    Cost,
    Limit,
    Mode,
    OnBackendError,
    Scope,
    Unit,
    Window,
)
from tokenbudget_mw.values.marks import Charged, Held, Mark, Opened, Orphan
from tokenbudget_mw.values.requests import (
    EMPTY_TAGS,
    PURPOSES,
    Facts,
    LazyHeaders,
    Prompt,
    Route,
    ServedFacts,
    Subject,
    TokenCount,
)
from tokenbudget_mw.values.usage import Price, Quote, Usage, UsageRecord

__all__ = [
    "CROWDED",
    "EMPTY_TAGS",
    "NOTHING",
    "ONE_REQUEST",
    "PURPOSES",
    "ROOM",
    "Ask",
    "Charged",
    "Check",
    "CheckState",
    "Cost",
    "Decision",
    "Facts",
    "Held",
    "Hold",
    "LazyHeaders",
    "Limit",
    "Mark",
    "Mode",
    "OnBackendError",
    "Opened",
    "Orphan",
    "Price",
    "Prompt",
    "Quote",
    "Reply",
    "Reservation",
    "Route",
    "Scope",
    "Seed",
    "ServedFacts",
    "Settlement",
    "Subject",
    "Tally",
    "TokenCount",
    "Unit",
    "Usage",
    "UsageRecord",
    "Window",
]
