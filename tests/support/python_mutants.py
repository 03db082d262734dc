"""
Run mutmut on the rules that count and decide, in a copy of the project, and tell which mutants no test notices.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LISTED", "Survivor", "listed", "survivors"]

ROOT = Path(__file__).parents[2]
LISTED = ROOT / "tests" / "mutation" / "survivors.toml"
COPIED = ("tokenbudget_mw", "adapters", "contrib", "tests", "pyproject.toml")
LIVING = re.compile(r"^\s*(\S+__mutmut_\d+): (survived|no tests|suspicious)$", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Survivor:
    """
    A change that no test notices.

    Attributes:
        function: In which function, with its module; that is below the rules, if not below the package: ``windows.gcra.peek``.

        old: The lines that stood there, without what surrounds them.

        new: What stands there instead.
    """

    function: str
    old: str
    new: str


def listed() -> Counter[Survivor]:
    """
    Return the survivors that `LISTED` gives a reason for, each as often as it may survive.
    """
    groups = tomllib.loads(LISTED.read_text(encoding="utf-8"))["same"]
    assert all(group["reason"] for group in groups)
    return Counter(
        Survivor(group["function"], _line(old), _line(new)) for group in groups for old, new in group["changes"]
    )


def survivors(folder: Path) -> Counter[Survivor]:
    """
    Make every mutant in a copy of the project below *folder*, run the tests on each, and return those that live.
    """
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    _mutmut(folder, "run", "--max-children", "2")
    names = [name for name, _ in LIVING.findall(_mutmut(folder, "results"))]
    return Counter(_survivor(folder, name) for name in names)


def _survivor(folder: Path, name: str) -> Survivor:
    lines = _mutmut(folder, "show", name).splitlines()
    module, _, function = name.rpartition(".")
    function = re.sub(r"^x_|ǁ", lambda match: "." if match[0] == "ǁ" else "", function.partition("__mutmut_")[0])
    module = module.removeprefix("tokenbudget_mw.").removeprefix("rules.")
    function = f"{module}.{function.removeprefix('x.')}"
    old, new = ([line[1:] for line in lines if re.match(rf"\{sign}(?!\{sign}\{sign})", line)] for sign in "-+")
    return Survivor(function, _line(" ".join(old)), _line(" ".join(new)))


def _line(text: str) -> str:
    return " ".join(text.split())


def _mutmut(folder: Path, *arguments: str) -> str:
    # mutmut puts the mutated package before the installed one by itself
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    run = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        env=environment | {"COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"mutmut {' '.join(arguments)}:\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
    return run.stdout
