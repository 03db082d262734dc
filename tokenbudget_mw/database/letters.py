"""
Dead letters in the database: usage records that it refused for good, kept as text until a person decides.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.rows import moment
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.errors import ConfigurationError, PermanentSinkError
from tokenbudget_mw.values import UsageRecord

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Engine

__all__ = ["Letter", "LetterStore"]

FIELDS = UsageRecord.__struct_fields__
REQUIRED = ("id", "instance_id", "sequence", "created_at_us", "method", "path")

LONGEST = 60_000
"""Most characters of a letter: what a text column of MySQL holds, and some to spare."""

_CUTS = (4096, 512, 64)


class Letter(msgspec.Struct, frozen=True):
    """
    One dead letter.

    Attributes:
        id: Its id: the digest of what was refused first, so that the same record is kept once.

        kept_at: When it was refused.

        error: Class name of the error that refused it.

        fields: The record's fields, as far as JSON can say them.
    """

    id: str
    kept_at: datetime
    error: str
    fields: Mapping[str, Any]


class LetterStore:
    """
    Keeps, mends and replays dead letters.

    Args:
        engine: As of `DatabaseSink`.

        clock: Epoch seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def keep(self, fields: Mapping[str, Any], error: str) -> None:
        """
        Keep a record, by its *fields*, that *error* refused. The same record again changes nothing.

        Raises:
            SQLAlchemyError: The database does not take it now, or has no table for it.
        """
        text = _text_of(fields)
        row = {
            "id": hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
            "kept_at": moment(int(self._clock() * 1_000_000)),
            "error": error[:64],
            "record": text,
        }
        with suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(insert(tables.dead_letters), row)

    def find(self, letter_id: str | None = None, *, most: int = 1_000) -> list[Letter]:
        """
        Return up to *most* letters, the oldest first, or the one with an id that begins with *letter_id*.
        """
        letters = tables.dead_letters.c
        wanted = select(letters.id, letters.kept_at, letters.error, letters.record)
        if letter_id is not None:
            wanted = wanted.where(letters.id.startswith(letter_id, autoescape=True))
        wanted = wanted.order_by(letters.kept_at, letters.id).limit(most)
        with reader(self._engine).connect() as connection:
            return [Letter(row[0], row[1], row[2], json.loads(row[3])) for row in connection.execute(wanted)]

    def count(self) -> int:
        """
        Return how many letters there are.
        """
        with reader(self._engine).connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(tables.dead_letters)) or 0)

    def mend(self, letter: Letter, changes: Mapping[str, Any]) -> Letter:
        """
        Put *changes* in the place of fields of *letter*, and return it.

        Raises:
            ConfigurationError: A record has no such field.
        """
        for name in changes:
            if name not in FIELDS:
                raise ConfigurationError(f"A usage record has no field {name!r}. It has: {', '.join(FIELDS)}.")
        mended = msgspec.structs.replace(letter, fields={**letter.fields, **changes})
        letters = tables.dead_letters
        with self._engine.begin() as connection:
            text = _text_of(mended.fields)
            connection.execute(update(letters).where(letters.c.id == letter.id).values(record=text))
        return mended

    def replay(self, letter: Letter) -> bool:
        """
        Write *letter*'s record as any other, and forget the letter.

        Returns:
            Whether the row is new; False where it was there already.

        Raises:
            PermanentSinkError: It is refused again. The letter stays.
        """
        missing = [name for name in REQUIRED if letter.fields.get(name) is None]
        if missing:
            raise PermanentSinkError(f"It lacks {', '.join(missing)}.")
        record = UsageRecord(**{name: value for name, value in letter.fields.items() if name in FIELDS})
        added = DatabaseSink(self._engine, clock=self._clock).write([record])
        self.drop(letter)
        return added > 0

    def drop(self, letter: Letter) -> None:
        """
        Forget *letter* for good.
        """
        with self._engine.begin() as connection:
            connection.execute(delete(tables.dead_letters).where(tables.dead_letters.c.id == letter.id))


def _text_of(fields: Mapping[str, Any]) -> str:
    # the escapes of json keep what is not valid Unicode, and repr what is not JSON: such a record is why we are here
    text = json.dumps(dict(fields), default=repr, sort_keys=True)
    for longest in _CUTS:
        if len(text) <= LONGEST:
            break
        text = json.dumps({name: _cut(value, longest) for name, value in fields.items()}, default=repr, sort_keys=True)
    return text


def _cut(value: Any, longest: int) -> Any:
    if isinstance(value, dict):
        return {str(name)[:64]: str(text)[:longest] for name, text in list(value.items())[:16]}
    return value[:longest] if isinstance(value, str) else value
