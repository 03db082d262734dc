"""
Dead letters, on each database: whatever was refused is kept, mended, and written once.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from sqlalchemy import Engine, func, select

from tokenbudget_mw.accounting.dead_letters import DeadLetters
from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.database import books, tables
from tokenbudget_mw.database.letters import LONGEST, Letter, LetterStore
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.errors import ConfigurationError, PermanentSinkError
from tokenbudget_mw.values import UsageRecord

MakeRecord = Callable[..., UsageRecord]


@pytest.fixture
def store(engine: Engine, clock: Callable[[], float]) -> LetterStore:
    return LetterStore(engine, clock)


def keep(store: LetterStore, record: UsageRecord) -> Letter:
    """Keep it, and return its letter."""
    known = {letter.id for letter in store.find()}
    store.keep(msgspec.structs.asdict(record), "PermanentSinkError")
    (letter,) = [letter for letter in store.find() if letter.id not in known]
    return letter


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(tables.usage)).scalar_one())


POISON = {
    "nul": {"path": "/a\x00b", "cost_pico": -1},
    "surrogate": {"path": "/\ud800", "cost_pico": -1},
    "huge tag": {"tags": {"a": "x" * 2**20}, "cost_pico": -1},
    "nan": {"cost_pico": float("nan")},
    "overflow": {"cost_pico": 2**64},
    "nothing": {"created_at_us": None},
    "an object": {"cost_pico": object()},
}


@pytest.mark.parametrize("fields", POISON.values(), ids=list(POISON))
def test_t14_poison_is_kept_mended_and_written(
    engine: Engine, store: LetterStore, record: MakeRecord, fields: dict[str, object]
) -> None:
    """
    A record that no database takes lies in the table beside the rows, is mended there, written once, and then gone.
    """
    spool = MemorySpool()
    letters = DeadLetters(store=store.keep)
    flusher = Flusher(spool, DatabaseSink(engine), threads=False, dead_letters=letters)
    for one in (record(1), record(2, **fields), record(3)):
        spool.put(one)
    assert flusher.flush()
    (letter,) = store.find()
    before = rows(engine)

    with pytest.raises(PermanentSinkError):
        store.replay(letter)
    mended = store.mend(letter, {"cost_pico": 7, "created_at_us": 1_760_000_000_000_000})
    assert store.find() == [mended]
    assert store.replay(mended)

    assert (before, rows(engine), store.find()) == (2, 3, [])
    assert books.verify(engine).verified


def test_the_same_record_is_kept_once(store: LetterStore, record: MakeRecord) -> None:
    """A record that is replayed from the spool and refused again is one letter."""
    for _ in range(2):
        store.keep(msgspec.structs.asdict(record(1, cost_pico=-1)), "PermanentSinkError")
    keep(store, record(2, cost_pico=-1))

    assert [letter.fields["sequence"] for letter in sorted(store.find(), key=lambda each: each.fields["sequence"])] == [
        1,
        2,
    ]


def test_t11_what_is_there_already_is_not_written_again(engine: Engine, store: LetterStore, record: MakeRecord) -> None:
    """A letter whose row has come another way is forgotten, and changes nothing."""
    letter = keep(store, record(1))
    DatabaseSink(engine).write([record(1)])

    assert store.replay(letter) is False
    assert (rows(engine), store.find()) == (1, [])


def test_a_letter_is_bounded(store: LetterStore, record: MakeRecord) -> None:
    """However long a record's texts are, its letter fits; what it costs and who pays are still there."""
    letter = keep(store, record(1, path="/" + "é" * 100_000, tags={str(n): "x" * 9_000 for n in range(90)}))

    assert len(msgspec.json.encode(letter.fields)) < LONGEST
    assert (letter.fields["account"], letter.fields["cost_pico"]) == ("tenant:acme", 1_000_000_007)


def test_fields_have_names(store: LetterStore, record: MakeRecord) -> None:
    """A change of a field that records do not have is an error, and changes nothing."""
    letter = keep(store, record(1))

    with pytest.raises(ConfigurationError, match="no field 'cost'"):
        store.mend(letter, {"cost": 1})
    assert store.find() == [letter]


def test_a_letter_is_found_by_how_its_id_begins(store: LetterStore, record: MakeRecord) -> None:
    """An id need not be written out, and a sign of the query language is none here."""
    letter = keep(store, record(1))

    assert store.find(letter.id[:8]) == [letter]
    assert store.find("%") == []


def test_without_a_table_the_file_takes_letters(
    sqlite_database: str, record: MakeRecord, tmp_path: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A schema of the version before has no place for letters: they go to the file, and nothing stands in the way."""
    from tokenbudget_mw.database.engine import open_engine

    engine = open_engine(sqlite_database)
    tables.metadata.create_all(
        engine, [table for table in tables.metadata.sorted_tables if table is not tables.dead_letters]
    )
    path = tmp_path / "spool" / "dead-letters.jsonl"  # type: ignore[operator]
    spool, letters = MemorySpool(), DeadLetters(path=path, store=LetterStore(engine).keep)
    flusher = Flusher(spool, DatabaseSink(engine), threads=False, dead_letters=letters)
    for one in (record(1, cost_pico=-1), record(2)):
        spool.put(one)

    assert flusher.flush()
    assert (rows(engine), len(path.read_text().splitlines())) == (1, 1)
    assert "could not be stored in the database (OperationalError)" in caplog.text
    engine.dispose()
