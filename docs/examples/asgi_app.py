"""A plain ASGI app with limits: uvicorn asgi_app:app"""

from tokenbudget_mw import ASGIMiddleware, current


async def hello(scope, receive, send):
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    current().charge({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 12, "completion_tokens": 5}})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Hello\n"})


app = ASGIMiddleware(
    hello,
    {
        "identify": "ip",
        "plans": {"free": ["3 requests/minute", "40k tokens/minute", "$5/month"]},
    },
)
