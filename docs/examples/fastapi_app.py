"""A FastAPI app with limits: uvicorn fastapi_app:app"""

from typing import Any

from fastapi import Depends, FastAPI

from tokenbudget_mw_fastapi import TokenBudget, current

app = FastAPI()
budget = TokenBudget(
    app,
    {
        "identify": "ip",
        "routes": [
            {"path": "/v1/chat/completions", "format": "openai.chat"},
            {"path": "/summaries"},
        ],
        "plans": {"free": ["3 requests/minute", "40k tokens/minute", "$5/month"]},
    },
)


def ask_model(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Stand-in for a provider's SDK: returns what OpenAI's API would."""
    answer = {"role": "assistant", "content": f"You said: {messages[-1]['content']}"}
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    choice = {"index": 0, "message": answer, "finish_reason": "stop"}
    return {"object": "chat.completion", "model": "gpt-4o-mini", "choices": [choice], "usage": usage}


@app.post("/v1/chat/completions")
def chat(body: dict[str, Any]) -> dict[str, Any]:
    return ask_model(body["messages"])


@app.post("/summaries")
def summarize(body: dict[str, str]) -> dict[str, str]:
    response = ask_model([{"role": "user", "content": f"Summarize: {body['text']}"}])
    current().charge(response)
    return {"summary": response["choices"][0]["message"]["content"]}


@app.get("/search", dependencies=[Depends(budget.limit("2/minute"))])
async def search() -> list[str]:
    return []
