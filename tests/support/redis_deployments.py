"""
Several redis-server processes that belong to one test: a cluster, or a master with a replica under a sentinel.

Formed by commands, because not every package with a redis-server brings redis-cli.
"""

from __future__ import annotations

import random
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from private_servers import RedisServer, answers, find_redis, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Cluster", "Watched", "cluster", "watched"]

SLOTS = 16_384
NODE_TIMEOUT = 500  # milliseconds
SERVICE = "counters"


def say(server: RedisServer, *command: object) -> Any:
    """
    Say *command* to *server*.
    """
    import redis

    with redis.Redis(port=server.port) as client:
        return client.execute_command(*command)


def _wait(is_so: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not come about")
        time.sleep(0.02)


class Cluster:
    """
    Three masters, the first of which has a replica.

    Attributes:
        nodes: The masters.

        replica: The first one's replica.
    """

    def __init__(self, nodes: list[RedisServer], replica: RedisServer) -> None:
        self.nodes = nodes
        self.replica = replica
        self._ids = {node.port: self._own_id(node) for node in [*nodes, replica]}

    @property
    def url(self) -> str:
        """
        The backend's URL.
        """
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/"

    def form(self) -> None:
        """
        Make one cluster of the servers, and wait until all of it answers.
        """
        first = self.nodes[0]
        for at, node in enumerate(self.nodes):
            own = range(at * SLOTS // 3, (at + 1) * SLOTS // 3)
            say(node, "CLUSTER", "ADDSLOTS", *own)
            say(node, "CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        for node in [*self.nodes[1:], self.replica]:
            say(node, "CLUSTER", "MEET", "127.0.0.1", first.port)
        everyone = [*self.nodes, self.replica]
        _wait(lambda: all(self._knows_all(node) for node in everyone), "the cluster")
        say(self.replica, "CLUSTER", "REPLICATE", self._ids[first.port])
        _wait(lambda: all(self._is_well(node) for node in self.nodes), "a cluster that is well")
        _wait(lambda: _is_up_to_date(self.replica), "the replica")

    def owner(self, slot: int) -> RedisServer:
        """
        Return the master that has *slot*, if no slot was moved.
        """
        return next(node for at, node in enumerate(self.nodes) if slot < (at + 1) * SLOTS // 3)

    def other(self, node: RedisServer) -> RedisServer:
        """
        Return a master that is not *node*, and has no replica.
        """
        return next(other for other in self.nodes[1:] if other is not node)

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """
        Begin to move *slot*: from now on *source* sends away what it does not have.
        """
        say(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source.port])
        say(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[target.port])

    def move_key(self, key: bytes, source: RedisServer, target: RedisServer) -> None:
        """
        Move *key*.
        """
        say(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """
        Move the slot's other keys, and tell all nodes where it is.
        """
        for key in say(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000):
            self.move_key(key, source, target)
        for node in [target, source, *self.nodes]:
            say(node, "CLUSTER", "SETSLOT", slot, "NODE", self._ids[target.port])

    @staticmethod
    def _own_id(node: RedisServer) -> str:
        found = say(node, "CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else str(found)

    def _knows_all(self, node: RedisServer) -> bool:
        return _cluster_info(node).get("cluster_known_nodes") == str(len(self.nodes) + 1)

    @staticmethod
    def _is_well(node: RedisServer) -> bool:
        info = _cluster_info(node)
        return info["cluster_state"] == "ok" and info["cluster_slots_assigned"] == str(SLOTS)


def _is_up_to_date(server: RedisServer) -> bool:
    role = say(server, "ROLE")
    return bool(role[0] == b"slave" and role[3] == b"connected")


def _cluster_info(node: RedisServer) -> dict[str, str]:
    found = say(node, "CLUSTER", "INFO")
    return found if isinstance(found, dict) else dict(line.split(":") for line in found.decode().split())


def _cluster_port() -> int:
    # The nodes' own talk goes over the port 10,000 above; both are below those that outgoing connections take.
    while True:
        port = random.randrange(12_000, 22_000)
        if _is_free(port) and _is_free(port + 10_000):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def cluster() -> Iterator[Cluster]:
    """
    Run a cluster.
    """
    with ExitStack() as stack:
        servers = []
        for _ in range(4):
            options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT)]
            server = RedisServer(*options, "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
            stack.callback(server.close)
            server.port = _cluster_port()
            server.start()
            servers.append(server)
        found = Cluster(servers[:3], servers[3])
        found.form()
        yield found


class Sentinel(RedisServer):
    """
    A sentinel, which is a redis-server that watches others.

    Args:
        master: Whom it watches.
    """

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self._master = master

    def start(self) -> None:
        config, log = self._folder / "sentinel.conf", self._folder / "log"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]
        config.write_text("\n".join(lines) + "\n")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [find_redis(), str(config), "--sentinel"], stdout=output, stderr=output, cwd=self._folder
            )
        wait_until(lambda: answers(self.port, b"PING\r\n", b"+PONG"), self._process, log)


class Watched:
    """
    A master and a replica under a sentinel.

    Attributes:
        master: The master, until a failover.

        replica: Its replica.

        sentinel: Who watches both.
    """

    def __init__(self, master: RedisServer, replica: RedisServer, sentinel: RedisServer) -> None:
        self.master = master
        self.replica = replica
        self.sentinel = sentinel

    @property
    def url(self) -> str:
        """
        The backend's URL. The first sentinel in it does not exist.
        """
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.sentinel.port}/{SERVICE}/0"

    def wait_until_known(self) -> None:
        """
        Wait until the sentinel knows the replica, and the replica is up to date.
        """
        _wait(lambda: len(say(self.sentinel, "SENTINEL", "SLAVES", SERVICE)) == 1, "a sentinel that knows the replica")
        _wait(lambda: _is_up_to_date(self.replica), "a replica that is up to date")

    def fail_over(self) -> None:
        """
        Make the replica the master and the master a replica, as an operator does.
        """
        _wait(self._begins, "a replica that the sentinel likes")
        _wait(self.is_failed_over, "a failover")
        say(self.master, "REPLICAOF", "127.0.0.1", self.replica.port)  # the sentinel itself takes ten seconds for it

    def _begins(self) -> bool:
        import redis

        try:
            say(self.sentinel, "SENTINEL", "FAILOVER", SERVICE)
        except redis.ResponseError:  # NOGOODSLAVE: it has not looked closely yet
            return False
        return True

    def is_failed_over(self) -> bool:
        """
        Tell whether the sentinel says that the replica is the master now.
        """
        return int(say(self.sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1]) == self.replica.port


@contextmanager
def watched() -> Iterator[Watched]:
    """
    Run a master and a replica under a sentinel.
    """
    with ExitStack() as stack:

        def run(server: RedisServer) -> RedisServer:
            stack.callback(server.close)
            server.start()
            return server

        master = run(RedisServer("--repl-diskless-sync-delay", "0"))
        replica = run(RedisServer("--replicaof", "127.0.0.1", str(master.port)))
        found = Watched(master, replica, run(Sentinel(master)))
        found.wait_until_known()
        yield found
