"""From settings to a core: what is wrong fails here, and nothing is connected yet."""

import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.identify import AddressIdentifier, CustomIdentifier
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import Facts, Subject
from tokenbudget_mw.wiring import open_database, wire

not_callable = "text"


def subject_of(facts: Facts) -> Subject:
    """What a dotted path in these tests names."""
    return Subject(key=facts.method)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "reddis://x"}, "reddis"),
        ({"database": "postgres//localhost"}, "database"),
        ({"database": {"alias": "default"}}, "names a Django alias; only the Django adapter can open it"),
        ({"plans": {"free": ["60 requests/minute", "5 tokes/minute"]}}, r"plans\.free\[1\]"),
        ({"rutes": []}, "did you mean 'routes'"),
        ({"identify": "nowhere.to_be_found"}, "at `identify`: cannot import 'nowhere.to_be_found'"),
        ({"identify": "os.path.nothing_there"}, "at `identify`: cannot import"),
        ({"identify": f"{__name__}.not_callable"}, "is a str, not a callable|cannot import"),
        (
            {"identify": lambda request, user: None},
            r"<lambda>\(request, user\) cannot .* alone \(missing a required argument: 'user'\)",
        ),
        ({"identify": "os.getcwd"}, r"at `identify`: getcwd\(\) cannot be called with a request's facts alone"),
        ({"routes": [{"path": "/x", "format": "openai.chatt"}]}, "openai.chat"),
        ({"trusted_proxies": ["nonsense"], "identify": "ip"}, "trusted_proxies"),
    ],
)
def test_misconfiguration_fails_at_start(elsewhere: Path, settings: dict[str, Any], message: str) -> None:
    """What is wrong in the settings is said when the app is put together, by its path, and leaves nothing behind."""
    with pytest.raises(ConfigurationError, match=message):
        wire(settings)

    assert list(elsewhere.iterdir()) == []


def test_password_is_not_in_the_error(elsewhere: Path) -> None:
    """An error about a URL does not repeat its password."""
    with pytest.raises(ConfigurationError) as caught:
        wire({"database": "nosuchdialect://me:hunter2@localhost/app"})

    assert "hunter2" not in str(caught.value)


def test_nothing_connects_at_wiring(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Redis nor a database is spoken to before the first request."""

    def forbidden(*_: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    core = wire({"backend": "redis://localhost:1/0", "database": "postgresql+psycopg://localhost:1/app"})
    core.close()
    wire({"identify": "ip"}).close()

    assert list(elsewhere.iterdir()) == []


def test_core_passes_through() -> None:
    """A core that is wired already is taken as it is, so that several middlewares may share it."""
    core = wire({"identify": subject_of}, sink=CallableSink(lambda _: None))

    assert wire(core) is core


def test_checked_settings_pass() -> None:
    """Settings that were checked before are not checked again."""
    checked = Settings.from_mapping({"identify": subject_of})

    assert wire(checked, sink=CallableSink(lambda _: None)).settings is checked


def test_environment_overrides_the_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says counts more than the code."""
    monkeypatch.setenv("TOKENBUDGET_MAX_BODY", "77")
    core = wire({"identify": subject_of, "max_body": 5}, sink=CallableSink(lambda _: None))

    assert core.settings.max_body == 77


@pytest.mark.parametrize("path", ["wiring_host.subject_of", "wiring_host:subject_of"])
def test_identify_by_dotted_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``identify`` may name a function of the host's."""
    (tmp_path / "wiring_host.py").write_text(
        "from tokenbudget_mw import Subject\ndef subject_of(facts):\n    return Subject(key=facts.method)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    core = wire({"identify": path}, sink=CallableSink(lambda _: None))

    assert isinstance(core.identifier, CustomIdentifier)
    assert core.identifier.resolve(Facts("PUT", "/")) == Subject(key="PUT")


def test_identify_by_address() -> None:
    """``ip`` reads the trusted proxies from the settings."""
    core = wire({"identify": "ip", "trusted_proxies": ["10.0.0.0/8"]}, sink=CallableSink(lambda _: None))

    assert isinstance(core.identifier, AddressIdentifier)
    asked = Facts("GET", "/", (("x-forwarded-for", "198.51.100.1"),), "10.0.0.1")
    assert core.identifier.resolve(asked).key == "ip:198.51.100.1"


def test_host_keeps_its_engine(tmp_path: Path) -> None:
    """An engine that the host opened is used, and stays open when the core closes."""
    engine = create_engine(f"sqlite:///{tmp_path / 'host.db'}")
    closed: list[str] = []
    core = wire({"identify": subject_of}, engine=engine)
    core.closers.append(lambda: closed.append("ours"))
    with engine.connect() as connection:
        core.close()
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()

    assert closed == ["ours"]


def test_clock_is_handed_to_every_part() -> None:
    """A given clock is the core's, the limits' and the durations', so that a replay follows its own time."""
    clock = FakeClock(1_000_000.0)
    core = wire({"identify": subject_of}, clock=clock, sink=CallableSink(lambda _: None))

    assert (core.clock(), core.timer()) == (1_000_000.0, 1_000_000.0)


def test_alias_is_for_django_only() -> None:
    """A Django alias outside of Django is an error that names the place where it works."""
    settings = Settings.from_mapping({"database": {"alias": "default"}})

    with pytest.raises(ConfigurationError, match=r"manage\.py tokenbudget"):
        open_database(settings)


def test_close_may_be_called_twice(caplog: pytest.LogCaptureFixture) -> None:
    """A core that is closed twice, by lifespan and at exit, is quiet the second time."""
    core = wire({"identify": subject_of}, sink=CallableSink(lambda _: None))
    core.aside(lambda: None)
    with caplog.at_level(logging.WARNING, "tokenbudget_mw"):
        core.close()
        core.close()

    assert caplog.records == []


def test_wiring_needs_no_framework_or_driver() -> None:
    """Putting a core together in memory loads neither a framework nor a driver of a server."""
    code = (
        "import sys\n"
        "from tokenbudget_mw.wiring import wire\n"
        "wire({'identify': 'ip', 'database': 'sqlite://'}).close()\n"
        "print([n for n in ('django','flask','fastapi','starlette','redis','psycopg','pymysql') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
