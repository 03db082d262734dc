"""
``tokenbudget-mw verify --counters``: what limits have counted, beside what the books say.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tokenbudget_mw.cli.context import BadUseError, many
from tokenbudget_mw.errors import UnknownKeyError
from tokenbudget_mw.units import format_quantity, format_usd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine

    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.comparing import Compared
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Subject, Unit

__all__ = ["compared_counters", "told_counters"]

PICO_PER_NANO = 1000


def compared_counters(context: Context, engine: Engine) -> list[Compared]:
    """
    Compare the counters of everybody who stands on the books.
    """
    from tokenbudget_mw.backends import is_in_process, open_backend
    from tokenbudget_mw.comparing import compare
    from tokenbudget_mw.database.spending import used
    from tokenbudget_mw.operators import Operators
    from tokenbudget_mw.rules.admission import Admission
    from tokenbudget_mw.settings.changes import policy_of
    from tokenbudget_mw.wiring import model_names

    settings = context.settings()
    if is_in_process(settings.backend):
        scheme = settings.backend.partition(":")[0]
        raise BadUseError(f"{scheme}:// counters live in each process and cannot be seen from here; use redis://.")
    backend = open_backend(settings.backend, deadline=max(settings.deadline, 1.0), workers=settings.workers)
    operators = Operators(Admission(policy_of(settings, has_books=True), settings.lease), backend, time.time)
    names = model_names(settings)
    try:
        subjects = list(_subjects(settings, engine))
        return list(compare(operators, lambda asked: used(engine, asked, names), subjects, time.time))
    finally:
        backend.close()


def _subjects(settings: Settings, engine: Engine) -> Iterator[Subject]:
    """
    Yield who stands on the books; keys with the plan and the limits that they have now.
    """
    from tokenbudget_mw.database.holders import holders
    from tokenbudget_mw.wiring import open_keys

    keys = open_keys(settings, engine) if settings.identify == "api_key" else None
    for subject in holders(engine):
        if keys is None or subject.key is None:
            yield subject
            continue
        try:
            yield keys.subject_of(keys.get(subject.key))
        except UnknownKeyError:
            yield subject


def told_counters(compared: Sequence[Compared]) -> list[str]:
    """
    Say in lines how counters and books stand to one another.
    """
    differing = [each for each in compared if not each.agrees]
    if not differing:
        return [f"{many(len(compared), 'counter')} of calendar limits compared: all agree with the books."]
    lines = [f"{len(differing):,} of {len(compared):,} counters of calendar limits differ from the books:"]
    for each in differing:
        counted, booked = _amount(each.unit, each.counted), _amount(each.unit, each.booked)
        why = "the limit admits too much" if each.lacks else "calls may run, or wait to be written"
        lines.append(f"  {each.limit} of {unquote(each.counter)}: counted {counted}, booked {booked}; {why}")
    return lines


def _amount(unit: Unit, amount: int) -> str:
    return format_usd(amount * PICO_PER_NANO) if unit == "money" else f"{format_quantity(amount)} {unit}"
