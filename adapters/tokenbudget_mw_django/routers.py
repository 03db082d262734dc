"""
A database router, for books that are kept beside Django's default database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbudget_mw_django.conf import read_settings

if TYPE_CHECKING:
    from django.db.models import Model

__all__ = ["BooksRouter"]

LABEL = "tokenbudget_mw_django"


class BooksRouter:
    """
    Sends our models to the database that the settings name, and their migrations there alone:
    ``DATABASE_ROUTERS = ["tokenbudget_mw_django.routers.BooksRouter"]``.
    """

    def db_for_read(self, model: type[Model], **_: Any) -> str | None:
        """
        Return the alias of the books for our models, and no opinion on others.
        """
        return read_settings().database_alias if model._meta.app_label == LABEL else None  # noqa: SLF001 - public by Django's docs

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:
        """
        Keep our tables out of other databases.
        """
        alias = read_settings().database_alias if app_label == LABEL else None
        return None if alias is None else db == alias
