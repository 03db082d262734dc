"""
The pages on prices and billing show what works.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]


def test_rerating_is_what_the_page_says(example: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one row that had no price costs what the new price says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKENBUDGET_DATABASE")

    report = example("rerating").report

    assert (report.rows, report.changed, report.change_pico) == (1, 1, 3_500_000_000)


def test_billing_is_what_the_page_says(example: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An account without usage owes nothing."""
    monkeypatch.chdir(tmp_path)

    module = example("billing")

    assert (module.invoice.account, module.invoice.due_cents) == ("tenant:acme", 0)
    assert module.invoice.closed_at is not None
