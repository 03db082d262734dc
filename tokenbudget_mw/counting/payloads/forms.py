"""
Bodies that are forms (``multipart/form-data``, RFC 7578): small fields are read, files are measured.

What apps read differently is no form here: an app that takes the first of two models must not run the dearer one while the
other is charged. So a boundary has a meaning wherever it stands, for Django finds it in the middle of a line and behind the
form's end, and Werkzeug behind a bare line feed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tokenbudget_mw.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_FIELD", "Form", "FormReader", "check_form", "is_form", "plain_form", "read_form"]

MAX_FIELD = 65_536
"""Longest value that is read, in bytes; more is measured as if it were a file."""

MAX_FIELDS = 1_048_576
"""Bytes of all values that are read, together."""

MAX_PARTS = 256
MAX_HEAD = 4_096
MAX_PARAMETERS = 16
MAX_LINE = 256
"""Bytes of the first line, which is the boundary: RFC 2046 allows 70 characters."""

_KEPT = MAX_HEAD + 4 + MAX_FIELD + 1
_LINE = b"\r\n"
_END = b"--"
_FIRST = re.compile(rb"--[\w'()+,./:=?-]{1,%d}" % (MAX_LINE - 2))  # no space, which some apps would strip

_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition[ \t]*:[ \t]*form-data((?:[^\r]|\r(?!\n))*+)", re.IGNORECASE)
_PARAMETER = re.compile(rb'\s*;\s*([\w*-]++)=(?:"((?:\\.|[^"\\])*+)"|([^\s;"]++))', re.DOTALL)
_BOUNDARY = re.compile(r'boundary\*?\s*=\s*(?:"([^"]*)"|([^\s;",]*))', re.IGNORECASE)
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_CODED = re.compile(
    rb"\r\ncontent-transfer-encoding[ \t]*:(?![ \t]*(?:7bit|8bit|binary)[ \t]*(?:\r\n|$))", re.IGNORECASE
)
_EXTENDED = re.compile(rb"name\*|filename\*.")


class Form(NamedTuple):
    """
    A form, or its beginning.

    Attributes:
        fields: Name -> value. Of a name given twice the last one holds.

        files: Name and size in bytes of each part that is a file.

        fault: Why apps may read it differently; None where they cannot.

        doubtful: Names that were given twice, with different values.

        firsts: The same as *fields*, where of a name given twice the first one holds.
    """

    fields: dict[str, str]
    files: tuple[tuple[str, int], ...]
    fault: str | None = None
    doubtful: frozenset[str] = frozenset()
    firsts: dict[str, str] = {}  # noqa: RUF012 - nobody changes it


def is_form(body: bytes) -> bool:
    """
    Tell whether *body* is a form: it begins with its boundary, as no JSON does.
    """
    return body.startswith(b"--")


class FormReader:
    r"""
    Reads a form that comes in pieces, wherever it is cut, and keeps no more of it than `MAX_FIELDS` bytes and one value.

    >>> reader = FormReader()
    >>> reader.feed(b'--x\r\nContent-Disposition: form-data; name="mod')
    >>> reader.feed(b'el"\r\n\r\nwhisper-1\r\n--x--\r\n')
    >>> reader.form().fields, reader.is_ended
    ({'model': 'whisper-1'}, True)

    Attributes:
        is_ended: Whether its last boundary has come.
    """

    __slots__ = (
        "_boundary",
        "_doubtful",
        "_fault",
        "_fields",
        "_files",
        "_firsts",
        "_part",
        "_parts",
        "_read",
        "_rest",
        "_size",
        "is_ended",
    )

    def __init__(self) -> None:
        self.is_ended = False
        self._boundary = b""
        self._rest = b""  # of which nobody can tell yet whether a boundary is in it
        self._part = bytearray()  # the beginning of the part that is open
        self._size = 0
        self._parts = 0
        self._read = 0
        self._fault: str | None = None
        self._fields: dict[str, str] = {}
        self._firsts: dict[str, str] = {}
        self._files: list[tuple[str, int]] = []
        self._doubtful: set[str] = set()

    def feed(self, data: bytes) -> None:
        """
        Take the next piece; what comes behind something that makes it no form is skipped.
        """
        if self._parts > MAX_PARTS:
            return
        data = self._rest + data
        boundary, start = self._boundary, 0
        if not boundary:
            start = data.find(_LINE)
            if start < 0 and len(data) <= MAX_LINE:
                self._rest = data
                return
            if _FIRST.fullmatch(data, 0, max(start, 0)) is None:
                self._give_up("its first line is no boundary")
                return
            boundary = self._boundary = data[:start]
        while self._parts <= MAX_PARTS and (at := data.find(boundary, start)) >= 0:
            behind = at + len(boundary)
            follows = data[behind : behind + 2]
            if len(follows) < 2:
                break
            self._close(data, start, at)
            self.is_ended = self.is_ended or follows == _END
            if not self.is_ended and follows != _LINE:
                self._fault = "a line begins as its boundary does"
            start = behind
        if self._parts > MAX_PARTS:
            return
        # so many bytes may be the beginning of a boundary's line
        until = max(start, len(data) - len(boundary) - 3)
        self._take(data, start, until)
        self._rest = data[until:]

    def form(self, *, is_whole: bool = True) -> Form:
        """
        Return what has come so far; where it *is_whole*, the part that no boundary ends as well.
        """
        if is_whole and not self.is_ended and self._parts <= MAX_PARTS:
            return self._with_open_part()
        return Form(dict(self._fields), tuple(self._files), self._fault, frozenset(self._doubtful), dict(self._firsts))

    def _take(self, data: bytes, start: int, until: int) -> None:
        room = _KEPT - len(self._part)
        if not self.is_ended and until > start:
            self._size += until - start
            self._part += data[start : min(until, start + room)]

    def _close(self, data: bytes, start: int, at: int) -> None:
        """
        Close the part that ends in *data* at *at*, where a boundary begins.
        """
        if self.is_ended:
            self._give_up("something stands behind its end")
            return
        line = max(start, at - 2)
        if data[line:at] != _LINE:
            self._fault = "its boundary stands in the middle of a line"
            line = at
        self._take(data, start, line)
        self._parts += 1
        if self._parts > MAX_PARTS:
            self._give_up(f"it has more than {MAX_PARTS} parts")
        elif not self._keep(bytes(self._part), self._size):
            self._fault = "a part of it has no plain name"
        self._part.clear()
        self._size = 0

    def _give_up(self, fault: str) -> None:
        self._fault, self._parts, self._rest = fault, MAX_PARTS + 1, b""

    def _keep(self, part: bytes, size: int) -> bool:
        """
        Take a part of *size* bytes that begins with *part*; False where apps may not agree on what it is.
        """
        head, blank, value = part.partition(b"\r\n\r\n")
        found = _named(head) if blank and part.startswith(_LINE) else None
        if found is None:
            return False
        name, is_file = found
        size -= len(head) + len(blank)
        if is_file or size > MAX_FIELD:
            self._files.append((name, size))
            return True
        self._read += len(name) + size
        if self._read > MAX_FIELDS:
            self._fault = f"it has more than {MAX_FIELDS} bytes in fields"
            return True
        text = value.decode("utf-8", "replace")
        if self._fields.get(name, text) != text:
            self._doubtful.add(name)
        self._fields[name] = text
        self._firsts.setdefault(name, text)
        return True

    def _with_open_part(self) -> Form:
        ended, rest = FormReader(), self._rest
        line = _LINE + self._boundary
        known = [line + b"-", line + b"\r", *(line[:length] for length in range(len(line), 0, -1))]
        rest = rest.removesuffix(next(filter(rest.endswith, known), b""))  # the beginning of a boundary is no value's
        ended._fields, ended._firsts = dict(self._fields), dict(self._firsts)
        ended._files, ended._doubtful = list(self._files), set(self._doubtful)
        ended._fault, ended._read = self._fault, self._read
        ended._keep(bytes(self._part + rest)[:_KEPT], self._size + len(rest))  # none that has been cut off is a fault
        return ended.form(is_whole=False)


def read_form(body: bytes, *, is_whole: bool = True) -> Form:
    r"""
    Read *body*, or its beginning; what is no form of its kind is left out. See `FormReader.form`.

    >>> read_form(b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--\r\n').fields
    {'model': 'whisper-1'}
    """
    reader = FormReader()
    reader.feed(body)
    return reader.form(is_whole=is_whole)


def plain_form(body: bytes, names: Iterable[str], *, is_whole: bool = True) -> Form:
    """
    Read *body*, or its beginning, of which the fields with these *names* are metered; others may be given many times. Of one
    that no more *is_whole* the last value is left out, which may have been cut.

    Raises:
        PayloadError: Apps may read it differently.
    """
    form = read_form(body, is_whole=is_whole)
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
    found = _DISPOSITION.findall(head) if len(head) <= MAX_HEAD and _BARE.search(head) is None else []
    if len(found) != 1:
        return None
    rest = found[0]
    parameters: dict[bytes, bytes] = {}
    while match := _PARAMETER.match(rest):
        key = match[1].lower()
        if key in parameters or len(parameters) == MAX_PARAMETERS or _EXTENDED.match(key):
            return None  # Werkzeug and Django read `name*`, others do not
        parameters[key] = match[2] if match[2] is not None else match[3]
        rest = rest[match.end() :]
    name = parameters.get(b"name")
    if name is None or b"\\" in name or rest.strip():
        return None
    is_file = b"filename" in parameters or b"filename*" in parameters
    if not is_file and _CODED.search(head):
        return None  # Django decodes it
    return name.decode("utf-8", "replace"), is_file
