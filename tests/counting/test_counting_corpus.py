"""
What the counting benchmarks measure with: real texts of the asked length, and a picture that can be drawn.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def corpus(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.counting_corpus

    return benchmarks.counting_corpus


def test_there_are_twelve_languages_and_code(corpus):
    """From what is installed for the tests alone come a dozen languages, code and data."""
    pytest.importorskip("django")
    kinds = set(corpus.natural())

    assert len(kinds & set(corpus.LANGUAGES)) >= 12
    assert {"Python", "JSON", "logs", "emoji", "base64"} <= kinds


def test_languages_are_what_they_are_called(corpus):
    """A language's texts are written in its script."""
    pytest.importorskip("django")
    scripts = {"ru": (0x430, 0x44F), "ja": (0x3041, 0x30FF), "ko": (0xAC00, 0xD7A3), "el": (0x3B1, 0x3C9)}

    for language, (first, last) in scripts.items():
        text = "".join(corpus.natural()[language])
        assert sum(first <= ord(letter) <= last for letter in text) > 0.15 * len(text), language


def test_windows_have_the_asked_length_and_are_the_same_again(corpus):
    """Each kind gives as many texts as asked, twice as many are mixed, and a second run sees the same ones."""
    found = list(corpus.windows(5_000, 2))

    assert all(len(text) == 5_000 for _, text in found)
    assert sum(kind == "mix" for kind, _ in found) == 4
    assert sum(kind == "Python" for kind, _ in found) == 2
    assert found == list(corpus.windows(5_000, 2))


def test_adversarial_layouts_are_of_the_asked_length(corpus):
    """Every layout is made, near its length, and differs by its seed."""
    for name in corpus.ADVERSARIAL:
        text = corpus.adversarial(name, 20_000)

        assert 0.95 * 20_000 <= len(text) <= 20_000, name
        assert text != corpus.adversarial(name, 20_000, seed=1), name


def test_the_picture_is_an_svg(corpus):
    """The curves become one well-formed picture, a line each, inside of its frame."""
    from benchmarks.counting_plot import HEIGHT, WIDTH, svg

    picture = ET.fromstring(svg({"a": [(100, 0.001), (10_000_000, 100.0)], "b": [(1_000, 0.0)]}))
    lines = [line for line in picture if line.tag.endswith("polyline")]
    points = [tuple(map(float, point.split(","))) for line in lines for point in line.get("points", "").split()]

    assert len(lines) == 2
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
