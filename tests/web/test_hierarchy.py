"""Limits of tenants, teams and keys together, on several workers that share Redis."""

import asyncio
import json
from typing import Any

import pytest
from asgi_rig import Rig, request, status_of

from tokenbudget_mw import Facts, Subject, current

LIMITS = ["1000 tokens/hour per tenant", "600 tokens/hour per team", "100 requests/hour per tenant"]


def member_of(facts: Facts) -> Subject:
    """The subject in ``x-subject``: tenant/team/key."""
    tenant, team, key = (facts.header("x-subject") or "").split("/")
    return Subject(key=key, team=team, tenant=tenant)


async def spending(scope: Any, receive: Any, send: Any) -> None:
    """Charge as many tokens as the body says."""
    tokens = json.loads((await receive())["body"])
    if tokens:
        current().charge({"input_tokens": tokens, "output_tokens": 0, "model": "gpt-4o"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def workers(redis_db: str) -> list[Rig]:
    """Two processes' worth of middleware on one Redis."""
    return [
        Rig(spending, identify=member_of, limits=LIMITS, plans={}, default_plan=None, backend=redis_db, deadline=5.0)
        for _ in "ab"
    ]


def spend(worker: Rig, who: str, tokens: int) -> int:
    """Let *who* spend, and return the status."""

    async def once() -> int:
        try:
            return status_of(await worker.arun(request(json.dumps(tokens).encode()), path="/plain/x", subject=who))
        finally:
            await worker.core.async_guard.backend.aclose()

    return asyncio.run(once())


def test_t02_spent_tenant_refuses_every_key_on_every_worker(workers: list[Rig]) -> None:
    """Once a tenant's limit is spent, each of its keys is refused at its next request, whichever worker gets it."""
    first, second = workers

    assert spend(first, "acme/red/k1", 500) == 200
    assert spend(second, "acme/blue/k2", 500) == 200

    assert spend(first, "acme/red/k1", 0) == 429
    assert spend(second, "acme/green/k9", 0) == 429
    assert spend(first, "other/red/k1", 0) == 200


@pytest.mark.parametrize("scope", ["tenant", "team", "project", "user", "key"])
def test_t02_each_spent_ancestor_refuses_what_is_below_it_and_nothing_else(scope: str, redis_db: str) -> None:
    """Whichever of its ancestors is spent, another key below that one is refused by the other worker; its neighbours go on."""

    def subject(facts: Facts) -> Subject:
        named = dict(pair.split("=") for pair in (facts.header("x-subject") or "").split("/"))
        return Subject(**{"tenant": "acme", "team": "red", "project": "p", "user": "u", "key": "k"} | named)

    plan = {"identify": subject, "plans": {}, "default_plan": None, "backend": redis_db, "deadline": 5.0}
    first, second = [Rig(spending, limits=[f"600 tokens/hour per {scope}"], **plan) for _ in "ab"]
    below = "key=k2" if scope != "key" else "user=other"

    assert spend(first, f"{scope}=spent", 600) == 200

    assert spend(second, f"{scope}=spent/{below}", 0) == 429
    assert spend(first, f"{scope}=spent/{below}", 0) == 429
    assert spend(second, f"{scope}=other/{below}", 0) == 200


def test_t02_spent_team_refuses_its_keys_only(workers: list[Rig]) -> None:
    """A spent team refuses its own keys; the tenant's other teams go on."""
    first, second = workers

    assert spend(first, "acme/red/k1", 600) == 200

    assert spend(second, "acme/red/k2", 0) == 429
    assert spend(second, "acme/blue/k3", 0) == 200


def test_t01_refused_requests_charge_no_other_limit(workers: list[Rig]) -> None:
    """What a team's limit refuses is not counted against its tenant, by any worker."""
    first, second = workers
    spend(first, "acme/red/k1", 600)
    refused = [spend(second, "acme/red/k1", 0) for _ in range(5)]

    headers = asyncio.run(_headers(first))

    assert refused == [429] * 5
    # 100 an hour, less the spender and the one that asks
    assert b'"requests-hour-tenant";r=98;' in headers


async def _headers(worker: Rig) -> bytes:
    sent = await worker.arun(request(b"0"), path="/plain/x", subject="acme/blue/k2")
    await worker.core.async_guard.backend.aclose()
    return dict(sent[0]["headers"])[b"ratelimit"]
