"""
Settings: from the dict that a user writes to frozen values, checked at start.
"""

from __future__ import annotations

from tokenbudget_mw.rules.policy import Plan
from tokenbudget_mw.settings.describe import describe, describe_limit, reference, warnings_of
from tokenbudget_mw.settings.limits import parse_limit
from tokenbudget_mw.settings.model import Settings
from tokenbudget_mw.settings.secret import Secret, redact_url

__all__ = [
    "Plan",
    "Secret",
    "Settings",
    "describe",
    "describe_limit",
    "from_env",
    "from_mapping",
    "parse_limit",
    "redact_url",
    "reference",
    "warnings_of",
]

from_mapping = Settings.from_mapping
from_env = Settings.from_env
