"""
Examples for frameworks and tools beside the three do what their pages say.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from starlette.testclient import TestClient

Load = Callable[[str], ModuleType]
ADDRESS = "203.0.113.7"


def test_metrics_endpoint(example: Load, sqlite_database: str) -> None:
    """How calls ended is told, and asking for it is no call."""
    app = example("metrics_endpoint").app
    with TestClient(app, client=(ADDRESS, 1)) as client:
        client.get("/nowhere")
        client.get("/metrics")
        text = client.get("/metrics").text

    assert 'tokenbudget_refusals_total{reason="missing_api_key"} 1\n' in text
    assert 'tokenbudget_calls_total{outcome="refused"} 1\n' in text
