"""
Random numbers: whoever seeds Python's own neither steers ours nor finds his own disturbed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tokenbudget_mw.calls.recording import new_id
from tokenbudget_mw.chance import chance

NOW = 1_760_000_000.0


@pytest.fixture(autouse=True)
def seeded() -> None:
    """
    A host that wants its own numbers to come again.
    """
    random.seed(7)


def test_hosts_with_one_seed_make_different_ids() -> None:
    """
    Else two workers would make the same ids in the same millisecond, and one of two rows would be none.
    """
    first = [new_id(NOW) for _ in range(100)]
    random.seed(7)
    second = [new_id(NOW) for _ in range(100)]

    assert len({*first, *second}) == 200


def test_the_hosts_numbers_stay_as_they_were() -> None:
    """
    A simulation behind the middleware gives what it gives without.
    """
    before = random.getstate()
    new_id(NOW)
    chance.random()

    assert random.getstate() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_forked_child_has_numbers_of_its_own(fork: str) -> None:
    """
    Parent and child go on differently from the same state, also where Python hears nothing of the fork, as under uWSGI. In a
    program of its own: beside other threads a child that C has forked may hang.
    """
    program = f"""if True:
        import ctypes, os, sys
        from tokenbudget_mw.chance import generator

        made = generator()
        child = {fork}()
        os.write(1, made.randbytes(16))
        if child:
            os.waitpid(child, 0)
    """

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60).stdout

    assert len(said) == 32
    assert said[:16] != said[16:]
