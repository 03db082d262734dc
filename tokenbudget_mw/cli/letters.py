"""
``tokenbudget-mw dead-letters``: usage that could not be written, to look at, mend, replay or drop.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, table
from tokenbudget_mw.errors import PermanentSinkError
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.letters import Letter, LetterStore

__all__ = ["add_arguments", "run"]

_Found = tuple[int, dict[str, Any], list[str]]

MOST = 1_000_000
"""More letters than there are: a list that is cut off without a word lacks the newest."""


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="show them, the oldest first")
    for name, what in (
        ("show", "show a letter whole"),
        ("mend", "change fields of a letter"),
        ("replay", "write letters as rows"),
        ("drop", "forget letters for good"),
    ):
        several = name in ("replay", "drop")
        action = actions.add_parser(name, help=what)
        action.add_argument("ids", nargs="*" if several else 1, metavar="ID", help="as listed, or how it begins")
        if several:
            action.add_argument("--all", action="store_true", help="all that there are")
    actions.choices["mend"].add_argument(
        "--set", action="append", required=True, metavar="FIELD=VALUE", help="VALUE as JSON, or a text as it is"
    )
    load = actions.add_parser("load", help="take letters from a spool's file into the database")
    load.add_argument("file", metavar="FILE", help="dead-letters.jsonl")
    for action in actions.choices.values():
        add_source(action)
        add_json(action)


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database.letters import LetterStore

    with context.database() as engine:
        code, result, lines = _ACTIONS[context.args.action](context, LetterStore(engine))
    context.emit(result, lines)
    return code


def _list(context: Context, store: LetterStore) -> _Found:
    del context
    letters = store.find(most=MOST)
    rows = [
        (
            letter.id[:12],
            f"{letter.kept_at:%Y-%m-%d %H:%M:%S}",
            letter.error,
            _shown(letter.fields.get("account")),
            _shown(letter.fields.get("request_model")),
            _cost(letter.fields.get("cost_pico")),
        )
        for letter in letters
    ]
    lines = table(("id", "refused at", "error", "account", "model", "cost"), rows) if rows else ["There are none."]
    return 0, {"letters": [_as_json(letter) for letter in letters]}, lines


def _show(context: Context, store: LetterStore) -> _Found:
    (letter,) = _chosen(context, store)
    lines = [f"{name}: {json.dumps(value)}" for name, value in letter.fields.items() if value is not None]
    return (
        0,
        _as_json(letter),
        [f"{letter.id}, refused at {letter.kept_at:%Y-%m-%d %H:%M:%S} UTC ({letter.error})", *lines],
    )


def _mend(context: Context, store: LetterStore) -> _Found:
    (letter,) = _chosen(context, store)
    mended = store.mend(letter, dict(map(_change, context.args.set)))
    return 0, _as_json(mended), [f"{letter.id[:12]} is mended; `dead-letters replay {letter.id[:12]}` writes it."]


def _replay(context: Context, store: LetterStore) -> _Found:
    written, known, refused, lines = 0, 0, 0, []
    for letter in _chosen(context, store):
        try:
            is_new = store.replay(letter)
        except PermanentSinkError as exc:
            refused += 1
            lines.append(f"{letter.id[:12]} is refused again: {exc} {exc.__cause__ or ''}".rstrip())
        else:
            written, known = written + is_new, known + (not is_new)
    lines.append(f"{written} written, {known} there already, {refused} refused again.")
    return int(refused > 0), {"written": written, "known": known, "refused": refused}, lines


def _drop(context: Context, store: LetterStore) -> _Found:
    letters = _chosen(context, store)
    for letter in letters:
        store.drop(letter)
    return 0, {"dropped": len(letters)}, [f"{len(letters)} dropped."]


def _load(context: Context, store: LetterStore) -> _Found:
    path = Path(context.args.file)
    loaded, unread = 0, []
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as exc:
        raise BadUseError(f"{str(path)!r} cannot be read ({type(exc).__name__}).") from exc
    for number, line in enumerate(lines, start=1):
        letter = _letter_in(line)
        if letter is not None:
            store.keep(*letter)
            loaded += 1
        elif line.strip():  # its process was killed in the midst of it, or the disk was full
            unread.append(number)
    if unread and not loaded:
        raise BadUseError(f"{str(path)!r} cannot be read: no line of it is a letter.")
    said = [f"Line {number} is no whole letter, and stays in the file alone." for number in unread]
    said.append(f"{loaded} loaded. The file stays; loading it again changes nothing.")
    return int(bool(unread)), {"loaded": loaded, "unread_lines": unread}, said


def _letter_in(line: str) -> tuple[dict[str, Any], str] | None:
    try:
        letter = json.loads(line)
    except ValueError:
        return None
    if not isinstance(letter, dict) or not isinstance(letter.get("record"), dict):
        return None
    return letter["record"], str(letter.get("error"))


def _chosen(context: Context, store: LetterStore) -> Sequence[Letter]:
    if getattr(context.args, "all", False):
        return store.find(most=MOST)
    if not context.args.ids:
        raise BadUseError("Give the ids of letters, or --all.")
    return [_one(store, prefix) for prefix in context.args.ids]


def _one(store: LetterStore, prefix: str) -> Letter:
    found = store.find(prefix, most=2)
    if len(found) != 1:
        raise BadUseError(f"{'Several letters begin' if found else 'No letter begins'} with {prefix!r}.")
    return found[0]


def _change(text: str) -> tuple[str, Any]:
    name, is_change, value = text.partition("=")
    if not is_change:
        raise BadUseError(f"--set: {text!r} is no change; write it like output_tokens=12.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _as_json(letter: Letter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "kept_at": letter.kept_at.isoformat(),
        "error": letter.error,
        "record": dict(letter.fields),
    }


def _shown(value: object) -> str | None:
    # a lone surrogate may be why it is here, and no terminal takes one
    return None if value is None else str(value)[:40].encode("ascii", "backslashreplace").decode()


def _cost(value: object) -> str:
    return format_usd(value) if isinstance(value, int) and not isinstance(value, bool) else "-"


_ACTIONS = {"list": _list, "show": _show, "mend": _mend, "replay": _replay, "drop": _drop, "load": _load}
