"""
``tokenbudget-mw demo``: the middleware at work on a real server, with a fake LLM behind it and no services beside it.
"""

from __future__ import annotations

import secrets
import signal
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, add_json
from tokenbudget_mw.cli.keys import curl
from tokenbudget_mw.errors import MissingExtraError
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.cli.demonstration.traffic import Traffic
    from tokenbudget_mw.core import Core

__all__ = ["add_arguments", "run"]

ROUNDS = 200
"""How often the same request is sent with and without the middleware, to measure what it adds."""

SETTLE_SECONDS = 10.0
"""How long rows may take to come: of streams whose clients hung up, the server learns a moment later."""

SERVE_PORT = 8765


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    parser.add_argument("--serve", action="store_true", help="keep the server up until Ctrl-C")
    parser.add_argument(
        "--port", type=int, metavar="N", help=f"where it listens (default: a free one; {SERVE_PORT} with --serve)"
    )
    parser.add_argument("--requests", type=int, default=300, metavar="N", help="requests of the traffic (default: 300)")
    add_json(parser)


def run(context: Context) -> int:
    """
    Run the command.
    """
    args = context.args
    if args.requests < 0:
        raise BadUseError(f"--requests: a number from 0 on is needed, got {args.requests}.")
    try:
        from tokenbudget_mw.cli.demonstration.app import make_app, make_settings
        from tokenbudget_mw.cli.demonstration.server import serve
    except ModuleNotFoundError as exc:
        raise MissingExtraError(f"demo needs {exc.name!r}: pip install 'tokenbudget-mw[demo]'") from exc
    from tokenbudget_mw.asgi import ASGIMiddleware
    from tokenbudget_mw.cli.replaying.books import open_books
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.wiring import wire

    port = (SERVE_PORT if args.serve else 0) if args.port is None else args.port
    with open_books(None) as engine:
        # the environment is left out: a demonstration is the same everywhere
        settings = Settings.from_mapping(make_settings(str(engine.url), secrets.token_hex(16)))
        core = wire(settings, engine=engine)
        keys = _make_keys(core, engine)
        metered = ASGIMiddleware(make_app(), core)
        with serve([(metered, port), (make_app(), 0)]) as (port, bare):
            _tell(_introduction(keys, port), is_json=args.json)
            result = _show(core, engine, keys, (port, bare), args.requests)
            context.emit(result, _lines(result))
            if args.serve:
                _wait(port, is_json=args.json)
    return 0 if result["verified"] else 1


def _make_keys(core: Core, engine: Engine) -> dict[str, str]:
    from tokenbudget_mw.cli.demonstration.app import PLANS
    from tokenbudget_mw.wiring import open_keys

    store = open_keys(core.settings, engine)
    return {plan: store.create(name=f"demo {plan}", plan=plan, tenant=f"demo-{plan}").text for plan in PLANS}


def _introduction(keys: dict[str, str], port: int) -> Iterable[str]:
    from tokenbudget_mw.cli.demonstration.app import CHAT, PLANS

    yield "A FAKE LLM (no network, no model) in a FastAPI app, behind tokenbudget-mw, at"
    yield f"http://127.0.0.1:{port}; counters in memory, books in a temporary SQLite file."
    yield ""
    for plan, key in keys.items():
        limits = ", ".join(limit if isinstance(limit, str) else f"{limit['limit']} (shadow)" for limit in PLANS[plan])
        yield f"  plan {plan:5} {limits}"
        yield f"             key {key}" if plan == next(iter(keys)) else f"             key {key[:12]}…"
    yield ""
    yield from curl(next(iter(keys.values())), f"http://127.0.0.1:{port}{CHAT}", "openai.chat")
    yield ""


def _show(core: Core, engine: Engine, keys: dict[str, str], ports: tuple[int, int], requests: int) -> dict[str, Any]:
    """
    Measure, send the traffic, wait for the rows, prove the books.
    """
    from tokenbudget_mw.cli.demonstration.traffic import Traffic, jobs_of, measure
    from tokenbudget_mw.cli.replaying.tallies import percentiles
    from tokenbudget_mw.database.books import verify

    first = next(iter(keys.values()))
    measure(*ports, first, ROUNDS // 10)
    latency = percentiles(*measure(*ports, first, ROUNDS))
    probes = ROUNDS + ROUNDS // 10
    traffic = Traffic(ports[0], _Progress(requests))
    traffic.run(jobs_of(list(keys.values()), requests))
    shadow = _await_rows(core, engine, probes + requests)
    report = verify(engine)
    return {
        "requests": probes + traffic.sent,
        "admitted": probes + traffic.admitted,
        "refused": dict(traffic.refused),
        "would_refuse": shadow,
        "hung_up": traffic.hung_up,
        "failed": dict(traffic.other),
        "tokens": report.tokens["input_tokens"] + report.tokens["output_tokens"],
        "input_tokens": report.tokens["input_tokens"],
        "output_tokens": report.tokens["output_tokens"],
        "cost_pico": report.usage_pico + report.unowned_pico,
        "rows": report.rows,
        "verified": report.verified and report.rows == probes + requests and not traffic.other,
        "latency_us": latency,
    }


def _await_rows(core: Core, engine: Engine, expected: int) -> dict[str, int]:
    """
    Wait until the database holds *expected* rows, for `SETTLE_SECONDS` at most; return what shadow limits would refuse.
    """
    from sqlalchemy import func, select

    from tokenbudget_mw.database.engine import reader
    from tokenbudget_mw.database.tables import usage

    wanted = select(usage.c.limit_name, usage.c.decision, func.count()).group_by(usage.c.limit_name, usage.c.decision)
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        core.flush()
        with reader(engine).connect() as connection:
            counts = connection.execute(wanted).all()
        if sum(count for _, _, count in counts) >= expected or time.monotonic() > deadline:
            return {name: count for name, decision, count in counts if decision == "shadow_refused"}
        time.sleep(0.05)


class _Progress:
    """
    Shows how far the traffic is: on a terminal in one line that changes, else in a line each quarter.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, traffic: Traffic) -> None:
        """
        Show it.
        """
        is_end = traffic.sent == self._total
        if not self._is_terminal and not is_end and traffic.sent % max(self._total // 4, 1):
            return
        refused = traffic.sent - traffic.admitted
        text = f"{traffic.sent}/{self._total} requests: {traffic.admitted} admitted, {refused} refused"
        start, end = ("\r", "\n" if is_end else "") if self._is_terminal else ("", "\n")
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def _lines(result: dict[str, Any]) -> list[str]:
    latency = result["latency_us"]
    refused = result["requests"] - result["admitted"]
    return [
        "",
        f"{result['requests']} requests: {result['admitted']} admitted, {refused} refused, {result['hung_up']} left by their clients",
        *(f"  {count} refused by '{name}'" for name, count in sorted(result["refused"].items())),
        *(f"  {count} would be refused by '{name}' (shadow)" for name, count in sorted(result["would_refuse"].items())),
        *(f"  {count} FAILED with status {status}" for status, count in sorted(result["failed"].items())),
        (
            f"used     {result['input_tokens']:,} input and {result['output_tokens']:,} output tokens, "
            f"{format_usd(result['cost_pico'])}"
        ),
        f"written  {result['rows']} rows; the books {'agree' if result['verified'] else 'do NOT agree'}",
        f"latency  {latency['p50']} us added to a request (p99 {latency['p99']} us), against the same app without it",
    ]


def _tell(lines: Iterable[str], *, is_json: bool) -> None:
    for line in lines:
        print(line, file=sys.stderr if is_json else sys.stdout, flush=True)


def _wait(port: int, *, is_json: bool) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the temporary database goes, too
    try:
        _tell(["", f"Serving at http://127.0.0.1:{port} until Ctrl-C."], is_json=is_json)
        threading.Event().wait()
    except KeyboardInterrupt:
        _tell(["Stopped."], is_json=is_json)
