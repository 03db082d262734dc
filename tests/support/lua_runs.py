"""
Run the tests of the Redis backend on mutants of its Lua.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["EVERYTHING", "QUICK", "survivors"]

TESTS = Path(__file__).parents[1]
QUICK = ("backends/test_parity.py",)
EVERYTHING = (  # the quickest first, because a mutant ends at the first test that fails
    "backends/test_corners.py",
    "backends/test_contract.py",
    "backends/test_redis_operations.py",
    "backends/test_redis_faults.py",
    "backends/test_redis_keys.py",
    *QUICK,
    "backends/test_exactness.py",
)
# What needs no Redis, and what waits for faults that no script can cause, is left out.
CHOICE = (
    "parity or corners and redis or TestRedis or redis_keys or redis_operations or exactness and redis"
    " or every_key_ends or unknown_outcome or restart_costs"
)


def survivors(folder: Path, *, only: str = "", tests: tuple[str, ...] = EVERYTHING) -> list[str]:
    """
    Return the names of the mutants on which no test fails.

    Args:
        folder: Where a file may be written.

        only: Part of the names of the mutants to try; empty for all.

        tests: Files, below the folder of all tests.
    """
    report = folder / "survivors"
    options = [
        "-q",
        "-s",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-p",
        "lua_mutation",
        "--hypothesis-profile",
        "mutation",
    ]
    command = [*options, "-k", CHOICE, *[str(TESTS / test) for test in tests]]
    environment = {
        "PYTHONPATH": str(TESTS / "support"),
        "TOKENBUDGET_TEST_LUA": str(report),
        "TOKENBUDGET_TEST_LUA_ONLY": only,
    }
    pytest = Path(sys.executable).with_name("pytest")
    run = subprocess.run([str(pytest), *command], env=os.environ | environment, cwd=TESTS.parent, check=False)
    assert run.returncode == 0, "the tests did not run"
    return report.read_text(encoding="utf-8").splitlines()
