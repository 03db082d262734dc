"""
Bodies of Google's interactions.
"""

from __future__ import annotations

import base64
import json

import pytest

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.errors import PayloadError

TEXT = "The quick brown fox jumps over the lazy dog."
PICTURE = base64.b64encode(b"\x89PNG" + bytes(3_000)).decode()


def read(**fields):
    return payloads.read("gemini.interactions", json.dumps(fields).encode(), path="/v1beta/interactions")


def estimate(given):
    return read(model="gemini-3.5-flash", input=given).input.estimate


def test_what_is_asked_for():
    """Model, maximum and stream stand in the body."""
    found = read(model="m", input="hi", stream=True, generation_config={"max_output_tokens": 40}, service_tier="flex")

    assert (found.model, found.max_output, found.stream, found.service_tier) == ("m", 40, True, "flex")


def test_an_agent_stands_for_a_model():
    """An agent is asked in the place of a model."""
    assert read(agent="deep-research", input="hi").model == "deep-research"


@pytest.mark.parametrize(
    "given",
    [
        [TEXT],
        {"type": "text", "text": TEXT},
        [{"type": "text", "text": TEXT}],
        [{"role": "user", "content": TEXT}],
        [{"type": "user_input", "content": [{"type": "text", "text": TEXT}]}],
        [{"type": "thought", "summary": [{"type": "text", "text": TEXT}], "signature": "A" * 4_000}],
        [{"type": "function_result", "call_id": "c", "result": {"found": TEXT}}],
        [{"type": "function_call", "id": "c", "name": "find", "arguments": {"q": TEXT}}],
    ],
)
def test_every_text_is_counted(given):
    """However a text is wrapped, it is counted, and little else."""
    assert estimate(TEXT) <= estimate(given) <= estimate(TEXT) + 12


def test_everything_else_is_counted_too():
    """The system instruction, tools and the format of the answer are input."""
    bare = read(model="m", input="hi").input.estimate
    tool = {"type": "function", "name": "find", "description": TEXT, "parameters": {"type": "object"}}

    for more in ({"system_instruction": TEXT}, {"tools": [tool]}, {"response_format": {"description": TEXT}}):
        assert read(model="m", input="hi", **more).input.estimate >= bare + 9


def test_pictures_are_no_text():
    """A picture's base64 is a picture, and one that is elsewhere a file."""
    found = read(model="m", input=[{"type": "image", "data": PICTURE, "mime_type": "image/png"}]).input
    elsewhere = read(model="m", input=[{"type": "document", "uri": "https://a/b.pdf"}]).input

    assert found.estimate == 258
    assert found.upper <= 1_200
    assert elsewhere.upper > 258


@pytest.mark.parametrize("wrong", [{"generation_config": {"max_output_tokens": -1}}, {"agent": 3}])
def test_senseless_fields_are_refused(wrong):
    """As in the other formats."""
    with pytest.raises(PayloadError):
        read(model="m", input="hi", **wrong)
