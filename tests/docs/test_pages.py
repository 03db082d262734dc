"""
The pages and their examples belong together.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tokenbudget_mw.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
EXAMPLES = sorted(path.stem for path in (DOCS / "examples").glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_tested_and_shown(name: str) -> None:
    """An example that no test runs or no page shows has no place."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_example_*.py"))
    pages = "".join(page.read_text() for page in PAGES)

    assert f'"{name}"' in tests or f'"{name}.py"' in tests
    assert f"examples/{name}.py" in pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_on_a_page_comes_from_an_example(page: Path) -> None:
    """Code on a page is included from a file that a test runs, never typed into the page."""
    assert re.findall(r"^```python", page.read_text(), re.MULTILINE) == []


def test_every_page_is_in_the_contents() -> None:
    """The index leads to every page."""
    index = (DOCS / "index.md").read_text().split()

    assert [page.stem for page in PAGES if page.stem != "index" and page.stem not in index] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A relative link names a file that exists."""
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_on_a_page_exist(page: Path) -> None:
    """Whatever a page includes from the examples is there."""
    included = re.findall(r"\{literalinclude\} (\S+)", page.read_text())

    assert [path for path in included if not (DOCS / path).is_file()] == []


COMMAND = re.compile(
    r"^ +(?:python manage\.py tokenbudget|flask --app \w+ tokenbudget|tokenbudget-mw) ([^#\n]+)", re.MULTILINE
)


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """
    Return the commands on *page*: the words before the first option or argument, and the options.
    """
    found = []
    for line in COMMAND.findall(page.read_text()):
        name = re.match(r"(?:(?:dead-letters|keys|money|orphans|partitions|tariffs) )?[a-z]+", line)
        assert name is not None, line
        found.append((name.group(), re.findall(r"--[a-z-]+", line)))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_on_a_page_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command is one of `tokenbudget-mw`'s, and takes the options that the page gives it."""
    for name, options in commands(page):
        code = main([*name.split(), "--help"])
        words = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))

        assert code == 0
        assert set(options) <= words, name


def test_glossary_defines_the_words_of_the_code() -> None:
    """Every value that travels has its word in the glossary."""
    glossary = (DOCS / "glossary.md").read_text()
    words = [
        "subject",
        "plan",
        "limit",
        "window",
        "cost",
        "reservation",
        "decision",
        "refusal",
        "usage record",
        "tariff",
    ]
    words += [
        "price book",
        "ledger",
        "entry",
        "balance",
        "spool",
        "flush",
        "sink",
        "dead letter",
        "backend",
        "lease",
        "shadow",
    ]

    assert [word for word in words if not re.search(rf"^{word}$", glossary, re.MULTILINE)] == []


def test_readme_gives_the_two_commands() -> None:
    """The demonstration and the tests are one command each, from nothing but Python."""
    readme = (ROOT / "README.md").read_text()

    assert "\npython3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox -e demo\n" in readme
    assert "\npython3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox\n" in readme
    assert "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox " in (ROOT / ".ci/run").read_text()
