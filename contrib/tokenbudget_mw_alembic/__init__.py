"""
Migrations of the tokenbudget tables for hosts that use SQLAlchemy.

They run in an Alembic environment of their own, beside the host's, with a version table of their own. A host that lets
Alembic autogenerate its migrations puts `include_name` (or `include_object`) into its ``env.py``; otherwise Alembic takes
our tables for left-overs and proposes to drop them::

    context.configure(..., include_name=tokenbudget_mw_alembic.include_name())
"""

from __future__ import annotations

from tokenbudget_mw_alembic.chain import VERSION_TABLE, current, head, is_known, upgrade
from tokenbudget_mw_alembic.hooks import include_name, include_object

__all__ = ["VERSION_TABLE", "current", "head", "include_name", "include_object", "is_known", "upgrade"]
