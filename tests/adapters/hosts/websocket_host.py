"""A websocket that answers each message as a model does, metered by connection or by message as its path says."""

import json

import host

from tokenbudget_mw import ASGIMiddleware

USAGE = {"prompt_tokens": 8, "completion_tokens": 5}
SETTINGS = host.SETTINGS | {
    "routes": [{"path": "/open"}, {"path": "/chat", "websocket": "message", "format": "openai.chat"}],
    "exempt": ["/is-anybody-there", "/flush"],
    "default": "protect",
}


async def app(scope, receive, send):
    """Serve one connection."""
    if scope["type"] == "lifespan":
        raise ValueError("no lifespan here")
    if scope["type"] == "http":
        if scope["path"] == "/flush":
            middleware.core.flush()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        answer = {"object": "chat.completion.chunk", "model": "gpt-4o", "choices": [], "usage": USAGE}
        await send({"type": "websocket.send", "text": json.dumps(answer)})


application = middleware = ASGIMiddleware(app, SETTINGS)
