"""
The pytest plugin, as a user's test run sees it.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PLUGIN = "tokenbudget_mw.testing.plugin"
HEAVY = {"asyncio", "django", "fastapi", "flask", "httpx", "msgspec", "redis", "sqlalchemy", "starlette", "tiktoken"}

CONFTEST = """
    import pytest

    @pytest.fixture
    def tokenbudget_settings():
        return {"plans": {"free": ["2 requests/minute", "100 tokens/minute", "$1/month"]}, "default_plan": "free"}
"""

Run = Callable[[str], pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """
    Run a user's test file in a process of its own, with our plugin and no other.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST)

    def start(code: str) -> pytest.RunResult:
        pytester.makepyfile(code)
        return pytester.runpytest_subprocess("-p", PLUGIN, "-W", "error")

    return start


def test_entry_point_names_the_plugin() -> None:
    """The package declares the plugin to pytest, under the name that `-p no:tokenbudget` takes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["entry-points"]["pytest11"] == {"tokenbudget": PLUGIN}


def test_plugin_imports_nothing_heavy() -> None:
    """Every test run of a user loads the plugin, so it brings no more than pytest itself does."""
    code = (
        f"import pytest, sys\nbefore = set(sys.modules)\nimport {PLUGIN}\nprint('\\n'.join(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())

    assert PLUGIN in loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert {name for name in loaded if name.startswith("tokenbudget_mw")} == {
        "tokenbudget_mw",
        "tokenbudget_mw.testing",
        PLUGIN,
    }


def test_fixture_works_in_a_users_run(run: Run) -> None:
    """A user's test gets limits from its own settings, on a clock that it moves, and rows."""
    result = run(
        """
        from tokenbudget_mw import Subject

        ANN = Subject(key="ann")

        def test_limit(tokenbudget):
            tokenbudget.set_usage(ANN, requests=2)
            tokenbudget.assert_refused(tokenbudget.decide(ANN), limit="requests-minute", status=429)
            tokenbudget.clock.advance(61)
            assert tokenbudget.decide(ANN).admitted

        def test_books(tokenbudget):
            tokenbudget.charge(ANN, input_tokens=10, output_tokens=5, model="gpt-4o")
            (row,) = tokenbudget.rows()
            assert (row.key_id, row.total_tokens) == ("ann", 15)
        """
    )

    result.assert_outcomes(passed=2)


def test_each_test_begins_empty(run: Run) -> None:
    """What one test used, the next one does not see."""
    result = run(
        """
        import pytest
        from tokenbudget_mw import Subject

        @pytest.mark.parametrize("turn", range(3))
        def test_fresh(tokenbudget, turn):
            assert tokenbudget.rows() == []
            assert tokenbudget.decide(Subject(key="ann")).tallies[0].state.remaining == 1
            tokenbudget.charge(Subject(key="ann"), input_tokens=10, model="gpt-4o")
            tokenbudget.set_usage(Subject(key="ann"), requests=1)
        """
    )

    result.assert_outcomes(passed=3)


def test_failed_assertions_say_what_was_found(run: Run) -> None:
    """`assert_refused` of a request that passed tells its status; of another limit, which one refused."""
    result = run(
        """
        from tokenbudget_mw import Subject

        ANN = Subject(key="ann")

        def test_passes(tokenbudget):
            tokenbudget.assert_refused(tokenbudget.decide(ANN))

        def test_other(tokenbudget):
            tokenbudget.set_usage(ANN, requests=2)
            tokenbudget.assert_refused(tokenbudget.decide(ANN), limit="money-month")
        """
    )

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*status 200 is no refusal*", "*refused by ?'requests-minute'?, not by 'money-month'*"]
    )
