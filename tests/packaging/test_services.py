"""
The services that other tests stand on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from private_servers import ServerMissingError, find_program
from sqlalchemy import create_engine, inspect, text

if TYPE_CHECKING:
    from private_servers import RedisServer


def test_redis_db_is_empty_and_writable(redis_db: str) -> None:
    """A test's Redis database holds nothing, and takes a key."""
    with redis.Redis.from_url(redis_db) as client:
        assert client.dbsize() == 0

        client.set("left", "behind")

        assert client.get("left") == b"behind"


def test_redis_db_forgets_what_another_test_left(redis_db: str) -> None:
    """What the test above wrote is gone."""
    with redis.Redis.from_url(redis_db) as client:
        assert client.get("left") is None


def test_private_redis_can_be_killed_and_restarted_on_its_port(redis_server: RedisServer) -> None:
    """A killed server refuses connections; restarted, it answers at the same URL, empty."""
    url = redis_server.url
    with redis.Redis.from_url(url, socket_timeout=5.0) as client:
        client.set("a", 1)

    redis_server.kill()
    with redis.Redis.from_url(url, retry=None) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    redis_server.start()

    with redis.Redis.from_url(url, socket_timeout=5.0) as client:
        assert client.get("a") is None


def test_private_redis_can_be_frozen(redis_server: RedisServer) -> None:
    """A frozen server keeps its connections and does not answer; resumed, it does."""
    with redis.Redis.from_url(redis_server.url, socket_timeout=0.05, retry=None) as client:
        client.ping()
        redis_server.stop()
        with pytest.raises(redis.TimeoutError):
            client.ping()

    redis_server.resume()

    with redis.Redis.from_url(redis_server.url, socket_timeout=5.0) as client:
        assert client.ping()


def test_database_url_gives_an_empty_database(database_url: str) -> None:
    """Each dialect's database is reachable and has no table."""
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
        assert inspect(connection).get_table_names() == []
    engine.dispose()


def test_missing_program_is_named() -> None:
    """The error for a program that is not installed says which."""
    with pytest.raises(ServerMissingError, match="no-such-program"):
        find_program("no-such-program")
