"""A stream as long as the request asks for, under ASGI (`application`) and WSGI (`wsgi`), metered as a chat."""

import json

import host

from tokenbudget_mw import ASGIMiddleware, WSGIMiddleware

SETTINGS = host.SETTINGS | {
    "routes": [
        {"path": "/v1/chat/completions", "format": "openai.chat"},
        {"path": "/ended/v1", "format": "openai.chat", "on_budget_end": "finish"},
    ],
    "plans": {"wide": ["1000 requests/minute", "1000G tokens/minute"]},
    "default_plan": "wide",
}
WORDS = "the budget holds and every token is counted once in these books, " * 60
EVENT = (
    b"data: %s\n\n"
    % json.dumps(
        {"object": "chat.completion.chunk", "model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": WORDS}}]}
    ).encode()
)
LAST = (
    b"data: %s\n\ndata: [DONE]\n\n"
    % json.dumps(
        {"object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 7}}
    ).encode()
)


def chunks(megabytes, has_usage):
    """The stream, in pieces that are cut anywhere."""
    piece = EVENT * 5
    cut = len(piece) // 3
    for _ in range(megabytes * 1_000_000 // len(piece)):
        yield piece[:cut]
        yield piece[cut:]
    yield LAST if has_usage else b"data: [DONE]\n\n"


def flush(core):
    """Write what waits."""
    return b"true" if core.flush() else b"false"


async def app(scope, receive, send):
    """Stream."""
    if scope["type"] == "lifespan":
        raise ValueError("no lifespan here")
    while (await receive()).get("more_body"):
        pass
    headers = dict(scope["headers"])
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    if scope["path"] == "/flush":
        written = flush(application.core)
        await send(start)
        await send({"type": "http.response.body", "body": written})
        return
    await send(start)
    for chunk in chunks(int(headers.get(b"x-megabytes", 0)), b"x-usage" in headers):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def wsgi_app(environ, start_response):
    """Stream."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("content-type", "text/event-stream")])
    if environ["PATH_INFO"] == "/flush":
        return [flush(wsgi.core)]
    return chunks(int(environ.get("HTTP_X_MEGABYTES", 0)), "HTTP_X_USAGE" in environ)


application = ASGIMiddleware(app, SETTINGS)
wsgi = WSGIMiddleware(wsgi_app, SETTINGS)
