"""An endpoint that Prometheus scrapes: how calls of this process ended, and what waits."""

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from tokenbudget_mw_fastapi import TokenBudget

# the app
app = FastAPI()
budget = TokenBudget(app, {"exempt": ["/metrics"], "plans": {"free": ["60 requests/minute"]}, "default_plan": "free"})


@app.get("/metrics")
def metrics() -> PlainTextResponse:
    return PlainTextResponse(budget.core.health().prometheus())
