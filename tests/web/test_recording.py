"""From an ended call to its rows."""

import asyncio
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import asgi_rig
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsgi_rig import Rig, chat

from tokenbudget_mw import current
from tokenbudget_mw.calls.recording import Charge, cost_of, merge, new_id, records_of
from tokenbudget_mw.counting.payloads.fields import BATCH_FIELDS
from tokenbudget_mw.database.rows import COLUMNS, mended_row
from tokenbudget_mw.rules.pricing import Moment, Priced, price_usage
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.values import Decision, Price, Route, Subject, Usage, UsageRecord

MOMENTS = st.floats(0, 4e9)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


# -- ids --------------------------------------------------------------------------------------------------------------


@given(MOMENTS)
def test_id_is_a_uuid_of_version_7(moment: float) -> None:
    """An id has the version, the variant and the moment that RFC 9562 asks for."""
    found = uuid.UUID(new_id(moment))

    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == int(moment * 1000)
    assert len(new_id(moment)) == 32


@given(MOMENTS, st.floats(0.002, 1e6))
def test_ids_are_ordered_by_moment(moment: float, later: float) -> None:
    """Ids sort as their moments do, so that rows land at the end of an index."""
    assert new_id(moment) < new_id(moment + later)


def test_ids_of_one_moment_are_unique() -> None:
    """Ten thousand ids of one millisecond are all different."""
    assert len({new_id(1_700_000_000.0) for _ in range(10_000)}) == 10_000


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_record_is_no_longer_for_a_long_path() -> None:
    """What a client sends as path and method takes no more room than a row has, and the row says that it was cut."""
    rig = Rig(charging(usage("m", 1, 2)), routes=[{"path": "/v1/*"}])
    rig.run(chat(), PATH_INFO="/v1/" + "x" * 60_000, REQUEST_METHOD="M" * 60_000)
    record = rig.rows()[0]

    assert len(msgspec.msgpack.encode(record)) < 2_000
    row = dict(zip(COLUMNS, mended_row(record, "w"), strict=True))
    assert (row["path"], row["method"]) == ("/v1/" + "x" * 507 + "…", "M" * 15 + "…")


def usage(model: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """A provider's response with nothing but usage."""
    figures = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    return {"object": "chat.completion", "model": model, "usage": figures}


def charging(*responses: Any) -> Any:
    """An app that charges *responses*."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        for response in responses:
            current().charge(response)
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"ok"]

    return app


def rows_of(app: Any, body: Any = b"", **changes: Any) -> list[UsageRecord]:
    """The rows of one request to *app*."""
    settings = changes.pop("settings", {})
    rig = Rig(app, **settings)
    rig.run(body, **{"PATH_INFO": "/plain/x", **changes})
    return rig.rows()


def test_a_row_says_how_long_its_call_took() -> None:
    """From the request's arrival to the first byte of its response, and to the end of that, in microseconds."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        rig.clock.advance(1.5)
        start_response("200 OK", [])
        yield b"one"
        rig.clock.advance(2.25)
        yield b"two"

    rig = Rig(app)
    rig.run(PATH_INFO="/plain/x")

    assert [(row.first_byte_us, row.duration_us) for row in rig.rows()] == [(1_500_000, 3_750_000)]


def test_a_prompt_whose_client_left_is_on_the_books_without_rows_of_requests() -> None:
    """`record_requests` leaves out what used no model; a prompt that was asked is charged, though nobody saw an answer begin."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    rig = asgi_rig.Rig(app, record_requests=False)
    with pytest.raises(asyncio.CancelledError):
        rig.run(asgi_rig.chat())

    assert [(row.settle_reason, row.input_tokens > 0) for row in rig.rows()] == [("client_gone_early", True)]


def test_a_refusal_says_how_long_it_took() -> None:
    """From the request's arrival to the decision."""

    def slow(facts: Any) -> Subject:
        rig.clock.advance(0.25)
        return Subject(key="k1")

    rig = Rig(charging(), identify=slow, plans={"one": ["0 requests/minute"]}, record_refusals=True)
    rig.run(PATH_INFO="/plain/x")

    assert [(row.decision, row.duration_us) for row in rig.rows()] == [("refused", 250_000)]


def test_charges_of_one_model_are_merged() -> None:
    """Charges of the same model are one row with their sums; another model is a row of its own."""
    first, second = rows_of(charging(usage("gpt-4o", 10, 20), usage("gpt-4o-mini", 5, 6), usage("gpt-4o", 1, 2)))

    assert (first.response_model, first.input_tokens, first.output_tokens) == ("gpt-4o", 11, 22)
    assert (second.response_model, second.input_tokens, second.output_tokens) == ("gpt-4o-mini", 5, 6)
    assert first.cost_pico == 11 * 2_500_000 + 22 * 10_000_000
    assert first.id != second.id
    assert first.correlation_id == second.correlation_id == first.id
    assert second.sequence == first.sequence + 1


LONG = [
    {"model": "m", "input": 1, "output": 2},
    {"model": "m", "input": 3, "output": 4, "above_input": 200_000},
]


@pytest.mark.parametrize(
    ("prompts", "rows"),
    [
        ([150_000, 150_000, 30_000, 20_000], [150_000, 200_000]),
        ([90_000, 90_000], [180_000]),
        ([300_000, 250_000], [550_000]),
        ([300_000, 50_000, 250_000, 60_000], [550_000, 110_000]),
    ],
)
def test_charges_are_merged_as_long_as_their_price_holds(prompts: list[int], rows: list[int]) -> None:
    """Short prompts that are a long one together are rows of their own: each row, priced again, costs what it says."""
    rig = Rig(charging(*(usage("m", tokens, 7) for tokens in prompts)), tariffs=LONG)
    rig.run(b"", PATH_INFO="/plain/x")
    found = rig.rows()

    assert [row.input_tokens for row in found] == rows
    for row in found:
        used = Usage(row.input_tokens, row.output_tokens, model="m")
        priced = price_usage(rig.core.tariffs, used, Moment(row.created_at_us / 1e6), asked=None)
        assert (priced.cost_pico, priced.price_id) == (row.cost_pico, row.price_id)


PARTS = st.integers(0, 30)
USAGES = st.builds(
    Usage,
    PARTS,
    PARTS,
    model=st.just("m"),
    cache_read_tokens=PARTS,
    cache_write_tokens=PARTS,
    cache_write_1h_tokens=PARTS,
    reasoning_tokens=PARTS,
    audio_input_tokens=PARTS,
    audio_output_tokens=PARTS,
)
CLASSES = Tariffs(
    [
        Price(
            "p",
            "m",
            10,
            40,
            cache_read=1,
            cache_write=12,
            cache_write_1h=20,
            reasoning=60,
            audio_input=90,
            audio_output=200,
        )
    ],
    lambda name: (),
    "flag",
    Price("ceiling", "*", 1, 1),
    str,
)


@given(st.lists(USAGES, min_size=2, max_size=5))
@example([Usage(100, 20, model="m", cache_read_tokens=90, audio_input_tokens=50), Usage(100, 20, model="m")])
def test_a_row_of_several_charges_costs_what_it_does_priced_again(usages: list[Usage]) -> None:
    """Whatever the classes of tokens overlap, such as audio and what was cached: no part of one charge is cut by another's whole."""
    charges = [Charge(used, price_usage(CLASSES, used, Moment(0), asked=None)) for used in usages]

    found = merge(charges, CLASSES.lengths)

    again = [price_usage(CLASSES, row.usage, Moment(0), asked=None).cost_pico for row in found]
    assert again == [row.priced.cost_pico for row in found]
    assert sum(again) == sum(charge.priced.cost_pico for charge in charges)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**6), st.integers(0, 10**9)), max_size=12))
def test_cost_is_the_sum_of_its_charges(parts: list[tuple[str, int, int]]) -> None:
    """Tokens add up, and money is rounded up once, to the nano-dollar, over all charges."""
    charges = [Charge(Usage(tokens, 2 * tokens, model=model), Priced(pico, "p")) for model, tokens, pico in parts]

    cost = cost_of(charges, requests=1)

    total = sum(pico for _, _, pico in parts)
    assert cost.input_tokens * 2 == cost.output_tokens
    assert cost.input_tokens == sum(tokens for _, tokens, _ in parts)
    assert total <= cost.money_nano * 1000 < total + 1000
    assert (cost.requests, cost.concurrent) == (1, 1)


def test_call_without_a_model_has_a_row() -> None:
    """A request that used no model is one row without tokens, cost or model."""
    (row,) = rows_of(charging())

    assert (row.input_tokens, row.output_tokens, row.cost_pico, row.usage_source) == (0, 0, 0, "none")
    assert (row.response_model, row.provider, row.route, row.path) == (None, None, "/plain/*", "/plain/x")
    assert row.response_type == "text/plain"


def test_row_says_who_and_where() -> None:
    """A row carries every scope of its subject, the server, the method and the plan."""
    whole = Subject(key="k", user="u", team="t", project="p", tenant="acme", plan="one", source="custom")
    (row,) = rows_of(charging(), settings={"identify": lambda _: whole}, SERVER_PORT="8080")

    assert (row.key_id, row.user_id, row.team_id, row.project_id, row.tenant_id) == ("k", "u", "t", "p", "acme")
    assert (row.account, row.plan, row.access_source) == ("tenant:acme", "one", "custom")
    assert (row.server_address, row.server_port, row.method) == ("127.0.0.1", 8080, "POST")


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later", TRACE),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}", None),
        ("x" * 10_000, None),
    ],
)
def test_trace_id_is_read_from_traceparent(header: str, trace: str | None) -> None:
    """The trace id is W3C's, of every version; what is none is left out."""
    (row,) = rows_of(charging(), HTTP_TRACEPARENT=header)

    assert row.trace_id == trace


def test_correlation_id_is_bounded() -> None:
    """The client's request id is kept, cut to what a column holds."""
    (short,) = rows_of(charging(), HTTP_X_REQUEST_ID="req-1")
    (long,) = rows_of(charging(), HTTP_X_REQUEST_ID="x" * 5000)
    (none,) = rows_of(charging(), HTTP_X_REQUEST_ID="")

    assert short.correlation_id == "req-1"
    assert long.correlation_id == "x" * 128
    assert none.correlation_id == none.id


@pytest.mark.parametrize(
    ("purpose", "origin"), [("realtime", "api"), ("playground", "frontend"), ("batch", "batch"), ("other", "api")]
)
def test_origin_follows_the_purpose_of_the_key(purpose: str, origin: str) -> None:
    """A playground's key is the frontend, a batch's the batch, every other the API."""
    (row,) = rows_of(charging(), settings={"identify": lambda _: Subject(key="k", purpose=purpose)})

    assert (row.purpose, row.origin) == (purpose, origin)


def test_content_type_is_bounded() -> None:
    """A content type of any length is cut, and lower case."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "TEXT/" + "x" * 500)])
        return [b"ok"]

    (row,) = rows_of(app)

    assert row.response_type == "text/" + "x" * 59


def test_refusals_are_recorded_unless_told_not_to() -> None:
    """A refused request has a row of its own, at no cost; ``record_refusals: False`` leaves it out."""
    said = Rig(charging(), plans={"one": ["1 request/minute"]})
    silent = Rig(charging(), plans={"one": ["1 request/minute"]}, record_refusals=False)
    for rig in (said, silent):
        rig.run(b"", PATH_INFO="/plain/x")
        assert rig.run(b"", PATH_INFO="/plain/x").status == 429

    assert [row.decision for row in said.rows()] == ["admitted", "refused"]
    assert [row.decision for row in silent.rows()] == ["admitted"]
    assert (said.records[1].limit_name, said.records[1].cost_pico) == ("requests-minute", 0)


def test_unknown_callers_have_no_row() -> None:
    """Who is nobody pays nothing, and fills no table."""
    rig = Rig(charging())
    assert rig.run(b"", PATH_INFO="/plain/x", subject=None).status == 401

    assert rig.rows() == []


def test_row_holds_neither_prompt_nor_answer_nor_key() -> None:
    """No text of the request or the response, and no credential, is in any field of a row."""
    canary = "canary-7f3a"
    body = chat(messages=[{"role": "user", "content": canary}])

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json"), ("X-Own", canary)])
        return [b'{"choices": [{"message": {"content": "canary-7f3a"}}]}']

    rig = Rig(app)
    rig.run(body, HTTP_AUTHORIZATION=f"Bearer {canary}", QUERY_STRING=f"api_key={canary}")

    (row,) = rig.rows()
    assert canary not in repr(row)


class Told(SimpleNamespace):
    """Something of which each attribute says its own name, but for those that it is given."""

    def __getattr__(self, name: str) -> str:
        return f"{self.of}.{name}"


def test_each_figure_of_a_row_stands_in_its_place() -> None:
    """Rows are built by place, and no two places are mixed up: each figure tells where it comes from."""
    used, subject = Told(of="usage", audio_input_tokens=7, audio_output_tokens=8), Told(of="subject")
    batch = {name: f"batch.{name}" for name in BATCH_FIELDS if name != "batch_created_at"} | {"batch_created_at": "9"}
    spool = Told(of="spool", next_sequence=lambda: 5)
    call: Any = Told(
        of="call",
        facts=Told(of="facts", server=("address", 80)),
        subject=subject,
        prompt=Told(of="prompt", batch=batch),
        trail=("correlation", "trace"),
        core=Told(of="core", spool=spool, tariffs=Told(of="tariffs")),
        route=Route("/route", format="openai.chat"),
        started_at=1.0,
        duration=2.0,
        first_byte=3.0,
        tags={"a": "call"},
        ended_by=None,
        decision=Decision(admitted=True, would_refuse=("a limit",)),
    )
    charge: Any = Told(of="charge", usage=used, priced=Told(of="priced"), tags={"b": "charge"})
    (row,) = records_of(call, [charge], settle_reason="reason")

    assert msgspec.structs.asdict(row) == {
        "id": "call.id",
        "instance_id": "spool.instance_id",
        "sequence": 5,
        "created_at_us": 1_000_000,
        **{name: f"facts.{name}" for name in ("method", "path")},
        "route": "/route",
        "status": "call.status",
        "duration_us": 2_000_000,
        "first_byte_us": 3_000_000,
        "request_model": "prompt.model",
        "response_model": "usage.model",
        "provider": "usage.provider",
        "response_type": "call.content_type",
        "is_stream": "call.is_stream",
        "server_address": "address",
        "server_port": 80,
        **{f"{name}_id": f"subject.{name}" for name in ("key", "user", "team", "project", "tenant")},
        "account": "subject.account",
        "plan": "call.plan",
        "access_source": "subject.source",
        "purpose": "subject.purpose",
        "origin": "batch",
        **{name: f"usage.{name}" for name in FIGURES},
        "usage_source": "usage.source",
        "cost_pico": "priced.cost_pico",
        "price_id": "priced.price_id",
        "price_kind": "priced.kind",
        "decision": "shadow_refused",
        "limit_name": "a limit",
        "settle_reason": "reason",
        "correlation_id": "correlation",
        "trace_id": "trace",
        "service_tier": "usage.service_tier",
        **{name: value for name, value in batch.items() if name != "batch_created_at"},
        "batch_created_at_us": 9_000_000,
        "tags": {"a": "call", "b": "charge"},
        "audio_input_tokens": 7,
        "audio_output_tokens": 8,
    }


FIGURES = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
