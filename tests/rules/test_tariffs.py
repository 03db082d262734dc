"""
Which price applies, and what a call costs.
"""

# ruff: noqa: A002 - the words of the product

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw import tapping
from tokenbudget_mw.errors import UnpricedModelError
from tokenbudget_mw.rules.pricing import Moment, estimate, price_usage
from tokenbudget_mw.rules.tariffs import Tariffs, choose, cost_pico, upper_pico
from tokenbudget_mw.values import Price, Prompt, Quote, TokenCount, Usage

NOW = 1_760_000_000.0
DAY = 86_400.0
CEILING = Price("ceiling", "*", 100_000_000, 500_000_000)


def price(id: str = "p", model: str = "m", input: int = 10, output: int = 30, **more: object) -> Price:
    return Price(id, model, input, output, **more)  # type: ignore[arg-type]


def chosen(*prices: Price, at: float = NOW, purpose: str = "realtime", window: str | None = None) -> str | None:
    found = choose(prices, at=at, purpose=purpose, completion_window=window)
    return found and found.id


class TestChoose:
    BATCH_24H = price("batch-24h", purpose="batch", completion_window="24h")
    BATCH = price("batch", purpose="batch")
    REALTIME = price("realtime", purpose="realtime")
    ANY = price("any")
    ANY_24H = price("any-24h", completion_window="24h")

    @pytest.mark.parametrize(
        ("purpose", "window", "expected"),
        [
            ("batch", "24h", "batch-24h"),
            ("batch", "1h", "batch"),
            ("batch", None, "batch"),
            ("realtime", None, "realtime"),
            ("realtime", "24h", "realtime"),
            ("playground", None, "realtime"),
            ("nobody knows", "24h", "realtime"),
        ],
    )
    def test_purpose_and_window(self, purpose: str, window: str | None, expected: str) -> None:
        """Same purpose and window, then same purpose, then realtime."""
        prices = (self.REALTIME, self.BATCH, self.BATCH_24H)

        assert chosen(*prices, purpose=purpose, window=window) == expected
        assert chosen(*prices[::-1], purpose=purpose, window=window) == expected

    def test_fallback_of_a_batch_key(self) -> None:
        """A batch key without a batch tariff pays the realtime price."""
        assert chosen(self.REALTIME, purpose="batch", window="24h") == "realtime"

    def test_no_fallback_to_another_purpose(self) -> None:
        """Realtime never pays a batch price, and no key the price of another window."""
        assert chosen(self.BATCH, self.BATCH_24H) is None
        assert chosen(self.BATCH_24H, purpose="batch", window="1h") is None
        assert chosen(self.BATCH_24H, purpose="batch") is None

    def test_price_for_any_purpose(self) -> None:
        """A price without a purpose stands behind the purpose's own and before realtime's."""
        assert chosen(self.ANY, self.REALTIME, self.BATCH, purpose="batch") == "batch"
        assert chosen(self.ANY, self.REALTIME, purpose="batch") == "any"
        assert chosen(self.ANY, self.ANY_24H, purpose="batch", window="24h") == "any-24h"
        assert chosen(self.ANY, self.ANY_24H, purpose="batch") == "any"

    def test_nothing(self) -> None:
        """Without prices, none applies."""
        assert chosen() is None

    def test_dates(self) -> None:
        """Of two dated tariffs the one valid at the time applies, from its first moment to just before its last."""
        old = price("old", valid_until=NOW)
        new = price("new", valid_from=NOW, valid_until=NOW + DAY)

        assert chosen(old, new, at=NOW - 0.001) == "old"
        assert chosen(old, new, at=NOW) == "new"
        assert chosen(old, new, at=NOW + DAY - 0.001) == "new"
        assert chosen(old, new, at=NOW + DAY) is None

    def test_future_tariff(self) -> None:
        """A tariff of the future never applies, however well it fits."""
        future = replace(self.BATCH_24H, valid_from=NOW + 1)

        assert chosen(future, self.REALTIME, purpose="batch", window="24h") == "realtime"
        assert chosen(future, purpose="batch", window="24h") is None

    def test_overlapping_dates(self) -> None:
        """Where several are valid, the one that became valid last applies."""
        first, second = price("first"), price("second", valid_from=NOW - DAY)

        assert chosen(first, second) == "second"
        assert chosen(second, first) == "second"

    def test_conditions_of_the_call(self) -> None:
        """Tier before length before date, and all of them behind purpose and window; a length is exceeded, not reached."""
        plain, long = price("plain"), price("long", above_input=100)
        longer, flex = price("longer", above_input=200), price("flex", service_tier="flex")
        batch = price("batch", purpose="batch")
        prices = (plain, long, longer, flex, batch)

        def found(tokens: int, tier: str | None = None, purpose: str = "realtime") -> str:
            choice = choose(
                prices, at=NOW, purpose=purpose, completion_window=None, input_tokens=tokens, service_tier=tier
            )
            assert choice is not None
            return choice.id

        assert [found(tokens) for tokens in (100, 101, 200, 201)] == ["plain", "long", "long", "longer"]
        assert [found(tokens, "flex") for tokens in (100, 201)] == ["flex", "flex"]
        assert found(201, "flex", "batch") == "batch"
        assert found(0, "other") == "plain"

    @given(
        st.lists(
            st.builds(
                price,
                purpose=st.sampled_from([None, "realtime", "batch"]),
                completion_window=st.sampled_from([None, "24h"]),
                valid_from=st.sampled_from([None, NOW - DAY, NOW + DAY]),
                valid_until=st.sampled_from([None, NOW, NOW + 2 * DAY]),
            ),
            max_size=8,
        ),
        st.sampled_from(["realtime", "batch", "playground"]),
        st.sampled_from([None, "24h", "1h"]),
    )
    def test_never_a_foreign_price(self, prices: list[Price], purpose: str, window: str | None) -> None:
        """Whatever the tariffs, the chosen one is valid and for this purpose, any, or realtime."""
        found = choose(prices, at=NOW, purpose=purpose, completion_window=window)

        if found is not None:
            assert found.valid_from is None or found.valid_from <= NOW
            assert found.valid_until is None or found.valid_until > NOW
            assert found.purpose in {purpose, None, "realtime"}
            assert found.completion_window in {window, None}


SONNET = price(
    "sonnet",
    "claude-sonnet-4",
    3_000_000,
    15_000_000,
    cache_read=300_000,
    cache_write=3_750_000,
    cache_write_1h=6_000_000,
)
GPT_4O = price("4o", "gpt-4o", 2_500_000, 10_000_000, cache_read=1_250_000)
O3 = price("o3", "o3", 2_000_000, 8_000_000, reasoning=4_000_000)

# name, price, provider's usage object, cost in USD worked out by hand
GOLDEN = [
    (
        "OpenAI, cached within prompt",
        GPT_4O,
        {"prompt_tokens": 1000, "completion_tokens": 200, "prompt_tokens_details": {"cached_tokens": 400}},
        "0.004",  # 600 x 2.50 + 400 x 1.25 + 200 x 10, a million
    ),
    (
        "Anthropic, cache outside input, both lifetimes",
        SONNET,
        {
            "input_tokens": 100,
            "cache_read_input_tokens": 10_000,
            "cache_creation_input_tokens": 3000,
            "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
            "output_tokens": 500,
        },
        "0.02655",  # 100 x 3 + 10,000 x 0.30 + 1,000 x 3.75 + 2,000 x 6 + 500 x 15
    ),
    (
        "reasoning within output, at its own price",
        O3,
        {"prompt_tokens": 10, "completion_tokens": 1000, "completion_tokens_details": {"reasoning_tokens": 900}},
        "0.00442",  # 10 x 2 + 100 x 8 + 900 x 4
    ),
    (
        "reasoning at the price of output where it has none",
        GPT_4O,
        {"prompt_tokens": 0, "completion_tokens": 1000, "completion_tokens_details": {"reasoning_tokens": 900}},
        "0.01",
    ),
    (
        "Gemini, thoughts outside candidates, cached within prompt",
        price("gemini", "gemini-2.5-pro", 1_250_000, 10_000_000, cache_read=310_000),
        {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 600,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 150,
        },
        "0.002686",  # 400 x 1.25 + 600 x 0.31 + 200 x 10
    ),
    (
        "Bedrock, cache outside input",
        SONNET,
        {"inputTokens": 10, "outputTokens": 20, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 40},
        "0.00051",  # 10 x 3 + 100 x 0.30 + 40 x 3.75 + 20 x 15
    ),
    (
        "Cohere, billed units",
        price("command", "command-r", 150_000, 600_000),
        {
            "billed_units": {"input_tokens": 20.0, "output_tokens": 10.0},
            "tokens": {"input_tokens": 800.0, "output_tokens": 99.0},
        },
        "0.000009",
    ),
    (
        "OpenAI, audio within prompt and completion",
        price("audio", "gpt-4o-audio", 2_500_000, 10_000_000, audio_input=40_000_000, audio_output=80_000_000),
        {
            "prompt_tokens": 1000,
            "completion_tokens": 300,
            "prompt_tokens_details": {"audio_tokens": 800, "text_tokens": 200},
            "completion_tokens_details": {"audio_tokens": 250, "text_tokens": 50},
        },
        "0.053",  # 200 x 2.50 + 800 x 40 + 50 x 10 + 250 x 80
    ),
    (
        "Gemini, audio within the prompt",
        price("flash", "gemini-2.5-flash", 300_000, 2_500_000, audio_input=1_000_000),
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
        "audio at the price of text where it has none",
        GPT_4O,
        {"prompt_tokens": 100, "completion_tokens": 0, "prompt_tokens_details": {"audio_tokens": 100}},
        "0.00025",
    ),
    (
        "a price below a nano-dollar",
        price("cheap", "cheap", 130, 260),
        {"prompt_tokens": 3, "completion_tokens": 1},
        "0.000000000650",
    ),
]


@pytest.mark.parametrize(("tariff", "usage", "usd"), [case[1:] for case in GOLDEN], ids=[case[0] for case in GOLDEN])
def test_t10_golden_costs(tariff: Price, usage: dict, usd: str) -> None:
    """The providers' usage objects cost what their price lists say, to the pico-dollar."""
    assert cost_pico(tariff, tapping.read_response({"usage": usage})) == Decimal(usd) * 10**12


def test_t10_batch_and_dates() -> None:
    """The same call costs half in a batch, and what was valid at its time."""
    batch = replace(GPT_4O, id="4o-batch", input=1_250_000, output=5_000_000, purpose="batch")
    older = replace(GPT_4O, id="4o-old", input=5_000_000, output=15_000_000, valid_until=NOW)
    tariffs = Tariffs([replace(GPT_4O, valid_from=NOW), batch, older], lambda _: (), "deny", CEILING, str)
    usage = Usage(1000, 100)

    def cost(at: float, purpose: str) -> int:
        found = tariffs.quote("gpt-4o", at=at, purpose=purpose).price
        assert found is not None
        return cost_pico(found, usage)

    assert cost(NOW, "realtime") == 3_500_000_000
    assert cost(NOW, "batch") == 1_750_000_000
    assert cost(NOW - 1, "realtime") == 6_500_000_000


# the published prices of models that cost more for long prompts, or by the tier that serves them
TIERED = [
    price("gemini", "gemini-2.5-pro", 1_250_000, 10_000_000, cache_read=310_000),
    price("gemini-long", "gemini-2.5-pro", 2_500_000, 15_000_000, cache_read=625_000, above_input=200_000),
    price("sonnet", "claude-sonnet-4", 3_000_000, 15_000_000, cache_read=300_000, cache_write=3_750_000),
    price(
        "sonnet-long",
        "claude-sonnet-4",
        6_000_000,
        22_500_000,
        cache_read=600_000,
        cache_write=7_500_000,
        cache_write_1h=12_000_000,
        above_input=200_000,
    ),
    price("5", "gpt-5", 1_250_000, 10_000_000, cache_read=125_000),
    price("5-flex", "gpt-5", 625_000, 5_000_000, cache_read=62_500, service_tier="flex"),
    price("5-priority", "gpt-5", 2_500_000, 20_000_000, cache_read=250_000, service_tier="priority"),
    price("5-batch", "gpt-5", 625_000, 5_000_000, cache_read=62_500, purpose="batch"),
]


@pytest.mark.parametrize(
    ("model", "response", "purpose", "expected", "usd"),
    [
        ("gemini-2.5-pro", {"promptTokenCount": 200_000, "candidatesTokenCount": 10}, "realtime", "gemini", "0.2501"),
        (
            "gemini-2.5-pro",  # 100,000 x 2.50 + 100,001 x 0.625 + 20 x 15
            {
                "promptTokenCount": 200_001,
                "cachedContentTokenCount": 100_001,
                "candidatesTokenCount": 10,
                "thoughtsTokenCount": 10,
            },
            "realtime",
            "gemini-long",
            "0.312800625",
        ),
        (
            "claude-sonnet-4",  # the cache counts for the length: 1 x 6 + 199,000 x 0.60 + 500 x 7.50 + 500 x 12 + 2 x 22.50
            {
                "input_tokens": 1,
                "cache_read_input_tokens": 199_000,
                "cache_creation_input_tokens": 1000,
                "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 500},
                "output_tokens": 2,
            },
            "realtime",
            "sonnet-long",
            "0.129201",
        ),
        ("gpt-5", {"prompt_tokens": 1000, "completion_tokens": 100}, "realtime", "5", "0.00225"),
        ("gpt-5", {"prompt_tokens": 1000, "completion_tokens": 100}, "batch", "5-batch", "0.001125"),
        (
            "gpt-5",
            {"prompt_tokens": 1000, "completion_tokens": 100, "service_tier": "flex"},
            "realtime",
            "5-flex",
            "0.001125",
        ),
        (
            "gpt-5",
            {"prompt_tokens": 1000, "completion_tokens": 100, "service_tier": "priority"},
            "realtime",
            "5-priority",
            "0.0045",
        ),
        (
            "gpt-5",
            {"prompt_tokens": 1000, "completion_tokens": 100, "service_tier": "default"},
            "realtime",
            "5",
            "0.00225",
        ),
    ],
)
def test_t10_long_prompts_and_tiers(model: str, response: dict, purpose: str, expected: str, usd: str) -> None:
    """A prompt beyond the length costs the other price for all of its tokens, and a tier its own, to the pico-dollar."""
    tier = response.pop("service_tier", None)
    usage = tapping.read_response({"model": model, "usage": response, "service_tier": tier})

    priced = price_usage(
        Tariffs(TIERED, lambda _: (), "deny", CEILING, str), usage, Moment(NOW, purpose), asked="anything"
    )

    assert (priced.price_id, priced.cost_pico) == (expected, Decimal(usd) * 10**12)


def test_a_tier_that_is_only_asked_for_is_not_believed() -> None:
    """A client that asks for the cheap tier holds the price of the usual one, and pays it unless the response says flex."""
    tariffs = Tariffs(TIERED, lambda _: (), "deny", CEILING, str)
    prompt = Prompt("gpt-5", TokenCount(100, 100, exact=True), max_output=10, service_tier="flex")

    upper, least = estimate(tariffs, prompt, Moment(NOW), output_reserve=0)
    priced = price_usage(tariffs, Usage(100, 10, model="gpt-5"), Moment(NOW), asked="gpt-5")

    assert upper.money_nano * 1000 == 100 * 1_250_000 + 10 * 10_000_000
    assert least.money_nano * 1000 == 100 * 62_500
    assert priced.price_id == "5"


@given(
    st.lists(
        st.builds(
            price,
            input=st.integers(0, 10**8),
            output=st.integers(0, 10**8),
            above_input=st.sampled_from([0, 5, 10, 20]),
            service_tier=st.sampled_from([None, None, "flex"]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([None, "flex"]),
)
def test_a_reservation_covers_whatever_the_call_turns_out_to_be(
    prices: list[Price], most: int, used: int, tier: str | None
) -> None:
    """However long the prompt is, up to its bound, and whatever tier serves it: it costs no more than what was held."""
    tariffs = Tariffs([price(input=1, output=1), *prices], lambda _: (), "deny", CEILING, str)
    prompt = Prompt("m", TokenCount(most, most), max_output=3, service_tier=tier)

    upper, _ = estimate(tariffs, prompt, Moment(NOW), output_reserve=0)
    priced = price_usage(tariffs, Usage(min(used, most), 3, model="m", service_tier=tier), Moment(NOW), asked="m")

    assert priced.cost_pico <= upper.money_nano * 1000


counts = st.integers(-5, 10**7)
rates = st.integers(0, 10**8)
any_price = st.builds(
    price, input=rates, output=rates, cache_read=rates | st.none(), cache_write=rates | st.none(),
    cache_write_1h=rates | st.none(), reasoning=rates | st.none(),
    audio_input=rates | st.none(), audio_output=rates | st.none(),
)  # fmt: skip


class TestCost:
    @given(any_price, st.builds(
            Usage, counts, counts, counts, counts, counts, counts,
            audio_input_tokens=counts, audio_output_tokens=counts,
        ),
    )  # fmt: skip
    def test_bounds(self, tariff: Price, usage: Usage) -> None:
        """A cost is a whole number from 0 to the upper bound of its tokens, whatever the parts say."""
        cost = cost_pico(tariff, usage)

        assert type(cost) is int
        assert 0 <= cost <= upper_pico(tariff, usage.input_tokens, usage.output_tokens)

    @given(any_price, counts, counts)
    def test_plain_usage(self, tariff: Price, input: int, output: int) -> None:
        """Without parts, a cost is tokens times price."""
        expected = max(input, 0) * tariff.input + max(output, 0) * tariff.output

        assert cost_pico(tariff, Usage(input, output)) == expected

    def test_exact_beyond_doubles(self) -> None:
        """Costs are exact where floats would not be."""
        assert cost_pico(price(input=1, output=3), Usage(2**53 - 1, 2**53 - 1)) == 4 * (2**53 - 1)

    def test_free_cache_reads(self) -> None:
        """A cache price of 0 is a price, not a missing one."""
        assert cost_pico(price(cache_read=0), Usage(100, 0, cache_read_tokens=100)) == 0

    def test_hour_falls_back_to_write(self) -> None:
        """Without its own price, a write for an hour costs what a write costs, else what input costs."""
        usage = Usage(10, 0, cache_write_tokens=10, cache_write_1h_tokens=4)

        assert cost_pico(price(cache_write=12), usage) == 120
        assert cost_pico(price(), usage) == 100

    def test_upper_takes_the_dearest_class(self) -> None:
        """A reservation holds the price of an hour's cache write and of reasoning, where these are dearer."""
        assert upper_pico(SONNET, 10, 1) == 10 * 6_000_000 + 15_000_000
        assert upper_pico(SONNET, 10, 1, long_cache=False) == 10 * 3_750_000 + 15_000_000
        assert upper_pico(price(reasoning=99), 0, 2) == 198
        assert upper_pico(price(audio_input=50, audio_output=60), 1, 1) == 110


@pytest.mark.parametrize(
    ("ceiling", "model", "expected"),
    [(None, "m", True), (None, "other", False), (None, "m" * 1_000, False), (None, None, False), (7, "other", True)],
)
def test_a_longer_cache_has_a_price(ceiling: int | None, model: str | None, expected: bool) -> None:
    """A model's own, or the one that holds where a model has no price."""
    found = Tariffs([price(cache_write_1h=5)], lambda _: (), "ceiling", replace(CEILING, cache_write_1h=ceiling), str)

    assert found.prices_long_cache(model) is expected


def tariffs(*user: Price, book: dict[str, tuple[Price, ...]] | None = None, unknown: str = "deny") -> Tariffs:
    return Tariffs(
        user,
        lambda name: (book or {}).get(name, ()),
        unknown,  # type: ignore[arg-type]
        CEILING,
        lambda name: name.rpartition("/")[2].lower(),
    )


class TestTariffs:
    def test_order_of_places(self) -> None:
        """Exact tariff, normalised tariff, exact book, normalised book."""
        user = [price("user-exact", "x/m"), price("user-normal", "m")]
        book = {"x/m": (price("book-exact"),), "m": (price("book-normal"),)}

        def found(user: list[Price], book: dict) -> str:
            quote = tariffs(*user, book=book).quote("x/m", at=NOW)
            assert quote.price is not None
            return quote.price.id

        assert found(user, book) == "user-exact"
        assert found(user[1:], book) == "user-normal"
        assert found([], book) == "book-exact"
        assert found([], {"m": book["m"]}) == "book-normal"

    def test_case_decides_between_tariffs_only(self) -> None:
        """A tariff holds however a request spells its model; of two that differ by case each holds for its own spelling."""
        quotes = tariffs(price("large", "Org/Large"), price("small", "small"), price("other", "SMALL"))

        spellings = ["Org/Large", "org/large", "ORG/LARGE", "small", "SMALL", "Small", "x/small"]
        found = [quotes.quote(model, at=NOW).price for model in spellings]

        assert [each and each.id for each in found] == [*["large"] * 3, "small", "other", "small", "small"]

    def test_deployment(self) -> None:
        """A deployment costs what its own tariff says, else what its model does, however the settings spell that one."""
        book = {"azure/m": (price("azure"),), "m": (price("book"),)}
        models = {"one": "azure/m", "two": "vllm/M:free", "three": "azure/m"}

        def cost_of(model: str, *user: Price) -> str:
            quotes = Tariffs(
                user,
                lambda name: book.get(name, ()),
                "deny",
                CEILING,
                lambda name: name.rpartition("/")[2].partition(":")[0].lower(),
                original=lambda name: models.get(name, name),
            )
            found = quotes.quote(model, at=NOW).price
            assert found is not None
            return found.id

        assert [cost_of(model) for model in models] == ["azure", "book", "azure"]
        assert [cost_of(model, price("own", "m")) for model in models] == ["own"] * 3
        assert cost_of("three", price("own", "three"), price("other", "m")) == "own"

    def test_tariff_that_does_not_apply(self) -> None:
        """A tariff of the future leaves the book's price in force."""
        quotes = tariffs(price("future", valid_from=NOW + 1), book={"m": (price("book"),)})

        assert quotes.quote("m", at=NOW) == Quote(price("book"))
        assert quotes.quote("m", at=NOW + 1).price == price("future", valid_from=NOW + 1)

    @pytest.mark.parametrize("model", ["nobody", "", None, "m" * 10_000])
    def test_t03_unknown_models(self, model: str | None) -> None:
        """A model without a price is denied, charged at the ceiling or flagged; never zero."""
        with pytest.raises(UnpricedModelError, match="tariffs") as caught:
            tariffs().quote(model, at=NOW)

        assert len(str(caught.value)) < 500
        assert tariffs(unknown="ceiling").quote(model, at=NOW) == Quote(CEILING, "ceiling")
        assert tariffs(unknown="flag").quote(model, at=NOW) == Quote(None, "unpriced")

    def test_t04_explicit_zero(self) -> None:
        """A price of 0 is known: it is no unknown price, and hides the book's."""
        free = price("free", input=0, output=0)

        quote = tariffs(free, book={"m": (price("book"),)}).quote("m", at=NOW)

        assert quote == Quote(free, "known")
        assert cost_pico(free, Usage(10**6, 10**6)) == upper_pico(free, 10**6, 10**6) == 0

    def test_look_ups_are_remembered_and_bounded(self) -> None:
        """A model is looked up once, and no number of client-chosen names grows the memory."""
        asked: list[str] = []

        def book(name: str) -> tuple[Price, ...]:
            asked.append(name)
            return (price(),)

        quotes = Tariffs([], book, "deny", CEILING, str)
        for _ in range(3):
            quotes.quote("m", at=NOW)
        assert asked == ["m"]

        for number in range(3000):
            quotes.quote(f"m{number}", at=NOW)
        assert quotes._places.cache_info().currsize == 1024
