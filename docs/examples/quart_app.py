"""A Quart app with limits: hypercorn quart_app:app"""

# the app
from collections.abc import AsyncIterator

from quart import Quart, Response, request

from tokenbudget_mw import ASGIMiddleware, RefusedError, current, refusal_of

app = Quart(__name__)
app.asgi_app = ASGIMiddleware(  # type: ignore[method-assign]
    app.asgi_app,
    {
        "identify": "ip",
        "routes": [{"path": "/summaries"}, {"path": "/stories"}],
        "plans": {"free": ["3 requests/minute", "1k tokens/minute"]},
    },
)


@app.post("/summaries")
async def summarize() -> dict[str, str]:
    text = (await request.get_json())["text"]
    async with current().reserve(model="gpt-4o-mini", prompt=text, max_output=50) as call:
        call.charge({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 12, "completion_tokens": 5}})
    return {"summary": text[:20]}


@app.get("/stories")
async def tell() -> Response:
    async def words() -> AsyncIterator[str]:
        for word in ("Once ", "upon ", "a ", "time"):
            yield word
        current().charge({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    return Response(words(), content_type="text/plain")


@app.errorhandler(RefusedError)
async def refuse(error: RefusedError) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body, refusal.status, dict(refusal.headers))
