"""
What is known of an API key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tokenbudget_mw.values import Subject

if TYPE_CHECKING:
    from sqlalchemy.engine import RowMapping

__all__ = ["KeyRow", "NewKey", "Status", "row_of"]

Status = Literal["active", "suspended", "revoked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """
    What is known of a key. All moments are aware, in UTC.

    Attributes:
        kid: Its public id.

        digest: HMAC-SHA256 of its text, hexadecimal.

        pepper_version: Which pepper that was.

        last4: The last four characters of its text, to recognise it by.

        name: What its owner calls it.

        user_id: User it acts for.

        team_id: Team it acts for.

        project_id: Project it acts for.

        tenant_id: Tenant it acts for.

        plan: Plan in the settings; None takes the default.

        purpose: ``realtime``, ``batch``, ``playground``, ``platform``.

        status: ``active``, ``suspended`` (may be resumed) or ``revoked`` (for good).

        created_at: When it was made.

        expires_at: From when on it is refused; None for never.

        revoked_at: When it was revoked.

        rotated_to: The key that takes its place.

        last_used_at: When it was last seen, coarsely.

        tags: The owner's notes.
    """

    kid: str
    digest: str = field(repr=False)
    pepper_version: int
    last4: str
    name: str
    user_id: str | None
    team_id: str | None
    project_id: str | None
    tenant_id: str | None
    plan: str | None
    purpose: str
    status: Status
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_to: str | None
    last_used_at: datetime | None
    tags: Mapping[str, str]

    def subject(self) -> Subject:
        """
        Return who pays and is limited when this key is used.
        """
        return Subject(
            key=self.kid,
            user=self.user_id,
            team=self.team_id,
            project=self.project_id,
            tenant=self.tenant_id,
            plan=self.plan,
            purpose=self.purpose,
            source="api_key",
        )

    def state(self, now: float) -> str:
        """
        Return its status at *now*, in epoch seconds: ``expired`` where it is active and past its time.
        """
        return "expired" if self.status == "active" and self.has_expired(now) else self.status

    def has_expired(self, now: float) -> bool:
        """
        Whether it is past its time at *now*, in epoch seconds.
        """
        return self.expires_at is not None and self.expires_at.timestamp() <= now


@dataclass(frozen=True, slots=True)
class NewKey:
    """
    A key that was just made.

    Attributes:
        row: What the table holds.

        text: The key itself. It can never be read again.
    """

    row: KeyRow
    text: str = field(repr=False)


def row_of(found: RowMapping | Mapping[str, Any]) -> KeyRow:
    """
    Return what a row of the table, or the values of a new one, say of a key.
    """
    return KeyRow(**{**found, "tags": msgspec.json.decode(found["tags"], type=dict[str, str])})
