"""
From settings to a core with every part plugged in. The only room that knows all rooms.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any
from weakref import finalize, ref

from tokenbudget_mw.calls.orphaned import Executor, subject_of
from tokenbudget_mw.calls.reserving import take_from
from tokenbudget_mw.core import Core
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.guard import AsyncGuard, Guard
from tokenbudget_mw.identify import AddressIdentifier, CustomIdentifier, KeyIdentifier
from tokenbudget_mw.processes import call_at_exit
from tokenbudget_mw.rules.admission import Admission
from tokenbudget_mw.rules.identity import networks_of
from tokenbudget_mw.rules.routes import RouteTable
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.settings.changes import policy_of
from tokenbudget_mw.settings.dotted import load, load_callable
from tokenbudget_mw.settings.own_limits import OwnLimits
from tokenbudget_mw.settings.reading import is_counter, kind_of
from tokenbudget_mw.upkeep.barring import Bars
from tokenbudget_mw.upkeep.heartbeat import Heartbeat

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.accounting.base import Sink, Spool
    from tokenbudget_mw.accounting.flusher import Flusher
    from tokenbudget_mw.backends.base import AsyncBackend, Backend
    from tokenbudget_mw.database.keys import KeyCache, KeyStore
    from tokenbudget_mw.identify import Identifier
    from tokenbudget_mw.rules.seeding import Question
    from tokenbudget_mw.upkeep.prepaid import Prepaid
    from tokenbudget_mw.upkeep.seeding import Seeder
    from tokenbudget_mw.values import Cost, Orphan

__all__ = [
    "model_names",
    "open_bars",
    "open_database",
    "open_keys",
    "open_prepaid",
    "open_seeder",
    "open_tariffs",
    "wire",
]

_SLACK = 60.0
"""Seconds for which a bar outlasts what any cache remembers: look-ups under way, clocks that differ."""

_WRITING = 5.0
"""Seconds that usage which waits gets to be written before the books are read."""


def wire(
    settings: Mapping[str, Any] | Settings | Core | None = None,
    *,
    clock: Callable[[], float] | None = None,
    engine: Engine | None = None,
    sink: Sink | None = None,
) -> Core:
    """
    Plug everything together. Opens no connection: those are made when first needed.

    Args:
        settings: As a dict, or checked; None takes the defaults and the environment. A core is returned as it is.

        clock: Gives the moment in epoch seconds, to the backends, too: for replays and tests. None takes the system's,
            and for shared backends their own.

        engine: The host's database, where it is open already.

        sink: Where records go instead of the database.

    Raises:
        ConfigurationError: The settings are wrong.
    """
    if isinstance(settings, Core):
        return settings
    checked = settings if isinstance(settings, Settings) else Settings.from_mapping(settings or {}, os.environ)
    now = clock or time.time
    backend, async_backend = _open_backends(checked, clock)
    call_at_exit(backend.close)  # asked first, called last: what the other parts charge at the end is told, too
    database = _Database(checked, engine)
    has_books = sink is None and checked.seed_from_books
    admission = Admission(policy_of(checked, has_books=has_books), checked.lease)
    tariffs = _tariffs(checked, None if sink else database)
    keys = _keys(checked, database, now)
    cores: list[ref[Core]] = []  # a spool holds no core alive
    accounting = _accounting(checked, sink, database, _executor(tariffs, cores))
    guarding: dict[str, Any] = {"barred": keys.forget} if keys is not None else {}
    if checked.prepaid:
        guarding |= {"prepaid": open_prepaid(database.engine), "mode": checked.mode}
    if has_books:
        guarding["starter"] = open_seeder(checked, database.engine, backend, now, accounting["flusher"])
    core = Core(
        settings=checked,
        routes=RouteTable(checked.routes, checked.default, checked.exempt),
        identifier=_identifier(checked, keys),
        meter=_meter(checked, tariffs),
        tariffs=tariffs,
        model_name=model_names(checked),
        guard=Guard(admission, backend, now, **guarding),
        async_guard=AsyncGuard(admission, async_backend, now, **guarding),
        heartbeat=Heartbeat(backend, checked.lease, now),
        clock=now,
        timer=clock or time.perf_counter,
        render_refusal=_render_refusal(checked),
        **accounting,
    )
    cores.append(ref(core))
    parts = [core.guard.prepaid, core.heartbeat, core.meter, core.guard.starter, backend, tariffs, database]
    core.closers += [part.close for part in parts if part is not None]
    return core


def open_database(settings: Settings) -> Engine:
    """
    Open the database that *settings* name.
    """
    from tokenbudget_mw.database.engine import open_engine

    if settings.database is None:
        message = "`database` names a Django alias; only the Django adapter can open it (`manage.py tokenbudget …`)."
        raise ConfigurationError(message)
    return open_engine(settings.database)


def open_keys(settings: Settings, engine: Engine, *, bars: Bars | None = None) -> KeyStore:
    """
    Open the key table in *engine*. What is changed there is told to the backend by *bars*, by default those of *settings*.
    """
    from tokenbudget_mw.database.keys import KeyStore

    told = (bars or open_bars(settings)).tell
    pepper = settings.pepper.value if settings.pepper else ""
    return KeyStore(engine, pepper, limits=OwnLimits(settings.limit_context()), told=told)


def open_bars(settings: Settings, core: Core | None = None) -> Bars:
    """
    Return what tells the backend of keys that may pass no more. Without a running *core* it connects when there is
    something to tell; ``memory://`` counts in the core alone, so nobody hears of it then.
    """
    from tokenbudget_mw.database.key_cache import STALE_SECONDS

    @contextmanager
    def opened() -> Iterator[Backend]:
        from tokenbudget_mw.backends import open_backend

        if core is not None:
            yield core.guard.backend
            return
        # an operator can wait longer than a request
        backend = open_backend(settings.backend, deadline=max(settings.deadline, 1.0), workers=settings.workers)
        try:
            yield backend
        finally:
            backend.close()

    seconds = settings.key_cache_ttl + STALE_SECONDS + _SLACK
    policy = policy_of(settings) if core is None else core.guard.admission.policy
    return Bars(policy, opened, seconds, time.time if core is None else core.clock)


def open_seeder(
    settings: Settings,
    engine: Callable[[], Engine],
    backend: Backend,
    clock: Callable[[], float],
    flusher: Flusher | None = None,
) -> Seeder:
    """
    Return what starts counters of *backend* at what the books in *engine* say, when *flusher* has written what waits.
    """
    from tokenbudget_mw.database.spending import used
    from tokenbudget_mw.upkeep.seeding import Seeder

    model_name = model_names(settings)

    def read(questions: Sequence[Question]) -> list[tuple[int, ...]]:
        return used(engine(), questions, model_name)

    def write() -> None:
        if flusher is not None:
            flusher.tick()  # looks for what dead processes left behind, too
            flusher.flush(_WRITING)

    return Seeder(read, backend, clock, write=write)


def open_prepaid(engine: Callable[[], Engine]) -> Prepaid:
    """
    Return what knows which accounts have money, by the balances in *engine*.
    """
    from tokenbudget_mw.database.balances import BalanceReader
    from tokenbudget_mw.upkeep.prepaid import Prepaid

    return Prepaid(cache(lambda: BalanceReader(engine())))


def open_tariffs(settings: Settings, engine: Engine) -> Tariffs:
    """
    Return all prices as they are now: those of the settings, of the database behind *engine*, and of the price book.
    """
    from tokenbudget_mw.database.tariffs import TariffStore

    tariffs = _tariffs(settings, None)
    tariffs.take_stored(TariffStore(engine).find())
    return tariffs


class _Database:
    """
    Opens the database when it is first asked for.
    """

    def __init__(self, settings: Settings, engine: Engine | None) -> None:
        self._settings = settings
        self._engine = engine
        self._is_ours = engine is None

    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = open_database(self._settings)
            # a core that nobody closes, as test suites leave them, gives its connections back all the same
            finalize(self, self._engine.dispose).atexit = False
        return self._engine

    def close(self) -> None:
        if self._is_ours and self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _open_backends(settings: Settings, clock: Callable[[], float] | None) -> tuple[Backend, AsyncBackend]:
    from tokenbudget_mw.backends import open_pair
    from tokenbudget_mw.backends.leased.shapes import Terms

    return open_pair(
        settings.backend,
        deadline=settings.deadline,
        workers=settings.workers,
        clock_mode="server" if clock is None else "caller",
        terms=Terms(seconds=settings.leased_term, most=settings.leased_most, share=max(8, 2 * settings.workers)),
        refusal_cache=settings.refusal_cache,
    )


def _keys(settings: Settings, database: _Database, clock: Callable[[], float]) -> KeyCache | None:
    if settings.identify != "api_key":
        return None
    from tokenbudget_mw.database.keys import KeyCache

    store = open_keys(settings, database.engine())
    return KeyCache(store, settings.key_cache_ttl, clock, has_pepper=bool(settings.pepper))


def _identifier(settings: Settings, keys: KeyCache | None) -> Identifier:
    wanted = settings.identify
    if keys is not None:
        return KeyIdentifier(keys, allow_query=settings.query_keys)
    if wanted == "ip":
        return AddressIdentifier(networks_of(settings.trusted_proxies))
    hint = "Give 'api_key', 'ip', a callable or 'package.module.name'."
    return CustomIdentifier(wanted if callable(wanted) else load_callable(wanted, "identify", hint))


def _render_refusal(settings: Settings) -> Any:
    wanted = settings.render_refusal
    if wanted is None or callable(wanted):
        return wanted
    return load_callable(wanted, "render_refusal", "Give a callable or 'package.module.name'.")


def _meter(settings: Settings, tariffs: Tariffs) -> Any:
    from tokenbudget_mw.counting.encoders import default_encoders
    from tokenbudget_mw.counting.meter import Depth
    from tokenbudget_mw.counting.sampling import Sampling
    from tokenbudget_mw.counting.tokenizers import Tokenizers
    from tokenbudget_mw.metering import TokenMeter

    encoders = default_encoders(settings.tokenizer)
    if settings.enabled and any(route.format is not None and route.count != "off" for route in settings.routes):
        # never in a request: loading takes a quarter of a second and holds the GIL
        encoders.warm_aside() if settings.load_tokenizer == "background" else encoders.warm()
    depth = Depth(settings.exact_chars, Sampling(settings.sample_chunks * (2 if settings.precise_counts else 1)))
    counters = {model: _counter(model, counter) for model, counter in settings.counters.items()}
    tokenizers = Tokenizers(settings.models, counters=counters, encoders=encoders, depth=depth)
    return TokenMeter(tokenizers, prices_audio=tariffs.prices_audio, prices_long_cache=tariffs.prices_long_cache)


def _counter(model: str, counter: Any) -> Any:
    if not isinstance(counter, str):
        return counter
    setting = f"counters.{model}"
    found = load(counter, setting, "Give an object with a method `count`, or 'package.module.name'.")
    if not is_counter(found):
        raise ConfigurationError(
            f"at `{setting}`: {counter!r} is {kind_of(found)}, which has no method `count` that takes a text."
        )
    return found


def _tariffs(settings: Settings, database: _Database | None) -> Tariffs:
    from tokenbudget_mw import prices
    from tokenbudget_mw.counting.models import folded, original, tariff_name

    names: dict[str, Any] = {"normalise": tariff_name, "original": partial(original, aliases=folded(settings.models))}
    parts = settings.tariffs, prices.load().find, settings.unknown_price, settings.ceiling
    if database is None:
        return Tariffs(*parts, **names)
    from tokenbudget_mw.database.live_tariffs import LiveTariffs
    from tokenbudget_mw.database.tariffs import TariffStore

    return LiveTariffs(*parts, **names, load=lambda: TariffStore(database.engine()).find(), ttl=settings.tariff_ttl)


def model_names(settings: Settings) -> Callable[[str], str]:
    """
    Return what gives a model its one name, however a request, a response or an invoice spells it.
    """
    from tokenbudget_mw.counting.models import folded, normalise, original

    aliases = folded(settings.models)
    return lru_cache(4096)(lambda model: normalise(original(model, aliases)))  # bounded: clients choose the names


def _executor(tariffs: Tariffs, cores: Sequence[ref[Core]]) -> Executor:
    """
    Return what makes rows of calls whose process died, and charges the counters of the core that *cores* will hold.
    """

    def take(orphan: Orphan, cost: Cost, model: str | None) -> None:
        opened, path = orphan.opened, orphan.opened.route or orphan.opened.path
        for core in filter(None, (each() for each in cores)):
            take_from(core, subject_of(opened), core.routes.match(opened.method, path), cost, model)

    return Executor(tariffs, take)


def _accounting(settings: Settings, sink: Sink | None, database: _Database, heir: Executor) -> dict[str, Any]:
    from tokenbudget_mw.accounting.dead_letters import FILE_NAME, DeadLetters
    from tokenbudget_mw.accounting.flusher import Flusher

    spool = _spool(settings, None if sink else database, heir)
    keep = threads = None
    if sink is None:
        from tokenbudget_mw.accounting.opening import threads_for
        from tokenbudget_mw.database.letters import LetterStore
        from tokenbudget_mw.database.writer import DatabaseSink

        engine = database.engine()
        sink, keep, threads = DatabaseSink(engine), LetterStore(engine).keep, threads_for(engine.url)
    flusher = Flusher(
        spool,
        sink,
        interval=settings.flush_interval,
        rows=settings.flush_rows,
        dead_letters=DeadLetters(path=spool.folder and spool.folder / FILE_NAME, store=keep),
        threads=threads,
    )
    return {"spool": spool, "flusher": flusher}


def _spool(settings: Settings, database: _Database | None, heir: Executor) -> Spool:
    from tokenbudget_mw.accounting.opening import open_spool, spool_folder

    url = database.engine().url if database is not None and settings.spool != "memory" else None
    folder = spool_folder(settings.spool_dir, url, os.environ)
    return open_spool(
        settings.spool,
        folder,
        queue=settings.queue,
        most_bytes=settings.spool_bytes,
        full=settings.spool_full,
        patience=settings.spool_wait,
        heir=heir,
    )
