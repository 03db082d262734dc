"""
Bodies of Google's Gemini API.
"""

from __future__ import annotations

import base64
import json
import struct

import pytest

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.errors import PayloadError

TEXT = "The quick brown fox jumps over the lazy dog."
PATH = "/v1beta/models/gemini-2.5-flash:generateContent"


def read(path=PATH, **fields):
    return payloads.read("gemini", json.dumps(fields).encode(), path=path)


def tokens(*parts, **fields):
    return read(contents=[{"role": "user", "parts": list(parts)}], **fields).input


@pytest.mark.parametrize(
    ("path", "model", "stream"),
    [
        (PATH, "gemini-2.5-flash", False),
        ("/v1beta/models/gemini-2.5-flash:streamGenerateContent", "gemini-2.5-flash", True),
        ("/v1/models/gemini-2.5-flash:generateContent", "gemini-2.5-flash", False),
        (
            "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:streamGenerateContent",
            "gemini-2.5-pro",
            True,
        ),
        ("/v1beta/tunedModels/mine-1:generateContent", "mine-1", False),
        ("//v1beta/MODELS//gemini-2.5-flash:StreamGenerateContent/", "gemini-2.5-flash", True),
        ("/v1beta/models/cheap:generateContent/../dear:streamGenerateContent", "dear", True),
        ("/own/path", "body", False),
    ],
)
def test_the_path_names_the_model(path, model, stream):
    """Model and stream stand in the path; a model in the body does not count against it."""
    found = read(path, model="body", contents=[])

    assert (found.model, found.stream) == (model, stream)
    bounded = payloads.bound(10**9, b'{"model": "body"', format="gemini", path=path)
    assert (bounded.model, bounded.stream) == (model, stream)


@pytest.mark.parametrize("model", ["a" * 257, "a\x00b", "a\nb"])
def test_a_path_that_names_no_model_is_refused(model):
    """What is too long or cannot be printed is no model."""
    path = f"/v1beta/models/{model}:generateContent"

    with pytest.raises(PayloadError):
        read(path, contents=[])
    with pytest.raises(PayloadError):
        payloads.bound(10, b"", format="gemini", path=path)


@pytest.mark.parametrize(
    "fields",
    [
        {"generationConfig": {"maxOutputTokens": 50, "candidateCount": 2}},
        {"generation_config": {"max_output_tokens": 50, "candidate_count": 2}},
        {
            "generationConfig": {"maxOutputTokens": 10},
            "generation_config": {"maxOutputTokens": 50, "candidateCount": 2},
        },
    ],
)
def test_the_maximum_in_either_spelling(fields):
    """The largest maximum times the candidates is reserved, also of a body too crowded to be read."""
    assert read(contents=[], **fields).max_output == 100
    assert read(contents=[[{}]] * 20_000, **fields).max_output == 100


@pytest.mark.parametrize("field", ["maxOutputTokens", "candidateCount"])
def test_a_senseless_maximum_is_refused(field):
    """A negative maximum is a 400 that names the field."""
    with pytest.raises(PayloadError) as refused:
        read(contents=[], generationConfig={field: -1})

    assert refused.value.param == f"generationConfig.{field}"


@pytest.mark.parametrize("field", ["serviceTier", "service_tier"])
def test_the_tier_is_read(field):
    """The tier that a request asks for is held for, in both spellings."""
    assert read(contents=[], **{field: "priority"}).service_tier == "priority"


def test_counting_tokens_is_free_and_embeddings_have_no_output():
    """Of what the same prefix serves, only answers have output, and the count itself costs nothing."""
    count = read(PATH.replace("generateContent", "countTokens"), contents=[{"parts": [{"text": TEXT}]}])
    embed = read(PATH.replace("generateContent", "embedContent"), content={"parts": [{"text": TEXT}]})

    assert (count.input.upper, count.max_output) == (0, 0)
    assert embed.input.estimate >= 9
    assert embed.max_output == 0


def test_instances_of_vertex():
    """What Vertex AI embeds with ``:predict`` stands in instances."""
    found = read("/v1/projects/p/models/gemini-embedding-001:predict", instances=[{"content": TEXT}] * 3)

    assert (found.model, found.max_output) == ("gemini-embedding-001", 0)
    assert 27 <= found.input.estimate <= 60


def test_contents_in_every_form():
    """A list of contents, a single one, and the system instruction cost the same."""
    content = {"parts": [{"text": TEXT}]}
    forms = [{"contents": [content]}, {"contents": content}, {"contents": {"parts": {"text": TEXT}}}]
    forms += [{"systemInstruction": content}, {"system_instruction": content}, {"requests": [{"content": content}]}]

    found = [read(**form).input.estimate for form in forms]

    assert min(found) >= 9
    assert max(found) <= min(found) + 2


@pytest.mark.parametrize(
    "part",
    [
        {"functionCall": {"name": "find", "args": {"q": TEXT}}},
        {"functionResponse": {"name": "find", "response": {"result": TEXT}}},
        {"executableCode": {"language": "PYTHON", "code": TEXT}},
        {"thought": True, "text": TEXT, "thoughtSignature": "c2lnbmVk" * 1_000},
    ],
)
def test_every_part_costs_its_text(part):
    """What a model said, called and was answered is part of the prompt."""
    assert 9 <= tokens(part).estimate - tokens().estimate <= 30


def test_tools_and_schemas_cost():
    """Declarations and an answer's schema are part of the prompt."""
    declared = {"functionDeclarations": [{"name": "find", "description": TEXT}]}

    assert tokens(tools=[declared]).estimate >= tokens().estimate + 10
    for name in ("responseSchema", "responseJsonSchema", "response_schema", "response_json_schema"):
        assert tokens(generationConfig={name: {"description": TEXT}}).estimate >= tokens().estimate + 10


def png(width, height):
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 6, 0, 0, 0)
    return base64.b64encode(head + b"\x00" * 3_000).decode()


@pytest.mark.parametrize(
    ("kind", "data", "estimate", "upper"),
    [
        ("image/png", png(384, 384), 258, 1_120),
        ("image/png", png(1_024, 1_024), 4 * 258, 1_120),
        ("image/png", png(4_032, 3_024), 24 * 258, 24 * 258),
        ("image/jpeg", "/9j/" * 100_000, 258, 1_120),
        ("audio/mp3", "A" * 64_000, 32 * 3, 32 * 48),
        ("video/mp4", "A" * 4_000_000, 263 * 12, 263 * 240),
        ("application/pdf", "A" * 64_000, 3_000, 30_000),
    ],
)
@pytest.mark.parametrize("names", [("inlineData", "mimeType"), ("inline_data", "mime_type")])
def test_media_cost_by_their_rules(kind, data, estimate, upper, names):
    """Media are never tokenised as text."""
    field, mime = names
    found, blank = tokens({field: {mime: kind, "data": data}}), tokens()

    assert (found.estimate - blank.estimate, found.upper - blank.upper) == (estimate, upper)
