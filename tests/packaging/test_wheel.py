"""
What is in the wheel.
"""

from __future__ import annotations

import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "tokenbudget_mw": ROOT / "tokenbudget_mw",
    "tokenbudget_mw_fastapi": ROOT / "adapters/tokenbudget_mw_fastapi",
    "tokenbudget_mw_flask": ROOT / "adapters/tokenbudget_mw_flask",
    "tokenbudget_mw_django": ROOT / "adapters/tokenbudget_mw_django",
    "tokenbudget_mw_alembic": ROOT / "contrib/tokenbudget_mw_alembic",
    "tokenbudget_mw_clients": ROOT / "contrib/tokenbudget_mw_clients",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """
    The wheel, as built from this tree.
    """
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return zipfile.Path(built)


def names_in(folder: Path) -> set[str]:
    """
    Return the files below *folder* that are not made by running them.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in files}


def test_wheel_holds_our_packages_and_nothing_else(wheel: zipfile.Path) -> None:
    """Tests, docs and benchmarks stay out; `adapters` and `contrib` are no packages."""
    folders = {entry.name for entry in wheel.iterdir()}

    assert {name for name in folders if not name.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_is_in_the_wheel(wheel: zipfile.Path, package: str) -> None:
    """Code, SQL, Lua, encodings, prices, migrations and type marker: what is in the tree is in the wheel."""
    with zipfile.ZipFile(wheel.root.filename) as archive:
        packed = {name.partition("/")[2] for name in archive.namelist() if name.partition("/")[0] == package}

    assert packed == names_in(PACKAGES[package])
    assert "py.typed" in packed


def test_commands_are_declared(wheel: zipfile.Path) -> None:
    """The console script and the Flask commands point at something that exists."""
    (info,) = [entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info")]
    points = (info / "entry_points.txt").read_text()

    assert "tokenbudget-mw = tokenbudget_mw.cli:main" in points
    assert "tokenbudget = tokenbudget_mw_flask.cli:tokenbudget" in points


def test_declared_commands_can_be_loaded() -> None:
    """Every entry point of the installed package loads."""
    from importlib.metadata import distribution

    points = list(distribution("tokenbudget-mw").entry_points)

    assert {point.name for point in points} == {"tokenbudget-mw", "tokenbudget"}
    # pytest takes its plugins as modules, everybody else wants something to call
    assert all(callable(point.load()) or point.group == "pytest11" for point in points)


def test_metadata_is_complete() -> None:
    """Version, licence, Python and extras are what the code and the docs say."""
    import tokenbudget_mw

    info = metadata("tokenbudget-mw")

    assert version("tokenbudget-mw") == tokenbudget_mw.__version__
    assert info["License-Expression"] == "Apache-2.0"
    assert info["Requires-Python"] == ">=3.11"
    extras = {"redis", "postgresql", "mysql", "fastapi", "flask", "django", "alembic", "demo", "all"}
    assert extras <= set(info.get_all("Provides-Extra"))
