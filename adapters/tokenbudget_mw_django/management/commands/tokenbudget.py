"""
``manage.py tokenbudget …``: the same commands as ``tokenbudget-mw``, with the project's settings and database.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from tokenbudget_mw.cli import COMMANDS, main
from tokenbudget_mw_django.conf import engine_of, read_settings

__all__ = ["Command"]


class Command(BaseCommand):
    """
    Runs a tokenbudget-mw command.
    """

    help = "Limits, keys, usage and books of tokenbudget-mw."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """
        Take everything as it is: the commands have a parser of their own.
        """
        parser.add_argument(
            "arguments",
            nargs=argparse.REMAINDER,
            metavar="COMMAND ...",
            help=f"{', '.join(COMMANDS)}; COMMAND --help tells more",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """
        Run the command, and end with its exit code. It prints where `call_command` says.
        """
        del args
        _, words = _djangos().parse_known_args(options["arguments"])
        out, err = options.get("stdout") or sys.stdout, options.get("stderr") or sys.stderr
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words, settings=read_settings, open_alias=engine_of, prog="manage.py tokenbudget")
        if code:
            sys.exit(code)


def _djangos() -> argparse.ArgumentParser:
    """
    Return what reads options that every command of Django's takes in any place, which Django has heeded where it matters.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--settings", "--pythonpath"):
        parser.add_argument(name)
    for name in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
        parser.add_argument(name, action="store_true")
    return parser
