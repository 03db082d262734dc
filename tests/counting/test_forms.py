"""
Forms that come in pieces: what is read of them, wherever they are cut, and in how much memory.
"""

from __future__ import annotations

import random
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.counting.payloads.forms import MAX_FIELD, MAX_FIELDS, MAX_LINE, Form, FormReader, read_form

BOUNDARY = b"----------------------7f3a9c51d2"
LINE = b"\r\n--" + BOUNDARY


def part(name: bytes, value: bytes, *, more: bytes = b"", headers: bytes = b"") -> bytes:
    """A part with its boundary."""
    return b"--%s\r\n" % BOUNDARY + b'Content-Disposition: form-data; name="%s"%s%s\r\n\r\n%s\r\n' % (
        name,
        more,
        headers,
        value,
    )


def file(value: bytes, name: bytes = b"file") -> bytes:
    """A part that is a file."""
    return part(name, value, more=b'; filename="a.mp3"', headers=b"\r\nContent-Type: audio/mpeg")


END = b"--%s--\r\n" % BOUNDARY


def read(data: bytes, cuts: list[int]) -> tuple[Form, bool]:
    """Feed *data* cut at these places."""
    reader, before = FormReader(), 0
    for at in [*sorted(cuts), len(data)]:
        reader.feed(data[before:at])
        before = at
    return reader.form(), reader.is_ended


TRICKS = [
    part(b"model", b"whisper-1") + file(b"\x00\r\n-\r\n--" * 40) + END,
    file(b"\r\n--%s" % BOUNDARY[:-1] * 9) + part(b"model", b"dear") + END,
    part(b"model", b"cheap") + file(b"") + part(b"model", b"dear") + END + b"epilogue",
    file(b"x") + part(b"model", b"dear")[:-2],
    file(b"x") + part(b"model", b"dear") + END[:-3],
    file(b"abc" + END) + part(b"model", b"dear") + END,
    file(b"x" * 300) + END + part(b"model", b"dear") + END,
    file(b"abc\n--%s\nContent-Disposition: form-data; name=model\n\ndear" % BOUNDARY) + END,
    file(b"x") + b"--%s \r\n" % BOUNDARY + part(b"model", b"dear")[len(LINE) :] + END,
]


@pytest.mark.parametrize("data", TRICKS)
def test_every_cut_reads_the_same(data: bytes) -> None:
    """Cut in two at any byte, and into single bytes, a form is what it is in one piece."""
    whole = read(data, [])

    assert whole[0] == read_form(data)
    assert [at for at in range(len(data)) if read(data, [at]) != whole] == []
    assert read(data, list(range(1, len(data)))) == whole


@given(
    st.lists(
        st.sampled_from([b"a", b"\r\n", b"--", BOUNDARY, LINE, END, part(b"model", b"m"), file(b"z")]), max_size=14
    ),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_pieces_of_a_form_read_the_same_cut_or_whole(pieces: list[bytes], cuts: list[int]) -> None:
    """However the pieces of forms are put together, and cut, the reader finds the same."""
    data = b"--" + BOUNDARY + b"".join(pieces)

    assert read(data, [cut for cut in cuts if cut < len(data)]) == read(data, [])


def test_a_form_tells_the_first_and_the_last_of_a_name() -> None:
    """Some frameworks take the one, some the other."""
    form, is_ended = read(TRICKS[2], [])

    assert (form.firsts["model"], form.fields["model"], is_ended) == ("cheap", "dear", True)
    assert (form.fault, form.doubtful) == (None, {"model"})


@pytest.mark.parametrize("data", TRICKS[3:5])
def test_a_form_without_its_end_is_read_as_far_as_it_came(data: bytes) -> None:
    """Django takes its last field, Werkzeug nothing; as a beginning, which may have been cut, it is left out."""
    form, is_ended = read(data, [])

    assert (form.fields, is_ended, form.fault) == ({"model": "dear"}, False, None)
    assert ("model" in read_form(TRICKS[3], is_whole=False).fields) is False


@pytest.mark.parametrize("data", TRICKS[5:])
def test_a_boundary_anywhere_else_is_a_fault(data: bytes) -> None:
    """Django finds it in a line's middle and behind the end, Werkzeug behind a bare line feed and before spaces."""
    assert read(data, [])[0].fault is not None


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        (b"; name*=UTF-8''model", b""),
        (b'; filename*0="a"', b""),
        (b"", b"\r\nContent-Transfer-Encoding: base64"),
        (b"", b"\r\ncontent-transfer-encoding : quoted-printable"),
        (b"", b"\nContent-Type: text/plain"),
        (b"", b"\r\nX: \ry"),
    ],
)
def test_a_part_that_is_written_in_two_minds_is_a_fault(more: bytes, headers: bytes) -> None:
    """Django decodes fields, Werkzeug takes bare line ends, and both know names that others do not."""
    assert read(part(b"z", b"ZGVhcg==", more=more, headers=headers) + END, [])[0].fault is not None


@pytest.mark.parametrize("coding", [b"7bit", b"8BIT", b"binary"])
def test_a_part_in_no_coding_may_say_so(coding: bytes) -> None:
    """Some clients name what changes nothing; a file may be in any, for it is measured alone."""
    data = part(b"model", b"m", headers=b"\r\nContent-Transfer-Encoding: " + coding)
    data += part(b"file", b"x", more=b'; filename="a"', headers=b"\r\nContent-Transfer-Encoding: base64")

    assert read(data + END, [])[0] == Form({"model": "m"}, (("file", 1),), firsts={"model": "m"})


def test_a_long_file_takes_no_memory() -> None:
    """Of 50 MB that pass, less than half a megabyte is kept at any moment; the file's size is told to the byte."""
    reader, piece = FormReader(), random.Random(7).randbytes(65_536)
    reader.feed(file(b"")[:-2])
    tracemalloc.start()
    for _ in range(800):
        reader.feed(piece)
    reader.feed(b"\r\n" + part(b"model", b"dear") + END)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 500_000
    assert reader.form() == Form({"model": "dear"}, (("file", 800 * 65_536),), firsts={"model": "dear"})


def test_fields_are_bounded_together() -> None:
    """Many fields, and one that never ends, are kept up to a bound, and beyond it the form is none."""
    reader = FormReader()
    for at in range(64):
        reader.feed(part(b"f%d" % at, b"x" * MAX_FIELD))
    kept = reader.form(is_whole=False)

    assert kept.fault is not None
    assert sum(map(len, kept.fields.values())) <= MAX_FIELDS


@pytest.mark.parametrize("before", [b"", END])
def test_countless_boundaries_are_not_counted(before: bytes) -> None:
    """Behind the last part that is read, or the end, one boundary more is enough to know that it is no form."""
    reader = FormReader()
    reader.feed(part(b"model", b"m") + before)
    steps = 0

    def step(*_: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(step)
    reader.feed(LINE * 100_000)
    sys.setprofile(None)

    assert reader.form().fault is not None
    assert steps < 20_000


@pytest.mark.parametrize("data", [b"-" * (MAX_LINE + 1), b"--x y\r\n", b"\r\n", b"--" + b"x" * MAX_LINE + b"\r\n"])
def test_what_has_no_boundary_is_given_up(data: bytes) -> None:
    """Without a first line that could be one nothing is kept."""
    reader = FormReader()
    for at in range(len(data)):
        reader.feed(data[at : at + 1])
    reader.feed(b"x" * 1_000_000)

    assert reader.form().fault == "its first line is no boundary"
