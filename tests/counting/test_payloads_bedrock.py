"""
Bodies of Amazon Bedrock's Converse.
"""

from __future__ import annotations

import json
import time

import pytest

from tokenbudget_mw.counting import payloads
from tokenbudget_mw.errors import PayloadError

TEXT = "The quick brown fox jumps over the lazy dog."
ARN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-v1:0"


def read(path="/model/us.amazon.nova-pro-v1:0/converse", **fields):
    return payloads.read("bedrock.converse", json.dumps(fields).encode(), path=path)


def tokens(*blocks, **fields):
    return read(messages=[{"role": "user", "content": list(blocks)}], **fields).input


@pytest.mark.parametrize(
    ("path", "model", "stream"),
    [
        ("/model/us.amazon.nova-pro-v1:0/converse", "us.amazon.nova-pro-v1:0", False),
        ("/bedrock/model/anthropic.claude-v2/converse-stream", "anthropic.claude-v2", True),
        (f"/model/{ARN}/converse", ARN, False),
        ("//Model//m/Converse-Stream/", "m", True),
        ("/model/m/converse\n", "m", False),
        ("/model/cheap/converse/../../dear/converse", "dear", False),
        ("/model/m/invoke", "body", False),
    ],
)
def test_the_path_names_the_model(path, model, stream):
    """Model and stream stand in the path; an ARN has slashes in it."""
    found = read(path, model="body")

    assert (found.model, found.stream) == (model, stream)


def test_t19_a_long_path_costs_no_time():
    """The search for the model does not grow with the square of the path."""
    start = time.thread_time()
    read("/model/" * 20_000)

    assert time.thread_time() - start < 0.5


def test_maximum_and_tier():
    """They stand in objects of their own, also in a body too crowded to be read."""
    fields = {"inferenceConfig": {"maxTokens": 50}, "serviceTier": {"type": "flex"}, "max_tokens": 7, "n": 3}

    for messages in ([], [{"content": [{}] * 20_000}]):
        found = read(messages=messages, **fields)
        assert (found.max_output, found.service_tier) == (50, "flex")


def test_a_senseless_maximum_is_refused():
    """A negative maximum is a 400 that names the field."""
    with pytest.raises(PayloadError) as refused:
        read(inferenceConfig={"maxTokens": -1})

    assert refused.value.param == "inferenceConfig.maxTokens"


@pytest.mark.parametrize(
    "block",
    [
        {"text": TEXT},
        {"toolUse": {"toolUseId": "t", "name": "find", "input": {"q": TEXT}}},
        {"toolResult": {"toolUseId": "t", "content": [{"text": TEXT}]}},
        {"toolResult": {"toolUseId": "t", "content": [{"json": {"answer": TEXT}}]}},
        {"reasoningContent": {"reasoningText": {"text": TEXT}}},
        {"guardContent": {"text": {"text": TEXT}}},
        {"document": {"format": "txt", "name": "d", "source": {"text": TEXT}}},
        {"document": {"format": "txt", "name": "d", "source": {"content": [{"text": TEXT}]}}},
    ],
)
def test_every_block_costs_its_text(block):
    """What a model said, called and was answered is part of the prompt."""
    assert 9 <= tokens(block).estimate - tokens().estimate <= 30


def test_what_stands_around_the_messages_costs():
    """System prompt, tools, variables and the answer's schema are part of the prompt; a cache point is not."""
    tool = {"toolSpec": {"name": "find", "description": TEXT, "inputSchema": {"json": {}}}}

    schema = {"schema": json.dumps({"a": TEXT}), "name": "answer"}

    for fields in (
        {"outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}},
        {"system": [{"text": TEXT}]},
        {"toolConfig": {"tools": [tool]}},
        {"promptVariables": {"a": {"text": TEXT}}},
    ):
        assert tokens(**fields).estimate >= tokens().estimate + 9
    assert tokens({"cachePoint": {"type": "default"}}) == tokens()


@pytest.mark.parametrize(
    ("block", "estimate"),
    [
        ({"image": {"format": "jpeg", "source": {"bytes": "/9j/" * 100_000}}}, 1_600),
        ({"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/k"}}}}, 1_600),
        ({"document": {"format": "pdf", "name": "d", "source": {"bytes": "JVBE" * 100_000}}}, 3_000),
        ({"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://b/k"}}}}, 10_000),
    ],
)
def test_media_are_no_text(block, estimate):
    """Media are never tokenised as text."""
    assert tokens(block).estimate - tokens().estimate == estimate
