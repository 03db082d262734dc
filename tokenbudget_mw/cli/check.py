"""
``tokenbudget-mw check CONFIG``: what is wrong with a configuration, or what it means in words.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING

from tokenbudget_mw.cli.context import add_json
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context

__all__ = ["add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    parser.add_argument(
        "given",
        nargs="?",
        metavar="CONFIG",
        help="a .toml or .json file, or module:NAME; by default the host's settings, or the TOKENBUDGET_* variables",
    )
    add_json(parser)


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.settings import describe, warnings_of

    try:
        given = context.args.given
        settings = context.settings() if given is None else context.settings_of(given)
        context.try_out(settings)
    except ConfigurationError as exc:
        problems = str(exc).splitlines()
        context.emit({"ok": False, "problems": problems, "means": [], "warnings": []}, [*problems, _count(problems)])
        return 1
    sentences = describe(settings)
    warnings = warnings_of(settings)
    means = sentences[: len(sentences) - len(warnings)]
    context.emit({"ok": True, "problems": [], "means": means, "warnings": warnings}, sentences)
    return 0


def _count(problems: list[str]) -> str:
    return f"{len(problems)} problem{'' if len(problems) == 1 else 's'}."
