"""
Which connection of an event loop a call goes out on: that of the one server, of the sentinels' master, or of a node.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from redis.exceptions import RedisError

from tokenbudget_mw.backends.redis.client import INQUIRY_SECONDS
from tokenbudget_mw.backends.redis.script import DOUBTS
from tokenbudget_mw.backends.redis.topology import REFRESH_EVERY, master_inquiry, slots_inquiry
from tokenbudget_mw.backends.redis.wire import connect, greetings, inquire, words_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.backends.redis.deadlines import Deadlines
    from tokenbudget_mw.backends.redis.topology import Step, Topology
    from tokenbudget_mw.backends.redis.url import Place
    from tokenbudget_mw.backends.redis.wire import Wire

__all__ = ["Lanes"]

log = logging.getLogger("tokenbudget_mw")


class Lane(Protocol):
    """
    A way to one server.
    """

    async def aclose(self) -> None:
        """
        Finish what is under way, then close the connection.
        """
        ...


L = TypeVar("L", bound=Lane)


class Lanes(Generic[L]):
    """
    One loop's lanes, one a place. Where there is no cluster the place is None: wherever the server is.

    Args:
        topology: The Redis, and what is known of it.

        make: Makes the lane to a place.

        deadlines: When the waits for errands end, whichever lane they are in.

        connect_seconds: How long a connection may take to open: nobody waits for it longer than its call's deadline.

    Attributes:
        deadlines: The same.

        doubts: Calls of unknown outcome, to be undone when a server answers again.
    """

    def __init__(
        self,
        topology: Topology,
        make: Callable[[Lanes[L], Place | None], L],
        deadlines: Deadlines[Any],
        *,
        connect_seconds: float,
    ) -> None:
        self._topology = topology
        self._make = make
        self._seconds = connect_seconds
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Place | None, L] = {}
        self._refresher: asyncio.Task[None] | None = None
        self._refreshed = 0.0
        self.deadlines = deadlines
        self.doubts: deque[Any] = deque(maxlen=DOUBTS)

    def of(self, key: str) -> L:
        """
        Return the lane to where *key* is, as far as is known.
        """
        topology = self._topology
        if topology.is_cluster and not topology.slots.is_known:
            self.refresh()
        return self._at(topology.place_of(key))

    def follow(self, step: Step) -> L:
        """
        Return the lane to where *step* says, and remember it where that is for good.
        """
        if step.slot is not None:
            self._topology.slots.move(step.slot, step.place)
            self.refresh()  # where one slot has moved, others have
        return self._at(step.place)

    def lost(self, place: Place | None) -> None:
        """
        Hear that *place* does not answer: others may know who has its slots now.
        """
        if place is not None:
            self._topology.places.avoid(place)
            self.refresh()

    def refresh(self) -> None:
        """
        Ask for the slots again, in a task.
        """
        is_busy = self._refresher is not None and not self._refresher.done()
        if not is_busy and self._loop.time() - self._refreshed >= REFRESH_EVERY:
            self._refreshed = self._loop.time()
            self._refresher = self._loop.create_task(self._refresh())

    async def connect(self, place: Place | None) -> Wire:
        """
        Connect to *place*.

        Raises:
            OSError: Nobody listens, or not in time.

            RedisError: Redis refuses us.
        """
        deployment = self._topology.deployment
        at = place or await self._find()
        async with asyncio.timeout(self._seconds):
            hello = greetings(await words_of(deployment.credentials), deployment.db)
            return await connect(at, deployment.tls, hello)

    async def aclose(self) -> None:
        """
        Finish what is under way, then close all connections.
        """
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
        for lane in list(self._lanes.values()):
            await lane.aclose()

    def _at(self, place: Place | None) -> L:
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = self._make(self, place)
        return lane

    async def _find(self) -> Place:
        deployment = self._topology.deployment
        if deployment.kind == "sentinel":
            return await inquire(master_inquiry(self._topology), deployment, INQUIRY_SECONDS)
        return deployment.places[0]

    async def _refresh(self) -> None:
        try:
            owners = await inquire(slots_inquiry(self._topology), self._topology.deployment, INQUIRY_SECONDS)
        except (RedisError, OSError) as exc:
            log.debug("Nobody knows the slots of the cluster: %s", type(exc).__name__)
            return
        nodes = self._topology.learn(owners)
        for place in self._lanes.keys() - {*nodes}:
            await self._lanes.pop(place).aclose()
