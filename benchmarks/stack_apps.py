"""
One small app a framework, bare, behind our middleware, and behind the framework's usual limiter: three limits a key.

Peers are set up as their documentation says, with the fastest strategy they have; none of the limits is ever reached.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from typing import Any

__all__ = ["ASGI", "BEST_PEER", "OURS", "REDIS_VARIABLE", "build"]

ASGI = frozenset({"starlette", "fastapi"})
BEST_PEER = {
    "starlette": "limits.aio, fixed windows",
    "fastapi": "fastapi-limiter",
    "flask": "Flask-Limiter",
    "django": "django-ratelimit",
}
REDIS_VARIABLE = "TOKENBUDGET_BENCHMARK_REDIS"
"""Environment variable with the URL that the variant ``redis`` uses."""

OURS = {"ours": "memory://", "books": "memory://", "redis": "", "leased": "leased+"}
"""
Our variants, and what the URL of Redis is preceded by, or the backend's own URL: limits alone in memory, the same with a
usage row for each request, limits alone on Redis, and on quota leased from it.
"""

HELLO = {"hello": "world"}
LIMITS = ["1000M requests/minute", "1000M requests/hour", "1000M requests/day"]
PEERS = ["1000000000/minute", "1000000000/hour", "1000000000/day"]
KEY = "x-key"


def build(framework: str, variant: str) -> Any:
    """
    Return the app of *framework*: *variant* is ``bare``, ``peer`` or one of `OURS`.
    """
    return _BUILDERS[framework](variant)


def _core(variant: str) -> Any:
    from tokenbudget_mw.accounting.sinks import NullSink
    from tokenbudget_mw.values import Subject
    from tokenbudget_mw.wiring import wire

    settings = {
        "backend": OURS[variant] if "://" in OURS[variant] else OURS[variant] + os.environ[REDIS_VARIABLE],
        "identify": lambda facts: Subject(key=facts.header(KEY)),
        "plans": {"pro": LIMITS},
        "default_plan": "pro",
        "record_requests": variant == "books",
        "deadline": 5.0,  # a loaded machine must not make the path that is measured another one
    }
    return wire(settings, sink=NullSink())


# -- Starlette --------------------------------------------------------------------------------------------------------


def _starlette(variant: str) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def hello(_request: Request) -> JSONResponse:
        return JSONResponse(HELLO)

    app = Starlette(routes=[Route("/hello", hello)])
    if variant in OURS:
        from tokenbudget_mw_fastapi import TokenBudget

        TokenBudget(app, _core(variant))
    elif variant == "peer":
        app.add_middleware(_LimitsGate)
    return app


class _LimitsGate:
    """
    The least that makes an ASGI middleware of the `limits` package, which brings none.
    """

    def __init__(self, app: Any) -> None:
        from limits import parse_many
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import FixedWindowRateLimiter

        self._app = app
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._items = parse_many(";".join(PEERS))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            key = next((value for name, value in scope["headers"] if name == KEY.encode()), b"").decode()
            for item in self._items:
                if not await self._limiter.hit(item, key):
                    await send({"type": "http.response.start", "status": 429, "headers": []})
                    await send({"type": "http.response.body", "body": b""})
                    return
        await self._app(scope, receive, send)


# -- FastAPI ----------------------------------------------------------------------------------------------------------


def _fastapi(variant: str) -> Any:
    from fastapi import Depends, FastAPI

    dependencies = [Depends(_fastapi_limiter())] if variant == "peer" else []
    app = FastAPI()

    @app.get("/hello", dependencies=dependencies)
    async def hello() -> dict[str, str]:
        return HELLO

    if variant in OURS:
        from tokenbudget_mw_fastapi import TokenBudget

        TokenBudget(app, _core(variant))
    return app


def _fastapi_limiter() -> Any:
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import BucketFactory, InMemoryBucket, Limiter, MonotonicClock, Rate, RateItem
    from starlette.requests import Request

    rates = [Rate(1_000_000_000 + at, window) for at, window in enumerate((60_000, 3_600_000, 86_400_000))]

    class BucketAKey(BucketFactory):  # without it, all keys would share one limit
        def __init__(self) -> None:
            self._clock = MonotonicClock()
            self._buckets: dict[str, InMemoryBucket] = {}

        def wrap_item(self, name: str, weight: int = 1) -> RateItem:
            return RateItem(name, self._clock.now(), weight=weight)

        def get(self, item: RateItem) -> InMemoryBucket:
            if item.name not in self._buckets:
                self._buckets[item.name] = InMemoryBucket(rates)
            return self._buckets[item.name]

    async def identify(request: Request) -> str:
        return request.headers[KEY]

    # FastAPI resolves the annotations of `__call__` by itself: the object is the dependency
    return RateLimiter(Limiter(BucketAKey()), identifier=identify)


# -- Flask ------------------------------------------------------------------------------------------------------------


def _flask(variant: str) -> Any:
    from flask import Flask, jsonify, request

    app = Flask("benchmark")

    @app.get("/hello")
    def hello() -> Any:
        return jsonify(HELLO)

    if variant in OURS:
        from tokenbudget_mw_flask import TokenBudget

        TokenBudget(app, _core(variant))
    elif variant == "peer":
        from flask_limiter import Limiter

        Limiter(lambda: request.headers[KEY], app=app, default_limits=[*PEERS], storage_uri="memory://")
    return app


# -- Django -----------------------------------------------------------------------------------------------------------


def _django(variant: str) -> Any:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, JsonResponse
    from django.urls import path

    def hello(_request: HttpRequest) -> JsonResponse:
        return JsonResponse(HELLO)

    urls = types.ModuleType("benchmark_urls")
    sys.modules["benchmark_urls"] = urls
    common = "django.middleware.common.CommonMiddleware"  # which every project has: it sets Content-Length
    cache = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 100_000}}
    settings.configure(
        ROOT_URLCONF="benchmark_urls",
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="a benchmark's",
        CACHES={"default": cache},
        MIDDLEWARE=[*(["tokenbudget_mw_django.TokenBudgetMiddleware"] if variant in OURS else []), common],
    )
    view: Callable[..., Any] = hello
    if variant == "peer":
        from django_ratelimit.decorators import ratelimit

        for rate in ("1000000000/m", "1000000000/h", "1000000000/d"):
            view = ratelimit(key=f"header:{KEY}", rate=rate)(view)
    urls.urlpatterns = [path("hello", view)]
    django.setup()
    if variant in OURS:
        from tokenbudget_mw_django import conf

        # the sink that keeps nothing has no name in the settings, as the others use it here, too
        conf._cores["core"] = _core(variant)
    return get_wsgi_application()


_BUILDERS = {"starlette": _starlette, "fastapi": _fastapi, "flask": _flask, "django": _django}
