"""
Golden files: bodies of every kind, and what is asked of a model in each, whichever engine counts.

``python tests/counting/test_payloads_golden.py`` writes what is counted now into the files; read the difference before it
is kept. What the published vectors say (OpenAI's cookbook, Anthropic's documentation) is held by tests of their own, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.counting.encoders import default_encoders
from tokenbudget_mw.counting.tokenizers import Tokenizers

GOLDEN = Path(__file__).parent / "golden"
CASES = [
    (path.stem, name, case)
    for path in sorted(GOLDEN.glob("*.json"))
    for name, case in json.loads(path.read_text("utf-8")).items()
]
PUBLISHED = {"cookbook": 124, "cookbook-cl100k": 129, "cookbook-tools": 101, "cookbook-tools-cl100k": 105}


def asked(kind: str, case: dict[str, Any], tokenizers: Tokenizers) -> dict[str, Any]:
    """What the body of *case* asks, as the golden file has it."""
    found = payloads.read(kind, json.dumps(case["body"]).encode(), path=case["path"], tokenizers=tokenizers)
    return {
        "model": found.model,
        "estimate": found.input.estimate,
        "upper": found.input.upper,
        "exact": found.input.exact,
        "method": found.input.method,
        "max_output": found.max_output,
        "choices": found.choices,
        "stream": found.stream,
    }


@pytest.fixture(scope="module", params=["tiktoken", "fastokens"])
def tokenizers(request) -> Tokenizers:
    pytest.importorskip(request.param)
    return Tokenizers(encoders=default_encoders(request.param))


@pytest.mark.parametrize(("kind", "name", "case"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_a_body_asks_what_its_golden_file_says(kind, name, case, tokenizers):
    """Tokens, bound, method, maximum, choices and stream of every kind of body are as they were."""
    assert asked(kind, case, tokenizers) == case["asked"]


def test_every_format_has_a_golden_file():
    """No format is without one, and no file without a format."""
    assert {kind for kind, _, _ in CASES} == set(payloads.FORMATS)


def test_golden_files_agree_with_what_is_published():
    """The cookbook's examples have the API's own figures in the golden files, too."""
    found = {name: case["asked"] for kind, name, case in CASES if name in PUBLISHED}

    assert {name: golden["estimate"] for name, golden in found.items()} == PUBLISHED


if __name__ == "__main__":
    for file in GOLDEN.glob("*.json"):
        held = json.loads(file.read_text("utf-8"))
        for each in held.values():
            each["asked"] = asked(file.stem, each, Tokenizers())
        file.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", "utf-8")
