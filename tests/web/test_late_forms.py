"""A form that is too long to be read ahead is charged by what all of it says, wherever its fields stand."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from form_rig import BOUNDARY, COST, END, HEAR, HEAR_CHEAP, IMAGES, LONG, TRANSCRIPT, Asgi, Wsgi, field, file, model

from tokenbudget_mw.calls.call import current
from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.values import Subject

SERVED = {
    "asgi": Asgi,
    **{f"wsgi-{way}": lambda *given, way=way, **changes: Wsgi(*given, way=way, **changes) for way in Wsgi.WAYS},
}


@pytest.fixture(params=SERVED)
def served(request: pytest.FixtureRequest) -> Any:
    """Every protocol, and every way in which a WSGI app reads."""
    return SERVED[request.param]


ORDERS = {
    "model first": (model(HEAR) + file() + END, HEAR),
    "model last": (file() + model(HEAR) + END, HEAR),
    "between files": (file() + model(HEAR) + file() + END, HEAR),
    "dear behind cheap": (model(HEAR_CHEAP) + file() + model(HEAR) + END, HEAR),
    "cheap behind dear": (model(HEAR) + file() + model(HEAR_CHEAP) + END, HEAR),
    "both behind": (file() + model(HEAR_CHEAP) + model(HEAR) + END, HEAR),
    "the same twice": (model(HEAR) + file() + model(HEAR) + END, HEAR),
    "no end": (file() + model(HEAR)[:-2], HEAR),
    "no end, a line more": (model(HEAR_CHEAP) + file() + model(HEAR), HEAR),
    "the beginning of an end": (file() + model(HEAR) + END[:-6], HEAR),
    "epilogue": (file() + model(HEAR) + END + b"\r\nwhat nobody reads", HEAR),
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_the_model_is_charged_that_the_whole_form_names(served: Any, order: str, told: bool) -> None:
    """Wherever it stands, in a body of a length that is told or not; of two models the dearer one is."""
    body, dear = ORDERS[order]
    bench = served(TRANSCRIPT)

    assert bench.send(body, told=told) == 200

    row = bench.row()
    assert bench.heard == body
    assert (row.request_model, row.cost_pico, row.price_kind, row.usage_source) == (
        dear,
        COST[dear],
        "known",
        "provider",
    )


@pytest.mark.parametrize("kind", [Asgi, Wsgi])
def test_every_split_is_charged_the_same(kind: Any) -> None:
    """Wherever the pieces end."""
    body = file(1_100) + model(HEAR) + END
    bench = kind(TRANSCRIPT)

    for step in [*range(1, 40), *range(1_180, len(body) + 1)]:
        bench.send(body, step=step)

    assert {(row.request_model, row.cost_pico) for row in bench.rig.rows()} == {(HEAR, COST[HEAR])}


@pytest.mark.parametrize(
    "behind",
    [
        b"--%s--\r\n" % BOUNDARY + model(HEAR) + END,
        b"\n--%s\nContent-Disposition: form-data; name=model\n\n%s\n" % (BOUNDARY, HEAR.encode()) + END,
        field('model"; name*="x', HEAR) + END,
        b"".join(field(f"a{at}", "") for at in range(300)) + model(HEAR) + END,
    ],
)
def test_what_may_hide_a_model_has_the_price_of_an_unknown_one(served: Any, behind: bytes) -> None:
    """A form that is none behind its head may run any model, so it costs what the dearest does."""
    bench = served(TRANSCRIPT)

    assert bench.send(model(HEAR_CHEAP) + file() + behind) == 200

    row = bench.row()
    assert (row.request_model, row.price_kind) == (None, "ceiling")
    assert row.cost_pico > COST[HEAR]


def test_the_responses_model_holds_over_all(served: Any) -> None:
    """Who serves it knows best which of the two has run."""
    bench = served(TRANSCRIPT | {"model": HEAR_CHEAP})

    bench.send(model(HEAR_CHEAP) + file() + model(HEAR) + END)

    assert (bench.row().response_model, bench.row().cost_pico) == (HEAR_CHEAP, COST[HEAR_CHEAP])


def test_a_handler_charges_the_late_model(served: Any) -> None:
    """What a handler charges once it has the form is that form's model's."""
    bench = served({}, lambda: current().charge({"usage": TRANSCRIPT["usage"]}))

    bench.send(model(HEAR_CHEAP) + file() + model(HEAR) + END)

    assert (bench.row().response_model, bench.row().cost_pico) == (HEAR, COST[HEAR])


def left_of(bench: Any, name: str) -> int:
    """Tokens that the limit per model has left for a model."""
    remaining: int = bench.core.explain(Subject(key="k1"), model=name).limits[0].remaining
    return remaining


@pytest.mark.parametrize("first", [b"", model(HEAR_CHEAP)])
def test_limits_per_model_count_the_late_model(served: Any, first: bytes) -> None:
    """Whether one was named before it or none; what stood before it keeps what it was admitted with."""
    bench = served(TRANSCRIPT, plans={"one": ["1M tokens/minute per model"]})

    bench.send(first + file() + model(HEAR) + END)
    bench.core.aside(lambda: None)
    bench.core.close()

    assert left_of(bench, HEAR) == 1_000_000 - 59
    assert left_of(bench, HEAR_CHEAP) == 1_000_000 - (59 if first else 0)


def test_a_model_that_was_known_counts_once(served: Any) -> None:
    """A form whose model stands first, or twice, is not moved anywhere."""
    bench = served(TRANSCRIPT, plans={"one": ["1M tokens/minute per model"]})

    bench.send(model(HEAR) + file() + model(HEAR) + END)
    bench.core.aside(lambda: None)
    bench.core.close()

    assert left_of(bench, HEAR) == 1_000_000 - 59


@pytest.mark.parametrize("kind", [Asgi, Wsgi])
@pytest.mark.parametrize("first", [b"", model(HEAR_CHEAP)])
def test_an_endpoints_limit_meets_the_late_model(kind: Any, first: bytes) -> None:
    """A limit on an endpoint that reads the form first knows its model, and counts it once."""
    limit = EndpointLimit.parse(("1000 tokens/minute per model",), name="x")
    seen: list[object] = []

    def handle() -> None:
        limit.admit(bench.core, current().facts)
        seen.append((current().endpoints[0][2], current().prompt.model))  # type: ignore[union-attr]

    bench = kind(TRANSCRIPT, handle)
    bench.send(first + file() + model(HEAR) + END)

    assert seen == [(HEAR, HEAR)]
    assert bench.row().cost_pico == COST[HEAR]


def test_an_endpoints_limit_that_came_before_the_model_counts_it() -> None:
    """A decorator's limit per model, met before the form was read, is moved by what the late model used."""
    left: list[int] = []

    def sent(*bodies: bytes) -> int:
        limit = EndpointLimit.parse(("100k tokens/minute per model",), name="x")
        bench = Asgi(TRANSCRIPT)
        inner = bench.rig.middleware.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await limit.aadmit(bench.core, current().facts)
            left.append(current().decision.tallies[-1].state.remaining)  # type: ignore[union-attr]
            await inner(scope, receive, send)

        bench.rig.middleware.app = app
        for body in bodies:
            bench.send(body)
            bench.core.aside(lambda: None)
        bench.core.close()
        return left[-1]

    usual = model(HEAR) + file() + END

    assert sent(file() + model(HEAR) + END, usual) == sent(usual) - 59


def test_without_figures_the_whole_form_is_charged() -> None:
    """A response that says nothing is charged as its whole form would have been reserved: size, quality, number, pictures."""
    body = model("gpt-image-1") + file(name="image") + field("n", "3") + field("quality", "low")
    body += field("size", "1024x1024") + field("prompt", "a cat") + END
    long, short = Asgi({}), Asgi({}, max_body=100_000)

    for bench in (long, short):
        bench.send(body, path=IMAGES)

    assert (long.row().output_tokens, long.row().usage_source) == (3 * 272, "estimated")
    assert (long.row().input_tokens, long.row().cost_pico) == (short.row().input_tokens, short.row().cost_pico)


@pytest.mark.parametrize("order", ["first", "last"])
def test_of_two_numbers_the_dearer_is_charged(order: str) -> None:
    """A number of pictures that stands twice is read as the apps read it that charge most."""
    some = ("9", "1") if order == "first" else ("1", "9")
    body = model("gpt-image-1") + file(name="image") + b"".join(field("n", each) for each in some)
    bench = Asgi({})

    bench.send(body + field("quality", "low") + field("size", "1024x1024") + END, path=IMAGES)

    assert bench.row().output_tokens == 9 * 272


def test_an_upload_of_unknown_length_is_charged_by_its_files() -> None:
    """Where no length is told, the response's lack of figures is made up for by what has passed."""
    body = file(2_000_000) + model(HEAR) + END
    bench = Asgi({}, max_body=1_024)

    bench.send(body, step=65_536, told=False)

    assert bench.row().input_tokens == 2_000_000 // 16_000 * 10
    assert bench.row().request_model == HEAR


@pytest.mark.parametrize("bad", [field("n", "many"), field("stream", "\x00"), model("x" * 300), model("a\x00b")])
def test_a_senseless_field_behind_the_file_breaks_nothing(served: Any, bad: bytes) -> None:
    """It is the app's to refuse; what ran is charged all the same."""
    bench = served(TRANSCRIPT)

    assert bench.send(file() + model(HEAR) + bad + END) == 200
    assert bench.row().cost_pico >= COST[HEAR]


def test_a_deployment_in_the_path_is_the_model() -> None:
    """Azure's path names the model, whatever the form does."""
    path = "/openai/deployments/gpt-4o-mini-transcribe/audio/transcriptions"
    bench = Asgi(TRANSCRIPT, routes=[{"path": "/openai/*", "format": "openai.audio"}])

    bench.send(file() + model(HEAR) + END, path=path)

    assert (bench.row().request_model, bench.row().cost_pico) == (HEAR_CHEAP, COST[HEAR_CHEAP])


def test_what_an_app_leaves_is_not_read(served: Any) -> None:
    """An app that answers without its body ran what the head says."""
    bench = Asgi(TRANSCRIPT)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"usage": {"input_tokens": 14, "output_tokens": 45}}'})

    bench.rig.middleware.app = app
    bench.send(model(HEAR_CHEAP) + file() + model(HEAR) + END)

    assert (bench.row().request_model, bench.row().cost_pico) == (HEAR_CHEAP, COST[HEAR_CHEAP])


@pytest.mark.parametrize("head", [b'{"model": "gpt-4o-mini-transcribe",\r\n', b"\r\n", b"preamble\r\n"])
def test_a_form_that_does_not_begin_with_its_boundary_is_refused(served: Any, head: bytes) -> None:
    """What stands before it no app reads, and a price must not come from there."""
    bench = served(TRANSCRIPT)

    assert bench.send(head + file() + model(HEAR) + END) == 400


def test_unknown_prices_that_are_denied_are_charged_at_the_ceiling(served: Any) -> None:
    """A late model without a price has run when that shows, so that it is charged, and nothing fails."""
    bench = served(TRANSCRIPT, unknown_price="deny")

    assert bench.send(model(HEAR_CHEAP) + file() + model("of-no-price") + END) == 200
    assert bench.row().price_kind == "ceiling"


def test_a_head_that_ends_in_a_name_admits_no_other_model() -> None:
    """Where the first kilobyte ends inside of the model's name, the half of it is nobody's."""
    head = field("prompt", "x" * (1_024 - len(field("prompt", "")) - len(model("")) + 2 - len("gpt-4o")))
    seen: list[object] = []
    bench = Asgi(TRANSCRIPT, lambda: seen.append(current().form.met))  # type: ignore[union-attr]

    bench.send(head + model(HEAR) + file() + END, step=1_025)

    assert seen == [None]
    assert bench.row().request_model == HEAR


@pytest.mark.parametrize("kind", [Asgi, Wsgi])
def test_fifty_megabytes_pass_in_flat_memory(kind: Any) -> None:
    """A file of 50 MB is not held: the peak is that of the head and of a piece."""
    piece, pieces = b"\x00\r\n--\xff-\x01\x02" * 7_282, 800
    start, end = file(0)[:-2], b"\r\n" + model(HEAR) + END
    length = len(start) + pieces * len(piece) + len(end)
    bench = kind(TRANSCRIPT, max_body=2**20)
    bench.send(model(HEAR) + file() + END)

    def given() -> Any:
        yield start
        for _ in range(pieces):
            yield piece
        yield end

    tracemalloc.start()
    peak = (drive_asgi if kind is Asgi else drive_wsgi)(bench, given(), length)
    tracemalloc.stop()

    rows = bench.rig.rows()
    assert [(row.request_model, row.cost_pico) for row in rows] == [(HEAR, COST[HEAR])] * 2
    assert peak < 8_000_000


def drive_asgi(bench: Any, pieces: Any, length: int) -> int:
    """Send *pieces* to an app that keeps none of them; return the peak of memory meanwhile."""
    import asyncio

    from asgi_rig import scope_of
    from form_rig import PATH, TYPE

    inner = bench.rig.middleware.app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def last() -> Any:
            while True:
                message = await receive()
                if not message.get("more_body"):
                    return message

        await inner(scope, last, send)

    async def receive() -> Any:
        piece = next(pieces, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(_: Any) -> None:
        pass

    bench.rig.middleware.app = app
    headers = {"content-type": TYPE, "content-length": str(length)}
    asyncio.run(bench.rig.middleware(scope_of(path=PATH, headers=headers), receive, send))
    return tracemalloc.get_traced_memory()[1]


def drive_wsgi(bench: Any, pieces: Any, length: int) -> int:
    """The same through WSGI."""
    from form_rig import PATH, TYPE

    class Source:
        rest = b""

        def read(self, size: int = -1) -> bytes:
            while len(self.rest) < size and (piece := next(pieces, b"")):
                self.rest += piece
            given, self.rest = self.rest[:size], self.rest[size:]
            return given

    inner = bench.rig.middleware.app

    def app(environ: Any, start_response: Any) -> Any:
        while environ["wsgi.input"].read(65_536):
            pass
        return inner(environ, start_response)

    bench.rig.middleware.app = app
    given = {"wsgi.input": Source(), "CONTENT_LENGTH": str(length), "PATH_INFO": PATH, "CONTENT_TYPE": TYPE}
    assert bench.rig.run(**given).status == 200
    return tracemalloc.get_traced_memory()[1]


def test_lengths_of_these_forms_are_beyond_the_head() -> None:
    """Nothing here is read ahead whole."""
    assert LONG > 2 * 1_024
