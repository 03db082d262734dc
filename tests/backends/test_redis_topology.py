"""
Where things are: slots, redirections, and what is done about an error; all without a server.
"""

from __future__ import annotations

import pytest

redis = pytest.importorskip("redis")
topology = pytest.importorskip("tokenbudget_mw.backends.redis.topology")
urls = pytest.importorskip("tokenbudget_mw.backends.redis.url")

Place, Step, next_step = urls.Place, topology.Step, topology.next_step
HERE, THERE = Place("here", 1), Place("there", 2)


def error(text: str) -> Exception:
    found: Exception = redis.ResponseError(text)
    return found


@pytest.mark.parametrize("tag", ["acme", "global", "-", "tenant:1", "schrödinger"])
def test_slots_are_those_of_the_specification(tag: str) -> None:
    """
    redis-py, which has its own way to them, agrees.
    """
    from redis.crc import key_slot

    key = f"tb:{{{tag}}}:key=k1"

    assert topology.slot_of(key) == key_slot(key.encode())


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("MOVED 866 there:2", Step("elsewhere", THERE, slot=866)),
        ("MOVED 866 ::1:2", Step("elsewhere", Place("::1", 2), slot=866)),
        ("MOVED 866 :2", Step("elsewhere", Place("here", 2), slot=866)),
        ("ASK 866 there:2", Step("elsewhere", THERE, is_asking=True)),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Step("later")),
        ("NOSCRIPT No matching script. Please use EVAL.", Step("load")),
        ("READONLY You can't write against a read only replica.", Step("renew")),
        (
            "ERR Error running script: @user_script:7: -READONLY You can't write against a read only replica.",
            Step("renew"),
        ),
        ("LOADING Redis is loading the dataset in memory", Step("renew")),
        ("NOAUTH Authentication required.", Step("renew")),
        ("OOM command not allowed when used memory > 'maxmemory'.", Step("fail")),
        ("CLUSTERDOWN The cluster is down", Step("fail")),
        ("ERR TOKENBUDGET amounts are whole numbers", Step("fail")),
    ],
)
def test_each_error_has_its_step(text: str, step: object) -> None:
    """
    What a node says decides where the call goes next.
    """
    assert next_step(error(text), 1, HERE) == step


def test_a_lost_connection_is_tried_once_more_and_a_timeout_never() -> None:
    """
    After a timeout there is no time left.
    """
    lost = redis.ConnectionError("gone")

    assert next_step(lost, 1, None).kind == "again"
    assert next_step(lost, 2, None).kind == "fail"
    assert next_step(TimeoutError(), 1, None).kind == "fail"
    assert next_step(error("READONLY no"), 2, None).kind == "fail"


def test_where_there_is_no_cluster_nobody_is_sent_elsewhere() -> None:
    """
    A plain URL means one server.
    """
    assert next_step(error("MOVED 866 there:2"), 1, None).kind == "fail"


def test_nobody_is_sent_round_in_a_circle() -> None:
    """
    Two nodes that point at one another get an answer's worth of patience.
    """
    assert next_step(error("MOVED 866 there:2"), topology.SENDS, HERE).kind == "fail"


def test_slots_are_read_as_nodes_tell_them() -> None:
    """
    A node that does not know its own name is the one that was asked; slots that nobody has are asked for anywhere.
    """
    found = topology.Topology(urls.read_url("redis+cluster://seed:7/"))
    inquiry = topology.slots_inquiry(found)
    assert found.place_of("tb:{acme}:k") == Place("seed", 7)
    owners = inquiry.read([[0, 99, [b"", 1, b"id"], [b"replica", 9, b"id"]], [100, 199, [b"there", 2, b"id"]]], HERE)
    nodes = found.learn(owners)

    assert nodes == [HERE, THERE]
    assert [found.slots.owner(slot) for slot in (0, 99, 100, 199, 200)] == [HERE, HERE, THERE, THERE, None]
    assert list(found.places) == [HERE, THERE, Place("seed", 7)]
    with pytest.raises(redis.ConnectionError, match="belongs to no cluster"):
        inquiry.read([], HERE)


def test_who_answered_is_asked_first_and_who_did_not_last() -> None:
    """
    A place that hangs costs its wait once.
    """
    places = topology.Places([HERE, THERE])
    places.avoid(HERE)
    assert list(places) == [THERE, HERE]
    places.prefer(HERE)
    assert list(places) == [HERE, THERE]
    assert places.first == HERE


def test_a_sentinel_that_knows_nothing_is_no_answer() -> None:
    """
    The next one is asked.
    """
    read = topology.master_inquiry(topology.Topology(urls.read_url("redis+sentinel://s:1/counters"))).read

    assert read([b"10.0.0.1", b"6379"], HERE) == Place("10.0.0.1", 6379)
    with pytest.raises(redis.ConnectionError, match="does not know the service"):
        read(None, HERE)


@pytest.mark.parametrize(
    ("url", "kind", "places", "service", "db", "words"),
    [
        ("redis://", "server", [("localhost", 6379)], "", 0, ()),
        ("redis://h:1/3", "server", [("h", 1)], "", 3, ()),
        ("redis://:p%40ss@h/0", "server", [("h", 6379)], "", 0, ("p@ss",)),
        ("unix://app:pw@/run/redis.sock?db=2", "server", [("/run/redis.sock", 0)], "", 2, ("app", "pw")),
        ("redis+cluster://app:pw@a:1,b,[::1]:3/", "cluster", [("a", 1), ("b", 6379), ("::1", 3)], "", 0, ("app", "pw")),
        ("redis+sentinel://a,b:1/mymaster/2", "sentinel", [("a", 26379), ("b", 1)], "mymaster", 2, ()),
        ("redis+sentinel://a/my%20master?sentinel_password=sp", "sentinel", [("a", 26379)], "my master", 0, ()),
    ],
)
def test_a_url_says_who_and_where(
    url: str, kind: str, places: list[tuple[str, int]], service: str, db: int, words: tuple[str, ...]
) -> None:
    """
    Several hosts stand with commas between; ports have their defaults.
    """
    found = urls.read_url(url)

    assert (found.kind, list(found.places), found.service, found.db) == (kind, places, service, db)
    assert found.credentials.read() == words
    assert found.sentinel_credentials.read() == (("sp",) if "sentinel_password" in url else ())


def test_a_deployment_shows_no_password() -> None:
    """
    Neither it nor its credentials.
    """
    found = urls.read_url("redis+cluster://app:hunter2@a:1/")

    assert "hunter2" not in f"{found!r} {found.credentials!r}"
