"""
Bodies of OpenAI's API are read as OpenAI reads them.
"""

from __future__ import annotations

import base64
import json
import struct

import pytest

from tokenbudget_mw.counting import count_text, payloads
from tokenbudget_mw.counting.payloads import media
from tokenbudget_mw.errors import PayloadError

# The examples of OpenAI's cookbook (How_to_count_tokens_with_tiktoken.ipynb, MIT licence), with the API's own figures.
JARGON = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]
WEATHER = [
    {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {
                    "type": "string",
                    "description": "The unit of temperature to return",
                    "enum": ["celsius", "fahrenheit"],
                },
            },
            "required": ["location"],
        },
    },
}


def chat(**fields):
    return payloads.read("openai.chat", json.dumps({"model": "gpt-4o", "messages": []} | fields).encode())


def user(content, **fields):
    return chat(messages=[{"role": "user", "content": content}], **fields)


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-3.5-turbo-0301", 127),
        ("gpt-3.5-turbo", 129),
        ("gpt-4-0613", 129),
        ("gpt-4", 129),
        ("gpt-4o", 124),
        ("gpt-4o-mini", 124),
        ("azure/gpt-35-turbo", 129),
    ],
)
def test_messages_cost_what_the_api_says(model, tokens):
    """The cookbook's six messages have the API's prompt tokens, exactly."""
    found = chat(model=model, messages=JARGON).input

    assert (found.estimate, found.upper, found.exact, found.method) == (tokens, tokens, True, "exact")


@pytest.mark.parametrize(("model", "tokens"), [("gpt-3.5-turbo", 105), ("gpt-4", 105), ("gpt-4o", 101)])
def test_tools_cost_what_the_api_says(model, tokens):
    """The cookbook's tool has the API's prompt tokens."""
    found = chat(model=model, messages=WEATHER, tools=[WEATHER_TOOL]).input

    assert found.estimate == tokens
    assert tokens <= found.upper <= tokens + 5


def test_legacy_functions_cost_what_tools_cost():
    """The former spelling of tools is counted, too."""
    tools = chat(messages=WEATHER, tools=[WEATHER_TOOL]).input

    assert chat(messages=WEATHER, functions=[WEATHER_TOOL["function"]]).input == tools


def test_nested_properties_cost():
    """Properties within an object or an array of objects are counted as well."""
    inner = {"type": "object", "properties": {"zip": {"type": "string", "description": "Postal code."}}}

    def tool(schema):
        return {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": schema}}}}

    flat = chat(tools=[tool({"type": "object"})]).input.estimate
    nested = chat(tools=[tool(inner)]).input.estimate
    listed = chat(tools=[tool({"type": "array", "items": inner})]).input.estimate

    assert nested == listed == flat + 6 + count_text("zip:string:Postal code", "gpt-4o").estimate


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        [],
        "x",
        {"properties": []},
        {"properties": {"a": 5}},
        {"properties": {"a": {"type": ["string", None, 7]}}},
        {"properties": {"a": {"enum": [1, None, {"x": []}], "type": {}}}},
        {"anyOf": [{"$ref": "#"}]},
        {"items": [[]]},
    ],
)
def test_odd_schemas_are_counted_somehow(parameters):
    """A tool's schema of any shape is bounded, never an error of ours."""
    found = chat(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}]).input

    assert 20 <= found.estimate <= found.upper


def test_parts_cost_what_their_text_costs():
    """A content of text parts has the tokens of the texts."""
    whole = user("Hello there").input.estimate

    assert user([{"type": "text", "text": "Hello there"}]).input.estimate == whole


def test_tool_calls_and_results_cost():
    """An assistant's calls and the tool's answer are part of the prompt."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]

    found = chat(messages=messages).input

    texts = sum(count_text(text, "gpt-4o").estimate for text in ("get_weather", '{"city": "Paris"}', "sunny"))
    assert texts + 6 + 3 < found.estimate <= found.upper < texts + 40
    assert not found.exact


def test_a_response_schema_costs():
    """The schema of a structured output is read by the model."""
    plain = user("Hi").input.estimate
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": WEATHER_TOOL["function"]["parameters"]},
    }

    assert user("Hi", response_format=schema).input.estimate > plain + 30
    assert user("Hi", response_format={"type": "json_object"}).input.estimate == plain


def png(width, height):
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 6, 0, 0, 0)
    return "data:image/png;base64," + base64.b64encode(head + b"\x00" * 3_000).decode()


@pytest.mark.parametrize(
    ("model", "url", "detail", "tokens", "upper"),
    [
        ("gpt-4o", "https://example.com/a.png", None, 765, 1_445),
        ("gpt-4o", "https://example.com/a.png", "low", 85, 85),
        ("gpt-4o", png(1024, 1024), "high", 765, 765),
        ("gpt-4o", png(2048, 4096), "high", 1_105, 1_105),
        ("gpt-4o", png(4096, 8192), "low", 85, 85),
        ("gpt-4o", png(64, 64), "auto", 255, 255),
        ("gpt-4o-mini", png(1024, 1024), "high", 25_501, 25_501),
        ("gpt-4o-mini", "https://example.com/a.png", "low", 2_833, 2_833),
        ("o1", png(1024, 1024), "high", 675, 675),
        ("gpt-4.1-mini", png(1024, 1024), None, 1_659, 1_659),
        ("gpt-4.1-mini", png(4096, 4096), None, 2_489, 2_489),
        ("gpt-4o", "data:image/png;base64,!!!", "high", 765, 1_445),
        ("gpt-4o", "data:image/jpeg;base64," + "/9j/" * 1_000, "high", 765, 1_445),
        ("gpt-4o", None, ["low"], 765, 1_445),
        ("gpt-6", png(1024, 1024), None, 1_229, 1_229),
        ("gpt-6", png(4032, 3024), "high", 14_364, 14_364),
        ("gpt-5.5", png(1024, 1024), "auto", 1_229, 1_229),
        ("gpt-6", "https://example.com/a.png", None, 1_229, 14_400),
        ("gpt-6", "https://example.com/a.png", "low", 1_229, 1_844),
        ("gpt-5.5", png(8000, 6000), None, 14_400, 14_400),
        ("gpt-5.6-sol", png(8000, 6000), None, 56_400, 56_400),
        ("gpt-5.6-sol", png(8000, 6000), "high", 14_400, 14_400),
        ("gpt-6.1-terra", png(8000, 6000), "original", 56_400, 56_400),
        ("gpt-5.1", png(1024, 1024), None, 630, 630),
        ("gpt-5.2", png(1024, 1024), None, 1_229, 1_229),
        ("gpt-5.3-codex", "https://example.com/a.png", None, 1_229, 1_844),
        ("gpt-5.1-codex-mini", png(1024, 1024), None, 1_659, 1_659),
        ("codex-mini-latest", png(1024, 1024), None, 1_762, 1_762),
        ("gpt-5.4-mini", png(1024, 1024), None, 1_659, 1_659),
        ("gpt-5.4-nano", png(1024, 1024), None, 2_520, 2_520),
        ("claude-opus-5", "https://example.com/a.png", "low", 1_600, 4_800),
        ("claude-opus-5", png(1000, 1000), None, 1_334, 1_334),
        ("claude-opus-5", png(4032, 3024), None, 1_600, 4_800),
        ("qwen3-vl", png(4032, 3024), None, 16_258, 16_258),
        ("gemini-3-pro", png(100, 100), "low", 1_600, 4_800),
        ("gemini-3-pro", png(100, 100), None, 14, 1_120),
    ],
)
def test_images_cost_their_tiles(model, url, detail, tokens, upper):
    """An image costs what the published rule says; where its size is unknown, that of 1024 x 1024."""
    blank = user([], model=model).input
    found = user([{"type": "image_url", "image_url": {"url": url, "detail": detail}}], model=model).input

    assert found.estimate - blank.estimate == tokens
    assert found.upper - blank.upper == upper


def test_base64_is_never_text():
    """A megabyte of image, audio or file costs what it is, not its characters."""
    data = base64.b64encode(bytes(range(256)) * 4_096).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64," + data}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + data}},
        {"type": "hologram", "hologram": {"data": data}},
        {"type": "hologram", "url": "data:model/obj;base64," + data},
    ]

    found = user(parts).input

    assert found.method == "exact"
    assert found.estimate < 15_000


def test_audio_costs_its_seconds():
    """A second of audio has ten tokens; a clip of 16,000 bytes is taken for a second."""
    assert media.audio(base64.b64encode(b"\x00" * 48_000).decode()) == (30, 480)
    assert media.audio(None) == (0, 0)


@pytest.mark.parametrize(
    ("part", "upper"),
    [
        ({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}, 200_000),
        ({"type": "audio_url", "audio_url": {"url": "https://example.com/a.mp3"}}, 30_000),
        ({"type": "document_url", "document_url": "https://example.com/a.pdf"}, 30_000),
        ({"type": "file", "file": {"file_id": "f"}}, 30_000),
        ({"type": "input_file", "file_data": "data:application/pdf;base64," + "A" * 400}, 30_000),
    ],
)
def test_what_a_part_refers_to_is_held_for(part, upper):
    """A part that names a file, a recording or a video holds what such a one may have."""
    assert user([part]).input.upper - user([]).input.upper == upper


@pytest.mark.parametrize(
    "made",
    [
        lambda data: {"type": "file", "file": {"file_data": data}},
        lambda data: {"type": "input_file", "file_data": data},
    ],
)
def test_a_file_of_text_is_text(made):
    """What base64 encodes is counted, where it says that it is text."""
    text = "The quick brown fox jumps over the lazy dog. " * 300
    data = "data:text/plain;base64," + base64.b64encode(text.encode()).decode()

    found = user([made(data)]).input

    assert 3_000 <= found.estimate <= found.upper <= 3_100
    assert user([made("data:text/plain;base64,!")]).input.upper <= 30_100


def test_unknown_parts_cost_their_strings():
    """A part of a type that is not known yet is counted by what can be read in it."""
    found = user([{"type": "riddle", "riddle": {"question": "What is it?", "hints": ["old", 7, None, True]}}]).input

    assert found.estimate > user([]).input.estimate + 10
    assert not found.exact


def test_fast_is_priority():
    """OpenAI's tier ``fast`` is named ``priority`` in the response, so its price is reserved."""
    assert user("hi", service_tier="fast").service_tier == "priority"


def test_reasoning_models_are_approximate():
    """Where the frame around messages is not published the count does not claim to be exact."""
    assert not chat(model="gpt-5", messages=JARGON).input.exact
    assert chat(model="gpt-5", messages=JARGON).input.estimate == 124


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 100}, 100),
        ({"max_output_tokens": 100}, 100),
        ({"max_tokens": -1}, None),
        ({"max_tokens": -2, "max_completion_tokens": 300}, 300),
        ({"max_tokens": 10, "max_completion_tokens": 300, "max_output_tokens": 20}, 300),
        ({"max_tokens": 100, "n": 4}, 400),
        ({"max_tokens": 100, "n": 2, "best_of": 5}, 500),
        ({"max_tokens": 2**31}, 2**31),
        ({"n": 4}, None),
    ],
)
def test_t06_the_output_is_the_largest_of_its_names_times_the_choices(fields, expected):
    """A reservation takes the largest of the three names, times n."""
    assert user("Hi", **fields).max_output == expected


def test_t06_each_prompt_of_a_completion_is_answered():
    """A completion with three prompts may give three times its max_tokens."""
    body = {"model": "gpt-3.5-turbo-instruct", "prompt": ["a", "b", "c"], "max_tokens": 10, "n": 2}

    assert payloads.read("openai.completions", json.dumps(body).encode()).max_output == 60


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"])
@pytest.mark.parametrize("value", [-3, 2**31 + 1, 10**25, -(10**25), True, "100", 1.5, [1], {}])
def test_t06_a_size_that_is_none_is_refused(field, value):
    """Negative, huge, boolean, string and fractional sizes get a 400 that names the field."""
    with pytest.raises(PayloadError, match=field) as refused:
        user("Hi", **{field: value})

    assert (refused.value.status, refused.value.param) == (400, field)


@pytest.mark.parametrize("field", ["n", "best_of"])
def test_t06_no_choice_at_all_is_refused(field):
    """Zero choices would make any output free."""
    with pytest.raises(PayloadError, match=field):
        user("Hi", max_tokens=100, **{field: 0})


def test_t06_choices_that_multiply_to_a_huge_output_are_refused():
    """The product is bounded, as its factors are."""
    with pytest.raises(PayloadError, match="output tokens") as refused:
        user("Hi", max_tokens=2**30, n=3)

    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("hello world", 2),
        (["hello world", "hello"], 3),
        ([1, 2, 3], 3),
        ([[1, 2, 3], [4]], 4),
        (["hello", [5, 6]], 3),
        ([], 0),
        (None, 0),
    ],
)
def test_embeddings_take_texts_and_tokens(value, tokens):
    """Inputs are a text, tokens, or an array of either."""
    body = json.dumps({"model": "text-embedding-3-small", "input": value}).encode()

    found = payloads.read("openai.embeddings", body)

    assert (found.input.estimate, found.input.exact, found.max_output) == (tokens, True, 0)


@pytest.mark.parametrize("value", [[1, "hello"], [[1, "x"]], [None], [{}], [[[1]]], [1.5], [True]])
def test_embeddings_refuse_what_is_neither(value):
    """A mixed or nested input is a 400, never an undercount."""
    with pytest.raises(PayloadError) as refused:
        payloads.read("openai.embeddings", json.dumps({"input": value}).encode())

    assert refused.value.param == "input"


def test_completions_take_prompt_and_suffix():
    """A completion's prompt and suffix are counted; none is one token."""

    def read(**fields):
        body = json.dumps({"model": "gpt-3.5-turbo-instruct"} | fields).encode()
        return payloads.read("openai.completions", body).input.estimate

    assert read(prompt="hello world") == 2
    assert read(prompt="hello world", suffix="hello") == 3
    assert read(prompt=[[1, 2], [3]]) == 3
    assert read() == 1
