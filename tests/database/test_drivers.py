"""
What drivers of databases do by themselves: the books are right with each, or somebody is told what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DataError

from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.keys import KeyCache, KeyStore
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.errors import ConfigurationError, CredentialError, MissingExtraError
from tokenbudget_mw.rules.identity import new_key

if TYPE_CHECKING:
    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

NO_CRYPTOGRAPHY = RuntimeError(
    "'cryptography' package is required for sha256_password or caching_sha2_password auth methods"
)
UNKNOWN = TypeError("'foo' is an invalid keyword argument for connect()")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], Engine]:
    """
    Make an engine whose driver raises what it is given as soon as it is to connect.
    """

    def make(error: Exception) -> Engine:
        engine = open_engine("mysql+pymysql://u:s3cret@localhost/x")

        def connect(*_: Any, **__: Any) -> NoReturn:
            raise error

        monkeypatch.setattr(engine.dialect, "connect", connect)
        return engine

    return make


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (NO_CRYPTOGRAPHY, MissingExtraError, r"needs 'cryptography' .* pip install 'tokenbudget-mw\[mysql\]'"),
        (UNKNOWN, ConfigurationError, "pymysql cannot use the database's URL: 'foo' is an invalid"),
        (AttributeError("Unsupported argument 'foo'"), ConfigurationError, "Unsupported argument 'foo'"),
    ],
)
def test_what_keeps_a_driver_from_connecting_is_told(
    broken: Callable[[Exception], Engine],
    record: MakeRecord,
    caplog: pytest.LogCaptureFixture,
    raised: Exception,
    kind: type[Exception],
    says: str,
) -> None:
    """
    An error of the driver that is none of a database becomes ours: records wait, and the log says once what to do.
    """
    sink = DatabaseSink(broken(raised))

    for _ in range(2):
        with pytest.raises(kind, match=says):
            sink.write([record(1)])

    told = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(told) == 1
    assert told[0].startswith("Usage records wait. ")
    assert "s3cret" not in caplog.text


def test_keys_cannot_be_checked_where_the_driver_cannot_connect(
    broken: Callable[[Exception], Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """
    A request with a key is told to come back, as where the database is away, and the log says what is wrong.
    """
    cache = KeyCache(KeyStore(broken(NO_CRYPTOGRAPHY), "pepper"), 10.0)

    with pytest.raises(CredentialError) as caught:
        cache.resolve(new_key(bytes(range(40))).text)

    assert caught.value.status == 503
    assert "needs 'cryptography'" in caplog.text


def test_an_error_of_a_driver_that_is_not_known_stays_as_it_is(broken: Callable[[Exception], Engine]) -> None:
    """
    Nobody is told to install something because of an error that has nothing to do with it.
    """
    with pytest.raises(RuntimeError, match="can't start new thread"):
        broken(RuntimeError("can't start new thread")).connect()


@pytest.mark.parametrize(
    "mode", ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES"]
)
def test_a_url_cannot_make_a_server_cut_values(mysql_database: str, mode: str) -> None:
    """
    Whatever `init_command` in the URL makes of the session, a value that does not fit is an error, and quotes mean the same.
    """
    url = make_url(mysql_database).update_query_dict({"init_command": f"SET SESSION sql_mode = '{mode}'"})
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x VARCHAR(3))"))

    with pytest.raises(DataError, match="Data too long"), engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES ('four')"))
    with engine.connect() as connection:
        found = connection.execute(text('SELECT "it\'s"')).scalar_one()
    engine.dispose()

    assert found == "it's"
