"""
Holds the books against a provider's invoice: by day and model, money and, where the invoice tells them, tokens and requests.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.errors import TokenBudgetError
from tokenbudget_mw.units import PICO_PER_USD, exact_int, parse_decimal, parse_dollars

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["FIGURES", "InvoiceError", "InvoiceLine", "Mismatch", "Tolerance", "read_invoice", "reconcile"]

FIGURES = ("cost_pico", "input_tokens", "output_tokens", "requests")
"""What is compared; of the books' requests, those that were not refused."""

_COUNTS = FIGURES[1:]
_NEEDED = ("date", "model", "cost_usd")
_MORE = " "
"""Where the values of a line stand for which the head has no column; no head is called that."""

_SEPARATORS = {";": "a semicolon", "\t": "a tab"}
"""What spreadsheets put between columns instead of a comma, where a comma stands before decimals."""


class InvoiceError(TokenBudgetError):
    """
    The invoice cannot be read.
    """


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """
    What the provider charges for a model on a day.

    Attributes:
        day: Midnight, UTC, at which it begins.

        model: Model, as the provider names it.

        figures: ``cost_pico``, and any of the other `FIGURES` that the invoice tells.
    """

    day: datetime
    model: str
    figures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """
    How far apart figures may be and still count as equal: the larger of the two allowances.

    Attributes:
        cost_pico: Pico-dollars, for costs.

        percent: Percent of the invoice's figure, for everything.
    """

    cost_pico: int = 10**10
    percent: Decimal = Decimal(0)

    def allows(self, figure: str, ours: int, theirs: int) -> bool:
        """
        Whether *ours* is near enough to *theirs*.
        """
        absolute = self.cost_pico if figure == "cost_pico" else 0
        return abs(ours - theirs) <= max(Decimal(absolute), abs(theirs) * self.percent / 100)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """
    A figure of a day and model that differs by more than is allowed.

    Attributes:
        day: The day, ``2027-01-31``.

        model: The model.

        figure: Which of `FIGURES`.

        ours: What the books say; 0 where they have nothing.

        theirs: What the invoice says; 0 where it has nothing.
    """

    day: str
    model: str
    figure: str
    ours: int
    theirs: int


# -- the invoice ------------------------------------------------------------------------------------------------------


def read_invoice(lines: Iterable[str]) -> list[InvoiceLine]:
    """
    Read an invoice as CSV with a head: ``date`` (``2027-01-31``, a day in UTC), ``model``, ``cost_usd``, and as may be
    ``input_tokens``, ``output_tokens``, ``requests``. Other columns are passed over, and lines without any value.

    Costs are rounded to whole pico-dollars: some providers print all digits of a float.

    Raises:
        InvoiceError: A column is missing or there twice, or every line, or a value makes no sense; says in which line.
    """
    # strict: a quote that nothing closes would swallow the lines behind it
    table, read, begins = csv.DictReader(lines, restkey=_MORE, strict=True), list[InvoiceLine](), 1
    try:
        table.fieldnames = _heads(table.fieldnames or ())
        begins = table.line_num + 1
        for row in table:
            if any(row.pop(_MORE, ())):
                raise InvoiceError(
                    f"Line {table.line_num} of the invoice has more values than its head has columns. A value with a comma "
                    "stands in quotes."
                )
            if any(row.values()):
                read.append(_line(row, table.line_num))
            begins = table.line_num + 1
    except csv.Error as exc:
        raise InvoiceError(f"The invoice is no CSV from line {begins} on: {exc}.") from exc
    if not read:
        raise InvoiceError("The invoice has no line behind its head, so there is no day to compare.")
    return read


def _heads(names: Sequence[str]) -> list[str]:
    heads = [(name or "").strip().lstrip("\ufeff").lower() for name in names]
    missing = [name for name in _NEEDED if name not in heads]
    if missing:
        other = next((word for mark, word in _SEPARATORS.items() if len(heads) == 1 and mark in heads[0]), None)
        if other is not None:
            raise InvoiceError(
                f"The columns of the invoice have {other} between them. Save it with commas, and a point before decimals."
            )
        raise InvoiceError(
            f"The invoice has no column {', '.join(map(repr, missing))}. Its first line names the columns: "
            f"{', '.join(_NEEDED)}, and as may be {', '.join(_COUNTS)}; it has {', '.join(map(repr, heads)):.300}."
        )
    twice = [name for name in (*_NEEDED, *_COUNTS) if heads.count(name) > 1]
    if twice:
        raise InvoiceError(f"The invoice has the column {twice[0]!r} twice. Leave one of them out.")
    return heads


def _line(row: Mapping[str, str | None], number: int) -> InvoiceLine:
    try:
        day = _day((row["date"] or "").strip())
        figures = {"cost_pico": round(Fraction(parse_dollars(row["cost_usd"] or "")) * PICO_PER_USD)}
        figures |= {
            name: exact_int(parse_decimal(value)) for name in _COUNTS if (value := (row.get(name) or "").strip())
        }
    except ValueError as exc:
        raise InvoiceError(f"Line {number} of the invoice: {exc}.") from exc
    model = (row["model"] or "").strip()
    if not model:
        raise InvoiceError(f"Line {number} of the invoice names no model.")
    return InvoiceLine(day, model, figures)


def _day(text: str) -> datetime:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text!r} is no day; write it like 2027-01-31") from None
    if day == datetime.max.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=UTC):
        raise ValueError(f"{text!r} is no day that has an end")
    return day


# -- against the books ------------------------------------------------------------------------------------------------


def reconcile(
    engine: Engine,
    invoice: Iterable[InvoiceLine],
    *,
    tolerance: Tolerance = Tolerance(),
    models: Iterable[str] = (),
    name_of: Callable[[str], str] = str,
) -> list[Mismatch]:
    """
    Return where the books and *invoice* differ, by day and model, on the days from its first to its last.

    What the invoice does not tell (tokens, requests) is not compared, for that day and model.

    Args:
        engine: The host's database.

        invoice: The invoice's lines, any number a day and model.

        tolerance: How far apart figures may be.

        models: Patterns such as ``gpt-*``: only these models of the books, by either name; none for all of them. An
            invoice is one provider's, the books hold them all.

        name_of: Turns a model's name, of either side, into the one by which both are compared.
    """
    theirs: dict[tuple[datetime, str], dict[str, int]] = {}
    for line in invoice:
        _add(theirs.setdefault((line.day, name_of(line.model)), {}), line.figures)
    if not theirs:
        return []
    days = [day for day, _ in theirs]
    ours = _ours(engine, min(days), max(days) + timedelta(days=1), tuple(models), name_of)
    found: list[Mismatch] = []
    for place in sorted({*theirs, *ours}):
        day, model = place
        invoiced = theirs.get(place, {"cost_pico": 0})
        held = ours.get(place, {})
        for figure, amount in sorted(invoiced.items()):
            mine = held.get(figure, 0)
            if not tolerance.allows(figure, mine, amount):
                found.append(Mismatch(f"{day:%Y-%m-%d}", model, figure, mine, amount))
    return found


def _ours(
    engine: Engine, since: datetime, until: datetime, patterns: tuple[str, ...], name_of: Callable[[str], str]
) -> dict[tuple[datetime, str], dict[str, int]]:
    days = tables.rollup_days.c
    figures_of = [days[name] for name in FIGURES[:-1]] + [
        days.requests - days.refused
    ]  # what was refused reached nobody
    wanted = select(days.day, days.model, *figures_of).where(days.day >= since, days.day < until)
    found: dict[tuple[datetime, str], dict[str, int]] = {}
    with reader(engine).connect() as connection:
        rows: Iterable[Any] = connection.execute(wanted)
        for day, model, *figures in rows:
            name = name_of(model)
            if patterns and not any(fnmatchcase(one, pattern) for one in (model, name) for pattern in patterns):
                continue
            values = {name: int(value) for name, value in zip(FIGURES, figures, strict=True)}
            _add(found.setdefault((day, name), {}), values)
    return found


def _add(into: dict[str, int], figures: Mapping[str, int]) -> None:
    for name, value in figures.items():
        into[name] = into.get(name, 0) + value
