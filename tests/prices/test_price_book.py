"""
The shipped price book, against prices known by hand.
"""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from importlib import resources
from pathlib import Path

import pytest

from tokenbudget_mw import prices
from tokenbudget_mw.counting.models import normalise
from tokenbudget_mw.errors import UnpricedModelError
from tokenbudget_mw.prices import _generate, _sources
from tokenbudget_mw.rules.pricing import Moment, price_usage
from tokenbudget_mw.rules.tariffs import Tariffs, choose, cost_pico
from tokenbudget_mw.values import Price, Usage

BOOK = prices.load()


def now(name: str) -> Price:
    found = choose(BOOK.find(name), at=1_795_000_000.0, purpose="realtime", completion_window=None)
    assert found is not None, name
    return found


# name, USD per million tokens: input, output, cache read, cache write, cache write for an hour
KNOWN = [
    ("gpt-4o", "2.50", "10", "1.25", None, None),
    ("gpt-4o-2024-08-06", "2.50", "10", "1.25", None, None),
    ("gpt-4o-2024-05-13", "5", "15", None, None, None),
    ("gpt-4o-mini", "0.15", "0.60", "0.075", None, None),
    ("gpt-4o-mini-2024-07-18", "0.15", "0.60", "0.075", None, None),
    ("gpt-4.1", "2", "8", "0.50", None, None),
    ("gpt-4.1-mini", "0.40", "1.60", "0.10", None, None),
    ("gpt-5", "1.25", "10", "0.125", None, None),
    ("o4-mini", "1.10", "4.40", "0.275", None, None),
    ("gpt-3.5-turbo", "0.50", "1.50", None, None, None),
    ("text-embedding-3-small", "0.02", "0", None, None, None),
    ("text-embedding-3-large", "0.13", "0", None, None, None),
    ("claude-sonnet-4", "3", "15", "0.30", "3.75", "6"),
    ("claude-sonnet-4-20250514", "3", "15", "0.30", "3.75", "6"),
    ("claude-sonnet-4-5", "3", "15", "0.30", "3.75", "6"),
    ("claude-opus-4-5", "5", "25", "0.50", "6.25", "10"),
    ("claude-haiku-4-5", "1", "5", "0.10", "1.25", "2"),
    ("claude-3-5-haiku-20241022", "0.80", "4", "0.08", "1", "1.60"),
    ("gemini-2.5-pro", "1.25", "10", "0.125", None, None),
    ("gemini-2.5-flash", "0.30", "2.50", "0.03", None, None),
    ("llama-3.3-70b-versatile", "0.59", "0.79", None, None, None),
    # dearer by day: the dearest holds around the clock
    ("deepseek-chat", "0.27", "1.10", "0.07", None, None),
    ("deepseek-v4-pro", "1.32", "3.96", "0.044", None, None),
    # an agent of the provider's has its name, too
    ("perplexity/sonar", "1", "1", None, None, None),
    # who paints is shown images, which are dearer than text
    ("gpt-image-1", "10", "40", "2.50", None, None),
]


@pytest.mark.parametrize(("name", "figures"), [(case[0], case[1:]) for case in KNOWN], ids=[case[0] for case in KNOWN])
def test_known_prices(name: str, figures: tuple[str | None, ...]) -> None:
    """Well-known models cost what their makers say, in whole pico-dollars per token."""
    price = now(name)

    found = (price.input, price.output, price.cache_read, price.cache_write, price.cache_write_1h)
    assert found == tuple(None if usd is None else Decimal(usd) * 10**6 for usd in figures)


@pytest.mark.parametrize(
    ("name", "tokens", "tier", "usd"),
    [
        ("gemini-2.5-pro", 200_000, None, "0.2510"),  # 200,000 x 1.25 + 100 x 10
        ("gemini-2.5-pro", 200_001, None, "0.5015025"),  # 200,001 x 2.50 + 100 x 15
        ("claude-sonnet-4-5", 200_001, None, "1.202256"),  # 200,001 x 6 + 100 x 22.50
        ("gpt-5", 1000, None, "0.00225"),
        ("gpt-5", 1000, "default", "0.00225"),
        ("gpt-5", 1000, "flex", "0.001125"),
        ("gpt-5", 1000, "priority", "0.0045"),
        ("gpt-5.4", 272_001, "flex", "0.6811275"),  # 272,001 x 2.50 + 100 x 11.25
        ("gpt-6-astra", 1000, "ultrafast", "0.09"),  # 1,000 x 60 + 100 x 300
        ("claude-opus-5-5", 1000, "standard", "0.006"),  # 1,000 x 4 + 100 x 20
        ("claude-opus-5-5", 1000, "fast", "0.012"),
        ("amazon.nova-pro-v1:0", 1000, "priority", "0.00196"),  # 1.75 x (1,000 x 0.80 + 100 x 3.20)
        ("dashscope/qwen3-coder-plus", 32_000, None, "0.0325"),  # 32,000 x 1 + 100 x 5
        ("dashscope/qwen3-coder-plus", 32_001, None, "0.0585018"),  # 32,001 x 1.80 + 100 x 9
    ],
)
def test_t10_long_prompts_and_tiers(name: str, tokens: int, tier: str | None, usd: str) -> None:
    """Long prompts, and the tiers that served a call, cost what the makers' lists say, without any setting."""
    tariffs = Tariffs((), BOOK.find, "deny", Price("ceiling", "*", 1, 1), normalise)

    priced = price_usage(
        tariffs, Usage(tokens, 100, model=name, service_tier=tier), Moment(1_795_000_000.0), asked=None
    )

    assert priced.cost_pico == Decimal(usd) * 10**12


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("GPT-4o", "gpt-4o"),
        ("openai/gpt-4o", "gpt-4o"),
        ("gemini/gemini-2.5-pro", "gemini-2.5-pro"),
        ("claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("claude-sonnet-4-5-20990101", "claude-sonnet-4-5"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("xai/grok-4", "grok-4"),
        ("openai/ft:gpt-4o-mini-2024-07-18:acme::7p4lURel", "ft:gpt-4o-mini"),
        (
            "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "aws/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("meta-llama/llama-3.3-70b-instruct", "openrouter/meta-llama/llama-3.3-70b-instruct"),
    ],
)
def test_names(name: str, other: str) -> None:
    """A model is found by its provider's other names, in any case, with a date that is not listed."""
    assert now(name).input == now(other).input


@pytest.mark.parametrize(
    ("name", "heard", "spoken"),
    [
        ("gpt-audio", "32", "64"),
        ("gpt-4o-transcribe", "6", None),
        ("gpt-4o-audio-preview", "40", "80"),
        ("gpt-4o-audio-preview-2025-06-03", "40", "80"),
        ("gpt-4o-mini-audio-preview", "10", "20"),
        ("gemini-2.5-flash", "1", None),
        ("gemini-2.5-pro", None, None),
        ("gpt-4o", None, None),
    ],
)
def test_audio(name: str, heard: str | None, spoken: str | None) -> None:
    """Audio costs what the makers say, where it does not cost what text does."""
    price = now(name)

    found = (price.audio_input, price.audio_output)
    assert found == tuple(None if usd is None else Decimal(usd) * 10**6 for usd in (heard, spoken))


def test_fine_tuned() -> None:
    """A fine-tuned model costs more than its base: it is not found as it."""
    assert now("ft:gpt-4o-mini-2024-07-18:acme::7p4lURel").input == 300_000
    assert BOOK.find("ft:nobody:acme::1") == ()


@pytest.mark.parametrize(
    "name", ["", "nobody", "gpt-4o-nobody", "gpt", "/", "openai/", "ft:", "-20250101", "g" * 100_000]
)
def test_unknown_names(name: str) -> None:
    """A name the book does not have has no price; no prefix is taken for a model."""
    assert BOOK.find(name) == ()


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "anthropic/claude-3-haiku"),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5"),
        ("vertex_ai/claude-sonnet-4@20250514", "claude-4-sonnet"),
        ("models/gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("azure/eu/gpt-4o-2024-08-06", "azure/eu/gpt-4o@"),
        ("my-gateway/openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("gpt-35-turbo", "gpt-3.5-turbo"),
        ("openrouter/meta-llama/llama-3.3-70b-instruct", "openrouter/meta-llama/llama-3.3-70b-instruct"),
    ],
)
def test_names_as_they_come(name: str, id: str) -> None:  # noqa: A002
    """Names of clouds and gateways are priced, through the tariffs and the normalisation of the counting room."""
    tariffs = Tariffs((), BOOK.find, "deny", Price("ceiling", "*", 1, 1), normalise)

    quote = tariffs.quote(name, at=1_795_000_000.0)

    assert quote.price is not None
    assert id in quote.price.id


@pytest.mark.parametrize(
    "name",
    [
        "gemini-2.5-flash-image",
        "gemini/gemini-2.5-flash-image",
        "openrouter/google/gemini-3-pro-image-preview",
        "chatgpt-image-latest",
    ],
)
def test_t03_no_price_where_images_cost_more_than_text(name: str) -> None:
    """A model that writes images beside text has no price here, whoever sells it: that of its text is not that of its images."""
    tariffs = Tariffs((), BOOK.find, "deny", Price("ceiling", "*", 1, 1), normalise)

    with pytest.raises(UnpricedModelError):
        tariffs.quote(name, at=1_795_000_000.0)


def test_dated_prices() -> None:
    """A price that changed holds until the change, the new one from its midnight (UTC) on."""
    change = dt.datetime(2025, 6, 10, tzinfo=dt.UTC).timestamp()
    usage = Usage(1_000_000, 100_000)

    def cost(at: float) -> int:
        price = choose(BOOK.find("o3"), at=at, purpose="realtime", completion_window=None)
        assert price is not None
        return cost_pico(price, usage)

    assert cost(change - 1) == 14 * 10**12
    assert cost(change) == Decimal("2.8") * 10**12


def test_every_price() -> None:
    """No price in the book is negative, absurd, free or undated in the middle, and each says where it is from."""
    ids: dict[str, Price] = {}
    for name in BOOK._models:
        found = BOOK.find(name)
        for price in found:
            figures = [
                price.input,
                price.output,
                price.cache_read,
                price.cache_write,
                price.cache_write_1h,
                price.reasoning,
                price.audio_input,
                price.audio_output,
            ]
            assert all(0 <= figure <= 2_000_000_000 for figure in figures if figure is not None), name
            assert price.input + price.output > 0, name
            assert price.source in BOOK._sources
            assert ids.setdefault(price.id, price) == price
        plain = [price for price in found if not price.above_input and price.service_tier is None]
        assert [price.valid_until for price in plain[:-1]] == [price.valid_from for price in plain[1:]]
        assert all(price.valid_from == plain[-1].valid_from for price in found[: -len(plain)]), name
        assert found[-len(plain) :] == tuple(plain)
        assert found[-1].valid_until is None
    assert len(ids) > 3000


def test_book_as_shipped() -> None:
    """The book is small, names its sources, and is read once."""
    raw = resources.files(prices).joinpath("book.json").read_bytes()
    notice = resources.files(prices).joinpath("NOTICE").read_text()

    assert len(raw) < 400_000
    assert prices.load() is BOOK
    assert BOOK.version.startswith(BOOK.date)
    assert len(BOOK) == len(BOOK._models)
    assert all(source.split()[0] in notice for source in BOOK._sources)


class TestGenerator:
    def entry(self, model: str, rate: int, *, provider: str = "openai", names: tuple[str, ...] = ()) -> _sources.Entry:
        return _sources.Entry(provider, model, 0, [(None, [rate, 9, *[None] * 6])], list(names))

    def test_merging(self) -> None:
        """The second source only fills in, and repeats no snapshot that costs the same."""
        first = [self.entry("b", 1, names=("b-alias",)), self.entry("x", 1, provider="huggingface_novita")]
        second = [
            self.entry("b", 2),
            self.entry("b-alias", 2),
            self.entry("b-2025-01-01", 1),
            self.entry("b-2024-01-01", 5),
            self.entry("a", 1, provider="kyma"),
        ]

        assert [entry.model for entry in _generate.merged(first, second)] == ["b", "b-2024-01-01"]

    def test_makers_first(self) -> None:
        """Entries claim names in the order of their providers."""
        entries = [self.entry("m", 1, provider=name) for name in ("zzz", "openrouter", "groq", "openai")]

        assert [entry.provider for entry in _generate.merged(entries, [])] == ["openai", "groq", "openrouter", "zzz"]

    @pytest.mark.parametrize(
        ("figures", "embedding", "expected"),
        [
            ([5, None, None, None, None, None], False, [5, 5, None, None, None, None]),
            ([5, None, None, None, None, None], True, [5, 0, None, None, None, None]),
            ([5, 7, 1, 2, 3, 4], False, [5, 7, 1, 2, 3, 4]),
            ([0, 0, None, None, None, None], False, None),
            ([0, None, None, None, None, None], False, None),
            ([None, 7, None, None, None, None], False, None),
            ([5, 7, -1, None, None, None], False, None),
            ([5, 0, 0, None, None, 0], False, [5, 5, None, None, None, None]),
            ([5, 7, None, None, None, None, 8, 0], False, [5, 7, None, None, None, None, 8, None]),
            ([5, 7, None, None, None, None, 8, 10**9 + 1], False, None),
            ([5, 10**9 + 1, None, None, None, None], False, None),
        ],
    )
    def test_missing_prices(
        self, figures: list[int | None], embedding: bool, expected: list[int | None] | None
    ) -> None:
        """What has no price stays out; a missing price is never zero but for the output of embeddings."""
        assert _sources.checked(figures, is_embedding=embedding) == expected

    def test_float_noise(self) -> None:
        """Binary floats lose their noise, and nothing else."""
        fields = {
            "mode": "chat",
            "input_cost_per_token": 1.2500000000000002e-07,
            "output_cost_per_token": 1.3e-10,
            "input_cost_per_audio_token": 3.2e-05,
        }

        assert _sources._litellm_figures(fields) == [125_000, 130, None, None, None, None, 32_000_000, None]

    def test_snapshots_with_prices_of_their_own(self) -> None:
        """A snapshot whose long prompts cost more than those of its model is not told by it."""
        first, dated = self.entry("b", 1), self.entry("b-2025-01-01", 1)
        dated.variants = [(1000, None, [2, 9])]

        assert [entry.model for entry in _generate.merged([first], [dated])] == ["b", "b-2025-01-01"]

    def test_snapshots_that_tell_of_audio(self) -> None:
        """Audio costs what any snapshot at a model's price says; it is never cheaper than text."""
        first, dated, cheap = self.entry("b", 1), self.entry("b-2025-01-01", 1), self.entry("b-2025-02-01", 1)
        dated.periods[-1][1][6:] = 40, 80
        cheap.periods[-1][1][6:] = 1, 8

        assert [entry.model for entry in _generate.merged([first], [cheap, dated])] == ["b"]
        assert first.periods == [(None, [1, 9, None, None, None, None, 40, 80])]

    def test_snapshots_with_a_dearer_class(self) -> None:
        """A snapshot whose reasoning costs more than its model's is not told by it; one that is cheaper there is."""
        first, dated, cheap = self.entry("b", 1), self.entry("b-2025-01-01", 1), self.entry("b-2025-02-01", 1)
        dated.periods[-1][1][5] = 10
        cheap.periods[-1][1][5] = 9

        assert [entry.model for entry in _generate.merged([first], [dated, cheap])] == ["b", "b-2025-01-01"]

    def test_dearest(self) -> None:
        """Of two prices the dearer one of each class holds; a class that one of them has not is that of the other."""
        assert _sources.dearest([1, 5, None, None], [2, 4, 3, None]) == [2, 5, 3, None]

    def test_repeatable(self) -> None:
        """The book in the tree is one that its loader reads line by line: one model a line."""
        lines = Path(_generate.__file__).with_name("book.json").read_text().splitlines()

        assert json.loads(lines[1].rstrip(","))[:2] == ["openai", "ada"]
        assert len(lines) == len(json.loads("".join(lines))["models"]) + 2
