"""
The mutants of the Lua fit the Lua that is there, and a few of them are killed by the quickest tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lua_mutants import MUTANTS, Mutant
from lua_runs import QUICK, is_killed
from private_servers import RedisServer

SAMPLE = [
    mutant
    for mutant in MUTANTS
    if (mutant.function, mutant.old) in {("log.peek", "state[i] <= gone"), ("settle", "(counter.lease and 1 or 0)")}
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits(mutant: Mutant) -> None:
    """
    Its text stands in its function once, and leaves another file than it found.
    """
    assert mutant.new != mutant.old
    assert mutant.new in mutant.text()


def test_mutants_have_names_of_their_own() -> None:
    """
    A survivor can be told by its name; there are more than a handful.
    """
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) > 100


@pytest.mark.slow
@pytest.mark.parametrize("mutant", SAMPLE[:1], ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed(mutant: Mutant, redis_server: RedisServer, tmp_path: Path) -> None:
    """
    An entry that leaves its window a microsecond late is seen by the comparison with memory.
    """
    assert is_killed(mutant, redis_server.url, tmp_path, QUICK)
