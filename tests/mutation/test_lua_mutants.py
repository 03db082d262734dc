"""
The mutants of the Lua fit the Lua that is there, and a few of them are killed by the quickest tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lua_mutants import MUTANTS, Mutant
from lua_runs import QUICK, survivors


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
def test_a_mutant_is_killed(tmp_path: Path) -> None:
    """
    Entries that leave their window a microsecond late, or a slot early, are seen by the comparison with memory.
    """
    assert survivors(tmp_path, only="strict_log:log.peek", tests=QUICK) == []
