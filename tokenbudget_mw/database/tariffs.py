"""
Prices in the host's database, beside those of the settings: added and ended while the app runs, never changed or deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.rows import clean_text, moment
from tokenbudget_mw.errors import TokenBudgetError
from tokenbudget_mw.values import Price

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Engine

__all__ = ["STORED", "TariffError", "TariffStore"]

STORED = "stored/"
"""How ids of these prices begin; those of the settings begin with ``tariff/``."""

_FIGURES = (
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
)
_TEXTS = ("model", "purpose", "completion_window", "service_tier")


class TariffError(TokenBudgetError):
    """
    A tariff cannot be added or ended like this.
    """


class TariffStore:
    """
    The table of tariffs.

    Args:
        engine: The host's database.

        clock: Epoch seconds.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def add(self, price: Price, *, note: str | None = None) -> Price:
        """
        Store *price*, from its ``valid_from`` on, or from now. The same again changes nothing.

        Args:
            price: What holds. Its id is made here.

            note: For people: where it comes from.

        Returns:
            The price as it is stored, with the id that rows will carry.

        Raises:
            TariffError: Another price for the same model, conditions and moment is there, or a name is too long.
        """
        begins = _stored(self._clock() if price.valid_from is None else price.valid_from)
        ends = None if price.valid_until is None else _stored(price.valid_until)
        stored = _named(replace(price, valid_from=begins, valid_until=ends, source="database"))
        _check(stored)
        row = {
            **_row(stored),
            "created_at": _moment(self._clock()),
            "note": None if note is None else clean_text(note, 512),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(tables.tariffs), row)
        except IntegrityError:
            known = self.get(stored.id)
            if known != stored:
                raise TariffError(
                    f"There is another tariff {stored.id!r} already. End it, and add this one from that moment on."
                ) from None
        return stored

    def end(self, tariff_id: str, at: float | None = None) -> Price:
        """
        Let a tariff hold until *at*, in epoch seconds, or until now. The moment of an end may be moved.

        Raises:
            TariffError: There is none, or it begins later.
        """
        until = _moment(self._clock() if at is None else at)
        with self._engine.begin() as connection:
            known = _find(connection, tariff_id)
            if known.valid_from is not None and until <= _moment(known.valid_from):
                raise TariffError(f"Tariff {tariff_id!r} begins at {_moment(known.valid_from)}, not before {until}.")
            change = update(tables.tariffs).where(tables.tariffs.c.id == tariff_id)
            connection.execute(change.values(valid_until=until))
            return _find(connection, tariff_id)

    def get(self, tariff_id: str) -> Price:
        """
        Return one tariff.

        Raises:
            TariffError: There is none.
        """
        with reader(self._engine).connect() as connection:
            return _find(connection, tariff_id)

    def find(self, *, model: str | None = None, at: float | None = None) -> list[Price]:
        """
        Return the tariffs, by model and from when they hold.

        Args:
            model: Only of this model.

            at: Only those that hold at this moment, in epoch seconds.
        """
        tariffs = tables.tariffs.c
        wanted = select(tables.tariffs).order_by(tariffs.model, tariffs.valid_from, tariffs.id)
        if model is not None:
            wanted = wanted.where(tariffs.model == model)
        if at is not None:
            then = _moment(at)
            wanted = wanted.where(
                tariffs.valid_from <= then, or_(tariffs.valid_until.is_(None), tariffs.valid_until > then)
            )
        with reader(self._engine).connect() as connection:
            return [_price(row) for row in connection.execute(wanted).mappings()]


def _find(connection: Connection, tariff_id: str) -> Price:
    row = connection.execute(select(tables.tariffs).where(tables.tariffs.c.id == tariff_id)).mappings().one_or_none()
    if row is None:
        raise TariffError(f"There is no tariff {tariff_id!r}. `tokenbudget-mw tariffs list` shows those there are.")
    return _price(row)


def _named(price: Price) -> Price:
    above = f">{price.above_input}" if price.above_input else None
    conditions = [part for part in (price.purpose, price.completion_window, price.service_tier, above) if part]
    since = _moment(price.valid_from or 0.0)
    day = since.strftime("%Y-%m-%dT%H:%M:%S.%f").removesuffix(".000000").removesuffix("T00:00:00")
    return replace(price, id=f"{STORED}{price.model}{''.join(f'+{part}' for part in conditions)}@{day}")


def _check(price: Price) -> None:
    if price.valid_until is not None and _moment(price.valid_until) <= _moment(price.valid_from or 0.0):
        raise TariffError("A tariff ends after its beginning: `valid_until` does not lie after `valid_from`.")
    for name in (*_TEXTS, "id"):
        value = getattr(price, name)
        length: int = tables.tariffs.c[name].type.length  # type: ignore[attr-defined]
        if value is not None and clean_text(value, length) != value:
            raise TariffError(f"`{name}` of a tariff takes up to {length} printable characters, got {value!r:.300}.")


def _moment(seconds: float) -> datetime:
    return moment(round(seconds * 1_000_000))


def _stored(seconds: float) -> float:
    """
    Return *seconds* as they come back from the database, which keeps whole microseconds.
    """
    return _moment(seconds).timestamp()


def _row(price: Price) -> dict[str, Any]:
    return {
        "id": price.id,
        **{name: getattr(price, name) for name in _TEXTS},
        **{f"{name}_pico": getattr(price, name) for name in _FIGURES},
        "above_input": price.above_input,
        "valid_from": _moment(price.valid_from or 0.0),
        "valid_until": None if price.valid_until is None else _moment(price.valid_until),
    }


def _price(row: Mapping[Any, Any]) -> Price:
    return Price(
        id=row["id"],
        **{name: row[name] for name in _TEXTS},
        **{name: row[f"{name}_pico"] for name in _FIGURES},
        above_input=row["above_input"],
        valid_from=row["valid_from"].timestamp(),
        valid_until=None if row["valid_until"] is None else row["valid_until"].timestamp(),
        source="database",
    )
