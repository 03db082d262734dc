"""
Tells the backend what becomes of keys that Django changes, when that is committed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from django.db import router, transaction
from django.db.models.signals import post_delete, post_save

from tokenbudget_mw.values import Subject
from tokenbudget_mw_django import conf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw_django.models import Key

__all__ = ["connect", "tell"]


def connect() -> None:
    """
    Hear of every key that is saved or deleted as an object. `QuerySet.update` sends no signal: call `tell` after it.
    """
    from tokenbudget_mw_django.models import Key

    post_save.connect(_saved, sender=Key, dispatch_uid="tokenbudget")
    post_delete.connect(_deleted, sender=Key, dispatch_uid="tokenbudget")


def tell(keys: Sequence[Key], status: str | None = None, *, using: str | None = None) -> None:
    """
    Bar or free *keys* for all processes, as soon as the transaction is committed.

    Args:
        keys: Keys as they are now.

        status: What they are barred as; None takes their own.

        using: Alias of the database that they were changed in.
    """
    changes = [(_subject(key), status or _state(key)) for key in keys]
    if keys:
        alias = using or router.db_for_write(type(keys[0]))
        transaction.on_commit(lambda: conf.bars().tell(changes), using=alias)


def _saved(instance: Key, created: bool, using: str, **_: Any) -> None:
    if not created:
        tell([instance], using=using)


def _deleted(instance: Key, using: str, **_: Any) -> None:
    tell([instance], "deleted", using=using)


def _subject(key: Key) -> Subject:
    return Subject(
        key=key.kid,
        user=key.user_id,
        team=key.team_id,
        project=key.project_id,
        tenant=key.tenant_id,
        source="api_key",
    )


def _state(key: Key) -> str:
    is_over = key.expires_at is not None and key.expires_at.timestamp() <= time.time()
    return "expired" if key.status == "active" and is_over else key.status
