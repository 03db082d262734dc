"""
Spool, sink and flusher for a test to step.
"""

from __future__ import annotations

from functools import partial

import accounting_rig
import pytest


@pytest.fixture
def time():
    return accounting_rig.FakeTime()


@pytest.fixture
def rig(time):
    return partial(accounting_rig.build, time)


@pytest.fixture
def feed():
    return accounting_rig.put


@pytest.fixture
def fresh():
    return accounting_rig.make
