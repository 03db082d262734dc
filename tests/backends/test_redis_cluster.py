"""
Counters in a cluster: each tenant's at one node, found wherever it goes, and nobody else's when that node is away.
"""

from __future__ import annotations

import logging
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tokenbudget_mw.testing.asks import ask, check, in_flight, settlement

if TYPE_CHECKING:
    from collections.abc import Callable

    from private_servers import RedisServer
    from redis_deployments import Cluster

    from tokenbudget_mw.backends.base import Backend

redis = pytest.importorskip("redis")
deployments = pytest.importorskip("redis_deployments")
topology = pytest.importorskip("tokenbudget_mw.backends.redis.topology")

PATIENCE = 5.0  # the deadline where a busy machine must not be taken for a fault

pytestmark = pytest.mark.slow


def tag_at(cluster: Cluster, node: RedisServer) -> str:
    """
    Return a tag whose counters are at *node*.
    """
    return next(tag for tag in map(str, count()) if cluster.owner(topology.slot_of(f"{{{tag}}}")) is node)


def keys_of(node: RedisServer) -> set[bytes]:
    """
    Return the keys of limits at *node*.
    """
    return set(deployments.say(node, "KEYS", "tb:*key=*"))


def wait_until(is_so: Callable[[], bool], seconds: float = 10.0) -> float:
    """
    Wait until *is_so*; return how many seconds that took.
    """
    begin, pause = time.monotonic(), threading.Event()
    while not is_so():
        assert time.monotonic() - begin < seconds, "it never came true"
        pause.wait(0.01)
    return time.monotonic() - begin


def take(backend: Backend, tag: str, cap: int = 100, *others: Any) -> Any:
    """
    Take one of *cap* under *tag*.
    """
    return backend.reserve(ask(check(1, cap), *others, tag=tag), 0.0)


def test_each_tenant_has_its_node(opened: Callable[..., Backend], redis_cluster: Cluster) -> None:
    """
    Every counter is counted exactly, at the node that has its slot; settlements find it, too.
    """
    backend = opened(redis_cluster.url, deadline=PATIENCE)
    tags = [tag_at(redis_cluster, node) for node in redis_cluster.nodes]
    for tag in tags:
        asked = ask(check(1, 10), in_flight(1), tag=tag)
        reply = backend.reserve(asked, 0.0)
        assert backend.settle(settlement(asked, reply, 3, 0), 0.0)
        reply = backend.reserve(ask(check(1, 10), in_flight(1), tag=tag), 0.0)
        assert (reply.admitted, reply.degraded, reply.states[0].remaining) == (True, False, 6)

    for tag, node in zip(tags, redis_cluster.nodes, strict=True):
        assert keys_of(node) == {f"tb:{{{tag}}}:key=k1".encode()}


def test_t16_a_slot_moves_under_its_counter(
    opened: Callable[..., Backend], redis_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Before, while and after its slot is moved to another node, a counter counts on, and nobody hears of it.
    """
    backend = opened(redis_cluster.url, deadline=PATIENCE)
    source = redis_cluster.nodes[0]
    tag, target = tag_at(redis_cluster, source), redis_cluster.other(source)
    slot, key = topology.slot_of(f"{{{tag}}}"), f"tb:{{{tag}}}:key=k1".encode()
    asked = ask(check(1, 100), in_flight(1), tag=tag)
    held = backend.reserve(asked, 0.0)
    remaining = [held.states[0].remaining]

    redis_cluster.begin_move(slot, source, target)
    remaining.append(take(backend, tag).states[0].remaining)
    redis_cluster.move_key(key, source, target)  # from here on the old node says ASK
    remaining += [take(backend, tag).states[0].remaining for _ in range(2)]
    assert backend.settle(settlement(asked, held, 1, 0), 0.0)
    redis_cluster.end_move(slot, source, target)  # and from here on MOVED
    remaining += [take(backend, tag).states[0].remaining for _ in range(3)]

    assert remaining == [99, 98, 97, 96, 95, 94, 93]
    assert backend.reserve(ask(in_flight(1), tag=tag), 0.0).admitted
    assert keys_of(target) == {key}
    assert not caplog.messages


def test_t16_exactly_the_limit_is_admitted_while_its_slot_moves(
    opened: Callable[..., Backend], redis_cluster: Cluster
) -> None:
    """
    Eight threads ask without pause while the slot goes to another node and back, again and again: none is admitted twice
    or forgotten.
    """
    limit, is_over = 300, threading.Event()
    backend = opened(redis_cluster.url, deadline=PATIENCE)
    here = redis_cluster.nodes[0]
    tag, there = tag_at(redis_cluster, here), redis_cluster.other(here)
    slot = topology.slot_of(f"{{{tag}}}")
    replies: list[Any] = [take(backend, tag, limit)]

    def work() -> None:
        reply = replies[0]
        while reply.admitted or not is_over.is_set():
            reply = take(backend, tag, limit)
            replies.append(reply)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for source, target in [(here, there), (there, here)] * 3:
        redis_cluster.begin_move(slot, source, target)
        redis_cluster.end_move(slot, source, target)
    is_over.set()
    for worker in workers:
        worker.join(60)

    assert not any(reply.degraded for reply in replies)
    assert sum(reply.admitted for reply in replies) == limit


def test_t16_keys_that_are_apart_while_their_slot_moves_are_waited_for(
    opened: Callable[..., Backend], redis_cluster: Cluster
) -> None:
    """
    A request of two counters, one of which has moved, waits for the other within the deadline.
    """
    backend = opened(redis_cluster.url, deadline=PATIENCE)
    source = redis_cluster.nodes[0]
    tag, target = tag_at(redis_cluster, source), redis_cluster.other(source)
    slot, other = topology.slot_of(f"{{{tag}}}"), check(1, 10, counter="tenant=t")
    take(backend, tag, 100, other)
    redis_cluster.begin_move(slot, source, target)
    redis_cluster.move_key(f"tb:{{{tag}}}:key=k1".encode(), source, target)
    mover = threading.Timer(0.1, redis_cluster.end_move, (slot, source, target))
    mover.start()
    reply = take(backend, tag, 100, other)
    mover.join()

    assert (reply.degraded, [state.remaining for state in reply.states]) == (False, [98, 8])


def test_t16_a_slot_that_moves_for_long_costs_no_other_tenant_its_limits(
    opened: Callable[..., Backend], redis_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """
    After the deadline the policy holds for the request; the node is well, so no circuit opens.
    """
    backend = opened(redis_cluster.url, deadline=0.3)
    source = redis_cluster.nodes[0]
    tag, target = tag_at(redis_cluster, source), redis_cluster.other(source)
    neighbour = next(
        tag for tag in map(str, count(1000)) if redis_cluster.owner(topology.slot_of(f"{{{tag}}}")) is source
    )
    other = check(1, 10, counter="tenant=t")
    take(backend, tag, 100, other)
    redis_cluster.begin_move(topology.slot_of(f"{{{tag}}}"), source, target)
    redis_cluster.move_key(f"tb:{{{tag}}}:key=k1".encode(), source, target)
    replies = [take(backend, tag, 100, other) for _ in range(4)]

    assert all(reply.degraded and reply.admitted for reply in replies)
    assert not take(backend, neighbour).degraded
    assert not [message for message in caplog.messages if "is away" in message]


def test_t16_a_frozen_node_is_away_alone(
    opened: Callable[..., Backend], redis_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Its tenants' limits follow the policy, with one log line that names it; the others' are shared all the time.
    """
    backend = opened(redis_cluster.url, deadline=0.3)
    frozen, *well = redis_cluster.nodes[::-1]  # the last one has no replica that could take over
    mine, others = tag_at(redis_cluster, frozen), [tag_at(redis_cluster, node) for node in well]
    for node in well:
        deployments.say(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    assert not any(take(backend, tag).degraded for tag in [mine, *others])
    with caplog.at_level(logging.INFO, logger="tokenbudget_mw"):
        frozen.stop()
        degraded = [take(backend, mine).degraded for _ in range(10)]
        shared = [not take(backend, tag).degraded for tag in others * 5]
        frozen.resume()
        seconds = wait_until(lambda: not take(backend, mine).degraded)

    assert all(degraded)
    assert all(shared)
    assert seconds < 1.5  # the cluster's own word that the node is well again takes half of it
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert f"redis 127.0.0.1:{frozen.port} is away" in caplog.messages[0]


def test_t16_a_replica_that_takes_over_is_found(opened: Callable[..., Backend], redis_cluster: Cluster) -> None:
    """
    A master is killed; within a second after its replica has become one, limits are shared there.
    """
    backend = opened(redis_cluster.url, deadline=0.3)
    tag = tag_at(redis_cluster, redis_cluster.nodes[0])
    assert not take(backend, tag).degraded
    redis_cluster.nodes[0].kill()
    while deployments.say(redis_cluster.replica, "ROLE")[0] != b"master":
        assert take(backend, tag, 10**6).admitted
    seconds = wait_until(lambda: not take(backend, tag, 10**6).degraded)

    assert seconds < 1.0
    assert keys_of(redis_cluster.replica) == {f"tb:{{{tag}}}:key=k1".encode()}


def test_a_node_without_slots_helps_to_find_those_that_have_them(
    opened: Callable[..., Backend], redis_cluster: Cluster
) -> None:
    """
    The URL may name a replica, and a host that is not there, beside nodes of use.
    """
    backend = opened(f"redis+cluster://127.0.0.1:1,127.0.0.1:{redis_cluster.replica.port}/", deadline=PATIENCE)
    wait_until(lambda: not take(backend, "acme").degraded)

    assert all(not take(backend, tag_at(redis_cluster, node)).degraded for node in redis_cluster.nodes)


def test_a_cluster_behind_a_plain_url_is_named(redis_cluster: Cluster) -> None:
    """
    The error says which URL to use.
    """
    from tokenbudget_mw.backends.redis import RedisBackend
    from tokenbudget_mw.errors import BackendUnavailableError

    last = redis_cluster.nodes[-1]
    backend = RedisBackend(f"redis://127.0.0.1:{last.port}/0", deadline=PATIENCE)
    with pytest.raises(BackendUnavailableError, match=r"MOVED\. This is a node of a cluster: use redis\+cluster://\."):
        take(backend, tag_at(redis_cluster, redis_cluster.nodes[0]))
    backend.close()
