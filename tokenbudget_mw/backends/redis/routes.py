"""
Which connections a thread's call goes out on: those of the one server, of the sentinels' master, or of a cluster's node.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from tokenbudget_mw import threads
from tokenbudget_mw.backends.redis.client import CONNECT_SECONDS, connect, inquire
from tokenbudget_mw.backends.redis.pool import Pool
from tokenbudget_mw.backends.redis.topology import REFRESH_EVERY, master_inquiry, slots_inquiry
from tokenbudget_mw.backends.redis.wire import greetings

if TYPE_CHECKING:
    import threading

    from tokenbudget_mw.backends.redis.client import BlockingWire
    from tokenbudget_mw.backends.redis.script import Script
    from tokenbudget_mw.backends.redis.start import Inspection
    from tokenbudget_mw.backends.redis.topology import Step, Topology
    from tokenbudget_mw.backends.redis.url import Place

__all__ = ["Routes"]

log = logging.getLogger("tokenbudget_mw")


class Routes:
    """
    Pools of connections, one a place. Where there is no cluster the place is None: wherever the server is.

    Args:
        topology: The Redis, and what is known of it.

        script: For the inspection.

        inspection: Done behind the first connection to each place.

        connections: The most that are open to one place.

        connect_seconds: How long one may take to open.
    """

    def __init__(
        self,
        topology: Topology,
        script: Script,
        inspection: Inspection,
        *,
        connections: int,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._topology = topology
        self._deployment = topology.deployment
        self._script = script
        self._inspection = inspection
        self._connections = connections
        self._seconds = connect_seconds
        self._pools: dict[Place | None, Pool] = {}
        self._refresher: threading.Thread | None = None
        self._refreshed = 0.0

    def place_of(self, key: str) -> Place | None:
        """
        Return where *key* is, as far as is known.
        """
        topology = self._topology
        if topology.is_cluster and not topology.slots.is_known:
            self.refresh()
        return topology.place_of(key)

    def pool(self, place: Place | None) -> Pool:
        """
        Return the connections to *place*.
        """
        found = self._pools.get(place)
        if found is None:
            found = self._pools.setdefault(place, Pool(partial(self._connect, place), self._connections))
        return found

    def follow(self, step: Step) -> Place:
        """
        Go where *step* says, and remember it where that is for good.
        """
        if step.slot is not None:
            self._topology.slots.move(step.slot, step.place)
            self.refresh()  # where one slot has moved, others have
        return step.place

    def lost(self, place: Place | None) -> None:
        """
        Hear that *place* does not answer: others may know who has its slots now.
        """
        if place is not None:
            self._topology.places.avoid(place)
            self.refresh()

    def refresh(self) -> None:
        """
        Ask for the slots again, aside.
        """
        now = time.monotonic()
        if now - self._refreshed < REFRESH_EVERY or (self._refresher is not None and self._refresher.is_alive()):
            return
        self._refreshed = now
        if not threads.can_run():
            self._refresh()
            return
        self._refresher = threads.start(self._refresh, name="tokenbudget-slots")

    def close(self) -> None:
        """
        Close all connections.
        """
        for pool in list(self._pools.values()):
            pool.close()

    def _refresh(self) -> None:
        try:
            owners = inquire(slots_inquiry(self._topology), self._deployment)
        except (RedisError, OSError) as exc:
            log.debug("Nobody knows the slots of the cluster: %s", type(exc).__name__)
            return
        for place in self._pools.keys() - {*self._topology.learn(owners)}:
            self._pools.pop(place).close()

    def _connect(self, place: Place | None, seconds: float | None) -> BlockingWire:
        deployment = self._deployment
        at = place or self._find()
        hello = greetings(deployment.credentials.read(), deployment.db)
        wire = connect(at, deployment.tls, hello, self._seconds if seconds is None else seconds)
        if self._inspection.is_due(place):
            threads.start(self._inspect, at, hello, name="tokenbudget-inspect")
        return wire

    def _find(self) -> Place:
        if self._deployment.kind == "sentinel":
            return inquire(master_inquiry(self._topology), self._deployment)
        return self._deployment.places[0]

    def _inspect(self, place: Place, hello: list[bytes]) -> None:
        try:
            wire = connect(place, self._deployment.tls, hello, self._seconds)
            try:
                frames = self._inspection.frames(self._script)
                replies = wire.ask(b"".join(frames), len(frames), time.monotonic() + self._seconds)
            finally:
                wire.close()
        except (RedisError, OSError) as exc:
            log.debug("Redis was not inspected: %s", type(exc).__name__)
            return
        self._inspection.heard(replies)
