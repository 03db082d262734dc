"""
Recorded traces: when a request came, how many tokens went in and out.

A CSV file has the columns ``TIMESTAMP`` (ISO 8601; UTC where it names no zone), ``ContextTokens`` and
``GeneratedTokens``, as the Azure LLM inference dataset (CC BY 4.0) has them. A JSONL file has an object a line with
``time`` (the same, or epoch seconds), ``input_tokens``, ``output_tokens``, and perhaps ``model`` and ``key``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from tokenbudget_mw.errors import ConfigurationError

__all__ = ["Traced", "read_trace"]

CSV_COLUMNS = {"time": "TIMESTAMP", "input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"}

MOST_TOKENS = 2**31
_MICROSECOND_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Traced:
    """
    One request of a trace.

    Attributes:
        at: When it came, in epoch seconds.

        input_tokens: Input tokens.

        output_tokens: Output tokens.

        model: Model; None where the trace does not say.

        key: Who asked; None where the trace does not say.
    """

    at: float
    input_tokens: int
    output_tokens: int
    model: str | None = None
    key: str | None = None


def read_trace(path: Path) -> list[Traced]:
    """
    Read the trace in *path*, in order of time.

    Raises:
        ConfigurationError: It cannot be read; the message names the line.
    """
    rows = _READERS.get(path.suffix.lower())
    if rows is None:
        raise ConfigurationError(f"Cannot read {path.name!r}: a trace is a .csv or a .jsonl file.")
    try:
        trace = [_traced(row, path, line) for line, row in rows(path)]
    except OSError as exc:
        raise ConfigurationError(f"Cannot read {str(path)!r}: {exc.strerror or type(exc).__name__}.") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path.name!r} is no text in UTF-8.") from exc
    if not trace:
        raise ConfigurationError(f"{path.name!r} holds no request.")
    return sorted(trace, key=attrgetter("at"))


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in CSV_COLUMNS.values() if column not in (reader.fieldnames or ())]
        if missing:
            raise ConfigurationError(f"{path.name!r} lacks columns: {', '.join(missing)}.")
        for row in reader:
            yield reader.line_num, {name: row[column] for name, column in CSV_COLUMNS.items()}


def _jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = msgspec.json.decode(line)
            except ValueError as exc:
                raise ConfigurationError(f"{path.name!r}, line {number}: this is no JSON ({exc}).") from exc
            if not isinstance(row, Mapping):
                raise ConfigurationError(f"{path.name!r}, line {number}: a JSON object is expected.")
            yield number, row


_READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, Mapping[str, Any]]]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}


def _traced(row: Mapping[str, Any], path: Path, line: int) -> Traced:
    try:
        return Traced(
            _moment(row.get("time")),
            _tokens(row.get("input_tokens")),
            _tokens(row.get("output_tokens")),
            _text(row.get("model")),
            _text(row.get("key")),
        )
    except ValueError as exc:
        raise ConfigurationError(f"{path.name!r}, line {line}: {exc}.") from exc


def _moment(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise ValueError("`time` is missing")  # noqa: TRY004 - all of a line's faults are ValueErrors
    whole, point, fraction = value.partition(".")
    if point and fraction.isdecimal():  # seven digits are usual in traces, and Python reads six
        value = f"{whole}.{fraction[:_MICROSECOND_DIGITS]}"
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value!r} is no time in ISO 8601") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _tokens(value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if type(value) is not int or not 0 <= value <= MOST_TOKENS:
        raise ValueError(f"a number of tokens is expected, not {value!r}")
    return value


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None
