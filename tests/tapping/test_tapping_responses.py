"""
Usage of response objects that handlers report.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from tokenbudget_mw.tapping import read_response
from tokenbudget_mw.values import Usage

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 30,
    "total_tokens": 130,
    "prompt_tokens_details": {"cached_tokens": 64},
}
RESPONSES = {
    "input_tokens": 100,
    "output_tokens": 30,
    "total_tokens": 130,
    "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 8},
    "output_tokens_details": {"reasoning_tokens": 20},
}
ANTHROPIC = {
    "input_tokens": 10,
    "output_tokens": 5,
    "cache_creation_input_tokens": 20,
    "cache_read_input_tokens": 70,
    "cache_creation": {"ephemeral_1h_input_tokens": 20, "ephemeral_5m_input_tokens": 0},
    "output_tokens_details": {"thinking_tokens": 3},
    "service_tier": "priority",
}
GEMINI = {
    "promptTokenCount": 90,
    "toolUsePromptTokenCount": 10,
    "cachedContentTokenCount": 50,
    "candidatesTokenCount": 7,
    "thoughtsTokenCount": 13,
    "trafficType": "ON_DEMAND",
}
BEDROCK = {
    "inputTokens": 10,
    "outputTokens": 5,
    "cacheReadInputTokens": 70,
    "cacheWriteInputTokens": 20,
    "cacheDetails": [{"ttl": "1h", "inputTokens": 15}, {"ttl": "5m", "inputTokens": 5}],
}

# response, input, output, cache read, cache write, cache write for an hour, reasoning, model, provider, tier
CASES = {
    "openai chat": ({"model": "gpt-4o", "usage": CHAT, "service_tier": "flex"}, 100, 30, 64, 0, 0, 0, "gpt-4o", "openai", "flex"),
    "openai responses": ({"model": "o3", "usage": RESPONSES}, 100, 30, 64, 8, 0, 20, "o3", "openai", None),
    "openai responses event": (
        {"type": "response.completed", "response": {"model": "o3", "usage": RESPONSES}}, 100, 30, 64, 8, 0, 20, "o3", "openai", None,
    ),
    "openai embeddings": ({"model": "e", "usage": {"prompt_tokens": 9, "total_tokens": 9}}, 9, 0, 0, 0, 0, 0, "e", "openai", None),
    "openai responses event, tier": (
        {"type": "response.completed", "response": {"model": "o3", "usage": RESPONSES, "service_tier": "priority"}}, 100, 30, 64, 8, 0, 20, "o3", "openai", "priority",
    ),
    "anthropic": ({"model": "claude", "usage": ANTHROPIC}, 100, 5, 70, 20, 20, 3, "claude", "anthropic", "priority"),
    "anthropic, compacted": (
        {"model": "claude", "usage": ANTHROPIC | {"iterations": [{"type": "message", **ANTHROPIC}, {"type": "compaction", **ANTHROPIC}]}},
        200, 10, 140, 40, 40, 3, "claude", "anthropic", "priority",
    ),
    "anthropic, fast mode": (
        {"model": "claude", "usage": ANTHROPIC | {"speed": "fast"}}, 100, 5, 70, 20, 20, 3, "claude", "anthropic", "fast",
    ),
    "gemini": ({"modelVersion": "gemini-3", "usageMetadata": GEMINI}, 100, 20, 50, 0, 0, 13, "gemini-3", "google", "ON_DEMAND"),
    "bedrock, tier": ({"output": {}, "usage": BEDROCK, "serviceTier": {"type": "flex"}}, 100, 5, 70, 20, 15, 0, None, "aws", "flex"),
    "bedrock event, tier": (
        {"metadata": {"usage": BEDROCK, "serviceTier": {"type": "flex"}}}, 100, 5, 70, 20, 15, 0, None, "aws", "flex",
    ),
    "bedrock": ({"output": {}, "usage": BEDROCK}, 100, 5, 70, 20, 15, 0, None, "aws", None),
    "cohere": (
        {"id": "c", "usage": {"billed_units": {"input_tokens": 9.0, "output_tokens": 4.0}, "tokens": {"input_tokens": 99.0}, "cached_tokens": 2.0}},
        9, 4, 2, 0, 0, 0, None, "cohere", None,
    ),
    "cohere v1": ({"meta": {"billed_units": {"input_tokens": 9, "output_tokens": 4}}}, 9, 4, 0, 0, 0, 0, None, "cohere", None),
    "ollama": ({"model": "qwen3", "done": True, "prompt_eval_count": 8, "eval_count": 6}, 8, 6, 0, 0, 0, 0, "qwen3", "ollama", None),
    "ollama, prompt cached": ({"model": "qwen3", "eval_count": 6}, 0, 6, 0, 0, 0, 0, "qwen3", "ollama", None),
    "ollama embeddings": ({"model": "nomic", "prompt_eval_count": 8}, 8, 0, 0, 0, 0, 0, "nomic", "ollama", None),
    "bedrock event": ({"metadata": {"usage": BEDROCK, "metrics": {}}}, 100, 5, 70, 20, 15, 0, None, "aws", None),
    "cohere event": (
        {"type": "message-end", "delta": {"usage": {"billed_units": {"input_tokens": 9, "output_tokens": 4}}}}, 9, 4, 0, 0, 0, 0, None, "cohere", None,
    ),
    "groq event": ({"model": "m", "usage": None, "x_groq": {"usage": CHAT}}, 100, 30, 64, 0, 0, 0, "m", "openai", None),
    "vllm": (
        {"usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 3, "created_cache_tokens": 4}}},
        9, 1, 3, 4, 0, 0, None, "openai", None,
    ),
    "sglang": (
        {"model": "m", "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "reasoning_tokens": 0}},
        9, 4, 0, 0, 0, 0, "m", "openai", None,
    ),
    "xai": (
        {"model": "grok-4", "usage": {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135, "completion_tokens_details": {"reasoning_tokens": 94}}},
        32, 103, 0, 0, 0, 94, "grok-4", "openai", None,
    ),
    "moonshot": (
        {"model": "kimi", "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "cached_tokens": 5}},
        9, 4, 5, 0, 0, 0, "kimi", "openai", None,
    ),
    "litellm": (
        {"model": "claude", "usage": {
            "prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 70,
            "prompt_tokens_details": {
                "cached_tokens": 70, "cache_creation_tokens": 20,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15},
            },
        }},
        100, 5, 70, 20, 15, 0, "claude", "openai", None,
    ),
    "langchain": (
        {"content": "x", "response_metadata": {"model_name": "gpt-4o", "service_tier": "default"}, "usage_metadata": {
            "input_tokens": 100, "output_tokens": 30, "total_tokens": 130,
            "input_token_details": {"audio": 4, "cache_read": 64, "cache_creation": 8}, "output_token_details": {"audio": 2, "reasoning": 20},
        }},
        100, 30, 64, 8, 0, 20, "gpt-4o", None, "default",
    ),
    "langchain, anthropic": (
        {"response_metadata": {"model": "claude"}, "usage_metadata": {
            "input_tokens": 100, "output_tokens": 5, "total_tokens": 105,
            "input_token_details": {"cache_read": 70, "cache_creation": 0, "ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15},
        }},
        100, 5, 70, 20, 15, 0, "claude", None, None,
    ),
    "langchain, flex": (
        {"usage_metadata": {
            "input_tokens": 100, "output_tokens": 30, "total_tokens": 130,
            "input_token_details": {"flex_cache_read": 64, "flex": 36}, "output_token_details": {"flex_reasoning": 20, "flex": 10},
        }},
        100, 30, 64, 0, 0, 20, None, None, None,
    ),
    "usage alone": (CHAT, 100, 30, 64, 0, 0, 0, None, "openai", None),
    "plain": ({"input_tokens": 12, "output_tokens": 34}, 12, 34, 0, 0, 0, 0, None, None, None),
    "our own names": (
        {"input_tokens": 12, "output_tokens": 34, "cache_read_tokens": 99, "reasoning_tokens": 4, "model": "m"}, 12, 34, 12, 0, 0, 4, "m", None, None,
    ),
}  # fmt: skip


def figures(usage: Usage) -> tuple[object, ...]:
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
        usage.model,
        usage.provider,
        usage.service_tier,
    )


class Thing(SimpleNamespace):
    """A response of an SDK that has attributes only."""


def thing(value: object) -> object:
    if isinstance(value, dict):
        return Thing(**{name: thing(item) for name, item in value.items()}, _secret="x")
    return [thing(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("response", "expected"), [(c[0], c[1:]) for c in CASES.values()], ids=list(CASES))
class TestShapes:
    def test_mapping(self, response: dict, expected: tuple) -> None:
        """Every provider's response, as a dict, gives its figures in one meaning."""
        found = read_response(response)

        assert figures(found) == expected
        assert (found.source, found.complete) == ("reported", True)

    def test_object(self, response: dict, expected: tuple) -> None:
        """The same as an object with attributes."""
        assert figures(read_response(thing(response))) == expected


class TestSDKs:
    def test_openai(self) -> None:
        """OpenAI's own response objects: chat, last chunk, responses' usage."""
        chat = pytest.importorskip("openai.types.chat")
        answer = chat.ChatCompletion.model_validate(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [], "usage": CHAT}
        )
        piece = chat.ChatCompletionChunk.model_validate(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "gpt-4o",
                "choices": [],
                "usage": CHAT,
            }
        )

        for response in (answer, piece):
            assert figures(read_response(response))[:3] == (100, 30, 64)
            assert read_response(response).model == "gpt-4o"

    def test_what_was_drawn(self) -> None:
        """Of OpenAI's Responses also what the tool used that draws, from the response and from the last event of a stream."""
        responses = pytest.importorskip("openai.types.responses")
        drawn = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210}
        body = {
            "id": "r",
            "model": "gpt-5",
            "object": "response",
            "output": [],
            "tools": [{"type": "image_generation", "model": "gpt-image-2"}],
            "tool_usage": {"image_gen": drawn, "web_search": {"num_requests": 0}},
            "usage": {"input_tokens": 12, "output_tokens": 34, "total_tokens": 46},
        }
        response = responses.Response.construct(**body)
        event = responses.ResponseCompletedEvent.construct(type="response.completed", response=response)

        for found in map(read_response, (response, event, body)):
            (other,) = found.others
            assert (found.model, found.input_tokens, found.output_tokens) == ("gpt-5", 12, 34)
            assert (other.model, other.input_tokens, other.output_tokens) == ("gpt-image-2", 50, 4160)

    def test_anthropic(self) -> None:
        """Anthropic's own message, and its usage alone."""
        types = pytest.importorskip("anthropic.types")
        message = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [],
            "usage": ANTHROPIC,
        }
        answer = types.Message.model_validate({**message, "stop_reason": "end_turn", "stop_sequence": None})

        assert figures(read_response(answer)) == CASES["anthropic"][1:]
        assert read_response(answer.usage, format="anthropic.messages").input_tokens == 100

    def test_anthropic_without_cache(self) -> None:
        """An Anthropic message that touched no cache reads as one."""
        types = pytest.importorskip("anthropic.types")
        usage = types.Usage.model_validate({"input_tokens": 10, "output_tokens": 5})

        for format in (None, "anthropic.messages"):  # noqa: A001
            assert figures(read_response(usage, format=format))[:2] == (10, 5)
            assert read_response(usage, format=format).provider == "anthropic"

    def test_gemini_in_python(self) -> None:
        """Gemini's Python spelling is read as the wire's."""
        usage = {"prompt_token_count": 90, "candidates_token_count": 7, "thoughts_token_count": 13}

        assert figures(read_response({"usage_metadata": usage, "model_version": "g"}))[:2] == (90, 20)

    @pytest.mark.parametrize("made", [dict, thing])
    def test_gemini_audio_in_python(self, made) -> None:
        """What was heard and spoken is read in Python's spelling, too."""
        usage = {
            "prompt_token_count": 90,
            "candidates_token_count": 7,
            "prompt_tokens_details": [
                {"modality": "AUDIO", "token_count": 80},
                {"modality": "TEXT", "token_count": 10},
            ],
            "candidates_tokens_details": [{"modality": "AUDIO", "token_count": 6}],
        }
        found = read_response(made({"usage_metadata": usage, "model_version": "g"}))

        assert (found.audio_input_tokens, found.audio_output_tokens) == (80, 6)

    @pytest.mark.parametrize("made", [dict, thing])
    def test_gemini_live(self, made) -> None:
        """In the Live API what candidates are elsewhere is the response; the tier stands in the usage."""
        python = {
            "prompt_token_count": 90,
            "response_token_count": 7,
            "thoughts_token_count": 3,
            "response_tokens_details": [{"modality": "AUDIO", "token_count": 6}],
            "service_tier": "priority",
        }
        wire = {
            "promptTokenCount": 90,
            "responseTokenCount": 7,
            "thoughtsTokenCount": 3,
            "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}],
            "serviceTier": "priority",
        }

        for found in (read_response(made({"usage_metadata": python})), read_response({"usageMetadata": wire})):
            assert (found.input_tokens, found.output_tokens, found.audio_output_tokens) == (90, 10, 6)
            assert (found.provider, found.service_tier) == ("google", "priority")

    @pytest.mark.parametrize("made", [dict, thing])
    def test_transcription(self, made) -> None:
        """What was heard is read in the transcriptions' own spelling."""
        usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
        found = read_response(made({"text": "x", "usage": usage | {"input_token_details": {"audio_tokens": 10}}}))

        assert (found.input_tokens, found.audio_input_tokens) == (14, 10)

    @pytest.mark.parametrize("made", [dict, thing])
    def test_realtime(self, made) -> None:
        """What was heard and spoken is read in the spelling of a realtime session's ``response.done``."""
        usage = {
            "total_tokens": 253,
            "input_tokens": 132,
            "output_tokens": 121,
            "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "cached_tokens": 64},
            "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
        }
        found = read_response(made({"type": "response.done", "response": {"status": "completed", "usage": usage}}))

        assert (found.input_tokens, found.output_tokens, found.cache_read_tokens) == (132, 121, 64)
        assert (found.audio_input_tokens, found.audio_output_tokens) == (13, 91)

    @pytest.mark.parametrize("made", [dict, thing])
    def test_langchain_audio(self, made) -> None:
        """What was heard and spoken is read in LangChain's spelling."""
        usage = {
            "input_tokens": 100,
            "output_tokens": 30,
            "total_tokens": 130,
            "input_token_details": {"audio": 4},
            "output_token_details": {"audio": 2},
        }
        found = read_response(made({"usage_metadata": usage}))

        assert (found.audio_input_tokens, found.audio_output_tokens) == (4, 2)

    def test_usage_itself(self) -> None:
        """A Usage passes, as reported."""
        assert read_response(Usage(1, 2, model="m")) == Usage(1, 2, model="m", source="reported")

    def test_dataclass(self) -> None:
        """A dataclass with slots is read by its fields."""

        @dataclasses.dataclass(slots=True)
        class Answer:
            usage: dict
            model: str = "own"

        found = read_response(Answer({"input_tokens": 1, "output_tokens": 2}))

        assert (found.input_tokens, found.output_tokens, found.model) == (1, 2, "own")


class TestRefusals:
    @pytest.mark.parametrize("response", [None, 3, "text", b"bytes", [], (1, 2), 1.5, True, object()])
    def test_no_fields(self, response: object) -> None:
        """What has no fields is refused with its type, not its content."""
        with pytest.raises(TypeError, match="response object"):
            read_response(response)

    @pytest.mark.parametrize(
        "response",
        [
            {},
            {"usage": None},
            {"usage": {}},
            {"usage": {"input_tokens": -1, "output_tokens": 2}},
            {"usage": {"input_tokens": 1.5, "output_tokens": 2}},
            {"usage": {"input_tokens": True, "output_tokens": 2}},
            {"usage": {"input_tokens": "1", "output_tokens": "2"}},
            {"usage": {"prompt_tokens": 2**53, "completion_tokens": 2}},
            {"eval_count": None, "prompt_eval_count": None},
            {"eval_count": 1, "prompt_eval_count": -1},
            {"prompt_tokens": None, "choices": ["secret text"]},
            Thing(text="secret text"),
        ],
    )
    def test_no_figures(self, response: object) -> None:
        """What has no sane figures is refused; the error says what was looked for and shows no content."""
        with pytest.raises(ValueError, match="prompt_tokens, promptTokenCount") as caught:
            read_response(response)

        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("value", [-1, 1.5, True, None, "3", 2**53])
    @pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "cache_write_1h_tokens", "reasoning_tokens"])
    def test_senseless_usage(self, name: str, value: object) -> None:
        """A Usage with a figure that is none is refused by its field's name: nobody reports a credit."""
        with pytest.raises(ValueError, match=f"Usage.{name} is"):
            read_response(Usage(**{name: value}))

    def test_senseless_gemini(self) -> None:
        """A Gemini answer whose output is no figure is refused, an empty one is not."""
        with pytest.raises(ValueError, match="No token figures"):
            read_response({"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": -1}})

        assert read_response({"usageMetadata": {"promptTokenCount": 1}}).input_tokens == 1

    def test_zero_is_a_figure(self) -> None:
        """Zero tokens are figures."""
        assert read_response({"usage": {"input_tokens": 0, "output_tokens": 0}}) == Usage(source="reported")
