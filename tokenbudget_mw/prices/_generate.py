"""
Makes `book.json` from the price data of two packages. For maintainers; nothing imports it.

::

    pip install genai-prices && pip download --no-deps litellm
    python -m tokenbudget_mw.prices._generate litellm-*.whl

Rules:

* A model of `genai-prices` comes first, with the history of its prices; LiteLLM's map fills in names it does not know.
* Prices are whole pico-dollars per token, which is micro-dollars per million: LiteLLM's binary floats are rounded to
  12 decimals, which drops their noise.
* Only prices per token, of models that write text, audio or embeddings and nothing dearer: one whose images cost more than
  its text is left out, whoever sells it. Models that paint take their prompts at the dearer of text and images.
* Where a price depends on the time of day, the dearest of the day holds around the clock.
* Beside the base price stand those for long prompts, those for the tiers of `TIERED`, and Anthropic's for its fast mode and for
  inference in the US alone, which LiteLLM has as multiples. Those of LiteLLM are taken for a model of `genai-prices` where both
  say the same of its base price; so is that of a cache write for long, and that of audio, which a snapshot may tell.
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
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenbudget_mw.prices._sources import (
    AUDIO_PLACES,
    DATE,
    LONG_PLACE,
    SAME_PROVIDER,
    SIDES,
    Entry,
    Figures,
    Variant,
    bare,
    genai_entries,
    litellm_entries,
    painted,
)

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
        told, undated = known.get(entry.full), known.get(DATE.sub("", entry.full))
        if told is not None and _costs_alike(told, entry):
            mine = {(above, tier): figures for above, tier, figures in told.variants}
            for own, other in [(told.periods[-1][1], entry.periods[-1][1]), *_pairs(mine, entry.variants)]:
                own[LONG_PLACE] = own[LONG_PLACE] or other[LONG_PLACE]
            told.variants += [variant for variant in entry.variants if variant[:2] not in mine]
        if undated is not None and _costs_alike(undated, entry):
            own, other = undated.periods[-1][1], entry.periods[-1][1]
            for place in _dearer(own, other) & AUDIO_PLACES:
                own[place] = own[place] or other[place]
        if told is None and not _is_told_by(undated, entry):
            kept.append(entry)
            known[entry.full] = entry
    return sorted(kept, key=_order)


def _costs_alike(told: Entry, entry: Entry) -> bool:
    return told.periods[-1][1][:2] == entry.periods[-1][1][:2]


def _dearer(own: Figures, other: Figures) -> set[int]:
    """
    Return the places of the classes that cost more by *other* than by *own*.
    """
    return {
        place for place, each in enumerate(other) if each is not None and each > (own[place] or own[SIDES[place]] or 0)
    }


def _pairs(mine: dict[tuple[int, str | None], Figures], variants: list[Variant]) -> Iterator[tuple[Figures, Figures]]:
    return ((mine[above, tier], figures) for above, tier, figures in variants if (above, tier) in mine)


def _is_wanted(entry: Entry) -> bool:
    if entry.model.startswith("~"):  # OpenRouter's names for whatever is newest
        return False
    return entry.provider not in RESELLERS and not entry.provider.startswith("huggingface_")


def _is_told_by(undated: Entry | None, entry: Entry) -> bool:
    """
    Say whether *entry* is a snapshot of a known model at the same prices, and no class of its tokens is dearer: the book
    finds it without its date.
    """
    if undated is None or not _costs_alike(undated, entry):
        return False
    if _dearer(undated.periods[-1][1], entry.periods[-1][1]):
        return False
    known = {(above, tier): figures[:2] for above, tier, figures in undated.variants}
    return all(known.get((above, tier)) == figures[:2] for above, tier, figures in entry.variants)


def _order(entry: Entry) -> tuple[int, str, str]:
    number = PROVIDERS.index(entry.provider) if entry.provider in PROVIDERS else len(PROVIDERS)
    return number, entry.provider, entry.model


def book(wheel: Path) -> str:
    """
    Return the text of `book.json`, one model a line so that changes can be read.
    """
    sources = [f"genai-prices {importlib.metadata.version('genai-prices')}", f"litellm {wheel.name.split('-')[1]}"]
    images = painted(wheel)
    entries = [
        entry
        for entry in merged(genai_entries(), litellm_entries(wheel))
        if (entry.periods[-1][1][1] or 0) >= images.get(bare(entry.model), 0)
    ]
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
