"""
Bodies that are forms (``multipart/form-data``, RFC 7578): small fields are read, files are measured.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MAX_FIELD", "Form", "is_form", "read_form"]

MAX_FIELD = 65_536
"""Longest value that is read, in bytes; more is measured as if it were a file."""

MAX_PARTS = 256
MAX_HEAD = 4_096


class Form(NamedTuple):
    """
    A form, or its beginning.

    Attributes:
        fields: Name -> value. Of a name given twice the last one holds.

        files: Name and size in bytes of each part that is a file.
    """

    fields: dict[str, str]
    files: tuple[tuple[str, int], ...]


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
    for part in rest.split(b"\r\n" + boundary, MAX_PARTS)[:MAX_PARTS]:
        head, blank, value = part.partition(b"\r\n\r\n")
        name = _parameter(head[:MAX_HEAD], b"name")
        if not blank or name is None:
            continue
        if len(value) > MAX_FIELD or _parameter(head[:MAX_HEAD], b"filename") is not None:
            files.append((name, len(value)))
        else:
            fields[name] = value.decode("utf-8", "replace")
    return Form(fields, tuple(files))


def _parameter(head: bytes, name: bytes) -> str | None:
    _, found, rest = head.partition(b" " + name + b'="')
    return rest.partition(b'"')[0].decode("utf-8", "replace") if found else None
