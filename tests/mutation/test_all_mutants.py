"""
Every mutant of the rules and of the Lua that changes behaviour is killed by the tests. Runs under ``tox -e mutation``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lua_mutants import MUTANTS
from lua_runs import survivors
from python_mutants import LISTED, listed
from python_mutants import survivors as survivors_of_the_rules


@pytest.mark.timeout(3600)
def test_mutants_of_the_lua_are_killed_or_the_same_program(tmp_path: Path) -> None:
    """
    Those that survive are those whose entry says why no answer can differ, and no others.
    """
    survived = set(survivors(tmp_path))
    equivalent = {mutant.name for mutant in MUTANTS if mutant.equivalent}

    assert sorted(survived - equivalent) == []
    assert sorted(equivalent - survived) == []


@pytest.mark.timeout(3600)
def test_mutants_of_the_rules_are_killed_or_listed(tmp_path: Path) -> None:
    """
    Each that survives stands in `survivors.toml` with the reason why it is the same program.
    """
    survived = survivors_of_the_rules(tmp_path)

    assert sorted(survived - listed()) == [], f"write a test, or the reason into {LISTED.name}"
    assert sorted(listed() - survived) == [], f"killed, so no longer to be listed in {LISTED.name}"
