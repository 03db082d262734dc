"""
Where a counter lives among several servers: the slots of a cluster, what its redirections say, the sentinels' master.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tokenbudget_mw.backends.redis.url import Place

if TYPE_CHECKING:
    from tokenbudget_mw.backends.redis.url import Credentials, Deployment

__all__ = [
    "REFRESH_EVERY",
    "TRY_AGAIN_AFTER",
    "Inquiry",
    "Places",
    "Slots",
    "Step",
    "Topology",
    "code_of",
    "master_inquiry",
    "next_step",
    "slot_of",
    "slots_inquiry",
]

SLOTS = 16_384

SENDS = 16
"""How often one call is sent at most without a pause: Redis may send it round in a circle."""

TRY_AGAIN_AFTER = 0.005
"""Seconds until a call is sent again whose keys are on their way from one node to another."""

REFRESH_EVERY = 0.1
"""The slots of a cluster are asked for no more often, in seconds."""

RENEWING = ("READONLY", "LOADING", "MASTERDOWN", "NOAUTH")
"""What a server says that is no longer, or not yet, the one to ask: a new connection may find another."""

T = TypeVar("T")

_CODE = re.compile(r"([A-Z]{2,})(?: |$)")
_CODE_IN_SCRIPT = re.compile(r": -([A-Z]{2,}) ")  # before Redis 7


def slot_of(key: str) -> int:
    """
    Return the slot of a key that has a hash tag (cluster specification, "Hash tags").

    >>> slot_of("tb:{acme}:key=k1") == slot_of("tb:{acme}:tenant=acme")
    True
    """
    begin = key.index("{") + 1
    return crc_hqx(key[begin : key.index("}", begin)].encode(), 0) % SLOTS


class Slots:
    """
    Which node has which slot. Safe to share between threads: a slot is one list item, a whole map one list.

    Attributes:
        is_known: Whether anybody has told.
    """

    def __init__(self) -> None:
        self.is_known = False
        self._owners: list[Place | None] = [None] * SLOTS

    def owner(self, slot: int) -> Place | None:
        """
        Return the node that has *slot*; None where that is not known.
        """
        return self._owners[slot]

    def move(self, slot: int, place: Place) -> None:
        """
        Note that *slot* is at *place*.
        """
        self._owners[slot] = place

    def replace(self, owners: list[Place | None]) -> None:
        """
        Note where all slots are.
        """
        self._owners = owners
        self.is_known = True

    def nodes(self) -> list[Place]:
        """
        Return the nodes that have slots.
        """
        return [place for place in dict.fromkeys(self._owners) if place is not None]


class Places:
    """
    Places that can be asked, those that answered first.

    Args:
        seeds: What the URL names.
    """

    def __init__(self, seeds: Sequence[Place]) -> None:
        self._seeds = tuple(seeds)
        self._order = tuple(seeds)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._order)

    @property
    def first(self) -> Place:
        """
        The one to ask first.
        """
        return self._order[0]

    def learn(self, others: Sequence[Place]) -> None:
        """
        Ask *others*, too.
        """
        self._order = tuple(dict.fromkeys([*others, *self._seeds]))

    def prefer(self, place: Place) -> None:
        """
        Ask *place* first.
        """
        self._order = (place, *[other for other in self._order if other != place])

    def avoid(self, place: Place) -> None:
        """
        Ask *place* last.
        """
        if self._order[-1] != place:
            self._order = (*[other for other in self._order if other != place], place)


class Topology:
    """
    What is known of where things are, shared by both colours.

    Args:
        deployment: The Redis.

    Attributes:
        deployment: The same.

        is_cluster: Whether there are slots. Where there are none, every place is None: wherever the one server is.

        places: Whom to ask: the server, sentinels or nodes.

        slots: Of a cluster.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.is_cluster = deployment.kind == "cluster"
        self.places = Places(deployment.places)
        self.slots = Slots()

    def place_of(self, key: str) -> Place | None:
        """
        Return where *key* is. A node that does not have it says who has.
        """
        if not self.is_cluster:
            return None
        return self.slots.owner(slot_of(key)) or self.places.first

    def server_of(self, tag: str) -> str:
        """
        Return the name, for logs, of the server that has the counters under *tag*.
        """
        place = self.place_of(f"{{{tag or '-'}}}")
        return "" if place is None else f"{place.host}:{place.port}"

    def learn(self, owners: list[Place | None]) -> list[Place]:
        """
        Note where all slots are, and return the nodes that have some.
        """
        self.slots.replace(owners)
        nodes = self.slots.nodes()
        self.places.learn(nodes)
        return nodes


class Inquiry(NamedTuple, Generic[T]):
    """
    A question that any of several places can answer.

    Attributes:
        places: Whom to ask, one after the other.

        credentials: How they let us in.

        command: Its words.

        read: Turns a reply, and who gave it, into the answer; raises `RedisConnectionError` where it is none.
    """

    places: Places
    credentials: Credentials
    command: tuple[bytes, ...]
    read: Callable[[Any, Place], T]


def slots_inquiry(topology: Topology) -> Inquiry[list[Place | None]]:
    """
    Ask nodes of a cluster which of them has which slot.
    """
    return Inquiry(topology.places, topology.deployment.credentials, (b"CLUSTER", b"SLOTS"), _read_slots)


def master_inquiry(topology: Topology) -> Inquiry[Place]:
    """
    Ask sentinels where the master is.
    """
    command = (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", topology.deployment.service.encode())
    return Inquiry(topology.places, topology.deployment.sentinel_credentials, command, _read_master)


def _read_slots(reply: Any, asked: Place) -> list[Place | None]:
    owners: list[Place | None] = [None] * SLOTS
    for first, last, master, *_ in reply:
        host = master[0].decode() if master[0] else asked.host  # it may not know its own name
        owners[first : last + 1] = [Place(host, master[1])] * (last + 1 - first)
    if not any(owners):
        raise RedisConnectionError("This node belongs to no cluster yet.")
    return owners


def _read_master(reply: Any, _: Place) -> Place:
    if not reply:
        raise RedisConnectionError("This sentinel does not know the service.")
    return Place(reply[0].decode(), int(reply[1]))


NOWHERE = Place("", 0)


def code_of(error: BaseException) -> str:
    """
    Return the code of an error that Redis gave: its first word, or what made a script end; empty where it is no such.

    >>> code_of(ResponseError("MOVED 866 10.0.0.1:6379"))
    'MOVED'
    >>> code_of(ResponseError("ERR Error running script (call to f_1): @user_script:7: -READONLY You can't write."))
    'READONLY'
    """
    if not isinstance(error, ResponseError):
        return ""
    text = str(error)
    found = _CODE_IN_SCRIPT.search(text) if text.startswith("ERR ") else None
    found = found or _CODE.match(text)
    return found.group(1) if found else ""


class Step(NamedTuple):
    """
    What to do with a call whose answer is an error.

    Attributes:
        kind: ``fail``; ``again`` (at once, on whatever connection there is); ``renew`` (on a new connection); ``load``
            (with the script's text); ``later`` (after `TRY_AGAIN_AFTER`); ``elsewhere``.

        place: Where, for ``elsewhere``.

        is_asking: Whether that place has to be told that it was named for this one call (ASKING).

        slot: Which slot has moved there for good; None where none has.
    """

    kind: Literal["fail", "again", "renew", "load", "later", "elsewhere"]
    place: Place = NOWHERE
    is_asking: bool = False
    slot: int | None = None


FAIL = Step("fail")


def next_step(error: Exception, sends: int, asked: Place | None) -> Step:
    """
    Say what to do about *error*, the answer of *asked* to a call that was sent *sends* times so far.

    Every call may be sent twice: each is known by its reservation's id. But a timeout is final.
    """
    if isinstance(error, RedisConnectionError):
        return Step("again") if sends == 1 else FAIL
    if not isinstance(error, ResponseError) or sends >= SENDS:
        return FAIL
    code, words = code_of(error), str(error).split(" ")
    if code == "NOSCRIPT":
        return Step("load")
    if code == "TRYAGAIN":
        return Step("later")
    if code in {"MOVED", "ASK"} and asked is not None:
        host, _, port = words[2].rpartition(":")
        is_moved = code == "MOVED"
        return Step(
            "elsewhere", Place(host or asked.host, int(port)), not is_moved, int(words[1]) if is_moved else None
        )
    return Step("renew") if code in RENEWING and sends == 1 else FAIL
