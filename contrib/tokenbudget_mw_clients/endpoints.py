"""
Which of a client's requests are model calls, and in which format their responses come.
"""

from __future__ import annotations

__all__ = ["format_of"]

ENDINGS: tuple[tuple[str, str], ...] = (
    ("/chat/completions", "openai.chat"),
    ("/completions", "openai.completions"),
    ("/responses", "openai.responses"),
    ("/responses/compact", "openai.responses"),
    ("/v1/decisions", "openai.responses"),
    ("/embeddings", "openai.embeddings"),
    # with the version, because threads of OpenAI's assistants have messages, too
    ("/v1/messages", "anthropic.messages"),
    (":rawPredict", "anthropic.messages"),
    (":streamRawPredict", "anthropic.messages"),
    (":generateContent", "gemini"),
    (":streamGenerateContent", "gemini"),
    (":embedContent", "gemini"),
    (":batchEmbedContents", "gemini"),
    ("/interactions", "gemini.interactions"),
    ("/v2/chat", "cohere"),
    ("/v1/chat", "cohere"),
    ("/v2/embed", "cohere"),
    ("/api/chat", "ollama"),
    ("/api/generate", "ollama"),
    ("/api/embed", "ollama"),
)
"""End of a path -> format; the first that fits holds. All are asked by POST: what only looks something up is free."""

COUNTING = "/count-tokens:rawPredict"
"""End of the path that counts a prompt on Vertex AI, which costs nothing."""

BEDROCK = "/model/", ("/invoke", "/invoke-with-response-stream")
"""Before and behind the model in a path of Bedrock's, which `anthropic` asks."""


def format_of(method: str, path: str) -> str | None:
    """
    Return the format of the response, or None where the request is no model call.

    >>> format_of("POST", "/openai/deployments/eu/chat/completions")
    'openai.chat'
    >>> format_of("POST", "/v1/messages/count_tokens")
    """
    if method != "POST" or path.endswith(COUNTING):
        return None
    before, behind = BEDROCK
    if before in path and path.endswith(behind):
        return "anthropic.messages"
    return next((spoken for end, spoken in ENDINGS if path.endswith(end)), None)
