"""
What all commands share: where the settings come from, the database, and how a result is printed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tomllib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.streams import one_line
from tokenbudget_mw.errors import ConfigurationError, TokenBudgetError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.settings import Settings

__all__ = [
    "BadUseError",
    "Context",
    "account",
    "add_json",
    "add_source",
    "cell",
    "database_fault",
    "many",
    "read_config",
    "table",
]

MIGRATE = (
    "Run `tokenbudget-mw migrate` (Django: `manage.py migrate tokenbudget_mw_django`, with `--database ALIAS` where the books have "
    "a database of their own)."
)

_TABLES = ("tokenbudget", "tool.tokenbudget")
"""Tables of a TOML or JSON file that may hold the settings; else the whole file does."""

_PAYING = ("tenant", "team", "user", "key")
"""Scopes that pay, see `Subject.account`."""

_FORMULA = (*"=+-@\uff1d\uff0b\uff0d\uff20\t\r\n",)
"""How a cell begins that a spreadsheet would work out, in full width, too (OWASP, "CSV Injection")."""


class BadUseError(TokenBudgetError):
    """
    The command's arguments make no sense together.

    Attributes:
        usage: How the command is used, for people.
    """

    usage = ""


@dataclass(frozen=True, slots=True)
class Context:
    """
    What a command works with.

    Attributes:
        args: Its arguments.

        host: Reads the host's settings, where a host runs the command.

        host_engine: The host's database, where it is open already.

        open_alias: Opens a database that the settings name by its alias in Django.
    """

    args: Namespace
    host: Callable[[], Settings] | None = None
    host_engine: Engine | None = None
    open_alias: Callable[[str], Engine] | None = None

    def settings(self) -> Settings:
        """
        Return the settings: of ``--config``, of the host, or of the environment; ``--database`` and ``--backend`` hold
        before all of them.

        Raises:
            ConfigurationError: They are wrong.
        """
        from tokenbudget_mw.settings import Settings

        flags = {name: value for name in ("database", "backend") if (value := getattr(self.args, name, None))}
        config = getattr(self.args, "config", None)
        if config is None and self.host is not None:
            # only the flags are new here: they are read as settings to be checked as such
            checked = Settings.from_mapping(flags)
            aliases = {"database_alias": None} if "database" in flags else {}
            return self.host().replace(**{name: getattr(checked, name) for name in flags}, **aliases)
        environ = {name: value for name, value in os.environ.items() if name not in map(_variable, flags)}
        given = {} if config is None else read_config(config)
        return Settings.from_mapping({**self._usual(), **given, **flags}, environ)

    def settings_of(self, config: str) -> Settings:
        """
        Return the settings of *config*, whatever the host's are.

        Raises:
            ConfigurationError: They are wrong.
        """
        from tokenbudget_mw.settings import Settings

        return Settings.from_mapping({**self._usual(), **read_config(config)}, os.environ)

    def _usual(self) -> dict[str, Any]:
        return {} if self.open_alias is None else {"database": {"alias": "default"}}

    @contextmanager
    def database(self, *, make: bool = False) -> Iterator[Engine]:
        """
        Open the database of the settings.

        Args:
            make: Make the file of an SQLite that has none.

        Raises:
            ConfigurationError: The settings are wrong, or there is no such file.
        """
        if self.host_engine is not None and not self._is_elsewhere():
            yield self.host_engine
            return
        engine = self._open(self.settings())
        file = _missing_file(engine)
        if file is not None and not make:  # SQLite would make it, wherever the command is run
            raise ConfigurationError(f"There is no database {str(file)!r}. {MIGRATE}")
        try:
            yield engine
        finally:
            engine.dispose()

    def try_out(self, settings: Settings) -> None:
        """
        Plug everything together, which connects to nothing, but imports drivers and the host's own functions.

        Raises:
            ConfigurationError: Something is not there.
        """
        from tokenbudget_mw.wiring import wire

        if self.host_engine is not None and not self._is_elsewhere():
            wire(settings, engine=self.host_engine).close()
        elif settings.database is not None:
            wire(settings).close()
        elif self.open_alias is not None:
            engine = self._open(settings)
            wire(settings, engine=engine).close()
            engine.dispose()

    def _is_elsewhere(self) -> bool:
        """
        Whether an argument names other settings, or another database, than the host's.
        """
        return any(getattr(self.args, name, None) for name in ("config", "database", "given"))

    def _open(self, settings: Settings) -> Engine:
        from tokenbudget_mw.wiring import open_database

        if settings.database_alias is not None and self.open_alias is not None:
            return self.open_alias(settings.database_alias)
        return open_database(settings)

    def place(self) -> str:
        """
        Return which database it is, for people: its URL without the password.
        """
        from tokenbudget_mw.settings.describe import describe_database

        return describe_database(self.settings())

    def emit(self, result: Mapping[str, Any], lines: Iterable[str]) -> None:
        """
        Print *result* as one JSON object with ``--json``, else *lines*, each on one line whatever names are in it.
        """
        if self.args.json:
            print(json.dumps(result))
        else:
            for line in lines:
                print(one_line(line))


def _missing_file(engine: Engine) -> Path | None:
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or name.startswith((":", "file:")):
        return None
    path = Path(name).absolute()
    return None if path.exists() else path


def _variable(name: str) -> str:
    return f"TOKENBUDGET_{name.upper()}"


def add_source(parser: ArgumentParser, *, backend: bool = False) -> None:
    """
    Add the arguments that say which settings hold.
    """
    parser.set_defaults(parser=parser)  # of a command with actions, the action's: its usage is what helps
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings: a .toml or .json file, or module:NAME; by default the TOKENBUDGET_* variables",
    )
    parser.add_argument("--database", metavar="URL", help="SQLAlchemy URL of the database, instead of the settings'")
    if backend:
        parser.add_argument("--backend", metavar="URL", help="where counters live, instead of the settings' backend")


def add_json(parser: ArgumentParser) -> None:
    """
    Add ``--json``.
    """
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def account(text: str) -> str:
    """
    Read an account as usage names it: money on any other would pay for nothing.
    """
    scope, _, name = text.partition(":")
    if scope not in _PAYING or not name.strip():
        known = ", ".join(f"{scope}:" for scope in _PAYING)
        raise ArgumentTypeError(f"{text!r} is no account; write it like tenant:acme. Accounts begin with {known}.")
    return text


def read_config(source: str) -> dict[str, Any]:
    """
    Read the settings' dict from *source*: a ``.toml`` or ``.json`` file, or ``module:NAME``.

    A file may hold them in a table ``tokenbudget`` or ``tool.tokenbudget``.

    Raises:
        ConfigurationError: It cannot be read.
    """
    path = Path(source)
    if path.suffix in (".toml", ".json"):
        return _table(_parsed(path), source)
    if ":" in source:
        return _imported(source)
    message = f"Cannot read settings from {source!r}. Give a .toml or .json file, or module:NAME for a dict in Python."
    raise ConfigurationError(message)


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as exc:
        raise ConfigurationError(f"Cannot read {str(path)!r}: {exc.strerror or type(exc).__name__}.") from exc
    except ValueError as exc:
        raise ConfigurationError(f"{str(path)!r} is no {path.suffix[1:].upper()}: {exc}") from exc


def _table(found: Any, source: str) -> dict[str, Any]:
    for name in _TABLES:
        inner = found
        for part in name.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            return inner
    return _dict(found, source)


def _imported(source: str) -> dict[str, Any]:
    module, _, name = source.partition(":")
    if "" not in sys.path:  # the host's modules are where the command is run, as with every framework's own command
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(f"Cannot import settings from {source!r}: {exc}.") from exc
    return _dict(found, source)


def _dict(found: Any, source: str) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"{source!r} holds a {type(found).__name__}, not a dict of settings.")
    return dict(found)


def database_fault(exc: Exception, place: Callable[[], str]) -> str | None:
    """
    Say in a sentence what is wrong where *exc* comes from the database that *place* names; None where it comes from none.
    """
    from sqlalchemy.exc import DBAPIError

    from tokenbudget_mw.database.faults import advice, is_missing_schema

    if not isinstance(exc, DBAPIError):
        return None
    if is_missing_schema(exc):
        return f"The tables are missing in {place()}, or older than this version. {MIGRATE}"
    # the driver's words name host, user and reason, never the password; the statement is left out
    reason = str(exc.orig).strip().partition("\n")[0]
    fault = f"The database cannot be used ({type(exc.orig).__name__}): {reason}"
    told = advice(exc)
    return fault if told is None else f"{fault}. {told}"


def many(number: int, one: str, more: str | None = None) -> str:
    """
    Return *number* with its noun.

    >>> many(1, "row"), many(2000, "row"), many(0, "entry", "entries")
    ('1 row', '2,000 rows', '0 entries')
    """
    return f"{number:,} {one if number == 1 else more or f'{one}s'}"


def cell(value: Any) -> Any:
    """
    Return *value* as a cell of CSV: clients choose models, tags and ids, and somebody may open the file in a spreadsheet.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdecimal()


def table(heads: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> list[str]:
    """
    Lay *rows* out under *heads*; numbers are set to the right.

    >>> table(("model", "rows"), [("gpt-4o", 2), ("o3", None)])
    ['model   rows', 'gpt-4o     2', 'o3         -']
    """
    columns = [_column(head, [row[at] for row in rows]) for at, head in enumerate(heads)]
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _column(head: str, values: list[object]) -> list[str]:
    cells = [head, *map(_shown, values)]
    width = max(map(len, cells))
    is_number = any(isinstance(value, int) for value in values) and all(
        isinstance(value, int | None) for value in values
    )
    return [cell.rjust(width) if is_number else cell.ljust(width) for cell in cells]


def _shown(cell: object) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return "-" if cell in {None, ""} else one_line(str(cell))
