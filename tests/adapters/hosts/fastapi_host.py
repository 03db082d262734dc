"""The contract's host as a FastAPI app."""

import asyncio

import host
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from tokenbudget_mw_fastapi import TokenBudget, current

application = FastAPI()
budget = TokenBudget(application, host.SETTINGS)


@application.post("/v1/chat/completions")
@application.post("/v1/messages")
async def model(request: Request):
    """Answer as the provider."""
    answered = host.answer(request.url.path, await request.body(), request.headers)
    if answered.abort_at == 0:
        answered.check(0)
    headers = dict(answered.headers)
    if len(answered.chunks) == 1:
        return Response(answered.chunks[0], answered.status, headers)
    pause = host.pause(request.headers)
    return StreamingResponse(answered.aiterate(lambda _: asyncio.sleep(pause)), answered.status, headers)


@application.post("/flush")
def flush():
    """Write what waits."""
    return {"flushed": budget.core.flush()}


@application.post("/assistant/charge")
def charge(body: dict):
    """Charge, in a worker thread."""
    import json

    return host.charge(json.dumps(body).encode())


@application.post("/assistant/reserve")
async def reserve(request: Request):
    """Reserve, on the loop."""
    return await host.areserve(await request.body())


@application.post("/assistant/raise")
async def fail():
    """Fail."""
    raise RuntimeError("the app fails")


@application.get("/assistant/limited", dependencies=[Depends(budget.limit("2 requests/minute"))])
async def limited():
    """Answer twice a minute."""
    return {"key": current().subject.key}
