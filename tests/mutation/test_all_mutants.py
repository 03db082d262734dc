"""
Every mutant of the Lua that changes behaviour is killed by the tests. Runs under ``tox -e mutation``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lua_mutants import MUTANTS, Mutant
from lua_runs import is_killed
from private_servers import RedisServer

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed_or_the_same_program(mutant: Mutant, redis_server: RedisServer, tmp_path: Path) -> None:
    """
    Some test fails on it; or its entry says why none can, and none does.
    """
    assert is_killed(mutant, redis_server.url, tmp_path) != bool(mutant.equivalent), mutant.equivalent or "it survived"
