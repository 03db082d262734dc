"""
Being let in: TLS, users with few rights, passwords that change, and what the log says where we are not.
"""

from __future__ import annotations

import re
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from private_servers import ServerMissingError
from tls_front import Certificate, make_certificate, tls_front

from tokenbudget_mw.backends import open_pair
from tokenbudget_mw.errors import BackendUnavailableError, ConfigurationError
from tokenbudget_mw.testing.asks import ask, check, in_flight, settlement

if TYPE_CHECKING:
    from collections.abc import Callable

    from private_servers import RedisServer

    from tokenbudget_mw.backends.base import Backend

redis = pytest.importorskip("redis")
script_module = pytest.importorskip("tokenbudget_mw.backends.redis.script")
start = pytest.importorskip("tokenbudget_mw.backends.redis.start")
backend_module = pytest.importorskip("tokenbudget_mw.backends.redis")

PATIENCE = 5.0  # the deadline where a busy machine must not be taken for a fault


def wait_until(is_so: Callable[[], bool], seconds: float = 5.0) -> None:
    """
    Wait until *is_so*.
    """
    end, pause = time.monotonic() + seconds, threading.Event()
    while not is_so():
        assert time.monotonic() < end, "it never came true"
        pause.wait(0.01)


def is_shared(backend: Backend) -> bool:
    """
    Ask for a token, and tell whether Redis answered.
    """
    return not backend.reserve(ask(check(1, 10**6)), 0.0).degraded


def say(server: RedisServer, *command: str) -> Any:
    """
    Say *command* to *server*, as the user who may do everything.
    """
    with redis.Redis.from_url(server.url) as admin:
        return admin.execute_command(*command)


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path, request: pytest.FixtureRequest) -> Certificate:
        """
        A certificate for where the tests listen.
        """
        try:
            return make_certificate(tmp_path, getattr(request, "param", "IP:127.0.0.1"))
        except ServerMissingError as exc:
            pytest.skip(str(exc))

    def test_a_server_that_proves_who_it_is_is_believed(
        self, opened: Callable[..., Backend], redis_server: RedisServer, certificate: Certificate
    ) -> None:
        """
        Counters are shared over TLS; the URL says who vouches for the server.
        """
        with tls_front(redis_server.port, certificate) as port:
            backend = opened(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate.cert}", deadline=PATIENCE)

            assert is_shared(backend)
            assert is_shared(backend)

    def test_a_server_that_nobody_vouches_for_gets_no_counter(
        self, opened: Callable[..., Backend], redis_server: RedisServer, certificate: Certificate
    ) -> None:
        """
        Certificates are checked unless the URL says otherwise.
        """
        with tls_front(redis_server.port, certificate) as port:
            wary, trusting = (
                opened(f"rediss://127.0.0.1:{port}/0{query}", deadline=PATIENCE)
                for query in ("", "?ssl_cert_reqs=none")
            )

            assert not is_shared(wary)
            assert is_shared(trusting)

    @pytest.mark.parametrize("certificate", ["DNS:another.example"], indirect=True)
    def test_a_certificate_for_another_host_is_of_no_use(
        self, opened: Callable[..., Backend], redis_server: RedisServer, certificate: Certificate
    ) -> None:
        """
        Names are compared, too, unless the URL says otherwise.
        """
        with tls_front(redis_server.port, certificate) as port:
            url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate.cert}"
            lax = opened(f"{url}&ssl_check_hostname=false", deadline=PATIENCE)

            assert not is_shared(opened(url, deadline=PATIENCE))
            assert is_shared(lax)

    def test_a_client_shows_its_certificate(
        self, opened: Callable[..., Backend], redis_server: RedisServer, certificate: Certificate
    ) -> None:
        """
        Where the server asks for one.
        """
        with tls_front(redis_server.port, certificate, ask_client=True) as port:
            url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate.cert}"
            known = opened(f"{url}&ssl_certfile={certificate.cert}&ssl_keyfile={certificate.key}", deadline=PATIENCE)

            assert not is_shared(opened(url, deadline=PATIENCE))
            assert is_shared(known)

    def test_a_connection_that_opens_slower_than_the_deadline_opens(
        self, opened: Callable[..., Backend], redis_server: RedisServer, certificate: Certificate
    ) -> None:
        """
        A far server's handshake takes several round trips: the first calls follow the policy in time, later ones are
        shared.
        """
        with tls_front(redis_server.port, certificate, pause=0.25) as port:
            backend = opened(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate.cert}", deadline=0.1)
            begin = time.monotonic()

            assert not is_shared(backend)
            assert time.monotonic() - begin < 0.25
            wait_until(lambda: is_shared(backend))

    def test_a_missing_certificate_is_told_at_start(self) -> None:
        """
        Not at the first request.
        """
        with pytest.raises(ConfigurationError, match="ssl_… options"):
            open_pair("rediss://localhost/0?ssl_ca_certs=/nowhere/ca.pem")


class TestRights:
    def test_the_least_rights_suffice(
        self, opened: Callable[..., Backend], redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        A user with what the documentation lists reserves, settles, peeks and credits, also after SCRIPT FLUSH.
        """
        say(redis_server, "ACL", "SETUSER", "app", "on", ">s3cret", *start.LEAST_RIGHTS.split())
        backend = opened(redis_server.url.replace("redis://", "redis://app:s3cret@"), deadline=PATIENCE)
        for _ in range(2):
            asked = ask(
                check(5, 100), check(1, 100, "gcra:1", algorithm="gcra", params=(60_000_000, 100)), in_flight(9)
            )
            reply = backend.reserve(asked, 0.0)
            assert (reply.admitted, reply.degraded) == (True, False)
            assert backend.settle(settlement(asked, reply, 7, 1, 0), 0.0)
            assert not backend.peek(ask(check(1, 100)), 0.0).degraded
            backend.credit(ask(check(7, 100)), 0.0)
            say(redis_server, "SCRIPT", "FLUSH")

        assert not caplog.messages

    def test_they_are_what_the_script_does(self) -> None:
        """
        Each command of the script is among the rights, and in the dry run.
        """
        dry_run = files("tokenbudget_mw.backends.redis").joinpath("rights.lua").read_text()
        commands = set(re.findall(r"(?:run|redis\.call)\('([A-Z]+)'", script_module.Script().text))
        tried = set(re.findall(r"redis\.call\('([A-Z]+)'", dry_run))

        assert "HMGET" in commands
        assert commands <= tried
        assert {f"+{command.lower()}" for command in commands} <= set(start.LEAST_RIGHTS.split())

    def test_they_are_what_the_documentation_says(self) -> None:
        """
        Somebody will copy that line.
        """
        page = Path(__file__).parents[2] / "docs" / "backends.md"

        assert f" {start.LEAST_RIGHTS}\n" in page.read_text(encoding="utf-8")

    @pytest.mark.parametrize("missing", ["+hset", "+evalsha +eval", "~tb:*"])
    def test_missing_rights_are_told(
        self,
        opened: Callable[..., Backend],
        redis_server: RedisServer,
        caplog: pytest.LogCaptureFixture,
        missing: str,
    ) -> None:
        """
        Once, with the command that gives them; requests follow the policy.
        """
        rights = [right for right in start.LEAST_RIGHTS.split() if right not in missing.split()]
        say(redis_server, "ACL", "SETUSER", "app", "on", ">s3cret", *rights)
        backend = opened(redis_server.url.replace("redis://", "redis://app:s3cret@"), deadline=PATIENCE)
        for _ in range(3):
            assert not is_shared(backend)
        wait_until(lambda: any("ACL SETUSER" in message for message in caplog.messages))

        told = [message for message in caplog.messages if "ACL SETUSER" in message]
        assert told == [
            f"Redis refuses this user what limits need (NOPERM). Allow it: ACL SETUSER <user> {start.LEAST_RIGHTS}"
        ]
        assert "s3cret" not in caplog.text


class TestPasswords:
    def test_t16_a_password_file_is_read_for_each_connection(
        self, opened: Callable[..., Backend], redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """
        A rotated password is used by the next connection, without a restart.
        """
        secret = tmp_path / "password"
        secret.write_text("first\n")
        say(redis_server, "ACL", "SETUSER", "app", "on", ">first", "~tb:*", "+@all")
        url = redis_server.url.replace("redis://", "redis://app@")
        backend = opened(f"{url}?password_file={secret}", deadline=PATIENCE)
        assert is_shared(backend)

        say(redis_server, "ACL", "SETUSER", "app", "resetpass", ">second")
        secret.write_text("second\n")
        say(redis_server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        assert is_shared(backend)

    def test_credentials_may_come_from_a_function(
        self, opened: Callable[..., Backend], redis_server: RedisServer
    ) -> None:
        """
        It is asked for each connection; one that raises is an unavailable backend, and what it says is told to nobody.
        """
        say(redis_server, "ACL", "SETUSER", "app", "on", ">token-1", "~tb:*", "+@all")
        backend = opened(f"{redis_server.url}?credentials={__name__}:give_credentials", deadline=PATIENCE)
        broken = opened(f"{redis_server.url}?credentials={__name__}:fail", deadline=PATIENCE)

        assert is_shared(backend)
        assert not is_shared(broken)

    def test_t16_a_missing_password_file_follows_the_policy(
        self, opened: Callable[..., Backend], redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """
        It may come later: a sidecar writes it.
        """
        secret = tmp_path / "later"
        backend = opened(f"{redis_server.url}?password_file={secret}", deadline=PATIENCE)
        assert not is_shared(backend)
        say(redis_server, "CONFIG", "SET", "requirepass", "s3cret")
        secret.write_text("s3cret")

        assert is_shared(backend)

    def test_a_wrong_password_is_told_as_such(self, redis_server: RedisServer) -> None:
        """
        The error says what is wrong, and not what was tried.
        """
        backend = backend_module.RedisBackend(
            redis_server.url.replace("redis://", "redis://app:hunter2@"), deadline=PATIENCE
        )
        with pytest.raises(BackendUnavailableError, match=r"WRONGPASS\. User or password are wrong\.") as caught:
            backend.reserve(ask(check()), 0.0)
        backend.close()

        assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def give_credentials() -> tuple[str, str]:
    return "app", "token-1"


def fail() -> tuple[str, str]:
    raise RuntimeError("canary")


class TestStart:
    @pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
    def test_a_server_that_forgets_is_told_of_once(
        self,
        opened: Callable[..., Backend],
        redis_server: RedisServer,
        caplog: pytest.LogCaptureFixture,
        policy: str,
    ) -> None:
        """
        A line in the log, behind the first connection, however many follow.
        """
        say(redis_server, "CONFIG", "SET", "maxmemory-policy", policy)
        backend = opened(redis_server.url, deadline=PATIENCE)
        for _ in range(3):
            assert is_shared(backend)
            say(redis_server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until(lambda: is_inspected(redis_server))

        said = [start.eviction_fault(policy)] if policy != "noeviction" else []
        wait_until(lambda: len(caplog.messages) >= len(said))
        assert caplog.messages == said

    def test_who_may_not_ask_is_told_nothing(
        self, opened: Callable[..., Backend], redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        Providers forbid INFO and CONFIG: no line for that.
        """
        say(redis_server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        say(redis_server, "ACL", "SETUSER", "app", "on", ">s3cret", "~tb:*", "+@all", "-info", "-config")
        backend = opened(redis_server.url.replace("redis://", "redis://app:s3cret@"), deadline=PATIENCE)
        assert is_shared(backend)
        wait_until(lambda: is_inspected(redis_server))

        assert not caplog.messages

    def test_an_open_connection_has_our_settings(
        self, opened: Callable[..., Backend], redis_server: RedisServer
    ) -> None:
        """
        Whatever the URL asks for: an old protocol that needs no handshake, and no wait of redis-py's.
        """
        url = f"{redis_server.url}?socket_timeout=60&health_check_interval=1&protocol=3&retry_on_timeout=yes"
        backend = opened(url, deadline=0.3)
        assert is_shared(backend)
        with redis.Redis(port=redis_server.port, protocol=2) as admin:
            commands = admin.info("commandstats")
        redis_server.stop()
        begin = time.monotonic()
        assert not is_shared(backend)
        assert time.monotonic() - begin < 1.0
        redis_server.resume()

        assert "cmdstat_evalsha" in commands
        assert "cmdstat_hello" not in commands


def is_inspected(server: RedisServer) -> bool:
    """
    Tell whether the memory's policy was asked for, or would have been.
    """
    stats = say(server, "INFO", "commandstats")
    return "cmdstat_hexists" in stats or "cmdstat_info" in stats


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+cluster://a:1,b:2/3", "one database, 0"),
        ("redis+cluster://a:1,,b:2/", "A host is missing"),
        ("redis+sentinel://a:1/", "names the service"),
        ("redis://:hunter2@a:1/zero", "is a number such as 0, not 'zero'"),
        ("redis+sentinel://a:1/mymaster/db0", "is a number such as 0, not 'db0'"),
        ("redis://a:1/0?socket_timeuot=1", "Unknown option in the backend's URL: socket_timeuot"),
        ("redis://a:1/0?credentials=nowhere.to.be.found", "cannot be imported"),
        ("redis+cluster://app:hunter2@a:x,b:2/", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_at_start(url: str, why: str) -> None:
    """
    Nothing waits for the first request, and no password is shown.
    """
    with pytest.raises(ConfigurationError, match=why) as caught:
        open_pair(url)

    assert "hunter2" not in str(caught.value)
