"""
What is asked of a Redis once, behind the first connection: whether it keeps counters, and lets us do what limits need.
"""

from __future__ import annotations

import logging
import os
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError

from tokenbudget_mw.backends.redis.client import connect, inquire, unavailable
from tokenbudget_mw.backends.redis.script import Script
from tokenbudget_mw.backends.redis.topology import Topology, code_of, master_inquiry, slots_inquiry
from tokenbudget_mw.backends.redis.url import read_url
from tokenbudget_mw.backends.redis.wire import frame, greetings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenbudget_mw.backends.redis.url import Place

__all__ = ["LEAST_RIGHTS", "Inspection", "Look", "eviction_fault", "look_at", "policy_of"]

log = logging.getLogger("tokenbudget_mw")

LEAST_RIGHTS = (
    "~tb:* +eval +evalsha +script|load +time +del +hget +hgetall +hmget +hexists +hset +hdel +pexpire"
    " +ping +select +info +cluster|slots +asking"
)
"""What a user of Redis must be allowed, as ACL SETUSER takes it."""


RIGHTS_FAULT = f"Redis refuses this user what limits need (NOPERM). Allow it: ACL SETUSER <user> {LEAST_RIGHTS}"


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
        dry_run = files("tokenbudget_mw.backends.redis").joinpath("rights.lua").read_bytes()
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
        if any(map(_is_forbidden, acts)):
            self._say(logging.ERROR, RIGHTS_FAULT)
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


def policy_of(info: Any) -> str:
    """
    Read maxmemory-policy out of a reply to INFO; empty where that was refused.
    """
    return _fact(info, "maxmemory_policy")


def _fact(info: Any, name: str) -> str:
    text = info.decode(errors="replace") if isinstance(info, bytes) else ""
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:")), "")


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


class Look(NamedTuple):
    """
    What was seen of one server.

    Attributes:
        place: Its host and port; empty where there is only one.

        version: Its version; empty where that is not told.

        policy: Its maxmemory-policy; empty where that is not told.

        fault: Why it is of no use; empty where it is.
    """

    place: str
    version: str = ""
    policy: str = ""
    fault: str = ""


def look_at(url: str, seconds: float) -> Iterator[Look]:
    """
    Look at each server that *url* means, of which each may take *seconds* to answer.
    """
    topology = Topology(read_url(url))
    try:
        places = _servers(topology)
    except (RedisError, OSError) as exc:
        yield Look("", fault=str(unavailable(exc, seconds)))
        return
    for place in places:
        name = f"{place.host}:{place.port}" if topology.deployment.kind != "server" else ""
        try:
            yield _look(topology, place, name, seconds)
        except (RedisError, OSError) as exc:
            yield Look(name, fault=str(unavailable(exc, seconds)))


def _servers(topology: Topology) -> Sequence[Place]:
    deployment = topology.deployment
    if deployment.kind == "cluster":
        return topology.learn(inquire(slots_inquiry(topology), deployment))
    if deployment.kind == "sentinel":
        return [inquire(master_inquiry(topology), deployment)]
    return deployment.places


def _look(topology: Topology, place: Place, name: str, seconds: float) -> Look:
    deployment = topology.deployment
    hello = greetings(deployment.credentials.read(), deployment.db)
    wire = connect(place, deployment.tls, hello, seconds)
    try:
        frames = [*Inspection.frames(Script()), frame(b"INFO")]
        *acts, _, info = wire.ask(b"".join(frames), len(frames), time.monotonic() + seconds)
    finally:
        wire.close()
    fault = RIGHTS_FAULT if any(map(_is_forbidden, acts)) else ""
    return Look(name, _fact(info, "redis_version"), policy_of(info), fault)
