"""
Models: from the name a client sends to the encoding that counts its tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_NAME", "ModelFamily", "folded", "normalise", "original", "resolve", "tariff_name"]

MAX_NAME = 256
"""Longest model name that is read, in characters; the rest is cut off."""

NO_ALIASES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """
    How to count for a model.

    Attributes:
        name: The model's name, normalised.

        encoding: Encoding to count with.

        factor: Tokens of the model a token of *encoding*, on typical text.

        exact: Whether *encoding* is the model's own, and so *factor* 1.

        family: Name of the family: ``gpt-4o``, ``claude``, ``unknown``, …

        ceiling: The factor on the worst natural text that was measured; for upper bounds.
    """

    name: str
    encoding: str
    factor: float
    exact: bool
    family: str
    ceiling: float = 1.0


@dataclass(frozen=True, slots=True)
class _Rule:
    family: str
    pattern: re.Pattern[str]
    encoding: str = "o200k_base"
    factor: float = 1.0
    ceiling: float = 1.0

    @property
    def is_exact(self) -> bool:
        return self.ceiling == 1.0


def _rule(family: str, pattern: str, encoding: str = "o200k_base", factor: float = 1.0, ceiling: float = 1.0) -> _Rule:
    return _Rule(family, re.compile(pattern), encoding, factor, ceiling)


CL100K = "cl100k_base"
GUESS = (1.1, 1.6)

# The first rule whose pattern is found in the normalised name holds. Factors are medians over natural texts in twelve
# languages and code, ceilings their 95th percentile or above. Families without a measurement of their own take GUESS.
RULES = (
    _rule("gpt-oss", r"^gpt-oss"),
    _rule("gpt-4o", r"^(chatgpt-4o|gpt-4o)"),
    _rule("gpt-4.1", r"^gpt-4\.[15]"),
    _rule("gpt-5", r"^gpt-5"),
    _rule("o-series", r"^o[134](-|$)"),
    _rule("gpt-4", r"^gpt-4(-|$)", CL100K),
    _rule("gpt-3.5", r"^(gpt-3\.5|(davinci|babbage)-002)", CL100K),
    _rule("openai-embedding", r"^text-embedding-(3|ada-002)", CL100K),
    _rule("openai-other", r"^(gpt-|chatgpt|o\d|codex|computer-use|text-|code-)", "o200k_base", *GUESS),
    _rule(
        "claude-4.7",
        r"claude-((opus|sonnet|haiku)-)?([5-9]|[1-9]\d|4[-.]([7-9]|[1-9]\d))(?!\d)|claude-(fable|mythos)",
        factor=1.53,
        ceiling=2.0,
    ),
    _rule("claude", r"claude", factor=1.18, ceiling=1.55),
    _rule("gemini", r"gemini|gemma|learnlm", factor=1.09, ceiling=1.3),
    _rule("deepseek", r"deepseek", factor=1.08, ceiling=1.2),
    # Ollama's "mistral" is the one of 7B
    _rule(
        "llama-2",
        r"llama-?2|codellama|tinyllama|vicuna|mixtral|mistral-7b|^mistral(:|$)|mistral-large-24|mathstral",
        factor=1.32,
        ceiling=1.6,
    ),
    _rule("llama", r"llama", factor=1.0, ceiling=1.1),
    _rule("mistral", r"mistral|ministral|pixtral|magistral|devstral|codestral|voxtral", factor=1.09, ceiling=1.25),
    _rule("qwen", r"qwen|qwq|qvq", factor=1.05, ceiling=1.3),
    _rule("grok", r"grok", "o200k_base", *GUESS),
    _rule("cohere", r"^(command|c4ai|aya|embed-)", "o200k_base", *GUESS),
    _rule("amazon", r"^(nova|titan)-", "o200k_base", *GUESS),
)
UNKNOWN = _rule("unknown", "", "o200k_base", *GUESS)

_VENDORS = (
    "ai21|amazon|anthropic|cohere|deepseek|google|luma|meta|minimax|mistral|moonshot|moonshotai|nvidia|openai|qwen|"
    "stability|twelvelabs|writer|xai|zai"
)
_BEDROCK = re.compile(rf"^(?:[a-z]{{2,6}}(?:-gov)?\.)?(?:{_VENDORS})\.(?=.)")
_BEDROCK_VERSION = re.compile(r"(?<!^claude)-v\d+:\d+(:\w+)?$")
_VARIANT = re.compile(r"(:(free|nitro|floor|online|exacto|extended|beta|thinking|latest|\d+k?))+$")
_AZURE = re.compile(r"^gpt-(35|41|45)(?=-|$)")


def normalise(model: str) -> str:
    """
    Return the name under which *model*'s maker knows it. Dates stay: a snapshot is a model of its own.

    >>> normalise("us.anthropic.claude-3-5-sonnet-20241022-v2:0")
    'claude-3-5-sonnet-20241022'
    >>> normalise("azure/gpt-35-turbo"), normalise("ft:gpt-4o-mini-2024-07-18:acme::7p4lURel")
    ('gpt-3.5-turbo', 'gpt-4o-mini-2024-07-18')
    >>> normalise("claude-3-5-sonnet@20240620"), normalise("meta-llama/llama-3.1-8b-instruct:free")
    ('claude-3-5-sonnet-20240620', 'llama-3.1-8b-instruct')
    """
    full = model[:MAX_NAME].strip().lower()
    name = full.rstrip("/").rpartition("/")[2]
    if name.startswith("ft:"):
        name = name.split(":")[1]
    name = _BEDROCK.sub("", name)
    name = _BEDROCK_VERSION.sub("", name)
    name = _VARIANT.sub("", name)
    name = name.removesuffix("@latest").removesuffix("@default").replace("@", "-")
    name = _AZURE.sub(lambda found: f"gpt-{found[1][0]}.{found[1][1]}", name)
    return name or full


def tariff_name(model: str) -> str:
    """
    Return the name under which *model* has a price: that of `normalise`; for a fine-tuned model, which costs more than what
    it was made of, that of its kind.

    >>> tariff_name("azure/gpt-35-turbo"), tariff_name("ft:gpt-4o-mini-2024-07-18:acme::7p4lURel")
    ('gpt-3.5-turbo', 'ft:gpt-4o-mini-2024-07-18')
    """
    last = model[:MAX_NAME].strip().lower().rstrip("/").rpartition("/")[2]
    return f"ft:{normalise(last)}" if last.startswith("ft:") else normalise(model)


def resolve(model: str | None, aliases: Mapping[str, str] = NO_ALIASES) -> ModelFamily:
    """
    Return how to count for *model*. Unknown names are counted with a factor that errs upwards.

    Args:
        model: Name as the request has it; None where it has none.

        aliases: Deployment names of the host -> models, for example ``{"my-gpt": "gpt-4o"}``.
    """
    return _resolve(original(model, aliases))


def original(model: str | None, aliases: Mapping[str, str]) -> str:
    """
    Return the name of the model that *model* stands for.
    """
    name = (model or "")[:MAX_NAME]
    if not aliases:
        return name
    return aliases.get(name) or aliases.get(name.strip().lower()) or aliases.get(normalise(name)) or name


def folded(aliases: Mapping[str, str]) -> Mapping[str, str]:
    """
    Return *aliases* with each deployment in small letters, too: by these `original` finds it however a request spells it.

    >>> original("our-gpt", folded({"Our-GPT": "gpt-4o"}))
    'gpt-4o'
    """
    return {name.lower(): model for name, model in aliases.items()} | dict(aliases)


@lru_cache(maxsize=1024)  # clients choose names: never more than these
def _resolve(model: str) -> ModelFamily:
    name = normalise(model)
    rule = next((rule for rule in RULES if rule.pattern.search(name)), UNKNOWN)
    return ModelFamily(name, rule.encoding, rule.factor, rule.is_exact, rule.family, rule.ceiling)
