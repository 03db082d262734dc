"""A request that leaves its model call to an RQ worker: rq worker summaries"""

# the app
import os
from typing import Any

from flask import Flask, request
from redis import Redis
from rq import Queue

from tokenbudget_mw import current
from tokenbudget_mw.tasks import hand_over, task
from tokenbudget_mw.wiring import wire
from tokenbudget_mw_flask import TokenBudget

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
core = wire(
    {
        "backend": REDIS,  # app and workers share the limits
        "identify": "ip",
        "routes": [{"path": "/summaries"}],
        "plans": {"free": ["10 requests/minute", "20 tokens/hour"]},
    }
)
queue = Queue("summaries", connection=Redis.from_url(REDIS))
app = Flask(__name__)
TokenBudget(app, core)


def summarize(text: str, payer: dict[str, Any]) -> None:
    # RQ runs each task in a process of its own, which ends with it: so the rows are written now
    with task(core, payer, name="summarize", flush=True):
        current().charge(
            {"model": "gpt-4o-mini", "usage": {"prompt_tokens": len(text.split()), "completion_tokens": 5}}
        )


@app.post("/summaries")
def ask() -> tuple[str, int]:
    queue.enqueue(summarize, request.get_json()["text"], hand_over())
    return "", 202
