"""
``flask tokenbudget …``: the same commands as ``tokenbudget-mw``, with the app's settings.
"""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import with_appcontext

from tokenbudget_mw.cli import main
from tokenbudget_mw_flask import EXTENSION

__all__ = ["tokenbudget"]

_ALONE = frozenset({"--config", "--help", "-h", "--version"})
"""Options with which a command needs no settings of the app's."""


@click.command(
    "tokenbudget",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Limits, keys, usage and books of tokenbudget-mw.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@with_appcontext
def tokenbudget(arguments: tuple[str, ...]) -> None:
    """
    Run a tokenbudget-mw command with the app's settings.
    """
    core = current_app.extensions.get(EXTENSION)
    settings = core.settings if core else None
    is_alone = arguments[:1] == ("demo",) or any(argument.partition("=")[0] in _ALONE for argument in arguments)
    if core is None and not is_alone:
        raise click.UsageError(
            f"This app has no TokenBudget, so there are no settings: call `TokenBudget(app)` or `init_app(app)` where "
            f"{current_app.name!r} is made, or name them by --config."
        )
    raise SystemExit(main(list(arguments), settings=settings, prog="flask tokenbudget"))
