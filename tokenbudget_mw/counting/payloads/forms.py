"""
Bodies that are forms (``multipart/form-data``, RFC 7578): small fields are read, files are measured.

What apps read differently is no form here: an app that takes the first of two models must not run the dearer one while the
other is charged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tokenbudget_mw.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_FIELD", "Form", "check_form", "is_form", "plain_form", "read_form"]

MAX_FIELD = 65_536
"""Longest value that is read, in bytes; more is measured as if it were a file."""

MAX_PARTS = 256
MAX_HEAD = 4_096
MAX_PARAMETERS = 16

_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition[ \t]*:[ \t]*form-data((?:[^\r]|\r(?!\n))*+)", re.IGNORECASE)
_PARAMETER = re.compile(rb'\s*;\s*([\w*-]++)=(?:"((?:\\.|[^"\\])*+)"|([^\s;"]++))', re.DOTALL)
_BOUNDARY = re.compile(r'boundary\*?\s*=\s*(?:"([^"]*)"|([^\s;",]*))', re.IGNORECASE)


class Form(NamedTuple):
    """
    A form, or its beginning.

    Attributes:
        fields: Name -> value. Of a name given twice the last one holds.

        files: Name and size in bytes of each part that is a file.

        fault: Why apps may read it differently; None where they cannot.

        doubtful: Names that were given twice, with different values.
    """

    fields: dict[str, str]
    files: tuple[tuple[str, int], ...]
    fault: str | None = None
    doubtful: frozenset[str] = frozenset()


def is_form(body: bytes) -> bool:
    """
    Tell whether *body* is a form: it begins with its boundary, as no JSON does.
    """
    return body.startswith(b"--")


def read_form(body: bytes) -> Form:
    r"""
    Read *body*; what is no form of its kind is left out.

    >>> read_form(b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--\r\n').fields
    {'model': 'whisper-1'}
    """
    boundary, _, rest = body.partition(b"\r\n")
    fields: dict[str, str] = {}
    files: list[tuple[str, int]] = []
    doubtful: set[str] = set()
    parts = (b"\r\n" + rest).split(b"\r\n" + boundary, MAX_PARTS)
    fault = None if len(parts) <= MAX_PARTS else f"it has more than {MAX_PARTS} parts"
    for place, part in enumerate(parts[:MAX_PARTS], start=1):
        if part.startswith(b"--"):
            break  # its end: what is behind it is nobody's
        head, blank, value = part.partition(b"\r\n\r\n")
        found = _named(head) if blank and part.startswith(b"\r\n") else None
        if found is None:
            if place < len(parts):  # the last one may have been cut off
                fault = "a part of it has no plain name"
            continue
        name, is_file = found
        if len(value) > MAX_FIELD or is_file:
            files.append((name, len(value)))
            continue
        text = value.decode("utf-8", "replace")
        if fields.get(name, text) != text:
            doubtful.add(name)
        fields[name] = text
    return Form(fields, tuple(files), fault, frozenset(doubtful))


def plain_form(body: bytes, names: Iterable[str]) -> Form:
    """
    Read *body*, or its beginning, of which the fields with these *names* are metered; others may be given many times.

    Raises:
        PayloadError: Apps may read it differently.
    """
    form = read_form(body)
    twice = "it has a field twice" if not form.doubtful.isdisjoint(names) else None
    fault = form.fault or twice
    if fault is not None:
        raise PayloadError(f"The form cannot be metered, for apps may read it differently: {fault}.")
    return form


def check_form(body: bytes, content_types: tuple[str, ...]) -> None:
    """
    Check that *body*, if it is a form, is the one that its content type means.

    Args:
        body: The body, or its beginning.

        content_types: Every ``Content-Type`` of the request.

    Raises:
        PayloadError: It is not, so that the app would read another.
    """
    if not is_form(body):
        return
    named = _BOUNDARY.findall(content_types[0]) if len(content_types) == 1 else []
    boundary = "".join(named[0]).encode("latin-1", "replace") if len(named) == 1 else b""
    if not boundary or not body.startswith(b"--" + boundary + b"\r\n"):
        raise PayloadError("The body is a form that does not begin with the boundary that its Content-Type names.")


def _named(head: bytes) -> tuple[str, bool] | None:
    """
    Return the name in a part's *head*, and whether the part is a file; None where two readers may not agree.
    """
    found = _DISPOSITION.findall(head) if len(head) <= MAX_HEAD else []
    if len(found) != 1:
        return None
    rest = found[0]
    parameters: dict[bytes, bytes] = {}
    while match := _PARAMETER.match(rest):
        key = match[1].lower()
        if key in parameters or len(parameters) == MAX_PARAMETERS:
            return None
        parameters[key] = match[2] if match[2] is not None else match[3]
        rest = rest[match.end() :]
    name = parameters.get(b"name")
    if name is None or b"\\" in name or rest.strip():
        return None
    return name.decode("utf-8", "replace"), b"filename" in parameters or b"filename*" in parameters
