"""
Name -> benchmark. A new one is a function and a line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.harness import Result, Scale, UnavailableError

__all__ = ["NAMES", "run"]

_TABLE = {
    "admit_memory_1": "admission:admit_memory_1",
    "admit_memory_3": "admission:admit_memory_3",
    "admit_memory_bytes": "admission_loop:admit_memory_bytes",
    "admit_redis_sync": "admission_redis:admit_redis_sync",
    "admit_redis_async": "admission_loop:admit_redis_async",
    "admit_lease": "admission_lease:admit_lease",
    "admit_redis_script": "admission_script:admit_redis_script",
    "tokens_cost_redis": "admission_script:tokens_cost_redis",
    "record_hot": "accounting:record_hot",
    "flush_python": "flushing:flush_python",
    "flush_rate": "flush_rate:flush_rate",
    "loop_lag": "loop_lag:loop_lag",
    "analytics_10m": "books:analytics_10m",
    "retention": "books:retention",
    "count_chat": "counting:count_chat",
    "count_1mb": "counting_long:count_1mb",
    "count_upper": "counting_long:count_upper",
    "count_lag": "counting_lag:count_lag",
    "count_warm": "counting_warm:count_warm",
    "key_check": "keys:key_check",
    "full_request": "full:full_request",
    "full_stream": "full:full_stream",
    "stack_starlette": "stacks:stack_starlette",
    "stack_fastapi": "stacks:stack_fastapi",
    "stack_flask": "stacks:stack_flask",
    "stack_django": "stacks:stack_django",
}

NAMES = tuple(_TABLE)


def run(name: str, scale: Scale) -> dict[str, Any]:
    """
    Run the benchmark *name*; one that lacks something is skipped and says what.
    """
    module, _, function = _TABLE[name].partition(":")
    try:
        result: Result = getattr(import_module(f"benchmarks.{module}"), function)(scale)
    except UnavailableError as exc:
        return {"skipped": str(exc)}
    except ModuleNotFoundError as exc:
        return {"skipped": f"needs {exc.name!r}: pip install --group bench, or run tox -e bench"}
    return result.as_json()
