"""A Quart app behind a plain middleware, as far as paths are asked for: Quart looks for a path in a whole URL, too."""

import host
from quart import Quart, Response, request, websocket

from tokenbudget_mw import ASGIMiddleware

app = Quart(__name__)


@app.post("/v1/chat/completions")
async def complete():
    """Give the provider's answer."""
    answered = host.answer(request.path, await request.get_data(), {})
    return Response(b"".join(answered.iterate(lambda _: None)), answered.status, dict(answered.headers))


@app.websocket("/open")
async def talk():
    """Say something."""
    await websocket.accept()
    await websocket.send("hello")


application = ASGIMiddleware(
    app, host.SETTINGS | {"routes": [*host.SETTINGS["routes"], {"path": "/open", "methods": ["GET"]}]}
)
