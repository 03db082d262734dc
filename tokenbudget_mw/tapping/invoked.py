"""
What Bedrock's InvokeModel gives: bodies in the words of each maker, figures in headers, and behind the last piece of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenbudget_mw.tapping.shapes import figure
from tokenbudget_mw.values import Usage

__all__ = ["METRICS", "NAMES", "headed", "llama", "titan"]

Fields = Mapping[str, object]

METRICS = "amazon-bedrock-invocationMetrics"
"""What stands in the last piece of every model's stream."""

NAMES = {
    "inputTokenCount": "inputTokens",
    "outputTokenCount": "outputTokens",
    "cacheReadInputTokenCount": "cacheReadInputTokens",
    "cacheWriteInputTokenCount": "cacheWriteInputTokens",
}
"""The metrics' names, and Nova's -> Converse's."""

_HEADERS = {
    "x-amzn-bedrock-input-token-count": "inputTokens",
    "x-amzn-bedrock-output-token-count": "outputTokens",
    "x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokens",
    "x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokens",
}


def headed(response: Fields) -> Fields:
    """
    Return the figures in the headers of a response of boto3's ``invoke_model``, by Converse's names; none of others.

    Its body is a stream that can be read once, which is its user's to read.
    """
    about = response.get("ResponseMetadata")
    headers = about.get("HTTPHeaders") if isinstance(about, Mapping) else None
    if not isinstance(headers, Mapping):
        return {}
    told = {name: headers.get(header) for header, name in _HEADERS.items()}
    found = {name: int(value) for name, value in told.items() if isinstance(value, str) and value.isdecimal()}
    # embeddings have no output
    return {"outputTokens": 0, **found} if "inputTokens" in found else {}


def llama(fields: Fields) -> Usage | None:
    """
    Read Llama's body, whose prompt has the name that Gemini's has in Python.
    """
    return _usage(fields.get("promptTokenCount"), fields.get("generation_token_count"))


def titan(fields: Fields) -> Usage | None:
    """
    Read Titan's body: one of texts has the output in each of its results, one of embeddings has none.
    """
    results = fields.get("results")
    counts = (
        [figure(each.get("tokenCount")) for each in results if isinstance(each, Mapping)]
        if isinstance(results, list)
        else []
    )
    return _usage(fields.get("inputTextTokenCount"), sum(count or 0 for count in counts))


def _usage(prompt: object, output: object) -> Usage | None:
    found, written = figure(prompt), figure(output)
    return (
        None if found is None or written is None else Usage(input_tokens=found, output_tokens=written, provider="aws")
    )
