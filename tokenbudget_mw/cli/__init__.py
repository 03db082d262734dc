"""
The command line: ``tokenbudget-mw COMMAND``, a module a command. `main` also serves Django's and Flask's commands.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING

import tokenbudget_mw
from tokenbudget_mw.cli.context import BadUseError, Context, database_fault
from tokenbudget_mw.errors import TokenBudgetError

if TYPE_CHECKING:
    from collections.abc import Sequence

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

OK, PROBLEMS, BAD_USE = 0, 1, 2
"""Exit codes: all is well; something was found; the command, its settings or its services cannot be used."""


def main(
    argv: Sequence[str] | None = None,
    *,
    settings: Settings | None = None,
    engine: Engine | None = None,
    prog: str = "tokenbudget-mw",
) -> int:
    """
    Run a command.

    Args:
        argv: Its arguments; None takes the process's.

        settings: The host's settings, which hold where ``--config`` is not given.

        engine: The host's database, where it is open already.

        prog: How the program is called, for its help.

    Returns:
        The exit code: 0 all is well, 1 the command found problems, 2 it could not do its work.
    """
    try:
        args = _parse(list(sys.argv[1:] if argv is None else argv), prog)
    except SystemExit as exc:  # argparse has printed its help or its error
        return exc.code if isinstance(exc.code, int) else BAD_USE
    context = Context(args, settings, engine)
    try:
        code = int(args.run(context))
        sys.stdout.flush()
        return code  # noqa: TRY300 - whoever reads may have gone before the flush
    except BadUseError as exc:
        return _complain(f"{args.parser.format_usage()}{exc}")
    except TokenBudgetError as exc:
        return _complain(str(exc))
    except BrokenPipeError:
        # whoever read has gone; nothing is left for the flush at exit (Python's docs, "Note on SIGPIPE")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_USE
    except KeyboardInterrupt:
        return _complain("Interrupted.")
    except Exception as exc:
        fault = database_fault(exc, context.place())
        if fault is None:
            raise
        return _complain(fault)


def _parse(argv: list[str], prog: str) -> argparse.Namespace:
    """
    Choose the command by the top parser, then read its arguments by its own: only that command is imported.
    """
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
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
    own = argparse.ArgumentParser(prog=f"{prog} {chosen.command}", description=COMMANDS[chosen.command])
    own.set_defaults(parser=own)
    command.add_arguments(own)
    own.set_defaults(run=command.run)
    return own.parse_args(chosen.arguments)


def _complain(message: str) -> int:
    print(message, file=sys.stderr)
    return BAD_USE
