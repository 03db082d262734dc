"""The contract's host as a plain ASGI app."""

import asyncio
import json

import host

from tokenbudget_mw import ASGIMiddleware, BudgetExceeded, current
from tokenbudget_mw.asgi import facts_of
from tokenbudget_mw.limiting import EndpointLimit

LIMITED = EndpointLimit.parse(("2 requests/minute",), name="limited")


async def app(scope, receive, send):
    """Serve one connection."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path, headers = scope["path"], {k.decode(): v.decode() for k, v in scope["headers"]}
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if path.startswith("/v1/"):
        streaming = asyncio.create_task(stream(host.answer(path, body, headers), host.pause(headers), send))
        leaving = asyncio.create_task(left(receive))
        await asyncio.wait([streaming, leaving], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if streaming.done():
            streaming.result()
        else:
            streaming.cancel()
        return
    await reply(await answer(path, body, scope), send)


async def answer(path, body, scope):
    """Do what the path asks for."""
    match path:
        case "/flush":
            return {"flushed": await asyncio.to_thread(middleware.core.flush)}
        case "/assistant/charge":
            return host.charge(body)
        case "/assistant/reserve":
            return await host.areserve(body)
        case "/assistant/raise":
            raise RuntimeError("the app fails")
        case "/assistant/limited":
            await LIMITED.aadmit(middleware.core, facts_of(scope))
            return {"key": current().subject.key}
        case _:
            return {"path": path}


async def left(receive):
    """Wait until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def stream(answered, pause, send):
    """Send the provider's answer chunk by chunk."""
    if answered.abort_at == 0:
        answered.check(0)
    headers = [(k.encode(), v.encode()) for k, v in answered.headers]
    await send({"type": "http.response.start", "status": answered.status, "headers": headers})
    async for chunk in answered.aiterate(lambda _: asyncio.sleep(pause)):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def reply(value, send):
    """Send a JSON body."""
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


application = middleware = ASGIMiddleware(app, host.SETTINGS)
__all__ = ["BudgetExceeded", "application"]
