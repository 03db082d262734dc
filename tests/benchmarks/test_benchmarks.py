"""
Every benchmark runs, measures something, and says it in the agreed shape. How fast things are is no test's business.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = [
    "admit_memory_1",
    "admit_memory_3",
    "admit_memory_bytes",
    "admit_redis_sync",
    "admit_redis_async",
    "admit_lease",
    "admit_redis_script",
    "tokens_cost_redis",
    "record_hot",
    "flush_python",
    "flush_rate",
    "loop_lag",
    "analytics_10m",
    "retention",
    "count_chat",
    "count_1mb",
    "count_upper",
    "count_lag",
    "count_warm",
    "key_check",
    "full_request",
    "full_stream",
    "stack_starlette",
    "stack_fastapi",
    "stack_flask",
    "stack_django",
]


def run(*arguments: str) -> str:
    """
    Return what ``python -m benchmarks`` prints.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_measures(name, postgres_url, monkeypatch):
    """
    A quick run gives one JSON object whose figures are all above zero, and whose ratio is that of its two values.
    """
    monkeypatch.setenv("TOKENBUDGET_TEST_POSTGRES_URL", postgres_url)
    figures = json.loads(run("--only", name, "--quick", "--json"))

    assert list(figures) == [name]
    figure = figures[name]
    assert "skipped" not in figure, figure["skipped"]
    assert list(figure) == ["value", "unit", "baseline", "baseline_value", "ratio", "goal", "met", "details"]
    assert all(value > 0 for value in numbers(figure))
    assert figure["ratio"] == pytest.approx(figure["value"] / figure["baseline_value"], rel=1e-2)
    assert isinstance(figure["met"], bool)
    assert figure["unit"]
    assert figure["baseline"]
    assert figure["goal"]


def numbers(value: object) -> list[float]:
    """
    Return every number in a JSON value.
    """
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_help_names_them_all():
    """
    The command's help lists the benchmarks, and this file knows each.
    """
    listed = " ".join(run("--help").split()).partition("one of: ")[2].partition(" --json")[0]

    assert listed.split(", ") == NAMES


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.harness

    return benchmarks.harness


class TestHarness:
    def test_contenders_take_turns(self, harness):
        """
        After one turn each that does not count, every contender has a turn a round, in rotating order; medians count.
        """
        turns, spent = [], iter([99.0, 99.0, 1.0, 10.0, 20.0, 2.0, 9.0, 30.0])

        def measure(contender, calls):
            contender.run(calls)
            return next(spent)

        contenders = {name: harness.Contender(lambda calls, name=name: turns.append((name, calls))) for name in "ab"}
        seen = harness.compare(contenders, harness.Scale(rounds=3), calls=200, measure=measure)

        assert turns == [(n, 20) for n in "ab"] + [(n, 200) for n in "abbaab"]
        assert seen == {"a": 2.0, "b": 20.0}

    def test_contenders_take_turns_call_by_call(self, harness, monkeypatch):
        """
        Each call stands beside one of the others; the median call counts, and the first round does not.
        """
        turns, now = [], [0.0]
        spent = {"a": iter([9.0] * 3 + [1.0, 2.0, 90.0]), "b": iter([9.0] * 3 + [5.0, 50.0, 4.0])}
        monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])

        def run(name, thing):
            turns.append((name, thing))
            now[0] += next(spent[name]) / 1e6

        seen = harness.alternate(
            {name: lambda thing, name=name: run(name, thing) for name in "ab"},
            lambda name: [f"{name}{at}" for at in range(3)],
            harness.Scale(rounds=1),
        )

        assert turns == [(name, f"{name}{at}") for at in range(3) for name in "ab"] * 2
        assert seen == pytest.approx({"a": 2.0, "b": 5.0})

    def test_tidying_up_is_not_timed(self, harness, monkeypatch):
        """
        A turn costs the CPU time of its calls, by call; what comes after it costs nothing.
        """
        cpu = [5.0]
        monkeypatch.setattr(harness.time, "process_time", lambda: cpu[0])

        def spend(seconds):
            cpu[0] += seconds

        contender = harness.Contender(lambda calls: spend(calls * 0.002), lambda: spend(100.0))

        assert harness.microseconds(contender, 50) == pytest.approx(2_000.0)
        assert cpu[0] == pytest.approx(105.1)

    def test_scale_keeps_enough_calls(self, harness):
        """
        However quick a run is, a turn has ten calls.
        """
        assert harness.QUICK.calls(20_000) == 200
        assert harness.QUICK.calls(100) == 10

    def test_a_figure_has_its_ratio(self, harness):
        """
        The JSON object has the value over the baseline, and rounds to four digits.
        """
        result = harness.Result(1.23456, "us", "peer", 4.0, "<= 2", met=True, details={"more": {"x_us": 0.000123456}})

        figure = result.as_json()

        assert (figure["value"], figure["ratio"], figure["met"]) == (1.235, 0.3086, True)
        assert figure["details"] == {"more": {"x_us": 0.0001235}}


class TestTable:
    def test_what_lacks_something_is_skipped_and_says_so(self, harness, monkeypatch, capsys):
        """
        A missing service or package skips one benchmark with the reason, in both outputs, and stops none.
        """
        import benchmarks.__main__
        from benchmarks import admission, keys, table

        monkeypatch.setattr(admission, "admit_memory_1", lambda _scale: _raise(harness.UnavailableError("no server")))
        monkeypatch.setattr(keys, "key_check", lambda _scale: _raise(ModuleNotFoundError(name="bcrypt")))

        assert table.run("admit_memory_1", harness.QUICK) == {"skipped": "no server"}
        assert benchmarks.__main__.main(["--only", "key_check", "--only", "admit_memory_1"]) == 0
        printed = capsys.readouterr().out
        assert "needs 'bcrypt'" in printed
        assert "no server" in printed


def _raise(error: Exception) -> None:
    raise error
