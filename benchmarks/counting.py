"""
Counting: a chat of six messages, from the request's bytes to its tokens, against the tokenizer alone on the same texts.
"""

from __future__ import annotations

import json
from itertools import count

import tiktoken

from benchmarks.harness import Contender, Result, Scale, compare
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
    raw = tiktoken.Encoding("raw", pat_str=data.pattern, mergeable_ranks=data.tokens, special_tokens={})
    calls = 300
    size = scale.calls(calls)
    new, turn, texts = _Pool(size, 6), _Pool(size, 1), _Pool(size, 6)
    fast = _fast()
    seen = compare(
        {
            "ours": Contender(lambda n: [payloads.read("openai.chat", body) for body in new.take(n)], new.fill),
            "turn": Contender(lambda n: [payloads.read("openai.chat", body) for body in turn.take(n)], turn.fill),
            "raw": Contender(
                lambda n: [len(raw.encode_ordinary(m["content"])) for chat in texts.chats(n) for m in chat], texts.fill
            ),
            "turn_raw": Contender(
                lambda n: [len(raw.encode_ordinary(chat[-1]["content"])) for chat in turn.chats(n)], turn.fill
            ),
            **{
                name: Contender(
                    lambda n, pool=pool: [payloads.read("openai.chat", body, tokenizers=fast) for body in pool.take(n)],
                    pool.fill,
                )
                for name, pool in {"fast": new, "fast_turn": turn}.items()
                if fast is not None
            },
        },
        scale,
        calls=calls,
    )
    tokens = payloads.read("openai.chat", chat_body()).input
    return Result(
        value=seen["ours"],
        unit="us CPU",
        baseline="tiktoken alone, same texts",
        baseline_value=seen["raw"],
        goal="<= 1.05x; a turn with 5 of 6 known <= 12 us",
        met=seen["ours"] <= 1.05 * seen["raw"] and seen["turn"] <= 12,
        details={
            "turn_us": seen["turn"],
            "turn_raw_us": seen["turn_raw"],
            **{f"{name}_us": seen[name] for name in ("fast", "fast_turn") if name in seen},
            "tokens": tokens.estimate,
            "exact": tokens.exact,
        },
    )


def _fast() -> Tokenizers | None:
    try:
        encoders = default_encoders("fastokens")
    except ConfigurationError:
        return None
    encoders.warm(["o200k_base"])
    return Tokenizers(encoders=encoders)


class _Pool:
    """
    Bodies that were never counted, made while nobody looks at the clock.
    """

    def __init__(self, size: int, fresh: int) -> None:
        self._size = size
        self._fresh = fresh
        self.fill()

    def fill(self) -> None:
        self._bodies = [chat_body(self._fresh) for _ in range(self._size)]
        self._chats = [json.loads(body)["messages"] for body in self._bodies]

    def take(self, number: int) -> list[bytes]:
        return self._bodies[:number]

    def chats(self, number: int) -> list[list[dict[str, str]]]:
        return self._chats[:number]
