"""
tokenbudget-mw for FastAPI and Starlette.

    budget = TokenBudget(app, {...})

    @app.get("/search", dependencies=[Depends(budget.limit("10/minute"))])
    async def search(): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeAlias

from tokenbudget_mw.asgi import ASGIMiddleware, facts_of
from tokenbudget_mw.calls.call import current
from tokenbudget_mw.errors import ConfigurationError, MissingExtraError, RefusedError, refusal_in
from tokenbudget_mw.limiting import EndpointLimit, refusal_of
from tokenbudget_mw.rules.refusals import decision_of_error
from tokenbudget_mw.settings.reading import kind_of
from tokenbudget_mw.web.websocket import close_of
from tokenbudget_mw.wiring import wire
from tokenbudget_mw_fastapi.responses import RESPONSES

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import HTTPConnection
    from starlette.responses import Response
    from starlette.websockets import WebSocket, WebSocketState
except ModuleNotFoundError as exc:
    message = "tokenbudget_mw_fastapi needs 'starlette': pip install 'tokenbudget-mw[fastapi]'"
    raise MissingExtraError(message) from exc

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Scope

    from tokenbudget_mw.core import Core
    from tokenbudget_mw.settings import Settings

__all__ = ["RESPONSES", "TokenBudget", "current"]

EXTENSION = "websocket.http.response"
"""The ASGI extension by which a server can answer a websocket that is not accepted with a response."""

Dependency: TypeAlias = Callable[[HTTPConnection], Awaitable[None]]


class TokenBudget:
    """
    Meters and limits a FastAPI or Starlette app.

    Args:
        app: The app. It is asked nothing more than to add a middleware and exception handlers.

        settings: The settings, as a dict or checked.

    Raises:
        ConfigurationError: The settings are wrong, or *app* is none or has the middleware already.

    Attributes:
        core: Every part, plugged together.
    """

    def __init__(self, app: Starlette, settings: Mapping[str, Any] | Settings | Core | None = None) -> None:
        if not isinstance(app, Starlette):
            raise ConfigurationError(
                f"TokenBudget(app, settings) takes a FastAPI or Starlette app first, not {kind_of(app)}. Other ASGI apps take "
                "`ASGIMiddleware`."
            )
        if any(getattr(each.cls, "__func__", each.cls) in _OURS for each in app.user_middleware):
            raise ConfigurationError(
                "This app has a TokenBudget already: with another one every request is charged twice."
            )
        self.core = wire(settings)
        self._mounted: dict[Starlette, str] = {}
        app.add_middleware(self._middleware, outer=app)
        app.add_exception_handler(RefusedError, _refuse)
        app.exception_handlers.setdefault(ExceptionGroup, _refuse_group)

    def limit(self, *texts: str, name: str | None = None) -> Dependency:
        """
        Return a dependency that limits one endpoint: ``Depends(budget.limit("10/minute"))``.

        Args:
            texts: Limits, each counted for every key and this endpoint alone.

            name: The endpoint's name in counters; endpoints of one name share them. Its methods and path by default.

        Raises:
            ConfigurationError: A limit makes no sense.
        """
        declared = EndpointLimit.parse(texts, name=name or "")
        core, mounted = self.core, self._mounted

        async def limited(connection: HTTPConnection) -> None:
            scope = connection.scope
            found = declared if name else declared.named(_name_of(scope, mounted.get(scope["app"], "")))
            await found.aadmit(core, facts_of(connection.scope))

        return limited

    def change_limits(self, changes: Mapping[str, Any]) -> None:
        """
        Put other limits in the place of those that hold, in this process; what was counted stays.

        Args:
            changes: Any of ``plans``, ``limits``, ``overrides`` and ``default_plan``, as in the settings; each is whole.

        Raises:
            ConfigurationError: Something is wrong. Then nothing has changed.
        """
        self.core.change_limits(changes)

    def _middleware(self, app: ASGIApp, *, outer: Starlette) -> ASGIMiddleware:
        """
        Make the middleware, as *outer* asks for it with its first message: what it mounts is there by then, or when it has begun.
        """
        self._meet(outer)
        begin = outer.router.lifespan_context

        @asynccontextmanager
        async def lifespan(started: Starlette) -> AsyncIterator[Any]:
            async with begin(started) as state:
                self._meet(outer)
                yield state

        outer.router.lifespan_context = lifespan
        return ASGIMiddleware(app, self.core)

    def _meet(self, outer: Starlette) -> None:
        """
        Let the apps that *outer* mounts answer refusals as it does.
        """
        waiting: list[tuple[str, Any]] = [("", route) for route in outer.routes]
        while waiting:
            prefix, route = waiting.pop()
            inner, path = _inner_of(route), prefix + getattr(route, "path", "")
            if isinstance(inner, Starlette):
                if inner in self._mounted:
                    continue
                self._mounted[inner] = path
                # it makes a 500 of what it has no handler for, before anybody around it hears of that
                inner.exception_handlers.setdefault(RefusedError, _refuse)
                inner.exception_handlers.setdefault(ExceptionGroup, _refuse_group)
            waiting += [(path, route) for route in getattr(inner, "routes", ())]
            # FastAPI keeps an included router as it is, beside its routes as they are included
            included: Iterable[Any] = getattr(route, "effective_route_contexts", tuple)()
            waiting += [(prefix, each.starlette_route) for each in included if each.starlette_route is not None]


_OURS = (TokenBudget._middleware, ASGIMiddleware)  # noqa: SLF001 - its own


def _inner_of(route: Any) -> Any:
    """
    Return the app that *route* leads to, out of the middleware around it.
    """
    inner: Any = getattr(route, "app", None)
    while not hasattr(inner, "routes") and hasattr(inner, "app"):
        inner = inner.app
    return inner


def _name_of(scope: Scope, prefix: str) -> str:
    """
    Return the methods and the path template of the endpoint that *scope* has led to, in an app that is mounted at *prefix*.
    """
    route = endpoint = scope.get("route")
    included = scope.get("fastapi", {}).get("effective_route_context")
    if included is not None and included.original_route is route:
        route = included  # the same, with the prefix under which its router was included
    path = prefix + (getattr(route, "path", None) or scope["path"])
    methods = getattr(endpoint, "methods", None)  # websockets have none
    return f"{','.join(sorted(methods))} {path}" if methods else path


async def _refuse(connection: Any, error: Exception) -> Any:
    # Starlette calls one handler for requests and websockets; its types know handlers of either
    if not isinstance(error, RefusedError):
        raise error
    refusal = refusal_of(error)
    is_head = connection.scope.get("method") == "HEAD"
    response = Response(b"" if is_head else refusal.body, refusal.status, dict(refusal.headers))
    if not isinstance(connection, WebSocket):
        return response
    if connection.application_state is WebSocketState.CONNECTING and EXTENSION in connection.scope.get(
        "extensions", {}
    ):
        await connection.send_denial_response(response)
    else:
        closing = close_of(decision_of_error(error).message)
        await connection.close(closing["code"], closing["reason"])
    return None


async def _refuse_group(connection: Any, error: Exception) -> Any:
    """
    Answer a refusal that ended a task group as the app answers one that comes alone.
    """
    refused = refusal_in(error)
    if refused is None:
        raise error
    handlers = connection.app.exception_handlers
    handler = next((handlers[kind] for kind in type(refused).__mro__ if kind in handlers), _refuse)
    if iscoroutinefunction(handler):
        return await handler(connection, refused)
    return await run_in_threadpool(handler, connection, refused)
