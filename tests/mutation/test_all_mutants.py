"""
Every mutant of the Lua that changes behaviour is killed by the tests. Runs under ``tox -e mutation``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lua_mutants import MUTANTS
from lua_runs import survivors


@pytest.mark.timeout(3600)
def test_mutants_of_the_lua_are_killed_or_the_same_program(tmp_path: Path) -> None:
    """
    Those that survive are those whose entry says why no answer can differ, and no others.
    """
    survived = set(survivors(tmp_path))
    equivalent = {mutant.name for mutant in MUTANTS if mutant.equivalent}

    assert sorted(survived - equivalent) == []
    assert sorted(equivalent - survived) == []
