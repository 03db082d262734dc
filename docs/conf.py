"""Configuration of the documentation build."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from tokenbudget_mw.settings import reference

project = "tokenbudget-mw"
author = "the tokenbudget-mw authors"
release = importlib.metadata.version("tokenbudget-mw")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_generated"]
nitpicky = True

html_theme = "furo"
html_title = "tokenbudget-mw"


def settings_table() -> str:
    """Return the reference of the settings, one row each, as the code declares them."""
    rows = [["Setting", "Type", "Default", "Meaning"], ["---"] * 4]
    rows += [[f"`{name}`", f"`{kind}`", f"`{default}`", doc] for name, kind, default, doc in reference()]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows) + "\n"


generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
(generated / "settings.md").write_text(settings_table(), encoding="utf-8")
