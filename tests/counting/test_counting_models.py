"""
Model names lead to the right encoding, however they are dressed.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.counting import models
from tokenbudget_mw.counting.models import normalise, resolve

NAMES = [
    ("gpt-4o", "gpt-4o"),
    ("GPT-4o", "gpt-4o"),
    ("openai/gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
    ("azure/gpt-35-turbo", "gpt-3.5-turbo"),
    ("azure/gpt-35-turbo-16k", "gpt-3.5-turbo-16k"),
    ("gpt-41-mini", "gpt-4.1-mini"),
    ("ft:gpt-4o-mini-2024-07-18:acme::7p4lURel", "gpt-4o-mini-2024-07-18"),
    ("openai/ft:gpt-3.5-turbo-0125:acme:name:id", "gpt-3.5-turbo-0125"),
    ("anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet-20241022"),
    ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
    ("global.anthropic.claude-opus-4-6-v1:0", "claude-opus-4-6"),
    ("us-gov.anthropic.claude-3-haiku-20240307-v1:0", "claude-3-haiku-20240307"),
    ("bedrock/us.amazon.nova-pro-v1:0:300k", "nova-pro"),
    ("anthropic.claude-v2:1", "claude-v2"),
    ("arn:aws:bedrock:us-east-1:1:inference-profile/us.meta.llama3-1-8b-instruct-v1:0", "llama3-1-8b-instruct"),
    ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet-20240620"),
    ("vertex_ai/claude-opus-4@latest", "claude-opus-4"),
    ("publishers/google/models/gemini-1.5-pro@001", "gemini-1.5-pro-001"),
    ("openrouter/meta-llama/llama-3.1-8b-instruct:free", "llama-3.1-8b-instruct"),
    ("anthropic/claude-3.7-sonnet:thinking", "claude-3.7-sonnet"),
    ("openai/gpt-oss-20b:free:online", "gpt-oss-20b"),
    ("us.xai.grok-4.3", "grok-4.3"),
    ("llama3:8b", "llama3:8b"),
    ("  gpt-4 ", "gpt-4"),
    ("gpt-4/", "gpt-4"),
    ("/", "/"),
    ("", ""),
]


@pytest.mark.parametrize(("given_name", "expected"), NAMES)
def test_normalise(given_name, expected):
    """Prefixes, versions and variants of hosts go, dates stay."""
    assert normalise(given_name) == expected


FAMILIES = [
    ("gpt-4o-mini", "gpt-4o", "o200k_base"),
    ("chatgpt-4o-latest", "gpt-4o", "o200k_base"),
    ("gpt-4.1-nano-2025-04-14", "gpt-4.1", "o200k_base"),
    ("gpt-5.1-codex", "gpt-5", "o200k_base"),
    ("o3-mini", "o-series", "o200k_base"),
    ("o1", "o-series", "o200k_base"),
    ("openai/gpt-oss-120b", "gpt-oss", "o200k_base"),
    ("gpt-4", "gpt-4", "cl100k_base"),
    ("gpt-4-turbo-2024-04-09", "gpt-4", "cl100k_base"),
    ("gpt-35-turbo", "gpt-3.5", "cl100k_base"),
    ("davinci-002", "gpt-3.5", "cl100k_base"),
    ("text-embedding-3-small", "openai-embedding", "cl100k_base"),
    ("text-embedding-ada-002", "openai-embedding", "cl100k_base"),
]


@pytest.mark.parametrize(("model", "family", "encoding"), FAMILIES)
def test_families_with_their_own_encoding_are_exact(model, family, encoding):
    """OpenAI's current models are counted with their own encoding."""
    found = resolve(model)

    assert (found.family, found.encoding, found.factor, found.exact) == (family, encoding, 1.0, True)


APPROXIMATE = [
    ("claude-3-5-haiku-latest", "claude", 1.18),
    ("claude-sonnet-4-20250514", "claude", 1.18),
    ("claude-opus-4-6", "claude", 1.18),
    ("claude-sonnet-4.5", "claude", 1.18),
    ("claude-2.1", "claude", 1.18),
    ("claude-opus-4-7", "claude-4.7", 1.53),
    ("us.anthropic.claude-opus-4.8-20270101-v1:0", "claude-4.7", 1.53),
    ("claude-sonnet-5", "claude-4.7", 1.53),
    ("claude-mythos-preview", "claude-4.7", 1.53),
    ("gemini-2.5-flash", "gemini", 1.09),
    ("gemma-3-27b-it", "gemini", 1.09),
    ("meta-llama/Llama-3.1-8B-Instruct", "llama", 1.0),
    ("llama-2-70b-chat", "llama-2", 1.32),
    ("mixtral-8x7b", "llama-2", 1.32),
    ("mistral:7b", "llama-2", 1.32),
    ("ollama/mistral", "llama-2", 1.32),
    ("mistral.mistral-large-2407-v1:0", "llama-2", 1.32),
    ("tinyllama:latest", "llama-2", 1.32),
    ("mistral-nemo", "mistral", 1.09),
    ("mistral-small-latest", "mistral", 1.09),
    ("qwen3-32b", "qwen", 1.05),
    ("deepseek-chat", "deepseek", 1.08),
    ("grok-4", "grok", 1.1),
    ("gpt-6", "openai-other", 1.1),
    ("my-own-model", "unknown", 1.1),
    (None, "unknown", 1.1),
    ("", "unknown", 1.1),
]


@pytest.mark.parametrize(("model", "family", "factor"), APPROXIMATE)
def test_other_families_are_flagged_approximate(model, family, factor):
    """A model without a public encoding gets a factor, a ceiling above it, and the flag."""
    found = resolve(model)

    assert (found.family, found.factor, found.exact) == (family, factor, False)
    assert found.encoding == "o200k_base"
    assert found.ceiling > found.factor


@pytest.mark.parametrize("name", ["my-gpt", "azure/my-gpt", "MY-GPT"])
def test_an_alias_stands_for_a_model(name):
    """A deployment's name is counted as the model that the host says it is."""
    assert resolve(name, {"my-gpt": "gpt-4"}).encoding == "cl100k_base"


def test_the_memory_of_names_is_bounded():
    """A client that invents names cannot make the process grow."""
    for number in range(3_000):
        resolve(f"model-{number}")

    assert models._resolve.cache_info().currsize <= 1_024


@given(st.text(max_size=600))
def test_any_name_resolves(name):
    """No name, however odd or long, makes resolving fail, and none is kept beyond its cap."""
    found = resolve(name)

    assert len(found.name) <= 2 * models.MAX_NAME
    assert found.factor >= 1.0


@pytest.mark.parametrize("char", list("a:@/.-v0"))
def test_a_long_name_is_cut(char):
    """A megabyte of a name costs no more than the longest name."""
    assert len(resolve(char * 1_000_000).name) <= models.MAX_NAME
