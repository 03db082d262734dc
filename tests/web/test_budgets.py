"""What money and time decide at the door of an app: free models, empty budgets, huge estimates, and the way back."""

import json
from typing import Any

import pytest
from asgi_rig import Rig, chat, status_of

USAGE = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
OWN = [{"model": "local-llama", "input": 0, "output": 0}]


def answering_as(model: str) -> Any:
    """An app whose answer names *model*."""
    body = {"object": "chat.completion", "model": model, "choices": [{"message": {"content": "hi"}}], "usage": USAGE}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    return app


def spent_after(rig: Rig, calls: int, **changes: Any) -> list[int]:
    """The statuses of so many calls."""
    return [status_of(rig.run(chat(**changes))) for _ in range(calls)]


@pytest.mark.parametrize("budget", ["$0/month", "$0.00007/month"])
def test_t04_a_free_model_passes_a_spent_budget(budget: str) -> None:
    """A price that is explicitly 0 needs no money; what costs anything is refused, from the start where there is none."""
    rig = Rig(answering_as("gpt-4o"), plans={"one": [budget]}, tariffs=OWN)
    paid = spent_after(rig, 3)
    free = spent_after(Rig(answering_as("local-llama"), plans={"one": [budget]}, tariffs=OWN), 3, model="local-llama")
    after = status_of(rig.run(chat(model="local-llama")))

    assert paid[-1] == 429
    assert paid.count(200) == (0 if budget == "$0/month" else 1)
    assert free == [200, 200, 200]
    assert after == 200


def test_t04_no_budget_never_blocks() -> None:
    """Where no limit is about money, no price refuses anybody."""
    rig = Rig(answering_as("gpt-4o"), plans={"one": ["1000 requests/minute"]})

    assert spent_after(rig, 20, max_tokens=100_000) == [200] * 20


@pytest.mark.parametrize("limit", ["1000 tokens/minute", "1000 output tokens/hour", "$0.01/day", "$0.01/month"])
@pytest.mark.parametrize("asked", [1_000, 100_000, 10**9])
def test_t06_an_estimate_refuses_nothing_that_fits_an_empty_window(asked: int, limit: str) -> None:
    """However much a call may take, it takes no more than all of an empty window, and is settled at the truth."""
    rig = Rig(answering_as("gpt-4o"), plans={"one": [limit]})
    first = rig.run(chat(max_tokens=asked))
    second = rig.run(chat(max_tokens=900))
    third = rig.run(chat(max_tokens=1, max_completion_tokens=500, n=2))

    assert (status_of(first), status_of(second), status_of(third)) == (200, 200, 429)


@pytest.mark.parametrize(
    ("limit", "header", "unit"),
    [
        ("30 tokens/minute", b"retry-after-ms", 0.001),
        ({"limit": "30 tokens/minute", "algorithm": "gcra"}, b"retry-after-ms", 0.001),
        ("$0.0003/minute", b"retry-after", 1.0),
        ("2 requests/calendar day", b"retry-after", 1.0),
    ],
    ids=["trailing", "smooth", "money", "calendar"],
)
def test_t06_the_answer_says_when_and_means_it(limit: Any, header: bytes, unit: float) -> None:
    """A unit of the header before the announced moment the same request is refused, at it it is served."""
    rig = Rig(answering_as("gpt-4o"), plans={"one": [limit]})
    rig.run(chat(max_tokens=20))
    rig.clock.advance(7.5)
    rig.run(chat(max_tokens=20))
    refused = rig.run(chat(max_tokens=20))
    wait = int(dict(refused[0]["headers"])[header])
    rig.clock.advance((wait - 1) * unit)
    early = status_of(rig.run(chat(max_tokens=20)))
    rig.clock.advance(unit)

    assert status_of(refused) == 429
    assert early == 429
    assert status_of(rig.run(chat(max_tokens=20))) == 200
