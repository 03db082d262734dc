"""
The page on counting tokens shows what works.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.values import Route, TokenCount
from tokenbudget_mw.wiring import wire

Load = Callable[[str], ModuleType]


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> str:
    """A small tokenizer in Hugging Face's format: one token a word."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "one": 1, "two": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


def test_own_models_are_counted_by_their_own_tokenizer(example: Load, tokenizer_file: str) -> None:
    """Texts and bodies for the model go to the example's counter, other models do not."""
    settings = example("own_counter").settings(tokenizer_file)
    meter = wire({"identify": "ip", **settings}, sink=CallableSink(lambda _records: None)).meter
    body = json.dumps({"model": "my-llama-8b", "messages": [{"role": "user", "content": "one two three"}]}).encode()

    assert meter.count("one two three", "my-llama-8b") == TokenCount(3, 3, exact=True, method="exact")
    assert meter.count("tokenisation", "gpt-4o").estimate > 1
    assert meter.read_prompt(Route("/v1/chat/completions", "openai.chat"), body).input.estimate == 3 + 1 + 3 + 3


def test_half_a_surrogate_pair_is_counted(example: Load, tokenizer_file: str) -> None:
    """The example's counter counts any text, as the protocol asks."""
    counter = example("own_counter").settings(tokenizer_file)["counters"]["my-llama*"]

    assert counter.count("one \ud800 two") == 3
