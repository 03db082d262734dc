"""
``manage.py tokenbudget …``: the same commands as ``tokenbudget-mw``, with the project's settings and database.
"""

from __future__ import annotations

import argparse
import sys
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
        Run the command, and end with its exit code.
        """
        del args
        code = main(options["arguments"], settings=read_settings, open_alias=engine_of, prog="manage.py tokenbudget")
        if code:
            sys.exit(code)
