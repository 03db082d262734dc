"""
Run the tests of the Redis backend on a mutant of its Lua.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lua_mutants import Mutant

__all__ = ["EVERYTHING", "QUICK", "is_killed"]

TESTS = Path(__file__).parents[1]
QUICK = ("backends/test_parity.py",)
EVERYTHING = (
    *QUICK,
    "backends/test_contract.py",
    "backends/test_redis_operations.py",
    "backends/test_redis_keys.py",
    "backends/test_exactness.py",
    "backends/test_redis_faults.py",
)
FAILED, PASSED = 1, 0
SECONDS = 300


def is_killed(mutant: Mutant, url: str, folder: Path, tests: tuple[str, ...] = EVERYTHING) -> bool:
    """
    Tell whether one of *tests* fails on *mutant*.

    Args:
        mutant: The mistake.

        url: A Redis that nobody else uses.

        folder: Where the mutant may be written.

        tests: Files or tests, below the folder of all tests; those that need no Redis are left out.
    """
    replacement = folder / mutant.file
    replacement.write_text(mutant.text(), encoding="utf-8")
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "lua_mutation", "--hypothesis-profile", "mutation"]
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("pytest")),
            *options,
            *["-k", "edis and not AsyncRedis or test_parity or test_redis"],
            *[str(TESTS / test) for test in tests],
        ],
        env=os.environ
        | {
            "PYTHONPATH": str(TESTS / "support"),
            "TOKENBUDGET_TEST_LUA": str(replacement),
            "TOKENBUDGET_TEST_REDIS_URL": url,
        },
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if run.returncode not in (FAILED, PASSED):
        raise RuntimeError(f"{mutant.name}: the tests did not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return run.returncode == FAILED
