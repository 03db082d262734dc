"""
The key table behind a cache: most requests cost a hash and a dictionary.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import LRUCache
from sqlalchemy.exc import SQLAlchemyError

from tokenbudget_mw import threads
from tokenbudget_mw.database.faults import is_missing_schema
from tokenbudget_mw.errors import ConfigurationError, CredentialError
from tokenbudget_mw.rules.identity import parse_key, why_not
from tokenbudget_mw.transitions import Transitions

if TYPE_CHECKING:
    from tokenbudget_mw.database.keys import KeyRow, KeyStore
    from tokenbudget_mw.rules.identity import ApiKey
    from tokenbudget_mw.values import Subject

__all__ = ["KeyCache"]

log = logging.getLogger("tokenbudget_mw")

MOST_KEYS = 10_000
"""Most keys that are remembered, and as many texts that are none."""

STALE_SECONDS = 600.0
"""How much longer a remembered key is good while the database does not answer."""


@dataclass(frozen=True, slots=True)
class _Answer:
    subject: Subject | None
    status: str
    expires_at: float
    dead_at: float = math.inf

    def get(self) -> Subject:
        if self.subject is None:
            raise why_not(self.status)
        return self.subject


class KeyCache:
    """
    Finds the subject of a key's text. Safe among threads.

    Both kinds of answers are remembered, in tables of their own, so that guesses push out no key.

    Args:
        store: The key table.

        ttl: Seconds that an answer is remembered: so long may a revoked key still pass. 0 asks each time.

        clock: Epoch seconds.

        has_pepper: Whether *store* can recognize any key; without, the first one is told to the log.
    """

    def __init__(
        self, store: KeyStore, ttl: float = 10.0, clock: Callable[[], float] = time.time, *, has_pepper: bool = True
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._clock = clock
        self._lock = threads.lock()
        self._secret = secrets.token_bytes(32)
        self._good: LRUCache[bytes, _Answer] = LRUCache(MOST_KEYS)
        self._bad: LRUCache[bytes, _Answer] = LRUCache(MOST_KEYS)
        self._unreadable: LRUCache[str, str | None] = LRUCache(MOST_KEYS)
        self._names: LRUCache[str, bytes] = LRUCache(MOST_KEYS)
        self._generation = 0
        self._transitions = Transitions()
        self._has_pepper = has_pepper
        self._has_told_of_pepper = not has_pepper

    def cached(self, text: str) -> Subject | None:
        """
        Return the subject of a key that is remembered; None where the database must be asked. Never waits.

        Raises:
            CredentialError: *text* is no key, or is remembered as a bad one.
        """
        answer = self._fresh(self._name_of(text))
        if answer is None:
            parse_key(text)  # the database need not be asked for what is no key
            return None
        return answer.get()

    def resolve(self, text: str) -> Subject:
        """
        Return the subject of a key, from the database where it is not remembered.

        Raises:
            CredentialError: *text* is no key of ours, or a suspended, revoked or expired one (401); or the database does
                not answer, and did not know the key a few minutes ago (503).
        """
        key = parse_key(text)
        name = self._name_of(text)
        answer = self._fresh(name)
        return (self._ask(key, name) if answer is None else answer).get()

    def forget(self, kid: str | None = None) -> None:
        """
        Ask the database for key *kid* again, or for every key. An answer that is under way will not be remembered.
        """
        with self._lock:
            self._generation += 1
            if kid is None:
                self._good.clear()
                self._bad.clear()
                return
            name = self._names.pop(kid, None)
            if name is not None:
                self._good.pop(name, None)

    def _name_of(self, text: str) -> bytes:
        # the keys themselves are not kept in memory
        return hashlib.blake2s(text.encode("utf-8", "surrogatepass"), key=self._secret).digest()

    def _fresh(self, name: bytes) -> _Answer | None:
        with self._lock:
            answer = self._good.get(name) or self._bad.get(name)
        now = self._clock()
        # one that is good for longer than any was made while the clock was wrong
        return answer if answer is not None and now < answer.expires_at <= now + self._ttl else None

    def _ask(self, key: ApiKey, name: bytes) -> _Answer:
        generation = self._generation
        try:
            row = self._store.lookup(key.kid)
        except (SQLAlchemyError, ConfigurationError) as exc:  # the latter where the driver cannot even try to connect
            return self._stale(name, exc)
        self._tell(is_away=False)
        if not self._has_pepper:
            self._has_pepper = True  # said once
            log.error(
                "`pepper` is not set, so no API key is good. Set TOKENBUDGET_PEPPER, the same for app and commands."
            )
        is_known = self._store.matches(row, key)
        if row is not None and not is_known:
            self._tell_of_pepper(row)
        answer = self._judge(row if is_known else None)
        with self._lock:
            if generation == self._generation:
                self._good.pop(name, None)
                self._bad.pop(name, None)
                if answer.subject is None:
                    self._bad[name] = answer
                else:
                    self._good[name], self._names[key.kid] = answer, name
        return answer

    def _tell_of_pepper(self, row: KeyRow) -> None:
        """
        Say, the first time, that a key was refused which has the kid of another. A mistyped one fails its checksum before, so it is
        forged, or the keys were made under another pepper than this process has.
        """
        if not self._has_told_of_pepper:
            self._has_told_of_pepper = True
            log.warning(
                "A key was refused that has the kid of key %s and does not match it. If it is good elsewhere, TOKENBUDGET_PEPPER is "
                "not the one under which it was made (version %s): set the same for app and commands.",
                row.kid,
                row.pepper_version,
            )

    def _judge(self, row: KeyRow | None) -> _Answer:
        now = self._clock()
        until = now + self._ttl
        if row is None:
            return _Answer(None, "unknown", until)
        if row.status != "active":
            return _Answer(None, row.status, until)
        if row.has_expired(now):
            return _Answer(None, "expired", until)
        try:
            subject = self._store.subject_of(row)
        except ConfigurationError as exc:
            self._tell_unreadable(row, str(exc))
            return _Answer(None, "unreadable", until)
        dead_at = math.inf if row.expires_at is None else row.expires_at.timestamp()
        return _Answer(subject, row.status, min(until, dead_at), dead_at)

    def _stale(self, name: bytes, exc: Exception) -> _Answer:
        reason = str(exc) if isinstance(exc, ConfigurationError) else type(exc).__name__
        missing = "it is missing, or older than this version; run `tokenbudget-mw migrate`"
        self._tell(is_away=True, reason=missing if is_missing_schema(exc) else reason)
        with self._lock:
            answer = self._good.get(name)
        if answer is not None and self._clock() < min(answer.expires_at + STALE_SECONDS, answer.dead_at):
            return answer
        message = "API keys cannot be checked at the moment. Try again shortly."
        raise CredentialError(message, status=503, code="keys_unavailable") from exc

    def _tell_unreadable(self, row: KeyRow, reason: str) -> None:
        if self._unreadable.get(row.kid) != row.limits:
            self._unreadable[row.kid] = row.limits
            log.error("Key %s is refused, because the limits of its own cannot be read: %s", row.kid, reason)

    def _tell(self, *, is_away: bool, reason: str = "") -> None:
        if is_away and self._transitions.begins(self._clock()):
            log.error("The key table does not answer (%s); known keys stay good for %d s.", reason, STALE_SECONDS)
        elif not is_away and self._transitions.ends():
            log.warning("The key table answers again.")
