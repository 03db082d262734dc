"""
The golden cost table: what providers' responses cost at their published prices, to the pico-dollar, without any setting.

Prices in dollars per million tokens, from the makers' price pages (the book names its sources):
OpenAI https://platform.openai.com/docs/pricing, Anthropic https://docs.claude.com/en/docs/about-claude/pricing,
Google https://ai.google.dev/gemini-api/docs/pricing, AWS https://aws.amazon.com/bedrock/pricing,
Cohere https://cohere.com/pricing.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tokenbudget_mw import prices, tapping
from tokenbudget_mw.counting.models import tariff_name
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.metering import TokenMeter
from tokenbudget_mw.rules.pricing import Moment, estimate, price_usage
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.values import Price, Route
from tokenbudget_mw.wiring import wire

NOW = 1_795_000_000.0
TARIFFS = Tariffs((), prices.load().find, "deny", Price("ceiling", "*", 1, 1), tariff_name)

# what it shows, model, the response's usage, dollars worked out by hand
PUBLISHED: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "OpenAI: cached tokens are within the prompt",
        "gpt-4o-2024-08-06",
        {"prompt_tokens": 2006, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 1920}},
        "0.005615",  # 86 x 2.50 + 1,920 x 1.25 + 300 x 10
    ),
    (
        "OpenAI: reasoning is within the completion, at its price",
        "o3",
        {"prompt_tokens": 75, "completion_tokens": 1186, "completion_tokens_details": {"reasoning_tokens": 1024}},
        "0.009638",  # 75 x 2 + 1,186 x 8
    ),
    (
        "OpenAI: audio in and out, at prices of its own",
        "gpt-audio",
        {
            "prompt_tokens": 1000,
            "completion_tokens": 300,
            "prompt_tokens_details": {"audio_tokens": 800, "text_tokens": 200},
            "completion_tokens_details": {"audio_tokens": 250, "text_tokens": 50},
        },
        "0.0426",  # 200 x 2.50 + 800 x 32 + 50 x 10 + 250 x 64
    ),
    (
        "OpenAI: embeddings have no output",
        "text-embedding-3-small",
        {"prompt_tokens": 8191, "total_tokens": 8191},
        "0.00016382",  # 8,191 x 0.02
    ),
    (
        "Anthropic: the cache is outside the input, written for five minutes and for an hour",
        "claude-sonnet-4-5-20250929",
        {
            "input_tokens": 2048,
            "cache_read_input_tokens": 1800,
            "cache_creation_input_tokens": 248,
            "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 503,
        },
        "0.015384",  # 2,048 x 3 + 1,800 x 0.30 + 148 x 3.75 + 100 x 6 + 503 x 15
    ),
    (
        "Anthropic: the whole prompt costs more above 200,000 tokens, what is cached counted in",
        "claude-sonnet-4-5",
        {"input_tokens": 1, "cache_read_input_tokens": 200_000, "output_tokens": 100},
        "0.122256",  # 1 x 6 + 200,000 x 0.60 + 100 x 22.50
    ),
    (
        "Anthropic: fast mode costs twice as much, a cache too, and the US alone a tenth more",
        "claude-opus-5",
        {
            "input_tokens": 1000,
            "cache_read_input_tokens": 2000,
            "output_tokens": 100,
            "service_tier": "standard",
            "speed": "fast",
            "inference_geo": "us",
        },
        "0.0187",  # (1,000 x 5 + 2,000 x 0.50 + 100 x 25) x 2 x 1.1
    ),
    (
        "Anthropic: the US alone, at standard speed",
        "claude-sonnet-5",
        {
            "input_tokens": 1000,
            "output_tokens": 100,
            "speed": "standard",
            "inference_geo": "us",
            "cache_read_input_tokens": 0,
        },
        "0.0033",  # (1,000 x 2 + 100 x 10) x 1.1
    ),
    (
        "OpenAI: what is written to the cache for twelve hours costs twice as much",
        "gpt-6-sol",
        {
            "input_tokens": 1000,
            "output_tokens": 100,
            "total_tokens": 1100,
            "input_tokens_details": {
                "cache_write_tokens": 800,
                "cache_write_tokens_details": {"ttl_30m_tokens": 300, "ttl_12h_tokens": 500},
            },
        },
        "0.00465",  # 200 x 2 + 300 x 2.50 + 500 x 5 + 100 x 10
    ),
    (
        "Gemini: thoughts are outside the candidates, cached content within the prompt",
        "gemini-2.5-pro",
        {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 600,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 150,
        },
        "0.002575",  # 400 x 1.25 + 600 x 0.125 + 200 x 10
    ),
    (
        "Gemini: audio within the prompt",
        "gemini-2.5-flash",
        {
            "promptTokenCount": 500,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 100},
                {"modality": "AUDIO", "tokenCount": 400},
            ],
            "candidatesTokenCount": 10,
        },
        "0.000455",  # 100 x 0.30 + 400 x 1 + 10 x 2.50
    ),
    (
        "Bedrock: the cache is outside the input, at the price of the region's profile",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        {"inputTokens": 10, "outputTokens": 20, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 40},
        "0.000561",  # 10 x 3.30 + 100 x 0.33 + 40 x 4.125 + 20 x 16.50
    ),
    (
        "Cohere: billed units, not tokens",
        "command-r-plus-08-2024",
        {
            "billed_units": {"input_tokens": 20.0, "output_tokens": 10.0},
            "tokens": {"input_tokens": 800.0, "output_tokens": 99.0},
        },
        "0.00015",  # 20 x 2.50 + 10 x 10
    ),
]


@pytest.mark.parametrize(
    ("model", "usage", "usd"), [case[1:] for case in PUBLISHED], ids=[case[0] for case in PUBLISHED]
)
def test_t10_published_prices(model: str, usage: dict[str, Any], usd: str) -> None:
    """A response costs what its maker's price page says, and the row names the price of the book."""
    found = tapping.read_response({"model": model, "usage": usage})

    priced = price_usage(TARIFFS, found, Moment(NOW), asked=model)

    assert priced.cost_pico == Decimal(usd) * 10**12
    assert priced.kind == "known"
    assert "@" in (priced.price_id or "")


AUDIO = {"inlineData": {"mimeType": "audio/mp3", "data": "AAAA" * 1000}}


@pytest.mark.parametrize(
    ("parts", "config", "input_usd", "output_usd"),
    [
        ([{"text": "hello"}], {}, "0.30", "2.50"),
        ([{"text": "hello"}, AUDIO], {}, "1", "2.50"),
        ([{"fileData": {"fileUri": "gs://some/where"}}], {}, "1", "2.50"),
        ([{"text": "hello"}], {"responseModalities": ["AUDIO"]}, "1", "2.50"),
    ],
    ids=["text", "audio", "a file", "an answer that is spoken"],
)
def test_t06_audio_is_held_for_only_where_it_may_come(
    parts: list[Any], config: dict[str, Any], input_usd: str, output_usd: str
) -> None:
    """A text holds the price of text, although the model's audio is dearer; what may be audio holds that."""
    import json

    meter = TokenMeter(Tokenizers(), prices_audio=TARIFFS.prices_audio)
    body = {"contents": [{"parts": parts}], "generationConfig": {"maxOutputTokens": 10, **config}}
    path = "/v1beta/models/gemini-2.5-flash:generateContent"
    prompt = meter.read_prompt(Route("/v1beta/*", format="gemini"), json.dumps(body).encode(), path)

    upper, _ = estimate(TARIFFS, prompt, Moment(NOW), output_reserve=0)

    expected = prompt.input.upper * Decimal(input_usd) + 10 * Decimal(output_usd)
    assert upper.money_nano == -(-expected * 1000 // 1)


def test_a_body_that_is_not_read_may_be_spoken() -> None:
    """What is too long to read holds the price of audio, where the model has one."""
    meter = TokenMeter(Tokenizers(), prices_audio=TARIFFS.prices_audio)
    route = Route("/v1/chat/completions", format="openai.chat")

    spoken = meter.bound_prompt(route, 10**7, b'{"model": "gpt-audio", "messages": [')
    written = meter.bound_prompt(route, 10**7, b'{"model": "gpt-4o", "messages": [')

    assert (spoken.model, spoken.is_spoken) == ("gpt-audio", True)
    assert (written.model, written.is_spoken) == ("gpt-4o", False)


@pytest.mark.parametrize(("model", "long_cache"), [("claude-sonnet-4-5", False), ("gpt-4o", True), (None, True)])
def test_a_longer_cache_is_looked_for_only_where_it_has_a_price(model: str | None, long_cache: bool) -> None:
    """A body that asks for none is known to only where that changes what is held."""
    import json

    meter = TokenMeter(Tokenizers(), prices_long_cache=TARIFFS.prices_long_cache)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    prompt = meter.read_prompt(Route("/v1/chat/completions", format="openai.chat"), body)

    assert prompt.long_cache is long_cache


@pytest.mark.parametrize(
    ("model", "applied"),
    [
        ("ft:gpt-4.1-2025-04-14:acme::7p4lURel", ("known", 3_000_000)),
        ("openai/ft:gpt-4o-mini-2024-07-18:acme:tone:7p4lURel:ckpt-step-90", ("known", 300_000)),
        ("ft:o3-2025-04-16:acme::7p4lURel", ("ceiling", 150_000_000)),
        ("FT:GPT-5-mini:acme::7p4lURel", ("ceiling", 150_000_000)),
        ("ft:ours:acme::7p4lURel", ("known", 7_000_000)),
        ("ft:gpt-5:acme::mapped", ("known", 1_250_000)),
    ],
)
def test_a_fine_tuned_model_never_costs_what_its_base_does(model: str, applied: tuple[str, int]) -> None:
    """It costs what its kind does, by the book or by a tariff; else it has no price. Only who maps it to its base has that one."""
    tariffs = [{"model": "ft:ours", "input": "7", "output": "7"}, {"model": "ours", "input": "1", "output": "1"}]
    core = wire(
        {
            "identify": "ip",
            "database": "sqlite://",
            "tariffs": tariffs,
            "ceiling": {"input": "150", "output": "600"},
            "models": {"ft:gpt-5:acme::mapped": "gpt-5"},
        }
    )

    quote = core.tariffs.quote(model, at=NOW)

    assert (quote.kind, quote.price and quote.price.input) == applied
