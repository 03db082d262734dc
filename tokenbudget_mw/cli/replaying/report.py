"""
What a replay came to: as one JSON object, and in lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import table
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from tokenbudget_mw.cli.replaying.history import History
    from tokenbudget_mw.cli.replaying.tallies import Tallies

__all__ = ["Outcome", "lines_of", "result_of"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a replay came to.

    Attributes:
        tallies: Its own sums.

        history: Its own windows.

        database: What the database holds of it.

        is_proved: Whether the books of the database agree.

        dropped: Records that were lost.

        latency_us: What the middleware added, in microseconds.

        seconds: Real time of the drive.

        cpu_seconds: Processor time of the drive.
    """

    tallies: Tallies
    history: History
    database: dict[str, int]
    is_proved: bool
    dropped: int
    latency_us: dict[str, float]
    seconds: float
    cpu_seconds: float


def result_of(outcome: Outcome) -> dict[str, Any]:
    """
    Return the outcome as one JSON object.

    It is ``verified`` where the database's books agree, nothing was lost, and the database holds of this replay what the
    replay counted itself.
    """
    tallies, database = outcome.tallies, outcome.database
    mine = {
        "rows": tallies.admitted + tallies.refusals,
        "input_tokens": tallies.input_tokens,
        "output_tokens": tallies.output_tokens,
        "cost_pico": tallies.cost_pico,
    }
    worst = outcome.history.worst
    return {
        "requests": tallies.admitted + tallies.refusals,
        "admitted": tallies.admitted,
        "refused": dict(tallies.refused),
        "would_refuse": dict(tallies.would_refuse),
        "degraded": tallies.degraded,
        "tokens": tallies.input_tokens + tallies.output_tokens,
        "input_tokens": tallies.input_tokens,
        "output_tokens": tallies.output_tokens,
        "cost_pico": tallies.cost_pico,
        "rows": database["rows"],
        "verified": outcome.is_proved and outcome.dropped == 0 and mine == database,
        "latency_us": outcome.latency_us,
        "database": database,
        "worst_window": {
            name: {"key": found.key, "tokens": found.tokens, "cap": found.cap, "at": found.at}
            for name, found in worst.items()
        },
        "limits_held": all(found.tokens <= found.cap for found in worst.values()),
        "hours": [
            {"hour": name, "admitted": hour.admitted, "refused": dict(hour.refused)}
            for name, hour in sorted(tallies.hours.items())
        ],
        "seconds": outcome.seconds,
        "cpu_seconds": outcome.cpu_seconds,
    }


def lines_of(result: dict[str, Any]) -> list[str]:
    """
    Tell the same to people.
    """
    names = sorted(result["refused"])
    hours = [
        (hour["hour"], hour["admitted"], *(hour["refused"].get(name, 0) for name in names)) for hour in result["hours"]
    ]
    database = result["database"]
    lines = [
        (
            f"{result['requests']:,} requests: {result['admitted']:,} admitted, "
            f"{result['requests'] - result['admitted']:,} refused"
        ),
        *(f"  {count:,} refused by '{name}'" for name, count in sorted(result["refused"].items())),
        *(
            f"  {count:,} would be refused by '{name}' (shadow)"
            for name, count in sorted(result["would_refuse"].items())
        ),
        *(
            [f"  {result['degraded']:,} let through WITHOUT the backend, which did not answer"]
            if result["degraded"]
            else []
        ),
        "",
        *table(("hour", "admitted", *names), hours),
        "",
        (
            f"used      {result['input_tokens']:,} input and {result['output_tokens']:,} output tokens, "
            f"{format_usd(result['cost_pico'])}"
        ),
        (
            f"database  {database['input_tokens']:,} input and {database['output_tokens']:,} output tokens, "
            f"{format_usd(database['cost_pico'])}, on {database['rows']:,} rows"
        ),
        f"books     {'agree' if result['verified'] else 'do NOT agree'}",
    ]
    for name, worst in result["worst_window"].items():
        verdict = "" if worst["tokens"] <= worst["cap"] else ": BROKEN"
        lines.append(f"fullest   '{name}': {worst['tokens']:,} of {worst['cap']:,} tokens, by {worst['key']}{verdict}")
    latency = result["latency_us"]
    lines.append(
        f"time      {latency['p50']} us added to a request (p99 {latency['p99']} us); {result['seconds']} s in all, "
        f"{result['cpu_seconds']} s of them CPU"
    )
    return lines
