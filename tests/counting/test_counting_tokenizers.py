"""
Tokenizers: whose counter counts which model, how deep, and what usage teaches.
"""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.counting import learning, payloads
from tokenbudget_mw.counting.base import Counter
from tokenbudget_mw.counting.encoders import CountCancelledError, default_encoders
from tokenbudget_mw.counting.learning import Factors
from tokenbudget_mw.counting.meter import Depth
from tokenbudget_mw.counting.models import resolve
from tokenbudget_mw.counting.sampling import Sampling
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.values import TokenCount


class Words:
    """
    A counter of words.
    """

    def count(self, text: str) -> int:
        return len(text.split())


def base(tokens: int, frame: int = 0) -> TokenCount:
    return TokenCount(tokens, tokens, base=tokens, frame=frame)


class TestOwnCounters:
    @pytest.mark.parametrize("model", ["my-llama-70b", "vendor/My-Llama-3:free", "exact-name", "deployed"])
    def test_a_model_of_ones_own_is_counted_by_ones_own_counter(self, model):
        """A name, a beginning of names or an alias leads to the host's counter, and its count is exact."""
        words: Counter = Words()
        ours = Tokenizers({"deployed": "my-llama-2"}, counters={"my-llama*": words, "exact-name": words})

        assert ours.count("one two three", model) == TokenCount(3, 3, exact=True, method="exact")

    def test_other_models_are_counted_as_ever(self):
        """A counter of one's own does not touch other models."""
        ours = Tokenizers(counters={"my-llama*": Words()})

        assert ours.count("お誕生日おめでとう", "gpt-4o") == Tokenizers().count("お誕生日おめでとう", "gpt-4o")

    def test_a_body_is_counted_by_it(self):
        """A request's body goes to the counter of its model, with the frame of a chat around it."""
        body = json.dumps({"model": "my-llama", "messages": [{"role": "user", "content": "one two three"}]}).encode()
        ours = Tokenizers(counters={"my-llama": Words()})

        found = payloads.read("openai.chat", body, tokenizers=ours).input

        assert found.base == 0
        assert found.estimate == 3 + 1 + 3 + 3

    def test_long_texts_are_sampled_with_it(self):
        """A long text reaches the counter in chunks."""
        ours = Tokenizers(counters={"mine": Words()})

        found = ours.count("word " * 40_000, "mine")

        assert found.method == "sampled"
        assert found.estimate == pytest.approx(40_000, rel=0.03)


class TestDepth:
    def test_a_deeper_count_is_exact_further(self):
        """The threshold is a setting."""
        text = "word " * 10_000

        assert not Tokenizers().count(text, "gpt-4o").exact
        assert Tokenizers(depth=Depth(exact=100_000)).count(text, "gpt-4o").exact

    def test_nothing_is_tokenised_whole_at_depth_zero(self):
        """With a threshold of 0, what is longer than a sample is sampled, and what is shorter is counted."""
        shallow = Tokenizers(depth=Depth(exact=0, sample=Sampling(4, 16)))

        assert shallow.count("x y " * 16, "gpt-4o").exact
        assert shallow.count("x y " * 17, "gpt-4o").method == "sampled"

    def test_exactly_counts_any_length_whole(self):
        """A long text can be counted exactly, with the same result as in one piece."""
        text = "Some words of a line.\n" * 20_000

        found = Tokenizers().exactly().count(text, "gpt-4o")

        assert found.exact
        assert found.estimate == default_encoders().count(text, "o200k_base")

    def test_what_was_counted_exactly_is_remembered_for_all(self):
        """An exact count and a usual one share their memory."""
        ours = Tokenizers(counters={"mine": Words()})
        text = "word " * 3_000
        ours.exactly().count(text, "mine")
        ours._own["mine"]._count = None

        assert ours.count(text, "mine").estimate == 3_000

    def test_an_exact_count_can_be_stopped(self):
        """Between slices a count asks whether it is still wanted."""
        asked = []

        def is_cancelled():
            asked.append(None)
            return len(asked) > 3

        with pytest.raises(CountCancelledError):
            Tokenizers().exactly(is_cancelled).count("word " * 100_000, "gpt-4o")

        assert len(asked) == 4

    def test_usual_counts_are_never_stopped(self):
        """Whoever counts exactly leaves the tokenizers that it came from as they are."""
        ours = Tokenizers()
        ours.exactly(lambda: True)

        assert ours.count("word " * 10_000, "gpt-4o").method == "sampled"


class TestFactors:
    def test_a_factor_follows_its_traffic(self):
        """After some responses the estimate of a model is within a percent of what its provider reports."""
        ours = Tokenizers()
        text = "The quick brown fox jumps over the lazy dog. " * 100
        true_factor = 1.37

        for _ in range(60):
            found = ours.count(text, "claude-sonnet-4-5")
            ours.learn("claude-sonnet-4-5", found, round(found.base * true_factor) + found.frame)
        learned = ours.count(text, "claude-sonnet-4-5")

        assert learned.estimate == pytest.approx(learned.base * true_factor, rel=0.01)
        assert learned.upper == pytest.approx(learned.estimate * 1.55 / 1.18, rel=0.01)

    def test_a_few_tokens_move_it_little(self):
        """One short answer does not overthrow the prior."""
        factors = Factors()
        before = factors.resolve("claude-3-opus").factor

        factors.learn("claude-3-opus", base(40), 80)

        assert before < factors.resolve("claude-3-opus").factor < before * 1.03

    @pytest.mark.parametrize(
        ("count", "actual"),
        [
            (base(learning.LEAST_TOKENS - 1), 30),
            (TokenCount(500, 600), 700),
            (base(1_000), 0),
            (base(1_000), 100_000),
            (base(1_000, frame=500), 600),
        ],
        ids=["short", "nothing to learn", "no usage", "other things", "mostly frame"],
    )
    def test_figures_that_say_nothing_teach_nothing(self, count, actual):
        """Tiny prompts, prompts with images, and usage that cannot be this text's leave the factor alone."""
        factors = Factors()

        factors.learn("gemini-2.5-pro", count, actual)

        assert factors.resolve("gemini-2.5-pro") == resolve("gemini-2.5-pro")

    @pytest.mark.parametrize(
        ("format", "more", "teaches"),
        [
            ("openai.responses", {}, True),
            ("openai.responses", {"tools": [{"type": "function", "name": "look"}]}, True),
            ("openai.responses", {"tools": [{"type": "web_search"}]}, False),
            ("openai.responses", {"previous_response_id": "r1"}, False),
            ("openai.responses", {"conversation": "c1"}, False),
            ("openai.responses", {"prompt": {"id": "p1"}}, False),
            ("anthropic.messages", {}, True),
            ("anthropic.messages", {"tools": [{"name": "look", "input_schema": {}}]}, True),
            ("anthropic.messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, False),
            ("anthropic.messages", {"mcp_servers": [{"url": "https://example.org"}]}, False),
            ("anthropic.messages", {"context_management": {"edits": []}}, False),
            ("gemini", {}, True),
            ("gemini", {"tools": [{"functionDeclarations": [{"name": "look"}]}]}, True),
            ("gemini", {"tools": [{"googleSearch": {}}]}, False),
            ("gemini", {"cachedContent": "cachedContents/c1"}, False),
            ("gemini.interactions", {}, True),
            ("gemini.interactions", {"tools": [{"type": "function", "name": "look"}]}, True),
            ("gemini.interactions", {"tools": [{"type": "google_search"}]}, False),
            ("gemini.interactions", {"previous_interaction_id": "v1"}, False),
            ("gemini.interactions", {"cached_content": "cachedContents/c1"}, False),
            ("gemini.interactions", {"agent": "deep-research"}, False),
        ],
    )
    def test_what_a_request_does_not_hold_teaches_nothing(self, format, more, teaches):  # noqa: A002
        """What the provider adds to a prompt, such as its conversation or what its tools find, is none of the text's tokens."""
        text = "The quick brown fox jumps over the lazy dog. " * 1_000
        asked: dict[str, dict[str, object]] = {
            "openai.responses": {"input": text},
            "anthropic.messages": {"messages": [{"content": text}]},
            "gemini": {"contents": [{"parts": [{"text": text}]}]},
            "gemini.interactions": {"input": text},
        }
        body = json.dumps({"model": "mine"} | asked[format] | more).encode()

        assert (payloads.read(format, body).input.base > 0) == teaches

    def test_a_models_own_encoding_has_nothing_to_learn(self):
        """OpenAI's models stay exact whatever usage says."""
        factors = Factors()

        factors.learn("gpt-4o", base(1_000), 2_000)

        assert factors.resolve("gpt-4o") == resolve("gpt-4o")

    def test_the_frame_is_not_part_of_the_factor(self):
        """Tokens around the text are taken off before the factor is learned."""
        factors = Factors()

        for _ in range(2_000):
            factors.learn("qwen-max", base(100, frame=50), 150)

        assert factors.resolve("qwen-max").factor == pytest.approx(1.0, abs=0.01)

    def test_names_of_one_model_learn_together(self):
        """A provider's prefix or an alias is the same model."""
        factors = Factors()

        factors.learn("mine", base(5_000), 9_000, {"mine": "us.anthropic.claude-3-opus-v1:0"})

        assert factors.resolve("claude-3-opus").factor > 1.3

    def test_it_keeps_following(self):
        """When a provider changes its tokenizer the factor moves on, however much was learned before."""
        factors = Factors()
        for _ in range(200):
            factors.learn("grok-4", base(10_000), 10_000)
        for _ in range(200):
            factors.learn("grok-4", base(10_000), 15_000)

        assert factors.resolve("grok-4").factor == pytest.approx(1.5, rel=0.1)

    def test_one_callers_texts_take_no_bound_from_others(self):
        """Of texts with few tokens the estimate falls; the bound stays where a usual text of the family fits."""
        factors, family = Factors(), resolve("claude-sonnet-4-5")
        for _ in range(1_000):
            factors.learn("claude-sonnet-4-5", base(10_000), 3_400)

        learned = factors.resolve("claude-sonnet-4-5")
        assert (learned.factor, learned.ceiling) == (pytest.approx(0.34, abs=0.01), family.factor)

    def test_the_number_of_models_is_bounded(self, monkeypatch):
        """Of more models than fit, those that were used last are remembered."""
        monkeypatch.setattr(learning, "MAX_MODELS", 3)
        factors = Factors()

        for name in ("m1", "m2", "m3", "m1", "m4"):
            factors.learn(name, base(10_000), 20_000)

        assert [factors.resolve(name).factor > 1.5 for name in ("m1", "m2", "m3", "m4")] == [True, False, True, True]

    @given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**7)), max_size=40))
    def test_a_factor_stays_in_its_range(self, seen):
        """Whatever providers report, a factor stays between 0.25 and 8 and below its ceiling."""
        factors = Factors()
        for tokens, actual in seen:
            factors.learn("unheard-of", base(tokens), actual)

        family = factors.resolve("unheard-of")
        assert 0.25 <= family.factor <= family.ceiling <= 8.0 * 1.6 / 1.1

    def test_threads_learn_together(self):
        """Nothing is lost when several threads teach at once."""
        together, alone = Factors(), Factors()

        def teach(factors):
            for _ in range(100):
                factors.learn("llama-4", base(1_000), 1_200)

        threads = [threading.Thread(target=teach, args=(together,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(4):
            teach(alone)

        assert together.resolve("llama-4").factor == pytest.approx(alone.resolve("llama-4").factor)

    def test_images_teach_nothing(self):
        """A prompt whose image is a guess carries no lesson for its text."""
        part = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
        content = [part, {"type": "text", "text": "What do you see? " * 20}]
        body = json.dumps({"model": "claude-opus-4", "messages": [{"role": "user", "content": content}]}).encode()

        assert payloads.read("anthropic.messages", body).input.base == 0
