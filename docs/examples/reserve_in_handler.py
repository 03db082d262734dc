"""A handler that holds the cost of a model call before it makes it: uvicorn reserve_in_handler:app"""

from fastapi import FastAPI

from tokenbudget_mw_fastapi import TokenBudget, current

app = FastAPI()
TokenBudget(
    app,
    {
        "identify": "ip",
        "routes": [{"path": "/stories"}],
        "plans": {"free": ["1000 tokens/minute"]},
    },
)


async def ask_model(prompt: str, max_tokens: int) -> dict[str, object]:
    """Stand-in for a provider's SDK."""
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": max_tokens // 2}
    return {"model": "gpt-4o-mini", "text": "Once upon a time …", "usage": usage}


@app.post("/stories")
async def story(body: dict[str, str]) -> dict[str, object]:
    async with current().reserve(model="gpt-4o-mini", prompt=body["prompt"], max_output=600) as call:
        response = await ask_model(body["prompt"], max_tokens=600)
        call.charge(response)
    return {"story": response["text"]}
