"""
What holds for the bodies of every format.
"""

from __future__ import annotations

import base64
import json
import socket

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.counting.encoders import default_encoders
from tokenbudget_mw.counting.learning import RatioEstimator
from tokenbudget_mw.counting.meter import EXACT_CHARS, MAX_STEPS
from tokenbudget_mw.counting.payloads.spoken import is_spoken
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.encoded import is_encoded
from tokenbudget_mw.errors import ConfigurationError, PayloadError
from tokenbudget_mw.metering import TokenMeter
from tokenbudget_mw.values import Prompt, Route, TokenCount

FORMATS = sorted(payloads.FORMATS)


def chat(content="Hi", **fields):
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": content}]} | fields).encode()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{",
        b"{} {}",
        b"not json",
        b'{"max_tokens": NaN}',
        b'{"max_tokens": Infinity}',
        b'{"temperature": NaN}',
        b'{"max_tokens": 1e999}',
        b'{"max_tokens": ' + b"9" * 5_000 + b"}",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"model": 5}',
        b'{"model": ["gpt-4o"]}',
        b'{"model": "' + b"a" * 257 + b'"}',
        b'{"model": "a\\u0000b"}',
        '{"model": "gpt-4o"}'.encode("utf-16"),
        b'{"x": ' + b"[" * 200_000 + b"}",
        b'{"messages": [{"content": ' + b'{"a":' * 200_000,
    ],
)
def test_what_is_no_request_is_refused(kind, body):
    """A body that is not a JSON object in UTF-8 with sane fields gets a 400."""
    with pytest.raises(PayloadError) as refused:
        payloads.read(kind, body)

    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": 5}', "model"),
        (b'{"messages": {}}', "messages"),
        (b'{"messages": null}', "messages"),
        (b'{"messages": ["Hi"]}', "messages[0]"),
        (b'{"messages": [{"role": 5}]}', "messages[0].role"),
        (b'{"tools": "x"}', "tools"),
        (b"[]", None),
    ],
)
def test_a_refusal_names_the_field(body, param):
    """The error says which field is wrong."""
    with pytest.raises(PayloadError) as refused:
        payloads.read("openai.chat", body)

    assert refused.value.param == param
    assert param is None or param in str(refused.value)


def test_a_refusal_does_not_quote_the_prompt():
    """No text of a request gets into an error."""
    canary = "canary-9f27"
    bodies = [
        f'{{"model": "gpt-4o", "messages": "{canary}"}}',
        f'{{"messages": [{{"role": "user", "content": "{canary}"}}]',
        f'{{"n": "{canary}"}}',
        f'{{"model": "{canary * 100}"}}',
    ]

    for body in bodies:
        with pytest.raises(PayloadError) as refused:
            payloads.read("openai.chat", body.encode())
        assert canary not in str(refused.value)


def test_of_a_field_given_twice_the_last_one_holds():
    """Duplicate keys are read as Python's json reads them, however they are spelt."""
    found = payloads.read("openai.chat", b'{"model": "a", "max_tokens": 1, "\\u006dodel": "b", "max_tokens": 2}')

    assert (found.model, found.max_output) == ("b", 2)


def test_an_unknown_format_is_a_configuration_error():
    """A misspelt format says which ones there are."""
    with pytest.raises(ConfigurationError, match=r"openai\.chat"):
        payloads.read("openai.chats", b"{}")


def test_labels_are_read():
    """Model, stream and tier come as the request has them."""
    found = payloads.read("openai.chat", chat(model="azure/GPT-4o", stream=True, service_tier="flex"))

    assert (found.model, found.stream, found.service_tier) == ("azure/GPT-4o", True, "flex")


@pytest.mark.parametrize(
    "fields", [{"stream": "yes"}, {"stream": 1}, {"service_tier": 5}, {"service_tier": ""}, {"model": ""}]
)
def test_odd_labels_are_left_out(fields):
    """Labels of a wrong type do not make a request fail, they are only not taken."""
    found = payloads.read("openai.chat", chat(**fields))

    assert (found.stream, found.service_tier) == (False, None)
    assert found.model in ("gpt-4o", None)


def test_batch_fields_are_read():
    """Batch fields come from the metadata, and a custom id from the request as well."""
    metadata = {"batch_id": "b1", "completion_window": "24h", "custom_id": "c1", "other": "x", "batch_request_id": 5}

    assert payloads.read("openai.chat", chat(metadata=metadata)).batch == {
        "batch_id": "b1",
        "completion_window": "24h",
        "custom_id": "c1",
    }
    assert payloads.read("openai.chat", chat(custom_id="c2")).batch == {"custom_id": "c2"}
    assert payloads.read("openai.chat", chat(metadata=["batch_id"])).batch == {}
    assert payloads.read("openai.chat", chat(metadata={"batch_id": "x" * 1_000})).batch == {"batch_id": "x" * 256}


# -- modes ------------------------------------------------------------------------------------------------------------


def test_off_tokenises_nothing(monkeypatch):
    """Mode off estimates from bytes: four a token, at most one."""
    monkeypatch.setattr("tokenbudget_mw.counting.encoders.Encoders.get", None)

    found = payloads.read("openai.chat", chat("x" * 396, max_tokens=9), count="off")

    assert found.input == TokenCount(106, 406, exact=False, method="none")
    assert (found.model, found.max_output) == ("gpt-4o", 9)


def test_sample_counts_below_the_share_and_estimates_above():
    """The draw decides: below the share a request is counted, else it is estimated."""
    ratio = RatioEstimator()

    def method(draw):
        return payloads.read(
            "openai.chat", chat("x y " * 50), count="sample", sample=0.1, draw=draw, ratio=ratio
        ).input.method

    assert method(0.0) == method(0.09) == "exact"
    assert method(0.1) == method(0.99) == "learned"


def test_sample_learns_the_route():
    """After some counted requests the estimates of the others meet the truth."""
    text = "令和七年十一月二十一日は金曜日です。" * 40
    truth = payloads.read("openai.chat", chat(text)).input.estimate
    ratio = RatioEstimator()

    for _ in range(30):
        payloads.read("openai.chat", chat(text), count="sample", sample=0.5, draw=0.0, ratio=ratio)
    learned = payloads.read("openai.chat", chat(text), count="sample", sample=0.5, draw=0.9, ratio=ratio).input

    assert abs(learned.estimate - truth) < 0.1 * truth
    assert learned.upper >= truth


def test_sample_without_a_ratio_takes_the_constant():
    """Where nothing was learned the estimate is that of mode off."""
    sampled = payloads.read("openai.chat", chat("x" * 999), count="sample", sample=0.0)

    assert sampled == payloads.read("openai.chat", chat("x" * 999), count="off")


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=50))
def test_a_ratio_is_always_usable(observed):
    """Whatever a ratio has seen, a token stands for at least one byte and the sums stay bounded."""
    ratio = RatioEstimator()
    for size, tokens in observed:
        ratio.observe(size, tokens)

    assert ratio.bytes_a_token >= 1.0
    assert ratio._sums[1] <= 2 * 10**7


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_text_beyond_the_threshold_is_sampled():
    """A prompt is tokenised up to the threshold; the rest of it is sampled as one text."""
    texts = [f"{number} " + "unique words go here " * 200 for number in range(20)]
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text} for text in texts]}).encode()

    found = payloads.read("openai.chat", body).input

    assert sum(map(len, texts)) > EXACT_CHARS
    truth = sum(default_encoders().count(text, "o200k_base") for text in texts)
    assert found.method == "sampled"
    assert found.estimate == pytest.approx(truth, rel=0.05)
    assert found.estimate <= found.upper <= len(body)


def test_a_repeated_conversation_becomes_exact():
    """Messages that were counted before are not charged to the threshold again."""
    texts = [f"turn {number}: " + "words of a talk " * 200 for number in range(12)]
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text} for text in texts]}).encode()

    counts = [payloads.read("openai.chat", body).input for _ in range(9)]

    assert not counts[0].exact
    assert counts[-1].exact
    assert counts[0].upper >= counts[-1].estimate


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("openai.chat", b'{"messages": [' + b"{}," * MAX_STEPS + b"{}]}"),
        ("openai.chat", b'{"messages": [{"content": [' + b"1," * 500_000 + b"1]}]}"),
        ("openai.chat", b'{"messages": [{"content": {"a": [' + b"[]," * 100_000 + b"[]]}}]}"),
        ("openai.completions", b'{"prompt": [' + b'"",' * MAX_STEPS + b'""]}'),
        ("openai.embeddings", b'{"input": [' + b"[1]," * MAX_STEPS + b"[1]]}"),
        ("anthropic.messages", b'{"messages": [{"content": [' + b'"",' * 200_000 + b'""]}]}'),
        ("anthropic.messages", b'{"system": [' + b"[]," * 200_000 + b"[]]}"),
    ],
)
def test_too_many_parts_are_bounded_by_the_body(kind, body):
    """A body of countless parts is not walked; its size bounds it."""
    assert payloads.read(kind, body).input == TokenCount(-(-len(body) // 3), len(body), exact=False, method="bytes")


BIG = "The quick brown fox jumps over the lazy dog. " * 1_000
TOOL = {"type": "object", "properties": {"a": {"type": "array"}}}
ASKED = {
    "openai.chat": {"messages": [{"role": "user", "content": "hi"}]},
    "openai.responses": {"input": "hi"},
    "anthropic.messages": {"messages": [{"role": "user", "content": "hi"}]},
    "ollama": {"prompt": "hi"},
    "cohere": {"messages": [{"role": "user", "content": "hi"}]},
    "gemini": {"contents": [{"parts": [{"text": "hi"}]}]},
    "gemini.interactions": {"input": "hi"},
    "bedrock.converse": {"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
}


@pytest.mark.parametrize("hidden", [{"Messages": [{"role": "user", "content": BIG}]}, {"x": {"y": [BIG]}}, {BIG: 1}])
@pytest.mark.parametrize("kind", ASKED)
def test_what_a_format_does_not_know_is_no_hiding_place(kind, hidden):
    """A body that says much more than its format reads is counted whole: some servers read other fields, or any case."""
    found = payloads.read(kind, json.dumps({"model": "gpt-4o"} | ASKED[kind] | hidden).encode()).input

    assert found.upper >= found.estimate >= 9_000


@pytest.mark.parametrize("line", [10**9, 76, 64, 60])
def test_lines_make_no_text_of_a_picture(line):
    """Base64 comes in lines as well, as MIME, PEM and Ruby write it; a crowd of words behind such lines is text."""
    data = base64.b64encode(bytes(range(256)) * 400).decode()
    broken = "\n".join(data[at : at + line] for at in range(0, len(data), line))
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + broken}}]
    hidden = json.loads(chat(parts)) | {"x": broken + " word" * 9_000}

    assert payloads.read("openai.chat", chat(parts)).input.upper < 2_000
    assert payloads.read("openai.chat", json.dumps(hidden).encode()).input.upper >= 9_000


@given(st.sampled_from([59, 60, 2_000]), st.characters(max_codepoint=127))
def test_any_white_space_parts_words(length, character):
    """Long runs of letters are data on one line or on many, whatever white space parts the lines; short ones are words."""
    lines = [*["x" * length] * (2_000 // length), "x"]

    assert is_encoded(character.join(lines)) is (length >= 60 or len(f"x{character}x".split()) == 1)


@pytest.mark.parametrize(
    ("body", "long_cache"),
    [
        (chat(), False),
        (chat("say ttl"), False),
        (chat("x" * 100_000), False),
        (chat(prompt_cache_options={"ttl": "12h"}), True),
        (chat([{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]), True),
        (chat(x={"y": 0}).replace(b'"y"', b'"t\\u0074l"'), True),
    ],
)
def test_a_longer_cache_is_asked_for(body, long_cache):
    """Its price is held only where the request may ask for it, or was not read."""
    route = Route("/v1/chat/completions", format="openai.chat")
    assert TokenMeter(Tokenizers()).read_prompt(route, body).long_cache is long_cache
    assert payloads.bound(10**7, body).long_cache is True


@pytest.mark.parametrize(
    ("body", "spoken"),
    [
        (rb'{"x": "\u0060\u0060\u0060python\u003C\u00e9"}', False),
        (rb'{"mimeType": "video\/mp4"}', True),
        (rb'{"modalities": ["\u0061udio"]}', True),
    ],
)
def test_what_serializers_escape_is_no_audio(body, spoken):
    """.NET escapes the backtick, PHP the slash."""
    assert is_spoken(body) is spoken


def test_what_an_agent_sends_back_holds_no_files():
    """Ten pages that a search found, and ten screenshots, fit into a model."""
    page = {"type": "web_search_result", "url": "https://a", "title": "t", "encrypted_content": "A" * 4_000}
    found = {"role": "assistant", "content": [{"type": "web_search_tool_result", "content": [page] * 10}]}
    picture = {"type": "computer_screenshot", "image_url": "data:image/png;base64," + "A" * 40_000}
    seen = {"type": "computer_call_output", "call_id": "x", "output": picture}

    assert payloads.read("anthropic.messages", json.dumps({"messages": [found]}).encode()).input.upper < 50_000
    assert payloads.read("openai.responses", json.dumps({"input": [seen] * 10}).encode()).input.upper < 20_000


@pytest.mark.parametrize("field", ["data", "signature"])
def test_sealed_reasoning_is_no_file(field):
    """Each turn of an agent sends back what OpenRouter sealed."""
    details = [{"type": "reasoning.encrypted", field: "A" * 3_000}]
    turns = [{"role": "assistant", "content": "x", "reasoning_details": details}] * 10

    assert payloads.read("openai.chat", json.dumps({"messages": turns}).encode()).input.upper < 31_000


def function(**fields):
    return {"tools": [{"type": "function", "function": {"name": "f", **fields}}]}


def assistant(**fields):
    return {"messages": [{"role": "user", "content": BIG}, {"role": "assistant", "content": "x", **fields}]}


@pytest.mark.parametrize(
    "fields",
    [
        assistant(reasoning_content=BIG),
        assistant(reasoning=BIG),
        assistant(reasoning_details=[{"type": "reasoning.text", "text": BIG}]),
        assistant(reasoning_details=[{"type": "reasoning.text", "text": "x", "signature": BIG}]),
        assistant(tool_calls=[{"function": {"name": "f", "arguments": "A" * 1_025 + " " + BIG}}]),
        assistant(tool_calls=[{"function": {"name": "f", "arguments": "data: " + BIG}}]),
        {"prediction": {"type": "content", "content": BIG}},
        {"documents": [{"text": BIG}]},
        {"chat_template": BIG},
        {"response_format": {"type": "json_object", "schema": {"description": BIG}}},
        {"tools": [{"type": "custom", "custom": {"name": "x", "format": {"grammar": {"definition": BIG}}}}]},
        function(parameters={"type": "object", "description": BIG}),
        function(parameters={"properties": {"a": {"type": "array", "items": {"type": "string", "description": BIG}}}}),
        function(parameters={"properties": {"a": {"type": "string", "default": BIG}}}),
        function(parameters={"properties": {"a": {"items": {"enum": [BIG]}}}}),
        function(parameters={"additionalProperties": {"description": BIG}}),
        function(parameters={"type": "object", "required": [BIG]}),
        function(strict={"why": BIG}),
    ],
    ids=lambda fields: json.dumps(fields)[-80:],
)
def test_every_text_of_a_chat_counts(fields):
    """Whatever a model may come to read is within the bound, beside a prompt of the same size, too."""
    plain = payloads.read("openai.chat", chat(BIG)).input
    found = payloads.read("openai.chat", chat(BIG, **fields)).input

    assert found.upper >= 1.9 * plain.estimate


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user": "x" * 200}, "user": "abc", "stream_options": {"include_usage": True}},
        function(description="d", strict=True, parameters={"type": "object", "properties": {"a": {"type": "string"}}}),
        {"messages": [{"role": "user", "content": "\u043f\u0440\u0438\u0432\u0435\u0442 " * 2_000}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 99_000}}],
                }
            ]
        },
    ],
    ids=["fields beside it", "a tool", "escaped letters", "an image"],
)
def test_what_is_no_prompt_costs_nothing(fields):
    """Identifiers, escapes and pictures make a body long, and its bound no higher than its prompt's."""
    found = payloads.read("openai.chat", chat(**fields)).input

    assert found.upper <= 1.1 * found.estimate + 1_000
    assert found.method in ("exact", "sampled")


def test_token_arrays_may_be_spread_out():
    """Numbers on lines of their own are tokens, and no more than they are."""
    body = json.dumps({"model": "text-embedding-3-small", "input": list(range(10_000, 40_000))}, indent=8).encode()

    assert payloads.read("openai.embeddings", body).input == TokenCount(30_000, 30_000, exact=True, method="exact")


@pytest.mark.parametrize("key", ['"image_url"', '"\\u0069mage_url"'])
def test_a_crowd_hides_no_images_and_no_files(key):
    """What a body that is not built refers to is within its bound, however it is spelt."""
    crowd = {"type": "text", "text": "[" * 20_000}
    images = chat([{"type": "image_url", "image_url": {"url": "x"}}] * 20 + [crowd]).replace(
        b'"image_url"', key.encode()
    )
    files = chat([{"type": "document", "source": {"type": "url", "url": "x"}}] * 20 + [crowd])

    assert payloads.read("openai.chat", images).input.upper >= 20 * 1_445
    assert payloads.read("anthropic.messages", files).input.upper >= 20 * 30_000


def test_a_crowded_body_still_tells_its_fields():
    """Of a body of countless arrays the outermost fields are read and checked, and nothing else is built."""
    crowd = b'"messages": [' + b"[]," * payloads.MAX_CONTAINERS + b"[]]"

    found = payloads.read("openai.chat", b'{"model": "gpt-4", "max_tokens": 7, "n": 2, ' + crowd + b"}")

    assert (found.model, found.max_output, found.input.method) == ("gpt-4", 14, "bytes")
    with pytest.raises(PayloadError, match="max_tokens"):
        payloads.read("openai.chat", b'{"max_tokens": -3, ' + crowd + b"}")


def test_t06_a_crowd_of_prompts_is_not_free():
    """A completion of more token arrays than are built reserves an output for each of them."""
    body = b'{"max_tokens": 10, "prompt": [' + b"[1]," * 20_000 + b"[1]]}"

    assert payloads.read("openai.completions", body).max_output >= 20_001 * 10


def test_brackets_in_a_text_cost_no_more_than_its_length():
    """A text full of brackets is estimated from its size, as any text of that length."""
    found = payloads.read("openai.chat", chat("f(a[0]) { }\n" * 20_000)).input

    assert found.method == "bytes"
    assert found.upper < 300_000


def test_a_long_body_is_bounded_by_its_size():
    """A body that is not read has at most a token a byte, and the model its head names."""
    found = payloads.bound(3_000_000, chat("long" * 1_000)[:2_000])

    assert found == Prompt("gpt-4o", TokenCount(1_000_000, 3_000_000, exact=False, method="bytes"))
    assert payloads.bound(None, b"x" * 300).input.upper == 300
    assert payloads.bound(None, b"").input == TokenCount(0, 0, exact=False, method="bytes")


def test_images_of_a_long_body_are_counted():
    """Images that a long body refers to cost more than the bytes that name them."""
    seen = chat([{"type": "image_url", "image_url": {"url": "x"}}] * 10)

    assert payloads.bound(None, seen).input.estimate >= 10 * 1_105
    assert payloads.bound(None, seen.replace(b"gpt-4o", b"gpt-4o-mini")).input.upper >= 10 * 48_169


@pytest.mark.parametrize(
    ("head", "model"),
    [
        (b'{"model":"gpt-4o","messages"', "gpt-4o"),
        (b' { "stream" : true , "model" : "gpt-4o" ,', "gpt-4o"),
        (b'{"messages":[{"content":"a"}],"model":"gpt-4o"', "gpt-4o"),
        (b'{"metadata":{"model":"cheap"},"model":"gpt-4o"', "gpt-4o"),
        (b'{"metadata":{"model":"cheap"},"messages":[', None),
        (rb'{"a":"\"model\":\"cheap\"","model":"gpt-4o"', "gpt-4o"),
        (rb'{"a":"\"model\":\"cheap\",', None),
        (b'{"x":"model","y":"cheap"', None),
        (b'{"model":5,"y":"cheap"', None),
        (b'{"model":{"model":"cheap"}', None),
        (b'{"model":"gpt-4', None),
        (b'{"model":"\xff"', None),
        (b'{"model":""', None),
        (b"", None),
    ],
)
def test_only_the_outermost_model_is_taken(head, model):
    """A model nested in a field or spelt in a text is not the request's model."""
    assert payloads.bound(None, head).model == model


@pytest.mark.parametrize("unit", [b'"', b"\\", b'\\"', b'"\\', b"{", b'{"model":', b'a"'])
def test_the_scan_for_the_model_is_linear(unit):
    """A head made to confuse the scan is scanned all the same."""
    assert payloads.bound(None, unit * 1_000_000).model is None


# -- anything at all --------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.sampled_from(["text", "image_url", "image", "tool_use", "tool_result", "document", "base64", "data:x", "low"]),
)
KEYS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "type",
            "text",
            "image_url",
            "url",
            "source",
            "data",
            "content",
            "role",
            "name",
            "properties",
            "items",
            "enum",
            "function",
            "parameters",
            "description",
            "input",
            "tool_calls",
            "input_audio",
            "anyOf",
            "detail",
            "file",
        ]
    ),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=25,
)
FIELDS = ["model", "messages", "max_tokens", "n", "system", "tools", "functions", "prompt", "input", "suffix"]
FIELDS += ["stream", "service_tier", "metadata", "response_format", "custom_id"]
MESSAGES = st.lists(
    st.fixed_dictionaries({}, optional={"role": st.text(max_size=9), "content": JSON, "name": st.text(max_size=9)})
    | st.dictionaries(st.sampled_from(["tool_calls", "function_call", "refusal", "tool_call_id", "content"]), JSON),
    max_size=4,
)
BODIES = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6),
    st.fixed_dictionaries(
        {"messages": MESSAGES}, optional={"tools": st.lists(st.dictionaries(KEYS, JSON), max_size=3)}
    ),
    JSON,
)


def check(kind, body, **options):
    try:
        found = payloads.read(kind, body, **options)
    except PayloadError:
        return
    assert 0 <= found.input.estimate <= found.input.upper
    assert found.max_output is None or 0 <= found.max_output <= 2**31


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(FORMATS), body=BODIES, count=st.sampled_from(["full", "off"]))
def test_t19_any_json_is_a_prompt_or_a_payload_error(kind, body, count):
    """No JSON value raises anything but PayloadError, and every estimate is bounded."""
    check(kind, json.dumps(body).encode("utf-8", "replace"), count=count)


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(FORMATS), body=st.binary(max_size=200))
@example(kind="openai.chat", body=b'{"messages":[{"content":{"\xff":1}}]}')
@example(kind="openai.chat", body=b'{"tools":[{"a":18446744073709551616}]}')
@example(kind="anthropic.messages", body=b'{"tools":[{"a":' + b"9" * 4_300 + b"}]}")
def test_t19_any_bytes_are_a_prompt_or_a_payload_error(kind, body):
    """No bytes raise anything but PayloadError."""
    check(kind, body)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(FORMATS), data=st.data())
def test_t19_a_damaged_body_is_a_prompt_or_a_payload_error(kind, data):
    """A good body with bytes changed, dropped or doubled raises nothing but PayloadError."""
    body = bytearray(chat("Hello", tools=[{"function": {"name": "f"}}], max_tokens=5, n=2))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    check(kind, bytes(body))


@settings(max_examples=200, deadline=None)
@given(content_length=st.none() | st.integers(0, 2**40), seen=st.binary(max_size=300))
def test_t19_any_head_is_bounded(content_length, seen):
    """The bound of a long body raises on no bytes."""
    found = payloads.bound(content_length, seen)

    assert 0 <= found.input.estimate <= found.input.upper


def test_t19_reading_a_body_opens_no_socket(monkeypatch):
    """No part of a body, image URLs included, is fetched."""

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)

    found = payloads.read("openai.chat", chat([{"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}]))

    assert found.input.estimate > 700
