"""
What the two packages of prices list, as entries of one shape. For maintainers, as `_generate`, whose rules these are.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

SAME_PROVIDER = {
    "gemini": "google",
    "vertex_ai": "google",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "xai": "x-ai",
    "cohere_chat": "cohere",
    "azure_ai": "azure",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "voyage": "voyageai",
    "moonshot": "moonshotai",
    "meta_llama": "meta",
    "text-completion-openai": "openai",
}
"""Other names of providers, most of them LiteLLM's -> ours."""

MODES = {"chat", "responses", "completion", "embedding"}
GENAI_FIELDS = (
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
    "output_reasoning_mtok",
    "input_audio_mtok",
    "output_audio_mtok",
)
"""What `genai-prices` calls the figures of a price, in the book's order."""

LONG, LONGER = "cache_creation_input_token_cost_above_1hr", "cache_creation_input_token_cost_above_12hr"
"""A cache write for an hour, Anthropic's, and for twelve, OpenAI's: both are the book's longer lifetime."""

LITELLM_FIELDS = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
    LONG,
    "output_cost_per_reasoning_token",
    "input_cost_per_audio_token",
    "output_cost_per_audio_token",
)
"""What LiteLLM calls them."""

LONG_PLACE = LITELLM_FIELDS.index(LONG)
SIDES = (0, 1, 0, 0, 0, 1, 0, 1)
"""Whether a class is input's or output's: the place of the price that holds where it has none of its own."""

AUDIO_PLACES = {LITELLM_FIELDS.index(name) for name in LITELLM_FIELDS if name.endswith("audio_token")}

VARIANT = re.compile(r"input_cost_per_token(?:_above_(\d+)k_tokens)?(?:_(flex|priority|ultrafast))?")
"""LiteLLM's input price for prompts longer than so many thousand tokens, and for a tier."""

TIERED = frozenset({"openai", "aws", "anthropic"})
"""Providers whose responses name their tiers as LiteLLM does."""

IMAGE_INPUT = {"input_mtok": "input_image_mtok", "cache_read_mtok": "cache_image_read_mtok"}
"""What a prompt's images cost, by what its text costs."""

MAX_PRICE = 1_000_000_000  # $1,000 a million tokens: what is above has its decimal point in the wrong place
OTHER_OUTPUT = ("output_image_mtok", "output_video_mtok")
EMBEDDING_WORDS = ("embed", "voyage", "bge-", "e5-", "gte-")

DATE = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$")

Figures = list[int | None]
Variant = tuple[int, str | None, Figures]
"""Input tokens above which it holds, the tier for which it holds, and its figures."""


@dataclass
class Entry:
    """
    One priced model on its way into the book.

    Attributes:
        periods: Pairs of first day (None for always) and figures, in the order of `GENAI_FIELDS`.

        variants: Prices beside that of the last period, each for long prompts or a tier.

        names: Names under which it is found beside *model*; each also holds behind ``provider/``.
    """

    provider: str
    model: str
    source: int
    periods: list[tuple[str | None, Figures]]
    names: list[str]
    variants: list[Variant] = field(default_factory=list)

    @property
    def full(self) -> str:
        """
        Its name with the provider.
        """
        return f"{self.provider}/{self.model}"

    def row(self) -> list[object]:
        """
        Return it as the book's array; trailing fields without a price are left out.
        """
        periods = [[since, *_trimmed(figures)] for since, figures in self.periods]
        row = [self.provider, self.model, self.source, periods, sorted(set(self.names) - {self.model})]
        variants = [
            [above, tier, *_trimmed(figures)]
            for above, tier, figures in sorted(self.variants, key=lambda each: (each[0], each[1] or ""))
        ]
        return [*row, variants] if variants else row


def _trimmed(figures: Figures) -> Figures:
    figures = list(figures)
    while figures and figures[-1] is None:
        figures.pop()
    return figures


def checked(figures: Figures, *, is_embedding: bool) -> Figures | None:
    """
    Return the *figures* with the output price filled in, or None where they are no prices.
    """
    plain, output = figures[0], figures[1]
    if plain is None or not (plain or output):
        return None
    if any(figure is not None and not 0 <= figure <= MAX_PRICE for figure in figures):
        return None
    if not output:
        output = 0 if is_embedding else plain
    return [plain, output, *(figure or None for figure in figures[2:])]


# -- genai-prices -----------------------------------------------------------------------------------------------------


def genai_entries() -> Iterator[Entry]:
    """
    Yield the models of the installed `genai-prices`.
    """
    from genai_prices.data import providers

    for provider in providers:
        for model in provider.models:
            found = list(_genai_periods(model))
            if found:
                names = [DATE.sub("", model.id.lower()), *_literals(model.match)]
                periods = [(since, figures) for since, figures, _ in found]
                yield Entry(provider.id, model.id.lower(), 0, periods, names, found[-1][2])


def _genai_periods(model: Any) -> list[tuple[str | None, Figures, list[Variant]]]:
    found: list[tuple[str | None, Figures, list[Variant]]] = []
    for constraint, prices in _genai_prices(model):
        if any(getattr(prices, name, None) is not None for name in OTHER_OUTPUT):
            continue
        figures, variants = _genai_figures(model, prices)
        if figures is None:
            continue
        if constraint is None or hasattr(constraint, "start_date"):
            found.append((None if constraint is None else constraint.start_date.isoformat(), figures, variants))
        elif found:  # some hours of the day
            since, others, variants = found[-1]
            found[-1] = since, dearest(others, figures), variants
    return found


def _genai_figures(model: Any, prices: Any) -> tuple[Figures | None, list[Variant]]:
    name = model.id.lower()
    each = [getattr(prices, field, None) for field in GENAI_FIELDS]
    figures = [_pico(price) for price in each]
    if "image" in name:
        paint = [_pico(getattr(prices, IMAGE_INPUT.get(field, ""), None)) for field in GENAI_FIELDS]
        figures = dearest(figures, paint)
    base = checked(figures, is_embedding=any(word in name for word in EMBEDDING_WORDS))
    starts = sorted({tier.start for price in each for tier in getattr(price, "tiers", ())})
    longer = ((start, checked([_pico(price, start) for price in each], is_embedding=False)) for start in starts)
    return base, [(start, None, some) for start, some in longer if some is not None]


def dearest(first: Figures, second: Figures) -> Figures:
    """
    Return the larger figure of each class.
    """
    return [max((one for one in both if one is not None), default=None) for both in zip(first, second, strict=True)]


def _genai_prices(model: Any) -> Iterator[tuple[Any, Any]]:
    if not isinstance(model.prices, list):
        yield None, model.prices
        return
    for conditional in model.prices:
        yield conditional.constraint, conditional.prices


def _pico(price: Any, start: int = 0) -> int | None:
    """
    Return *price* in pico-dollars; of one with tiers, what holds from *start* tokens on.
    """
    if price is None:
        return None
    reached = [tier.price for tier in getattr(price, "tiers", ()) if tier.start <= start]
    pico = Decimal(reached[-1] if reached else getattr(price, "base", price)) * 1_000_000
    return int(pico.to_integral_value())


def _literals(match: Any) -> Iterator[str]:
    """
    Yield the names that a match clause spells out, and the beginnings that it accepts where they end like a name.
    """
    if hasattr(match, "equals"):
        yield match.equals.lower()
    if hasattr(match, "starts_with"):
        yield match.starts_with.lower().rstrip("@-:")
    for clause in getattr(match, "or_", ()):
        yield from _literals(clause)


# -- LiteLLM ----------------------------------------------------------------------------------------------------------


def litellm_entries(wheel: Path) -> Iterator[Entry]:
    """
    Yield the models of LiteLLM's map in its *wheel*.
    """
    for name, fields in sorted(_litellm_models(wheel).items()):
        figures = _litellm_figures(fields) if fields.get("mode") in MODES else None
        if figures is None:
            continue
        listed = fields.get("litellm_provider") or "unknown"
        prefix, _, rest = name.lower().partition("/")
        named = prefix in SAME_PROVIDER or prefix == listed
        provider = SAME_PROVIDER.get(listed, "google" if listed.startswith("vertex_ai-") else listed)
        variants = [variant for variant in _litellm_variants(fields) if provider in TIERED or variant[1] is None]
        if provider == "anthropic":
            variants += _multiples(fields.get("provider_specific_entry") or {}, [(0, None, figures), *variants])
        yield Entry(provider, rest if named and rest else name.lower(), 1, [(None, figures)], [], variants)


def _multiples(factors: dict[str, Any], variants: list[Variant]) -> Iterator[Variant]:
    """
    Yield *variants* at the prices of Anthropic's fast mode, and of inference in the US alone; both may come together.
    """
    for names in (("fast",), ("us",), ("fast", "us")):
        if all(name in factors for name in names):
            factor = math.prod((Decimal(repr(factors[name])) for name in names), start=Decimal(1))
            for above, _, figures in variants:
                yield above, "-".join(names), [each and int((each * factor).to_integral_value()) for each in figures]


def _litellm_models(wheel: Path) -> dict[str, dict[str, Any]]:
    with zipfile.ZipFile(wheel) as archive:
        models: dict[str, dict[str, Any]] = json.loads(
            archive.read("litellm/model_prices_and_context_window_backup.json")
        )
    # a list of prices by the prompt's length, of which the first one is the base
    return {name: {**fields.get("tiered_pricing", [{}])[0], **fields} for name, fields in models.items()}


def _litellm_variants(fields: dict[str, Any]) -> Iterator[Variant]:
    for longer in fields.get("tiered_pricing", ())[1:]:
        figures = _litellm_figures(longer | {"mode": fields["mode"]})
        if figures is not None and "range" in longer:
            yield int(longer["range"][0]), None, figures
    for name in sorted(fields):
        match = VARIANT.fullmatch(name)
        if match and (match[1] or match[2]):
            figures = _litellm_figures(fields, name.removeprefix("input_cost_per_token"))
            if figures is not None:
                yield int(match[1] or 0) * 1000, match[2], figures


def _litellm_figures(fields: dict[str, Any], suffix: str = "") -> Figures | None:
    figures: Figures = []
    for name in LITELLM_FIELDS:
        value = fields.get(name + suffix)
        if name == LONG and value is None:
            value = fields.get(LONGER + suffix)
        figures.append(None if value is None else round(Decimal(repr(value)) * 10**12))
    return checked(figures, is_embedding=fields["mode"] == "embedding")


def painted(wheel: Path) -> dict[str, int]:
    """
    Return what a token of an image costs, in pico-dollars, of the models that paint, by their bare names in both sources.
    """
    from genai_prices.data import providers

    found: dict[str, int] = {}
    for name, fields in _litellm_models(wheel).items():
        price = fields.get("output_cost_per_image_token")
        found[bare(name)] = max(found.get(bare(name), 0), round(Decimal(repr(price or 0)) * 10**12))
    for model in (model for provider in providers for model in provider.models):
        for _, prices in _genai_prices(model):
            dear = max(_pico(getattr(prices, name, None)) or 0 for name in OTHER_OUTPUT)
            for name in (model.id, *_literals(model.match)) if dear else ():
                found[bare(name)] = max(found.get(bare(name), 0), dear)
    return found


def bare(name: str) -> str:
    """
    Return *name* without its provider, date and variant.

    >>> bare("openrouter/google/gemini-2.5-flash-image:batch")
    'gemini-2.5-flash-image'
    """
    return DATE.sub("", name.lower().rpartition("/")[2].partition(":")[0])
