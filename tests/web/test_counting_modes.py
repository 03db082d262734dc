"""
The ways of counting that a route can choose, from the request to its row: `full`, `sample:p`, `async`, `off`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asgi_rig
import pytest
from asgi_rig import CHAT, status_of

from tokenbudget_mw.calls.call import current
from tokenbudget_mw.counting.encoders import default_encoders
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.testing.talk import eventually

WORDS = "zero one two three four five six seven eight nine " * 40
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": WORDS}], "max_tokens": 50}
ANSWER = {"object": "chat.completion", "model": "gpt-4o", "choices": [{"message": {"content": "one two three"}}]}
USAGE = {"usage": {"prompt_tokens": 777, "completion_tokens": 3}}
TRUTH = Tokenizers().count(WORDS, "gpt-4o").estimate + 7
"""What the model makes of the chat: its text, its role, and the frame of a message and of the reply."""


ESTIMATE = (len(WORDS) + 4) // 4 + 6
"""What is estimated before anything was learned: a token for four bytes, and the frame."""


def served(count: str, *, figures: bool = False, wait: bool = False, limit: str = "100k tokens/minute") -> asgi_rig.Rig:
    """A provider behind the middleware that tells its usage or does not; *wait*: not before the prompt is counted."""

    async def app(scope, receive, send):
        await receive()
        if wait:
            await asyncio.wrap_future(current().counting)
        body = json.dumps(ANSWER | (USAGE if figures else {})).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    routes = [{"path": CHAT, "format": "openai.chat", "count": count}]
    return asgi_rig.Rig(app, routes=routes, plans={"one": [limit]})


def row_of(rig: asgi_rig.Rig, body: dict[str, Any] = BODY) -> Any:
    """Send a request, and return its row."""
    assert status_of(rig.run(asgi_rig.request(body))) == 200
    return rig.rows()[-1]


def held_by(rig: asgi_rig.Rig, body: dict[str, Any] = BODY) -> int:
    """What the next request holds of its limit for its prompt, in tokens."""
    [start, *_] = rig.run(asgi_rig.request(body))
    left = dict(start["headers"])[b"ratelimit"].decode()
    return 100_000 - int(left.partition("r=")[2].partition(";")[0]) - BODY["max_tokens"]


@pytest.mark.parametrize("count", ["full", "sample:0", "sample:1", "async", "off"])
def test_the_providers_figures_hold_whatever_was_counted(count):
    """Where the provider tells its usage, the row has it, and says whose it is."""
    row = row_of(served(count, figures=True))

    assert (row.input_tokens, row.output_tokens, row.usage_source) == (777, 3, "provider")


@pytest.mark.parametrize(
    ("count", "source", "input_tokens", "output_tokens"),
    [
        ("full", "counted", TRUTH, 3),
        ("sample:1", "counted", TRUTH, 3),
        ("sample:0", "estimated", ESTIMATE, 3),
        ("off", "estimated", ESTIMATE, 4),
    ],
)
def test_a_row_says_whether_its_prompt_was_counted(count, source, input_tokens, output_tokens):
    """Without the provider's figures a row has the count of the prompt, or its estimate, and tells which."""
    row = row_of(served(count))

    assert (row.usage_source, row.input_tokens, row.output_tokens) == (source, input_tokens, output_tokens)


def test_a_share_of_the_requests_is_counted():
    """`sample:0.25` counts those requests that a draw below 0.25 falls to, and estimates the others."""
    rig = served("sample:0.25")
    draws = iter([0.0, 0.24, 0.25, 0.99])
    rig.core.meter._draw = lambda: next(draws)

    sources = [row_of(rig).usage_source for _ in range(4)]

    assert sources == ["counted", "counted", "estimated", "estimated"]


def test_the_counted_share_teaches_the_rest():
    """What is not counted is estimated by what the route's counted requests had, within a few percent."""
    rig = served("sample:0.5")
    draws = iter([0.0] * 40 + [0.9])
    rig.core.meter._draw = lambda: next(draws)

    rows = [row_of(rig) for _ in range(41)]

    assert rows[-1].usage_source == "estimated"
    assert rows[-1].input_tokens == pytest.approx(TRUTH, rel=0.05)


def test_each_route_learns_for_itself():
    """A route's share of counted requests teaches no other route."""
    rig = served("sample:0.5")
    rig.core.meter._draw = lambda: 0.0
    for _ in range(5):
        row_of(rig)

    learned, other = (rig.core.meter._ratios.get(path) for path in (CHAT, "/v1/other"))

    assert learned is not None
    assert learned.bytes_a_token > 4.05
    assert other is None


def test_async_counts_for_the_record():
    """An `async` prompt is counted while the call runs, and its row has that count."""
    row = row_of(served("async", wait=True))

    assert (row.usage_source, row.input_tokens) == ("counted", TRUTH)


def test_async_says_when_the_call_was_faster():
    """A call that ends before its prompt is counted has the estimate on its row, which says so."""
    rig = served("async")
    rig.core.meter.recount_aside = lambda *_args, **_kwargs: None

    row = row_of(rig)

    assert (row.usage_source, row.input_tokens) == ("estimated", ESTIMATE)


@pytest.mark.parametrize(
    ("count", "least", "most"),
    [("full", TRUTH, TRUTH), ("async", ESTIMATE, ESTIMATE), ("off", len(WORDS), len(WORDS) + 20)],
)
def test_what_a_prompt_holds(count, least, most):
    """`full` holds the count, `async` the estimate, `off` a token a byte, until the call is settled."""
    assert least <= held_by(served(count)) <= most


def test_a_refused_async_prompt_is_not_counted():
    """A request that a limit refuses is not counted aside: refusing stays cheap."""
    rig = served("async", limit="1 requests/minute")
    asked = []
    rig.core.meter.recount_aside = lambda *_args, is_cancelled: asked.append(is_cancelled)

    statuses = [status_of(rig.run(asgi_rig.request(BODY))) for _ in range(2)]

    assert statuses == [200, 429]
    assert [is_cancelled() for is_cancelled in asked] == [False, True]


def test_async_prompts_teach_factors_by_their_counts():
    """For a model without a public tokenizer, the count that was made aside meets the provider's figure."""
    rig = served("async", figures=True, wait=True)
    before = rig.core.meter.count(WORDS, "claude-opus-4").estimate

    for _ in range(30):
        row_of(rig, BODY | {"model": "claude-opus-4"})

    assert rig.core.meter.count(WORDS, "claude-opus-4").estimate > 1.2 * before


@pytest.mark.parametrize("figures", [True, False])
def test_off_tokenises_nothing(figures, monkeypatch):
    """An `off` route loads no tokenizer and calls none, for prompt and answer alike."""
    rig = served("off", figures=figures)
    monkeypatch.setattr(default_encoders().get("o200k_base"), "_count", None)

    assert row_of(rig).output_tokens == (3 if figures else 4)


def test_async_work_ends_with_the_core():
    """Closing the core ends the threads that count aside."""
    rig = served("async", wait=True)
    row_of(rig)

    rig.core.close()

    assert eventually(lambda: rig.core.meter._aside._process == 0)
