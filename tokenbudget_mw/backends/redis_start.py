"""
What is asked of a Redis once, behind the first connection: whether it keeps counters, and lets us do what limits need.
"""

from __future__ import annotations

import logging
import os
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.backends.redis_topology import code_of
from tokenbudget_mw.backends.redis_wire import frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.backends.redis_script import Script
    from tokenbudget_mw.backends.redis_url import Place

__all__ = ["LEAST_RIGHTS", "Inspection", "eviction_fault", "policy_of"]

log = logging.getLogger("tokenbudget_mw")

LEAST_RIGHTS = (
    "~tb:* +eval +evalsha +script|load +time +del +hget +hgetall +hmget +hexists +hset +hdel +pexpire"
    " +ping +select +info +cluster|slots +asking"
)
"""What a user of Redis must be allowed, as ACL SETUSER takes it."""


class Inspection:
    """
    Asks each place once a process, and says each thing once. Shared by both colours.
    """

    def __init__(self) -> None:
        self._asked: set[tuple[int, Place | None]] = set()
        self._said: set[str] = set()

    def is_due(self, place: Place | None) -> bool:
        """
        Tell whether *place* was not asked before, and note that now it is.
        """
        key = (os.getpid(), place)
        is_new = key not in self._asked
        self._asked.add(key)
        return is_new

    @staticmethod
    def frames(script: Script) -> list[bytes]:
        """
        Return the questions: the script, so that it is there when it is needed; a dry run; and the memory's policy.
        """
        dry_run = files("tokenbudget_mw.backends").joinpath("redis_rights.lua").read_bytes()
        return [
            frame(b"SCRIPT", b"LOAD", script.text.encode()),
            frame(b"EVAL", dry_run, b"1", b"tb:{probe}:rights"),
            frame(b"INFO", b"memory"),
        ]

    def heard(self, replies: Sequence[Any]) -> None:
        """
        Log what is wrong. An error that every call will meet, too, is for the breaker to tell; rights are for us.
        """
        *acts, memory = replies
        if any(_is_forbidden(reply) for reply in acts):
            self._say(
                logging.ERROR,
                "Redis refuses this user what limits need (NOPERM). Allow it: ACL SETUSER <user> " + LEAST_RIGHTS,
            )
        fault = eviction_fault(policy_of(memory))
        if fault:
            self._say(logging.WARNING, fault)

    def _say(self, level: int, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.log(level, "%s", text)


def _is_forbidden(reply: Any) -> bool:
    # in a script, some versions have other words for it
    return code_of(reply) == "NOPERM" or "ACL failure in script" in str(reply) or "can't run this command" in str(reply)


def policy_of(memory: Any) -> str:
    """
    Read maxmemory-policy out of a reply to INFO; empty where that was refused.
    """
    text = memory.decode(errors="replace") if isinstance(memory, bytes) else ""
    return next((line[17:].strip() for line in text.splitlines() if line.startswith("maxmemory_policy:")), "")


def eviction_fault(policy: str) -> str:
    """
    Say what maxmemory-policy *policy* does to limits; nothing where it is harmless, or not known.

    >>> eviction_fault("noeviction"), eviction_fault("")
    ('', '')
    """
    if policy in {"", "noeviction"}:
        return ""
    whose = "" if policy.startswith("allkeys") else ", and all of ours have a TTL"
    return (
        f"Redis may evict counters (maxmemory-policy {policy}{whose}): an evicted limit is forgotten. Use noeviction."
    )
