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


@pytest.mark.parametrize("asked", [1_000, 100_000, 10**9])
def test_t06_an_estimate_refuses_nothing_that_fits_an_empty_window(asked: int) -> None:
    """However much a call may take, it takes no more than all of an empty window, and is settled at the truth."""
    rig = Rig(answering_as("gpt-4o"), plans={"one": ["1000 tokens/minute"]})
    first = rig.run(chat(max_tokens=asked))
    second = rig.run(chat(max_tokens=900))

    assert (status_of(first), status_of(second)) == (200, 200)


def test_t06_the_answer_says_when_and_means_it() -> None:
    """A millisecond before the announced moment the same request is refused, at it it is served."""
    rig = Rig(answering_as("gpt-4o"), plans={"one": ["30 tokens/minute"]})
    rig.run(chat(max_tokens=20))
    rig.clock.advance(7.5)
    rig.run(chat(max_tokens=20))
    refused = rig.run(chat(max_tokens=20))
    wait_ms = int(dict(refused[0]["headers"])[b"retry-after-ms"])
    rig.clock.advance((wait_ms - 1) / 1000)
    early = status_of(rig.run(chat(max_tokens=20)))
    rig.clock.advance(0.001)

    assert status_of(refused) == 429
    assert early == 429
    assert status_of(rig.run(chat(max_tokens=20))) == 200
