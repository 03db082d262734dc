"""
The refusals, as OpenAPI describes them.
"""

from __future__ import annotations

from typing import Any

__all__ = ["RESPONSES"]


def _headers(**texts: str) -> dict[str, Any]:
    return {name.replace("_", "-"): {"description": text, "schema": {"type": "string"}} for name, text in texts.items()}


def _content(status: int, kind: str, code: str) -> dict[str, Any]:
    error = {
        "type": "object",
        "required": ["message", "type"],
        "properties": {
            "message": {"type": "string"},
            "type": {"type": "string", "example": kind},
            "code": {"type": "string", "example": code},
            "param": {"type": ["string", "null"]},
        },
    }
    schema = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": error,
            "type": {"type": "string", "example": "error"},
            "status": {"type": "integer", "example": status},
            "title": {"type": "string"},
            "detail": {"type": "string"},
            "request_id": {"type": "string"},
            "violated-policies": {"type": "array", "items": {"type": "string"}},
        },
    }
    return {"application/json": {"schema": schema}}


_FINAL = _headers(x_should_retry="`false`: the same request will be refused again.")

RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {
        "description": "The API key is missing or not known.",
        "headers": _headers(WWW_Authenticate="`Bearer`") | _FINAL,
        "content": _content(401, "authentication_error", "invalid_api_key"),
    },
    402: {
        "description": "The account has no credits left.",
        "headers": _FINAL,
        "content": _content(402, "billing_error", "insufficient_quota"),
    },
    429: {
        "description": "A limit is reached; `Retry-After` says when it frees.",
        "headers": _headers(
            Retry_After="Seconds until a retry can succeed; absent where none can.",
            retry_after_ms="The same in milliseconds, where it is soon.",
            x_should_retry="`false` where a retry is far away, or money alone helps.",
            RateLimit="What is left of each limit (draft-ietf-httpapi-ratelimit-headers-10).",
            RateLimit_Policy="The limits.",
        ),
        "content": _content(429, "rate_limit_error", "rate_limit_exceeded"),
    },
}
"""What the middleware may answer, for OpenAPI: ``FastAPI(responses=RESPONSES)``. With ``refusals: problem`` the body is another."""
