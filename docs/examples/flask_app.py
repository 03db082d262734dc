"""A Flask app with limits: flask --app flask_app run"""

from typing import Any

from flask import Flask, request

from tokenbudget_mw_flask import TokenBudget, current

app = Flask(__name__)
app.config["TOKENBUDGET"] = {
    "identify": "ip",
    "routes": [
        {"path": "/v1/chat/completions", "format": "openai.chat"},
        {"path": "/summaries"},
    ],
    "plans": {"free": ["3 requests/minute", "40k tokens/minute", "$5/month"]},
}
budget = TokenBudget()
budget.init_app(app)


def ask_model(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Stand-in for a provider's SDK: returns what OpenAI's API would."""
    answer = {"role": "assistant", "content": f"You said: {messages[-1]['content']}"}
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    choice = {"index": 0, "message": answer, "finish_reason": "stop"}
    return {"object": "chat.completion", "model": "gpt-4o-mini", "choices": [choice], "usage": usage}


@app.post("/v1/chat/completions")
def chat() -> dict[str, Any]:
    return ask_model(request.get_json()["messages"])


@app.post("/summaries")
def summarize() -> dict[str, str]:
    response = ask_model([{"role": "user", "content": f"Summarize: {request.get_json()['text']}"}])
    current().charge(response)
    return {"summary": response["choices"][0]["message"]["content"]}


@app.get("/search")
@budget.limit("2/minute")
def search() -> list[str]:
    return []
