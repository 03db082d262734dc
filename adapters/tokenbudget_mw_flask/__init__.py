"""
tokenbudget-mw for Flask.

    budget = TokenBudget()
    budget.init_app(app)          # reads app.config["TOKENBUDGET"]

    @app.get("/search")
    @budget.limit("10/minute")
    def search(): ...
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tokenbudget_mw.calls.call import current, running
from tokenbudget_mw.errors import ConfigurationError, MissingExtraError, RefusedError, refusal_in
from tokenbudget_mw.limiting import EndpointLimit, refusal_of
from tokenbudget_mw.rules.settlement import is_timeout
from tokenbudget_mw.settings.describe import says_nothing
from tokenbudget_mw.settings.reading import kind_of
from tokenbudget_mw.wiring import wire
from tokenbudget_mw.wsgi import WSGIMiddleware, facts_of

try:
    from flask import Flask, Response, current_app, got_request_exception, request, request_started
except ModuleNotFoundError as exc:
    message = "tokenbudget_mw_flask needs 'flask': pip install 'tokenbudget-mw[flask]'"
    raise MissingExtraError(message) from exc

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from tokenbudget_mw.core import Core
    from tokenbudget_mw.settings import Settings

__all__ = ["TokenBudget", "core_of", "current"]

log = logging.getLogger("tokenbudget_mw")

P = ParamSpec("P")
R = TypeVar("R")

EXTENSION = "tokenbudget"


class TokenBudget:
    """
    Meters and limits Flask apps. One object may serve several apps; it keeps none of them.

    Args:
        app: The app, or None to call `init_app` later.

        settings: The settings; by default those in ``app.config["TOKENBUDGET"]``.
    """

    def __init__(self, app: Flask | None = None, settings: Mapping[str, Any] | Settings | Core | None = None) -> None:
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """
        Put the middleware around *app*.

        Raises:
            ConfigurationError: The settings are wrong, or *app* is none or has the middleware already.
        """
        if not isinstance(app, Flask):
            raise ConfigurationError(
                f"TokenBudget(app, settings) and init_app(app) take a Flask app first, not {kind_of(app)}."
            )
        if EXTENSION in app.extensions:
            raise ConfigurationError(
                "This app has a TokenBudget already: with another one every request is charged twice."
            )
        core = wire(self._settings if self._settings is not None else app.config.get("TOKENBUDGET"))
        if self._settings is None and "TOKENBUDGET" not in app.config and says_nothing(core.settings):
            log.warning(
                "app.config has no TOKENBUDGET, so every path asks for an API key, and nothing is limited. Set it before init_app()."
            )
        app.extensions[EXTENSION] = core
        app.wsgi_app = WSGIMiddleware(app.wsgi_app, core)  # type: ignore[method-assign]
        app.register_error_handler(RefusedError, _refuse)
        app.error_handler_spec[None][None].setdefault(ExceptionGroup, _refuse_group)
        request_started.connect(_answer_in_blueprints, app)
        got_request_exception.connect(_note, app)

    def limit(self, *texts: str, name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """
        Limit one view: ``@budget.limit("10/minute")``, below the route's decorator. Async views are limited, too.

        Args:
            texts: Limits, each counted for every key and this view alone.

            name: The view's name in counters; views of one name share them. Its endpoint by default.

        Raises:
            ConfigurationError: A limit makes no sense.
        """
        declared = EndpointLimit.parse(texts, name=name or "")

        def decorate(view: Callable[P, R]) -> Callable[P, R]:
            @functools.wraps(view)
            def limited(*args: P.args, **kwargs: P.kwargs) -> R:
                found = declared if name else declared.named(request.endpoint or view.__name__)
                found.admit(core_of(current_app), facts_of(request.environ))
                result: R = current_app.ensure_sync(view)(*args, **kwargs)
                return result

            return limited

        return decorate

    def change_limits(self, changes: Mapping[str, Any], app: Flask | None = None) -> None:
        """
        Put other limits in the place of those that hold, in this process; what was counted stays.

        Args:
            changes: Any of ``plans``, ``limits``, ``overrides`` and ``default_plan``, as in the settings; each is whole.

            app: Whose limits; the current app's where None.

        Raises:
            ConfigurationError: Something is wrong. Then nothing has changed.
        """
        core_of(app or current_app).change_limits(changes)


def core_of(app: Flask) -> Core:
    """
    Return the core of an app that `TokenBudget.init_app` has been called with.

    Raises:
        ConfigurationError: It has not.
    """
    core: Core | None = app.extensions.get(EXTENSION)
    if core is None:
        raise ConfigurationError(
            f"The app {app.name!r} has no TokenBudget. Call `budget.init_app(app)` when it is made."
        )
    return core


def _refuse(error: RefusedError) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body, refusal.status, refusal.headers)


def _answer_in_blueprints(app: Flask, **_: object) -> None:
    """
    Keep refusals from a blueprint's handler of all exceptions: Flask asks it before the app's handler of refusals.
    """
    for name in request.blueprints:
        handlers = app.error_handler_spec[name][None]
        if Exception in handlers:
            handlers.setdefault(RefusedError, _refuse_as_the_app)


def _refuse_as_the_app(error: RefusedError) -> ResponseReturnValue:
    handlers = current_app.error_handler_spec[None][None]
    handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    answer: ResponseReturnValue = current_app.ensure_sync(handler)(error)
    return answer


def _refuse_group(error: ExceptionGroup) -> ResponseReturnValue:
    """
    Answer a refusal that ended a task group as if it had come alone, and any other group as if this handler were not there.
    """
    refused = refusal_in(error)
    if refused is not None:
        return current_app.handle_user_exception(refused)
    handler = current_app.error_handler_spec[None][None].get(Exception)
    if handler is None:
        raise error
    answer: ResponseReturnValue = current_app.ensure_sync(handler)(error)
    return answer


def _note(app: Flask, exception: BaseException, **_: object) -> None:
    """
    Hear of an exception that nobody handles: Flask makes a response of it, which no longer says what it was.
    """
    del app
    if isinstance(exception, RefusedError):
        # Flask-RESTX and Flask-RESTful would make a 500 of it; what is raised here they leave to the app's handlers
        raise exception
    call = running.get()
    if call is not None:
        call.timed_out = is_timeout(exception)
