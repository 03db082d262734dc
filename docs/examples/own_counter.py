"""Count a model of one's own with its own tokenizer, here one of Hugging Face's."""

from typing import Any

from tokenizers import Tokenizer

from tokenbudget_mw.counting.base import Counter


# the counter
class HuggingFaceCounter:
    """Tokens as the model behind ``tokenizer.json`` counts them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def count(self, text: str) -> int:
        """Return the tokens of a text, without those that the model puts around it."""
        whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair, which JSON can spell, has no UTF-8
        return len(self._tokenizer.encode(whole, add_special_tokens=False))


def settings(path: str) -> dict[str, Any]:
    """Return the settings of an app whose own models count by the file at *path*."""
    counter: Counter = HuggingFaceCounter(Tokenizer.from_file(path))
    return {
        "routes": [{"path": "/v1/chat/completions", "format": "openai.chat"}],
        "counters": {"my-llama*": counter},
        "plans": {"default": ["100k tokens/minute"]},
    }
