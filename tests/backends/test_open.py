"""
Backends are found by the scheme of their URL, and errors say what to do.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from tokenbudget_mw import backends
from tokenbudget_mw.backends import open_async_backend, open_backend, open_pair
from tokenbudget_mw.errors import ConfigurationError, MissingExtraError


def test_an_unknown_scheme_suggests_the_nearest() -> None:
    """
    The message names the scheme and never the rest of the URL.
    """
    with pytest.raises(ConfigurationError) as caught:
        open_backend("reddis://user:hunter2@host/0")

    assert str(caught.value) == (
        "Unknown backend 'reddis://'. Did you mean 'redis://'? Known schemes: leased+redis, limits+*, memory, redis, "
        "redis+cluster, redis+sentinel, rediss, rediss+cluster, rediss+sentinel, unix."
    )


@pytest.mark.parametrize(
    ("scheme", "ours"),
    [
        ("valkey", "redis"),
        ("valkeys", "rediss"),
        ("redis+unix", "unix"),
        ("memcached", "limits+memcached"),
        ("mongodb", "limits+mongodb"),
    ],
)
def test_what_others_call_a_server_suggests_what_we_do(scheme: str, ours: str) -> None:
    """
    Whoever pastes the URL that another package takes is told the scheme for the same server.
    """
    with pytest.raises(ConfigurationError, match=rf"Did you mean '{re.escape(ours)}://'\?"):
        open_backend(f"{scheme}://host")


def test_what_is_no_url_is_an_error() -> None:
    """
    A bare host name is not guessed at.
    """
    with pytest.raises(ConfigurationError, match="given as a URL"):
        open_async_backend("localhost:6379")


def test_an_unreadable_redis_url_is_an_error_without_its_password() -> None:
    """
    Not even a part of the URL is quoted.
    """
    pytest.importorskip("redis")
    with pytest.raises(ConfigurationError) as caught:
        open_backend("redis://localhost:hunter2/0")

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The mend is in the message.
    """
    for name in ("redis", "redis.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("tokenbudget_mw.backends.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(backends, "redis", raising=False)

    with pytest.raises(MissingExtraError, match=r"redis:// needs 'redis': pip install 'tokenbudget-mw\[redis\]'"):
        open_backend("redis://localhost/0")


def test_other_packages_bring_backends_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An entry point's name is the scheme; its object opens the pair.
    """
    point = EntryPoint("bucket", f"{__name__}:opener", backends.GROUP)
    monkeypatch.setattr(backends, "entry_points", lambda group: [point] if group == backends.GROUP else [])
    monkeypatch.setattr(EntryPoint, "load", lambda _: opener)

    assert open_pair("bucket://there", deadline=0.5, workers=3) == ("bucket://there", {"deadline": 0.5, "workers": 3})


def opener(url: str, *, deadline: float, workers: int, clock_mode: str) -> Any:
    assert clock_mode == "server"
    return url, {"deadline": deadline, "workers": workers}


def test_a_leased_backend_is_found_by_what_it_reserves_in() -> None:
    """
    `leased+` stands before any scheme, and what is behind it is opened as always.
    """
    threads, loops = open_pair("leased+memory://")

    assert type(threads).__name__ == "LeasedBackend"
    assert type(loops).__name__ == "AsyncLeasedBackend"
    with pytest.raises(ConfigurationError, match=r"Unknown backend 'reddis://'\. Did you mean 'redis://'\?"):
        open_pair("leased+reddis://localhost")
    with pytest.raises(ConfigurationError, match=r"cannot be reserved ahead in 'limits\+memcached://'"):
        open_pair("leased+limits+memcached://localhost")


def test_opening_redis_connects_to_nothing() -> None:
    """
    An app starts whether Redis is there or not.
    """
    pytest.importorskip("redis")
    threads, loops = open_pair("redis://127.0.0.1:1/0")
    threads.close()

    assert loops is not threads
