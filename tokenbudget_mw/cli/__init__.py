"""
The command line: ``tokenbudget-mw COMMAND``, a module a command. `main` also serves Django's and Flask's commands.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import tokenbudget_mw
from tokenbudget_mw.cli.context import BadUseError, Context, database_fault
from tokenbudget_mw.cli.streams import is_unwritable, let_go, open_up
from tokenbudget_mw.errors import TokenBudgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from tokenbudget_mw.settings import Settings

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "check": "Check a configuration, and say in words what it enforces for whom.",
    "count": "Count the tokens of a text for a model: estimate, bound, method, time and price.",
    "dead-letters": "Look at usage that could not be written, mend and replay it.",
    "demo": "Show the middleware at work on a fake LLM: no services, no network.",
    "doctor": "Look for what is wrong with this setup: settings, database, backend, prices.",
    "explain": "Show every limit of a key: where it comes from, what is left, when it frees.",
    "export": "Write usage rows for other programs, as CSV or lines of JSON.",
    "invoice": "Draft what an account owes for a month, and close the month.",
    "keys": "Create, list, suspend, resume, revoke and rotate API keys.",
    "migrate": "Create or upgrade the tables in your database.",
    "money": "Top up, refund, adjust, grant and reverse; take back grants that have ended; tell balances.",
    "orphans": "Look at calls whose process died, and decide what they are charged.",
    "partitions": "Keep usage in a table a day or a month, on PostgreSQL: opt in, make ahead, detach, attach, drop.",
    "purge": "Delete old usage rows; rollups, ledger and balances stay.",
    "reconcile": "Hold the books against a provider's invoice, by day and model.",
    "replay": "Send a recorded trace of requests through the middleware, on the trace's own clock.",
    "rerate": "Price rows again that had no price or a wrong one, and post what they cost more or less.",
    "tariffs": "Add, end and list prices of your own in the database.",
    "usage": "Show what was used, by model, key or day.",
    "verify": "Prove the books: usage, ledger and balances must agree to the pico-dollar.",
}
"""Command -> what it does. Its module is imported when it is chosen."""

_MODULES = {"dead-letters": "letters"}

_BELOW_ZERO = re.compile(r"-\s*\$?\s*[\d.]", re.ASCII)
"""How an amount below zero begins: -5, -1,000.50, -$5."""

OK, PROBLEMS, BAD_USE = 0, 1, 2
"""Exit codes: all is well; something was found; the command, its settings or its services cannot be used."""


def main(
    argv: Sequence[str] | None = None,
    *,
    settings: Settings | Callable[[], Settings] | None = None,
    engine: Engine | None = None,
    open_alias: Callable[[str], Engine] | None = None,
    prog: str = "tokenbudget-mw",
) -> int:
    """
    Run a command.

    Args:
        argv: Its arguments; None takes the process's.

        settings: The host's settings, or what reads them, which hold where ``--config`` is not given.

        engine: The host's database, where it is open already.

        open_alias: Opens a database that settings name by an alias, in Django. Then that named ``default`` is the default.

        prog: How the program is called, for its help.

    Returns:
        The exit code: 0 all is well, 1 the command found problems, 2 it could not do its work.
    """
    open_up()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _answer(words, lambda: _run(words, settings, engine, open_alias, prog))
    except KeyboardInterrupt:
        return _complain("Interrupted.")
    except OSError as exc:
        if not is_unwritable(exc):
            raise
        let_go()
        return (
            BAD_USE if isinstance(exc, BrokenPipeError) else _complain(f"The output cannot be written: {exc.strerror}.")
        )


def _answer(words: list[str], run: Callable[[], int]) -> int:
    """
    Run a command and see its answer off, which is its error where it has none: whoever reads may have gone before the flush.
    """
    try:
        code = run()
    except TokenBudgetError as exc:
        if "--json" in words:
            print(json.dumps({"error": str(exc)}))
        code = _complain(f"{exc.usage if isinstance(exc, BadUseError) else ''}{exc}")
    except Exception as exc:
        if isinstance(exc, OSError) and is_unwritable(exc):
            raise
        if "--json" in words:
            print(json.dumps({"error": f"{type(exc).__name__}: {exc}"}))
        # a mistake of ours shows where it is; it is no 1, by which `verify` says that the books disagree
        traceback.print_exc()
        code = BAD_USE
    sys.stdout.flush()
    return code


def _run(
    words: list[str],
    settings: Settings | Callable[[], Settings] | None,
    engine: Engine | None,
    open_alias: Callable[[str], Engine] | None,
    prog: str,
) -> int:
    """
    Run the command, and tell its errors by ours.

    Raises:
        TokenBudgetError: It could not do its work.
    """
    try:
        args = _parse(words, prog)
    except SystemExit as exc:  # argparse has printed its help
        return exc.code if isinstance(exc.code, int) else BAD_USE
    read = settings if settings is None or callable(settings) else lambda: settings
    context = Context(args, read, engine, open_alias)
    try:
        return int(args.run(context))
    except BadUseError as exc:
        exc.usage = args.parser.format_usage()
        raise
    except Exception as exc:
        fault = None if isinstance(exc, TokenBudgetError | OSError) else database_fault(exc, context.place)
        if fault is None:
            raise
        raise TokenBudgetError(fault) from exc


class _Parser(argparse.ArgumentParser):
    """
    A parser whose errors are said where all are said, and to which an amount below zero is no option.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # argparse takes -5 for a number where no option looks like one, and none of ours does; an amount has more ways
        self._negative_number_matcher = _BELOW_ZERO

    def error(self, message: str) -> NoReturn:
        """
        Raise what argparse would print and end the process for.
        """
        error = BadUseError(f"{self.prog}: error: {message}")
        error.usage = self.format_usage()
        raise error


def _parse(argv: list[str], prog: str) -> argparse.Namespace:
    """
    Choose the command by the top parser, then read its arguments by its own: only that command is imported.
    """
    for word in argv:
        if not _is_utf8(word):
            message = (
                f"{word!r} is no text in this locale's encoding. Set LC_ALL=C.UTF-8 or PYTHONUTF8=1, or write UTF-8."
            )
            raise BadUseError(message)
    width = max(map(len, COMMANDS))
    parser = _Parser(
        prog=prog,
        description="Exact limits on requests, LLM tokens, money and concurrency, and exact usage books.",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tokenbudget-mw {tokenbudget_mw.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="what to do; see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="COMMAND --help lists them")
    chosen = parser.parse_args(argv)
    command = importlib.import_module(f"tokenbudget_mw.cli.{_MODULES.get(chosen.command, chosen.command)}")
    own = _Parser(prog=f"{prog} {chosen.command}", description=COMMANDS[chosen.command])
    own.set_defaults(parser=own)
    command.add_arguments(own)
    own.set_defaults(run=command.run)
    return own.parse_args(chosen.arguments)


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes that the encoding of arguments does not know
        return False
    return True


def _complain(message: str) -> int:
    print(message, file=sys.stderr)
    return BAD_USE
