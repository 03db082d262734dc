"""
The price book: public list prices of models, shipped as data.

Prices are those of each model's base tier, of long prompts where these cost more, and of the tiers of OpenAI, Anthropic and
Bedrock, at the dearest time of day; without surcharges for regions, and without batch discounts; your tariffs say otherwise.
`NOTICE` beside this file names the sources.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from functools import lru_cache
from importlib import resources

import msgspec

from tokenbudget_mw.values import Price

__all__ = ["Book", "load"]

_DATE = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$")


class _Period(msgspec.Struct, array_like=True, gc=False):
    """
    Figures from the day *since* on (UTC; None: always), in pico-dollars per token.
    """

    since: str | None
    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None


class _Variant(msgspec.Struct, array_like=True, gc=False):
    """
    Figures that hold in the last period for prompts of more than *above* tokens, or for a service *tier*.
    """

    above: int
    tier: str | None
    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None


class _Model(msgspec.Struct, array_like=True, gc=False):
    """
    One priced model: *source* counts in `_Data.sources`, *names* are its others; each also holds behind ``provider/``.
    """

    provider: str
    name: str
    source: int
    periods: tuple[_Period, ...]
    names: tuple[str, ...]
    variants: tuple[_Variant, ...] = ()


class _Data(msgspec.Struct):
    """
    The file. *providers* are other names of providers, *makers* those that sell models of their own.
    """

    date: str
    sources: tuple[str, ...]
    providers: dict[str, str]
    makers: frozenset[str]
    models: list[_Model]


class Book:
    """
    A price book in memory.

    Attributes:
        date: Day on which it was made, ``"2026-11-20"``.

        version: The same with its sources, for people.
    """

    def __init__(self, data: bytes) -> None:
        read = msgspec.json.decode(data, type=_Data)
        self.date = read.date
        self.version = f"{read.date} ({', '.join(read.sources)})"
        self._sources = read.sources
        self._providers = read.providers
        self._models = _index(read.models, read.makers)

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str) -> tuple[Price, ...]:
        """
        Return all prices of the model *name*: those for tiers and long prompts, then the others, the earliest first; empty
        where the book has none.

        Case does not matter, and a provider's other names are known (``gemini/`` is ``google/``). A snapshot that is not
        listed costs what its model costs, a fine-tuned model (``ft:…``) what its kind costs. Of a path that nobody knows, an
        ARN of Bedrock's for one, the last part counts.
        """
        name = name.lower()
        for spelt in dict.fromkeys((name, name.rpartition("/")[2])):
            canonical = self._canonical(spelt)
            for known in (canonical, spelt, _DATE.sub("", canonical)):
                if known in self._models:
                    return self._prices(self._models[known])
        return ()

    def _canonical(self, name: str) -> str:
        if name.startswith("ft:"):
            return ":".join(name.split(":")[:2])
        prefix, slash, rest = name.partition("/")
        return f"{self._providers[prefix]}/{rest}" if slash and prefix in self._providers else name

    def _prices(self, model: _Model) -> tuple[Price, ...]:
        ends = [*(period.since for period in model.periods[1:]), None]
        prices = [self._price(model, period, end) for period, end in zip(model.periods, ends, strict=True)]
        return (*(_varied(prices[-1], variant) for variant in model.variants), *prices)

    def _price(self, model: _Model, period: _Period, end: str | None) -> Price:
        return Price(
            id=f"{model.provider}/{model.name}@{period.since or self.date}",
            model=model.name,
            input=period.input,
            output=period.output,
            cache_read=period.cache_read,
            cache_write=period.cache_write,
            cache_write_1h=period.cache_write_1h,
            reasoning=period.reasoning,
            audio_input=period.audio_input,
            audio_output=period.audio_output,
            source=self._sources[model.source],
            valid_from=_midnight(period.since),
            valid_until=_midnight(end),
        )


def _varied(price: Price, variant: _Variant) -> Price:
    name, since = price.id.rsplit("@", 1)
    conditions = [*([variant.tier] if variant.tier else []), *([f">{variant.above}"] if variant.above else [])]
    return replace(
        price,
        id=f"{name}{''.join(f'+{condition}' for condition in conditions)}@{since}",
        input=variant.input,
        output=variant.output,
        cache_read=variant.cache_read,
        cache_write=variant.cache_write,
        cache_write_1h=variant.cache_write_1h,
        reasoning=variant.reasoning,
        # the tables tell audio's price once; it is dearer than text's
        audio_input=variant.audio_input or price.audio_input,
        audio_output=variant.audio_output or price.audio_output,
        above_input=variant.above,
        service_tier=variant.tier,
    )


def _index(models: list[_Model], makers: frozenset[str]) -> dict[str, _Model]:
    """
    Return every name -> its model; of models that share a name, the first one has it.

    What a model is called with its provider comes before what it is called without, and that before what is left of it
    behind a slash. A host's snapshot never has the bare name of one whose model is known: there the maker's price holds.
    """
    index: dict[str, _Model] = {}
    for model in models:
        for name in (model.name, *model.names):
            index.setdefault(f"{model.provider}/{name}", model)
    for model in models:
        for name in (model.name, *model.names):
            if model.provider in makers or _DATE.sub("", name) not in index:
                index.setdefault(name, model)
    for name, model in list(index.items()):
        bare = name.rpartition("/")[2]
        if _DATE.sub("", bare) not in index:
            index.setdefault(bare, model)
    return index


def _midnight(day: str | None) -> float | None:
    return None if day is None else dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC).timestamp()


@lru_cache(maxsize=1)
def load() -> Book:
    """
    Return the shipped price book, read once (a few milliseconds).
    """
    return Book(resources.files(__name__).joinpath("book.json").read_bytes())
