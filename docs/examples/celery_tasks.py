"""A request that leaves its model call to a Celery worker: celery -A celery_tasks:queue worker"""

# the app
import os
from typing import Any

from celery import Celery
from fastapi import FastAPI

from tokenbudget_mw.tasks import hand_over, task
from tokenbudget_mw.wiring import wire
from tokenbudget_mw_fastapi import TokenBudget

core = wire(
    {
        "backend": os.environ.get("REDIS_URL", "redis://localhost:6379/0"),  # app and workers share the limits
        "identify": "ip",
        "routes": [{"path": "/summaries"}],
        "plans": {"free": ["10 requests/minute", "20 tokens/hour"]},
    }
)
queue = Celery("summaries", broker=os.environ.get("BROKER_URL", "amqp://localhost"))
app = FastAPI()
TokenBudget(app, core)


@queue.task
def summarize(text: str, payer: dict[str, Any]) -> None:
    with (
        task(core, payer, name="summarize") as call,
        call.reserve(model="gpt-4o-mini", prompt=text, max_output=10) as held,
    ):
        held.charge({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 12, "completion_tokens": 5}})


@app.post("/summaries", status_code=202)
def ask(body: dict[str, str]) -> None:
    summarize.delay(body["text"], hand_over())
