"""
What importing the package loads, and what it must not.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {"django", "fastapi", "flask", "starlette", "werkzeug"}
DRIVERS = {"alembic", "hiredis", "psycopg", "pymysql", "redis", "sqlalchemy"}
TOKENIZERS = {"fastokens", "regex", "tiktoken"}
LOOPS = {"anyio", "asyncio", "trio", "uvloop"}


def modules_after(statement: str) -> set[str]:
    """
    Return the top-level modules that a fresh interpreter has loaded after *statement*.
    """
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import tokenbudget_mw` loads no framework, driver, tokenizer or event loop, not even our own dependencies."""
    loaded = modules_after("import tokenbudget_mw")

    assert "tokenbudget_mw" in loaded
    assert not loaded & (FRAMEWORKS | DRIVERS | TOKENIZERS | LOOPS)
    assert not loaded & {"limits", "cachetools", "msgspec", "ssl", "http"}


@pytest.mark.parametrize("name", ["ASGIMiddleware", "WSGIMiddleware", "current", "Settings"])
def test_public_names_load_no_framework_and_no_driver(name: str) -> None:
    """A name of the core brings no framework, driver or tokenizer with it: those come when settings choose them."""
    loaded = modules_after(f"from tokenbudget_mw import {name}")

    assert not loaded & (FRAMEWORKS | DRIVERS | TOKENIZERS)


def test_every_public_name_is_there() -> None:
    """Whatever `__all__` promises can be imported."""
    import tokenbudget_mw

    assert [name for name in tokenbudget_mw.__all__ if getattr(tokenbudget_mw, name, None) is None] == []


def test_unknown_name_is_an_attribute_error() -> None:
    """Lazy loading does not hide a misspelt name."""
    import tokenbudget_mw

    with pytest.raises(AttributeError, match="AsgiMiddleware"):
        tokenbudget_mw.AsgiMiddleware  # noqa: B018


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [
        ("tokenbudget_mw_fastapi", "starlette", "fastapi"),
        ("tokenbudget_mw_fastapi.openapi", "fastapi", "fastapi"),
        ("tokenbudget_mw_flask", "flask", "flask"),
    ],
)
def test_adapter_without_its_framework_names_the_extra(module: str, framework: str, extra: str) -> None:
    """Whoever has not installed the extra is told how."""
    code = f"import sys\nsys.modules[{framework!r}] = None\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert f"{module} needs '{framework}': pip install 'tokenbudget-mw[{extra}]'" in done.stderr
