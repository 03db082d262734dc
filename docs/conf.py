"""Configuration of the documentation build."""

from __future__ import annotations

from importlib.metadata import version

project = "tokenbudget-mw"
author = "the tokenbudget-mw authors"
release = version("tokenbudget-mw")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "tokenbudget-mw"
