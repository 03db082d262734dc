"""
Makes `book.json` from the price data of two packages. For maintainers; nothing imports it.

::

    pip install genai-prices && pip download --no-deps litellm
    python -m tokenbudget_mw.prices._generate litellm-*.whl

Rules:

* A model of `genai-prices` comes first, with the history of its prices; LiteLLM's map fills in names it does not know.
* Prices are whole pico-dollars per token, which is micro-dollars per million: LiteLLM's binary floats are rounded to
  12 decimals, which drops their noise.
* Only prices per token, of models that write text, audio or embeddings and nothing dearer, around the clock.
* Beside the base price stand those for long prompts, OpenAI's for its tiers ``flex``, ``priority`` and ``ultrafast``, and
  Anthropic's for its fast mode and for inference in the US alone, which LiteLLM has as multiples. Those of LiteLLM are taken
  for a model of `genai-prices` where both say the same of its base price; so is that of a cache write for long.
* A model whose input and output are both free, or whose input has no price, is left out: in public tables a zero mostly
  means "not known". For the same reason output costs at least what input costs where its price is missing or zero,
  unless the model makes embeddings, and a cache, reasoning or audio price of zero counts as missing.
* Resellers are left out.
* Names are lower case. Where several providers share a name, the maker's price holds, then that of the first in
  `PROVIDERS`.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import math
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

MAKERS = [
    "openai",
    "anthropic",
    "google",
    "mistral",
    "x-ai",
    "deepseek",
    "cohere",
    "meta",
    "perplexity",
    "voyageai",
    "minimax",
    "moonshotai",
    "zai",
    "zhipuai",
    "arcee",
    "ai21",
]
PROVIDERS = [*MAKERS, "aws", "azure", "groq", "cerebras", "openrouter", "together", "fireworks", "novita"]
"""Whose price a bare name means, the first first: makers, then hosts. All others follow in alphabetical order."""

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

RESELLERS = frozenset(
    [
        "aihubmix",
        "avian",
        "cursor",
        "github-copilot",
        "github_copilot",
        "inferenceapis",
        "kyma",
        "llamagate",
        "opencode_go",
        "quicksilverpro",
        "streamlake",
        "vercel_ai_gateway",
    ]
)
"""Gateways and subscriptions that sell models of other hosts; beside them, all ``huggingface_…``."""

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

VARIANT = re.compile(r"input_cost_per_token(?:_above_(\d+)k_tokens)?(?:_(flex|priority|ultrafast))?")
"""LiteLLM's input price for prompts longer than so many thousand tokens, and for a tier."""

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


def _genai_periods(model: Any) -> Iterator[tuple[str | None, Figures, list[Variant]]]:
    is_embedding = any(word in model.id.lower() for word in EMBEDDING_WORDS)
    for since, prices in _genai_prices(model):
        if any(getattr(prices, name, None) is not None for name in OTHER_OUTPUT):
            continue
        each = [getattr(prices, name, None) for name in GENAI_FIELDS]
        figures = checked([_pico(price) for price in each], is_embedding=is_embedding)
        if figures is not None:
            starts = sorted({tier.start for price in each for tier in getattr(price, "tiers", ())})
            longer = ((start, checked([_pico(price, start) for price in each], is_embedding=False)) for start in starts)
            yield since, figures, [(start, None, some) for start, some in longer if some is not None]


def _genai_prices(model: Any) -> Iterator[tuple[str | None, Any]]:
    if not isinstance(model.prices, list):
        yield None, model.prices
        return
    for conditional in model.prices:
        if conditional.constraint is None:
            yield None, conditional.prices
        elif hasattr(conditional.constraint, "start_date"):
            yield conditional.constraint.start_date.isoformat(), conditional.prices
        # else a time of day: the price around the clock holds


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
    with zipfile.ZipFile(wheel) as archive:
        models = json.loads(archive.read("litellm/model_prices_and_context_window_backup.json"))
    for name, fields in sorted(models.items()):
        figures = _litellm_figures(fields) if fields.get("mode") in MODES else None
        if figures is None:
            continue
        listed = fields.get("litellm_provider") or "unknown"
        prefix, _, rest = name.lower().partition("/")
        named = prefix in SAME_PROVIDER or prefix == listed
        provider = SAME_PROVIDER.get(listed, "google" if listed.startswith("vertex_ai-") else listed)
        variants = [variant for variant in _litellm_variants(fields) if provider == "openai" or variant[1] is None]
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


def _litellm_variants(fields: dict[str, Any]) -> Iterator[Variant]:
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


# -- the book ---------------------------------------------------------------------------------------------------------


def merged(first: Iterable[Entry], second: Iterable[Entry]) -> list[Entry]:
    """
    Put the entries in the order in which they claim names, and let those of *second* only fill in.
    """
    kept = sorted(filter(_is_wanted, first), key=_order)
    models = {entry.full for entry in kept}
    for entry in kept:
        entry.names = [name for name in entry.names if f"{entry.provider}/{name}" not in models]
    known = {
        name: entry for entry in kept for name in (entry.full, *(f"{entry.provider}/{name}" for name in entry.names))
    }
    for entry in sorted(filter(_is_wanted, second), key=_order):
        told = known.get(entry.full)
        if told is not None and told.periods[-1][1][:2] == entry.periods[-1][1][:2]:
            mine = {(above, tier): figures for above, tier, figures in told.variants}
            for own, other in [(told.periods[-1][1], entry.periods[-1][1]), *_pairs(mine, entry.variants)]:
                own[LONG_PLACE] = own[LONG_PLACE] or other[LONG_PLACE]
            told.variants += [variant for variant in entry.variants if variant[:2] not in mine]
        if told is None and not _is_told_by(known.get(DATE.sub("", entry.full)), entry):
            kept.append(entry)
            known[entry.full] = entry
    return sorted(kept, key=_order)


def _pairs(mine: dict[tuple[int, str | None], Figures], variants: list[Variant]) -> Iterator[tuple[Figures, Figures]]:
    return ((mine[above, tier], figures) for above, tier, figures in variants if (above, tier) in mine)


def _is_wanted(entry: Entry) -> bool:
    if entry.model.startswith("~"):  # OpenRouter's names for whatever is newest
        return False
    return entry.provider not in RESELLERS and not entry.provider.startswith("huggingface_")


def _is_told_by(undated: Entry | None, entry: Entry) -> bool:
    """
    Say whether *entry* is a snapshot of a known model at the same price: the book finds it without its date.
    """
    return undated is not None and undated.periods[-1][1][:2] == entry.periods[-1][1][:2]


def _order(entry: Entry) -> tuple[int, str, str]:
    number = PROVIDERS.index(entry.provider) if entry.provider in PROVIDERS else len(PROVIDERS)
    return number, entry.provider, entry.model


def book(wheel: Path) -> str:
    """
    Return the text of `book.json`, one model a line so that changes can be read.
    """
    sources = [f"genai-prices {importlib.metadata.version('genai-prices')}", f"litellm {wheel.name.split('-')[1]}"]
    entries = merged(genai_entries(), litellm_entries(wheel))
    head = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "sources": sources,
        "providers": SAME_PROVIDER,
        "makers": MAKERS,
    }
    rows = ",\n".join(json.dumps(entry.row(), separators=(",", ":")) for entry in entries)
    return f'{json.dumps(head)[:-1]}, "models": [\n{rows}\n]}}\n'


def main(wheel: str) -> None:
    """
    Write `book.json` beside this file.
    """
    Path(__file__).with_name("book.json").write_text(book(Path(wheel)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
