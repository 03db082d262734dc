"""A Litestar app with limits: uvicorn litestar_app:app"""

# the app
from litestar import Litestar, Request, Response, post

from tokenbudget_mw import ASGIMiddleware, RefusedError, current, refusal_of


@post("/summaries", status_code=200)
async def summarize(request: Request) -> dict[str, str]:
    text = (await request.json())["text"]
    async with current().reserve(model="gpt-4o-mini", prompt=text, max_output=50) as call:
        call.charge({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 12, "completion_tokens": 5}})
    return {"summary": text[:20]}


def refuse(_: Request, error: RefusedError) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body, status_code=refusal.status, headers=dict(refusal.headers))


app = ASGIMiddleware(
    Litestar([summarize], exception_handlers={RefusedError: refuse}),
    {
        "identify": "ip",
        "routes": [{"path": "/summaries"}],
        "plans": {"free": ["3 requests/minute", "1k tokens/minute"]},
    },
)
