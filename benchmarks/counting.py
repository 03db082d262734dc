"""
Counting: a chat of six messages, from the request's bytes to its tokens, against the tokenizer alone on the same texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import tiktoken

from benchmarks.harness import Result, Scale, alternate
from tokenbudget_mw.counting import payloads, ranks
from tokenbudget_mw.counting.encoders import default_encoders
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.errors import ConfigurationError

__all__ = ["chat", "chat_body", "count_chat"]

_TEXTS = (
    (
        "You are the support assistant of a small online shop for garden tools. Answer briefly and politely, in the language "
        "of the customer. Never promise a refund; if one seems due, say that a colleague will look at the order within two "
        "working days. If the customer is angry, stay calm and say what happens next. Prices are in euros, with VAT. Do not invent products that are not in the catalogue."
    ),
    (
        "Hello! I ordered a pair of pruning shears last Tuesday, order 48213, and the parcel arrived today, but one of the "
        "blades has a deep scratch near the tip. They still cut, just not very cleanly. What can I do about it?"
    ),
    (
        "I am sorry to hear that the shears arrived damaged. Could you tell me whether the box itself was dented, and whether "
        "you would rather have a replacement or keep them at a lower price? A photo of the scratch would help us, too."
    ),
    (
        "The box was fine, so I think it happened in the factory. I would like a replacement, if possible before the weekend, "
        "because the roses cannot wait much longer. I can send a photo by e-mail. Which address should I use? By the way, the "
        "watering can from the same order is lovely, and the packaging without any plastic is a very good idea."
    ),
    (
        "Please send the photo to the address in your order confirmation and put the order number into the subject line. A "
        "replacement that leaves our warehouse tomorrow before noon usually arrives within two days."
    ),
    (
        "Thank you! One more thing: do I have to send the damaged pair back, and who pays for the parcel in that case? I threw "
        "away the original packaging already, I am afraid. If it is easier, I could also bring them to your shop in the old "
        "town on Saturday morning, when I go to the market anyway."
    ),
)
_ROLES = ("system", "user", "assistant", "user", "assistant", "user")
_NUMBERS = count(1)
FAST = ("fast", "fast_turn")


def chat(fresh: int = 6) -> list[dict[str, str]]:
    """
    Return six messages, the last *fresh* of which nobody has seen before.
    """
    marks = [""] * (6 - fresh) + [f" ({next(_NUMBERS)})" for _ in range(fresh)]
    return [
        {"role": role, "content": content + mark} for role, content, mark in zip(_ROLES, _TEXTS, marks, strict=True)
    ]


def chat_body(fresh: int = 6, **fields: object) -> bytes:
    """
    Return the body of a chat completion request of about 400 tokens.
    """
    return json.dumps({"model": "gpt-4o", "max_tokens": 200, "messages": chat(fresh), **fields}).encode()


def count_chat(scale: Scale) -> Result:
    """
    All six messages new; in the details a turn of which five are remembered, what tiktoken alone takes for the sixth, and
    both with fastokens if it is there.
    """
    default_encoders().warm()
    data = ranks.load("o200k_base")
    raw = tiktoken.Encoding("raw", pat_str=data.pattern, mergeable_ranks=data.tokens, special_tokens={}).encode_ordinary
    contenders: dict[str, Callable[[Any], object]] = {
        "ours": lambda body: payloads.read("openai.chat", body),
        "raw": lambda texts: [len(raw(text)) for text in texts],
        "turn": lambda body: payloads.read("openai.chat", body),
        "turn_raw": lambda texts: len(raw(texts[-1])),
    }
    if (fast := _fast()) is not None:
        contenders |= dict.fromkeys(FAST, partial(_read_with, fast))
    seen = alternate(contenders, lambda name: _given(name, scale.calls(300)), scale)
    tokens = payloads.read("openai.chat", chat_body()).input
    return Result(
        value=seen["ours"],
        unit="us",
        baseline="tiktoken alone, same texts",
        baseline_value=seen["raw"],
        goal="<= 1.05x; a turn with 5 of 6 known <= 12 us",
        met=seen["ours"] <= 1.05 * seen["raw"] and seen["turn"] <= 12,
        details={
            **{f"{name}_us": spent for name, spent in seen.items() if name not in ("ours", "raw")},
            "turn_of_raw": seen["turn"] / seen["raw"],
            "tokens": tokens.estimate,
            "exact": tokens.exact,
        },
    )


def _read_with(tokenizers: Tokenizers, body: bytes) -> object:
    return payloads.read("openai.chat", body, tokenizers=tokenizers)


def _given(name: str, calls: int) -> list[Any]:
    """
    Bodies that were never counted, or their texts, for the contender *name*.
    """
    fresh = 1 if "turn" in name else 6
    if "raw" in name:
        return [[message["content"] for message in chat(fresh)] for _ in range(calls)]
    return [chat_body(fresh) for _ in range(calls)]


def _fast() -> Tokenizers | None:
    try:
        encoders = default_encoders("fastokens")
    except ConfigurationError:
        return None
    encoders.warm(["o200k_base"])
    return Tokenizers(encoders=encoders)
