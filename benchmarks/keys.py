"""
Checking an API key: from the header's text to the subject.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import bcrypt

from benchmarks.harness import Contender, Result, Scale, compare, microseconds
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.key_cache import KeyCache
from tokenbudget_mw.database.keys import KeyStore

__all__ = ["key_check"]


def key_check(scale: Scale) -> Result:
    """
    A remembered key; in the details one that the database is asked for. The baseline is a password hash, which many use.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'keys.db'}")
        tables.metadata.create_all(engine)
        store = KeyStore(engine, "a pepper of a benchmark, thirty-two bytes or more")
        text = [store.create(name=f"key {number}", tenant="acme").text for number in range(50)][25]
        remembering, asking = KeyCache(store, ttl=3_600.0), KeyCache(store, ttl=0.0)
        remembering.resolve(text)
        hashed = bcrypt.hashpw(text.encode()[:72], bcrypt.gensalt(12))
        seen = compare({"ours": Contender(lambda n: [remembering.cached(text) for _ in range(n)])}, scale, calls=20_000)
        seen |= compare({"asked": Contender(lambda n: [asking.resolve(text) for _ in range(n)])}, scale, calls=500)
        slow = Contender(lambda _: bcrypt.checkpw(text.encode()[:72], hashed))
        seen["bcrypt"] = median([microseconds(slow, 1) for _ in range(3)])
        engine.dispose()
    return Result(
        value=seen["ours"],
        unit="us CPU",
        baseline="bcrypt of cost 12, one candidate",
        baseline_value=seen["bcrypt"],
        goal="<= 3 us remembered; one indexed query else",
        met=seen["ours"] <= 3,
        details={"database_us": seen["asked"]},
    )
