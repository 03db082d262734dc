"""
What stands in the files of the project.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["tokenbudget_mw", "adapters", "contrib", "tests", "benchmarks", "docs", ".github", ".ci"]
SUFFIXES = {".py", ".md", ".toml", ".ini", ".yml", ".yaml", ".sql", ".lua", ".html", ".txt", ".json", ".cfg", ""}
HOME = re.compile(r"(?<![\w.}/])/(?:home|root|opt|work|Users)/\w")


def files(*folders: str, suffixes: set[str] = SUFFIXES) -> Iterator[Path]:
    """
    Give the text files of *folders*, leaving out what was generated.
    """
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            is_generated = {"__pycache__", "_build", "_generated"} & set(path.parts)
            if path.is_file() and path.suffix in suffixes and not is_generated and path.stat().st_size < 1_000_000:
                yield path


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    """No absolute path of a developer's machine stands in the tree."""
    top = [path for path in ROOT.glob("*") if path.is_file() and path.suffix in SUFFIXES - {""}]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*files(*FOLDERS), *top]
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if HOME.search(line)
    ]

    assert found == []


def test_tests_are_no_package() -> None:
    """`tests` has no `__init__.py`, so that no test can be imported by accident."""
    assert [path for path in files("tests") if path.name == "__init__.py"] == []


def test_test_files_have_names_of_their_own() -> None:
    """No two test files share a name."""
    names = [path.name for path in files("tests", suffixes={".py"}) if path.name.startswith("test_")]

    assert sorted(names) == sorted(set(names))


def test_adapters_match_the_path_as_the_server_decoded_it() -> None:
    """`request.url` is rebuilt from headers that the client chose; nothing of ours reads it."""
    code = [*files("tokenbudget_mw", "adapters", suffixes={".py"})]
    found = [path for path in code if re.search(r"\brequest\.(base_)?url\b", path.read_text())]

    assert found == []


@pytest.mark.parametrize("package", ["tokenbudget_mw", "adapters", "contrib"])
def test_source_files_stay_readable(package: str) -> None:
    """No source file is longer than 400 lines."""
    sizes = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in files(package, suffixes={".py"})}

    assert {path: lines for path, lines in sizes.items() if lines > 400} == {}
