"""An app whose model client charges the requests that use it, and a script that is charged on the same books."""

import openai
from fastapi import FastAPI

from tokenbudget_mw import Subject
from tokenbudget_mw.wiring import wire
from tokenbudget_mw_clients import instrument, tags
from tokenbudget_mw_fastapi import TokenBudget

SETTINGS = {
    "identify": "ip",
    "routes": [{"path": "/ask"}],
    "plans": {"free": ["100k tokens/day"]},
    "default_plan": "free",
}

app = FastAPI()
budget = TokenBudget(app, SETTINGS)
client = instrument(openai.AsyncOpenAI(api_key="your key"))


@app.post("/ask")
async def ask(question: str) -> str | None:
    with tags(feature="ask"):
        answer = await client.responses.create(model="gpt-4o-mini", input=question)
    return answer.output_text


def nightly(model_client: openai.OpenAI) -> None:
    core = wire(SETTINGS)
    instrument(model_client, core=core, subject=Subject(key="nightly"))
    model_client.responses.create(model="gpt-4o-mini", input="Summarise the day.")
    core.close()  # writes what waits
