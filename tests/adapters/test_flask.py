"""Flask: the extension convention, limits on views, errors, and the command group."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_rig import subject_of
from flask import Blueprint, Flask, Response, got_request_exception, stream_with_context
from flask.cli import FlaskGroup
from sqlalchemy import create_engine
from werkzeug.test import EnvironBuilder
from wsgi_rig import Got

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.calls.call import running
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.errors import BudgetExceeded, ConfigurationError
from tokenbudget_mw.values import UsageRecord
from tokenbudget_mw.wiring import wire
from tokenbudget_mw_flask import TokenBudget, core_of, current

WIDE = {"identify": subject_of, "routes": [{"path": "/plain/*"}], "plans": {"one": ["100 requests/minute"]}}
WIDE |= {"default_plan": "one"}


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of the test's own, for the default database, and no call left for the next."""
    monkeypatch.chdir(tmp_path)
    yield
    running.set(None)  # Flask's test client closes a response when it is collected, and not before


def app_with(settings: Any, records: list[UsageRecord] | None = None) -> tuple[Flask, TokenBudget]:
    """An app whose extension writes to *records*."""
    app = Flask("host")
    kept = [] if records is None else records
    budget = TokenBudget(app, wire(settings, sink=CallableSink(kept.extend)))
    return app, budget


def get(app: Flask, path: str, subject: str | None = "k1", method: str = "GET") -> Any:
    """The response to one request."""
    return app.test_client().open(path, method=method, headers={"x-subject": subject} if subject else {})


# -- the extension ----------------------------------------------------------------------------------------------------


def test_settings_come_from_the_config() -> None:
    """Without an argument the extension reads ``app.config``."""
    app = Flask("host")
    app.config["TOKENBUDGET"] = WIDE | {"plans": {"one": ["1 request/minute"]}}
    app.add_url_rule("/plain/x", view_func=lambda: "x")
    TokenBudget().init_app(app)

    assert [get(app, "/plain/x").status_code for _ in range(2)] == [200, 429]
    core_of(app).spool.commit(len(core_of(app).spool.take(10)))  # there are no tables to write to


def test_argument_comes_before_the_config() -> None:
    """Settings that are given count, and the app's config is not read."""
    app = Flask("host")
    app.config["TOKENBUDGET"] = {"rutes": []}

    TokenBudget(app, WIDE)

    assert core_of(app).settings.default_plan == "one"


def test_wrong_config_fails_at_init() -> None:
    """A misspelt setting fails when the app is made, and leaves the app as it was."""
    app = Flask("host")
    app.config["TOKENBUDGET"] = {"rutes": []}
    before = app.wsgi_app

    with pytest.raises(ConfigurationError, match="did you mean 'routes'"):
        TokenBudget(app)
    assert app.wsgi_app == before
    assert app.extensions == {}


def test_one_object_serves_two_apps() -> None:
    """One extension object keeps neither of two apps: each has its own core, counters and settings."""
    budget, apps = TokenBudget(), []
    for most in (1, 2):
        app = Flask(f"host{most}")
        app.config["TOKENBUDGET"] = WIDE | {"limits": [f"{most} requests/minute"]}
        budget.init_app(app)
        app.add_url_rule("/free", "free", budget.limit("1 request/hour")(lambda: "free"))
        apps.append(app)
    one, two = apps

    assert core_of(one) is not core_of(two)
    assert [get(one, "/free").status_code for _ in range(2)] == [200, 429]
    assert [get(two, "/free").status_code for _ in range(2)] == [200, 429]


def test_an_app_without_settings_says_so(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that come after `init_app` are too late, which the log says; those of the environment are settings."""
    TokenBudget().init_app(Flask("host"))
    (told,) = [record.getMessage() for record in caplog.records]
    monkeypatch.setenv("TOKENBUDGET_PLANS", '{"free": ["9 requests/minute"]}')
    TokenBudget().init_app(Flask("other"))

    assert "app.config has no TOKENBUDGET" in told
    assert len(caplog.records) == 1


def test_an_app_takes_one_middleware() -> None:
    """A second one, which would charge every request again, is refused at start."""
    app = Flask("host")
    app.config["TOKENBUDGET"] = WIDE
    TokenBudget(app)

    with pytest.raises(ConfigurationError, match="charged twice"):
        TokenBudget().init_app(app)


@pytest.mark.parametrize("app", [WIDE, "host", Blueprint("host", __name__)])
def test_what_is_no_app_is_told(app: Any) -> None:
    """Settings in the app's place, or a blueprint: the error says what is wanted."""
    with pytest.raises(ConfigurationError, match="take a Flask app first, not"):
        TokenBudget(app)


def test_core_of_an_app_without_the_extension() -> None:
    """An app that was never initialised has no core, and says what is missing."""
    with pytest.raises(ConfigurationError, match=r"'host' has no TokenBudget. Call `budget.init_app\(app\)`"):
        core_of(Flask("host"))


# -- requests ---------------------------------------------------------------------------------------------------------


def test_view_sees_its_call_and_is_booked() -> None:
    """Inside a view `current` is the request's call; afterwards there is a row with what it charged."""
    records: list[UsageRecord] = []
    app, _ = app_with(WIDE, records)

    @app.get("/plain/ask")
    def ask() -> dict[str, Any]:
        usage = current().charge({"model": "gpt-4o", "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
        current().tag(feature="ask")
        return {"output": usage.output_tokens, "key": current().subject.key if current().subject else None}

    answered = get(app, "/plain/ask")

    assert core_of(app).flush()
    (row,) = records
    assert answered.json == {"output": 4, "key": "k1"}
    assert "RateLimit" in answered.headers
    assert (row.input_tokens, row.output_tokens, row.tags) == (3, 4, {"feature": "ask"})


def test_stream_with_context_is_booked_at_its_end() -> None:
    """A generator response runs inside its call, chunk by chunk, and may charge at its end."""
    records: list[UsageRecord] = []
    app, _ = app_with(WIDE, records)

    @app.get("/plain/stream")
    def stream() -> Response:
        def pieces() -> Iterator[str]:
            yield "one "
            yield "two"
            current().charge({"model": "gpt-4o", "usage": {"prompt_tokens": 3, "completion_tokens": 4}})

        return Response(pieces(), mimetype="text/event-stream")

    answered = get(app, "/plain/stream")

    assert answered.text == "one two"
    assert core_of(app).flush()
    assert [(row.output_tokens, row.is_stream) for row in records] == [(4, True)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_unknown_caller_never_reaches_the_view(method: str) -> None:
    """Without credentials the view does not run, by GET or HEAD."""
    app, _ = app_with(WIDE)
    app.add_url_rule("/plain/x", view_func=lambda: pytest.fail("reached"))

    assert get(app, "/plain/x", None, method).status_code == 401


def test_t08_view_raises() -> None:
    """A view that raises gives Flask's own 500, and a row that charges nothing."""
    records: list[UsageRecord] = []
    app, _ = app_with(WIDE, records)
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/plain/fail")
    def fail() -> str:
        raise RuntimeError("the view fails")

    assert get(app, "/plain/fail").status_code == 500
    assert core_of(app).flush()
    assert [(row.status, row.cost_pico) for row in records] == [(500, 0)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(TimeoutError("no answer"), "timeout"), (LookupError("Timeout"), "status_5xx")],
)
def test_t08_timeout_of_a_view_is_told_from_other_errors(error: Exception, reason: str) -> None:
    """Flask's 500 does not say what it was made of; the row does."""
    records: list[UsageRecord] = []
    app, _ = app_with(WIDE, records)
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/plain/fail")
    def fail() -> str:
        raise error

    assert get(app, "/plain/fail").status_code == 500
    assert core_of(app).flush()
    assert [(row.status, row.settle_reason) for row in records] == [(500, reason)]


def test_t08_timeout_that_a_view_answers_for_is_its_own_affair() -> None:
    """What the app's own handler makes of a timeout counts as what it is."""
    records: list[UsageRecord] = []
    app, _ = app_with(WIDE, records)
    app.register_error_handler(TimeoutError, lambda _: ("later", 200))

    @app.get("/plain/fail")
    def fail() -> str:
        raise TimeoutError

    assert get(app, "/plain/fail").status_code == 200
    assert core_of(app).flush()
    assert [row.settle_reason for row in records] == ["complete"]


def test_error_handler_renders_a_refused_reservation() -> None:
    """A refused reservation that a view lets through is the middleware's refusal; other errors keep their handlers."""
    app, _ = app_with(WIDE | {"plans": {"one": ["100 tokens/minute"]}})

    @app.get("/plain/exceed")
    def exceed() -> str:
        with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            return "never"

    answered = get(app, "/plain/exceed")

    assert answered.status_code == 429
    assert "tokens-minute" in json.loads(answered.data)["error"]["message"]
    assert len(answered.headers.getlist("Content-Type")) == 1
    assert len(answered.headers.getlist("RateLimit")) == 1


def test_error_handler_renders_an_unpriced_model() -> None:
    """Under ``unknown_price: deny`` a view's reservation of an unknown model is a 400 by name, not a 500."""
    app, _ = app_with(WIDE | {"unknown_price": "deny"})

    @app.get("/plain/unpriced")
    def unpriced() -> str:
        with current().reserve(model="nobody-knows-this", prompt=1, max_output=1):
            return "never"

    answered = get(app, "/plain/unpriced")

    assert answered.status_code == 400
    assert "nobody-knows-this" in answered.text


# -- limits on views --------------------------------------------------------------------------------------------------


def test_stream_whose_first_reservation_is_refused() -> None:
    """Flask begins to answer before its generator runs; where the server has sent nothing yet, the refusal is the response."""
    records: list[UsageRecord] = []
    app, _ = app_with(WIDE | {"plans": {"one": ["1000 tokens/minute"]}}, records)
    got = Got()

    @app.get("/plain/stream")
    def tell() -> Response:
        def words() -> Iterator[str]:
            with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
                yield "once"

        return Response(stream_with_context(words()), content_type="text/event-stream")

    environ = EnvironBuilder(path="/plain/stream", headers={"x-subject": "k1"}).get_environ()
    response = app.wsgi_app(environ, got.start_response)
    body = b"".join(response)
    response.close()  # type: ignore[attr-defined]

    assert (got.status, dict(got.headers)["Content-Type"]) == (429, "application/json")
    assert "tokens-minute" in json.loads(body)["error"]["message"]
    assert core_of(app).flush()
    assert [(row.decision, row.status) for row in records] == [("refused", 429)]


def grouping(**settings: Any) -> Flask:
    """An app with async views whose work goes on in task groups."""
    app, _ = app_with(WIDE | {"plans": {"one": ["1000 tokens/minute"]}} | settings)

    async def exceed() -> None:
        async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            raise AssertionError

    async def fail() -> None:
        raise KeyError

    @app.get("/plain/refused")
    async def refused() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(exceed())

    @app.get("/plain/failed")
    async def failed() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    return app


def test_refused_reservation_in_a_task_group() -> None:
    """A refusal that ends an async view's task group is answered as one that comes alone; other groups are errors."""
    app = grouping()

    assert get(app, "/plain/refused").status_code == 429
    assert get(app, "/plain/failed").status_code == 500


def test_task_group_of_an_app_that_handles_all_errors() -> None:
    """The app's handler of every exception hears of groups as before, and of refusals as little as before."""
    app = grouping()
    app.register_error_handler(Exception, lambda error: (type(error).__name__, 418))

    assert get(app, "/plain/refused").status_code == 429
    assert get(app, "/plain/failed").get_data(as_text=True) == "ExceptionGroup"


def test_refusal_in_an_app_whose_library_answers_errors_by_itself() -> None:
    """Flask-RESTX and Flask-RESTful send Flask's signal before they make a 500; a refusal goes on to the app's handlers."""
    app, budget = app_with(WIDE)
    usual = app.handle_user_exception

    def answer(error: Exception) -> Any:
        # as `Api.error_router` and `Api.handle_error` do in both
        try:
            got_request_exception.send(app, exception=error)
        except Exception as told:
            return usual(told)
        return app.response_class("theirs", 500)

    app.handle_user_exception = answer  # type: ignore[method-assign, assignment]
    app.get("/search")(budget.limit("1/minute")(lambda: "x"))
    app.add_url_rule("/broken", "broken", lambda: {}["x"])

    assert [get(app, "/search").status_code for _ in range(2)] == [200, 429]
    assert get(app, "/broken").data == b"theirs"


def test_stacked_limits_on_a_view_count_apart() -> None:
    """Two decorators that count the same each take one of a request, and the smaller refuses."""
    app, budget = app_with(WIDE)
    app.get("/search", endpoint="search")(budget.limit("5/minute")(budget.limit("3/minute")(lambda: "x")))

    assert [get(app, "/search").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_limit_counts_each_view_by_its_endpoint() -> None:
    """Two views with the same limit have counters of their own."""
    app, budget = app_with(WIDE)
    for name in ("one", "two"):
        app.add_url_rule(f"/plain/{name}", name, budget.limit("1 request/minute")(lambda: "x"))

    assert [get(app, f"/plain/{name}").status_code for name in ("one", "one", "two")] == [200, 429, 200]


def test_limit_in_a_blueprint_counts_by_its_whole_endpoint() -> None:
    """Two registrations of one blueprint are two endpoints."""
    app, budget = app_with(WIDE)
    blueprint = Blueprint("search", __name__)

    @blueprint.get("/find")
    @budget.limit("1 request/minute")
    def find() -> str:
        return current().payer.key or ""

    app.register_blueprint(blueprint, url_prefix="/plain/a")
    app.register_blueprint(blueprint, url_prefix="/plain/b", name="other")

    assert [get(app, path).status_code for path in ("/plain/a/find", "/plain/b/find", "/plain/a/find")] == [
        200,
        200,
        429,
    ]


@pytest.mark.parametrize("handled", ["", "Refused, by the app.", "Refused, by the blueprint."])
def test_refusal_in_a_blueprint_that_answers_all_errors(handled: str) -> None:
    """A blueprint's handler of every exception leaves refusals to the app, or to whom a handler of theirs belongs."""
    app, budget = app_with(WIDE)
    blueprint = Blueprint("search", __name__)
    blueprint.errorhandler(Exception)(lambda error: ("Something went wrong.", 500))
    blueprint.get("/find")(budget.limit("1 request/minute")(lambda: "found"))
    if handled:
        where = app if "app" in handled else blueprint
        where.errorhandler(BudgetExceeded)(lambda error: (handled, 429))
    app.register_blueprint(blueprint, url_prefix="/plain")

    refused = [get(app, "/plain/find") for _ in range(2)][1]

    assert refused.status_code == 429
    assert (handled or "requests-minute-endpoint") in refused.text


def test_view_that_asks_its_own_app() -> None:
    """A view that sends requests to its own app, as for a batch, is charged for itself afterwards; so are they."""
    records: list[UsageRecord] = []
    app, _ = app_with(WIDE, records)

    @app.get("/plain/batch")
    def batch() -> str:
        texts = [get(app, f"/plain/{part}").text for part in ("whole", "streamed", "missing")]
        current().charge({"prompt_tokens": 7, "completion_tokens": 1})
        return "".join(texts)

    @app.get("/plain/<part>")
    def one(part: str) -> Response:
        current().charge({"prompt_tokens": 3, "completion_tokens": 1})
        return Response(iter([part])) if part == "streamed" else Response(part)

    answer = get(app, "/plain/batch")

    assert answer.status_code == 200
    assert core_of(app).flush()
    assert {(row.path, row.input_tokens) for row in records} >= {
        ("/plain/whole", 3),
        ("/plain/streamed", 3),
        ("/plain/batch", 7),
    }


def test_named_limit_is_shared() -> None:
    """Views whose limits have one name share the counter."""
    app, budget = app_with(WIDE)
    for name in ("one", "two"):
        app.add_url_rule(f"/plain/{name}", name, budget.limit("1 request/minute", name="both")(lambda: "x"))

    assert [get(app, f"/plain/{name}").status_code for name in ("one", "two")] == [200, 429]


def test_limit_on_an_async_view() -> None:
    """An async view is limited, too, and awaited by Flask's own rules."""
    pytest.importorskip("asgiref")
    app, budget = app_with(WIDE)

    @app.get("/plain/later")
    @budget.limit("1 request/minute")
    async def later() -> str:
        return current().id

    first, second = get(app, "/plain/later"), get(app, "/plain/later")

    assert (first.status_code, len(first.text)) == (200, 32)
    assert second.status_code == 429


def test_limit_keeps_the_views_name() -> None:
    """The decorator leaves a view's name alone, from which Flask makes its endpoint."""
    app, budget = app_with(WIDE)

    @app.get("/plain/x")
    @budget.limit("1 request/minute")
    def search() -> str:
        return "x"

    assert "search" in app.view_functions


def test_limit_outside_of_routes_asks_who_is_there() -> None:
    """On a path that no route meters the limit holds, and a caller whom nobody knows is a 401."""
    app, budget = app_with(WIDE)
    app.add_url_rule("/free", "free", budget.limit("1 request/minute")(lambda: "x"))

    assert [get(app, "/free").status_code for _ in range(2)] == [200, 429]
    assert get(app, "/free", None).status_code == 401


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def booked(tmp_path: Path) -> Flask:
    """An app with a database."""
    url = f"sqlite:///{tmp_path / 'host.db'}"
    engine = create_engine(url)
    metadata.create_all(engine)
    engine.dispose()
    app = Flask("host")
    app.config["TOKENBUDGET"] = WIDE | {"identify": "api_key", "database": url, "pepper": "p" * 32}
    TokenBudget(app)
    app.add_url_rule("/plain/x", view_func=lambda: "x")
    return app


def flask(app: Flask, *arguments: str) -> Any:
    """What the ``flask`` command does for *app*: it finds our commands in the entry points of what is installed."""
    return app.test_cli_runner().invoke(FlaskGroup(create_app=lambda: app), args=list(arguments))


def test_commands_run_with_the_apps_settings(booked: Flask) -> None:
    """``flask tokenbudget keys`` makes a key in the app's database, which opens the app; ``verify`` proves its books."""
    made = flask(booked, "tokenbudget", "keys", "create", "--name", "ada", "--json")
    key = json.loads(made.output)["key"]

    answered = booked.test_client().get("/plain/x", headers={"authorization": f"Bearer {key}"})
    core_of(booked).close()
    verified = flask(booked, "tokenbudget", "verify", "--json")

    assert answered.status_code == 200
    assert (made.exit_code, verified.exit_code) == (0, 0)
    assert json.loads(verified.output)["verified"] is True


def test_command_passes_its_exit_code_on(booked: Flask) -> None:
    """A command that fails ends with its code, and its own usage text is shown for ``--help``."""
    assert flask(booked, "tokenbudget", "nonsense").exit_code == 2
    assert "verify" in flask(booked, "tokenbudget", "--help").output
    assert "usage: flask tokenbudget verify" in flask(booked, "tokenbudget", "verify", "--help").output


def test_commands_of_an_app_without_us_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An app whose extension was never initialised has no settings: no command works on a database of nobody's."""
    monkeypatch.chdir(tmp_path)
    app = Flask("host")
    app.config["TOKENBUDGET"] = WIDE | {"database": "sqlite:///elsewhere.db"}

    ran = flask(app, "tokenbudget", "usage")
    named = flask(app, "tokenbudget", "keys", "create", "--name", "demo")

    assert (ran.exit_code, "init_app(app)" in ran.output) == (2, True)
    assert "init_app(app)" in named.output
    assert "usage: flask tokenbudget verify" in flask(app, "tokenbudget", "verify", "--help").output
    assert not [*tmp_path.iterdir()]


def test_command_group_is_found_by_entry_point(booked: Flask) -> None:
    """The group is there without a line in the app: Flask finds it in the installed package."""
    assert "tokenbudget" in flask(booked, "--help").output


# -- limits that change -----------------------------------------------------------------------------------------------


def test_limits_change_while_the_app_runs() -> None:
    """The extension changes those of the current app, or of the one that it is given; the count stays."""
    app, budget = app_with(WIDE | {"plans": {"one": ["1 request/minute"]}})
    other, _ = app_with(WIDE)
    app.add_url_rule("/plain/x", view_func=lambda: "x")
    assert [get(app, "/plain/x").status_code for _ in range(2)] == [200, 429]

    budget.change_limits({"plans": {"one": ["2 requests/minute"]}}, app)
    assert [get(app, "/plain/x").status_code for _ in range(2)] == [200, 429]
    with app.app_context():
        budget.change_limits({"plans": {"one": ["3 requests/minute"]}})

    assert [get(app, "/plain/x").status_code for _ in range(2)] == [200, 429]
    assert core_of(other).settings.plans["one"].limits[0].amount == 100
