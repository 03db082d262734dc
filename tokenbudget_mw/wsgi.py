"""
The middleware for WSGI apps (PEP 3333): settles when the server closes the response, or when its last byte is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from tokenbudget_mw.calls.call import Call, running
from tokenbudget_mw.calls.recounting import recount
from tokenbudget_mw.calls.switched_off import stand_in
from tokenbudget_mw.errors import RefusedError
from tokenbudget_mw.identify import check_threads
from tokenbudget_mw.rules.refusals import decision_of_error
from tokenbudget_mw.rules.routes import is_preflight
from tokenbudget_mw.rules.settlement import Ending, is_timeout
from tokenbudget_mw.values import LazyHeaders, ServedFacts
from tokenbudget_mw.web.bounding import BoundedWSGI
from tokenbudget_mw.web.files import is_file, watch_files
from tokenbudget_mw.web.rejoined import Broken, read_head, watch_rest
from tokenbudget_mw.web.shielding import settle_held
from tokenbudget_mw.web.sized import SizedResponse
from tokenbudget_mw.wiring import wire

if TYPE_CHECKING:
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Facts, Route

__all__ = ["WSGIMiddleware"]

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]
T = TypeVar("T")

BARE = ("CONTENT_TYPE", "CONTENT_LENGTH")
"""Headers that stand in an environment without ``HTTP_`` (PEP 3333, "environ Variables")."""

WHOLE = (list, tuple)
"""What holds a whole body: no code of the app's runs while it is iterated."""

PHRASES = {status.value: status.phrase for status in HTTPStatus}


class WSGIMiddleware:
    """
    Meters and limits a WSGI app: ``app = WSGIMiddleware(app, {...})``.

    Args:
        app: The app.

        settings: The settings, as a dict or checked; or a core that is wired already.

    Raises:
        ConfigurationError: The settings are wrong, or `identify` is a coroutine function.
    """

    def __init__(self, app: WSGIApp, settings: Mapping[str, Any] | Settings | Core | None = None) -> None:
        self.app = app
        self.core = wire(settings)
        check_threads(self.core.identifier)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """
        Pass one request on, metered where a route covers it.
        """
        if not self.core.settings.enabled:
            return self.app(stand_in(self.core, environ), start_response)
        facts = facts_of(environ)
        route = None if is_preflight(facts) else self.core.routes.match(facts.method, facts.path)
        if route is None:
            return self.app(environ, start_response)
        return _Exchange(self, environ, start_response).run(facts, route)


def facts_of(environ: Environ, path: str | None = None) -> Facts:
    """
    Read the facts of a WSGI environment, whose *path* a framework may have decoded.
    """
    port = str(environ.get("SERVER_PORT", ""))  # hypercorn 0.18 gives a number
    if path is None:
        # WSGI paths are bytes in the disguise of latin-1 (PEP 3333, "Unicode issues")
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    return ServedFacts(
        method=environ["REQUEST_METHOD"].upper(),
        path=path or "/",
        headers=EnvironHeaders(environ),
        client=environ.get("REMOTE_ADDR") or None,
        query=environ.get("QUERY_STRING", ""),
        server=(environ.get("SERVER_NAME", ""), int(port) if port.isdecimal() else None),
        raw=environ,
    )


class EnvironHeaders(LazyHeaders):
    """
    The headers of a WSGI environment.
    """

    __slots__ = ("_environ",)

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def first(self, name: str) -> str | None:
        """
        Return the value of header *name* (lower case), or None.
        """
        variable = name.upper().replace("-", "_")
        if variable in BARE:
            return self._environ.get(variable) or None
        value: str | None = self._environ.get(f"HTTP_{variable}")
        return value

    def every(self, name: str) -> Sequence[str]:
        """
        Return the value of header *name* (lower case): servers join those of one that came twice by a comma.
        """
        found = self.first(name)
        return () if found is None else (found,)

    def read(self) -> Iterable[tuple[str, str]]:
        """
        Return all of them.
        """
        for variable, value in self._environ.items():
            if variable.startswith("HTTP_"):
                yield variable[5:].replace("_", "-").lower(), value
        for variable in BARE:
            if self._environ.get(variable):
                yield variable.replace("_", "-").lower(), self._environ[variable]


class _Exchange:
    """
    One metered request, and the iterable of its response.
    """

    _has_answered = False
    _is_cut_off = False

    def __init__(self, middleware: WSGIMiddleware, environ: Environ, start_response: StartResponse) -> None:
        self._app = middleware.app
        self._core = middleware.core
        self._environ = environ
        self._start_response = start_response
        self._left: int | None = None
        self._is_whole = False
        self._failed = self._timed_out = self._is_gone = False
        self._iterable: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None
        self._call: Call

    def run(self, facts: Facts, route: Route) -> Iterable[bytes]:
        self._call = Call(self._core, facts, route)
        try:
            refusal = self._admit()
            if refusal is None:
                return self._in_call(self._answer)
        except BaseException as error:  # a signal's handler may raise between any two steps
            if self._call.held and not self._call.is_ended:
                self._abort(error)
            raise
        return self._refuse(refusal)

    def _in_call(self, work: Callable[[], T]) -> T:
        """
        Do *work* of the app's as this call's. In between the thread runs a host, or a view that asks its own app, for a batch.
        """
        here = running.get()
        running.set(self._call)
        try:
            return work()
        finally:
            running.set(here)

    def _answer(self) -> Iterable[bytes]:
        call = self._call
        watch_files(self._environ)
        try:
            app = self._app if call.route.on_budget_end == "pass" else BoundedWSGI(self._app, call)
            self._iterable = app(self._environ, self.start_response)
            self._has_answered = True
            return self._given()
        except RefusedError as error:
            self._iterator = self._exceed(error)
            return self
        except BaseException as error:
            self._abort(error)
            raise

    def _given(self) -> Iterable[bytes]:
        """
        Return what the server gets: the app's own iterable where a server treats it in a way of its own.
        """
        content = self._iterable
        if type(content) in WHOLE:
            # all of it is here, nothing can break off any more; and servers send a list in one piece
            for chunk in content:
                self._call.feed(chunk)
            return self._complete(content)
        if is_file(self._environ, content):
            return self._complete(content)
        return SizedResponse(self, content, self.close) if isinstance(content, Sized) else self

    def _complete(self, content: Iterable[bytes]) -> Iterable[bytes]:
        self._is_whole = True
        self._end()
        return content

    def _admit(self) -> Refusal | None:
        call, core, body = self._call, self._core, b""
        try:
            call.subject = core.identifier.quick(call.facts) or core.identifier.resolve(call.facts)
            if call.wants_body:
                body, is_whole = read_head(self._environ, core.settings.max_body)
                self._is_cut_off = isinstance(self._environ["wsgi.input"], Broken)
                call.read(body, is_whole)
                if call.form is not None:
                    watch_rest(self._environ["wsgi.input"], call.form.feed)
            decision = core.guard.admit(call.request())
            if not decision.admitted:
                decision = recount(call, body, decision)
        except RefusedError as error:
            return call.refuse(decision_of_error(error))
        if not decision.admitted:
            return call.refuse(decision)
        call.hold(decision)
        return None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """
        Pass the start of the response on, with the limits' headers.
        """
        ours = [(_title(name), value) for name, value in self._call.limit_headers()]
        write = self._start_response(status, [*headers, *ours] if ours else headers, *([exc_info] if exc_info else []))
        # what the server has refused has not begun
        self._respond(status, headers)

        def metered(data: bytes) -> object:
            self._pass(data)
            try:
                return write(data)
            except OSError:
                self._is_gone = True
                raise

        return metered

    def _respond(self, status: str, headers: list[tuple[str, str]]) -> None:
        code = status[:3]
        self._call.respond(
            int(code) if code.isdecimal() else HTTPStatus.INTERNAL_SERVER_ERROR,
            [(name.lower(), value) for name, value in headers],
        )
        length = next((value for name, value in headers if name.lower() == "content-length"), "")
        self._left = int(length) if length.isdecimal() else None

    def __iter__(self) -> Iterator[bytes]:
        if self._iterator is None:
            self._iterator = self._in_call(self._open)
        return self

    def _open(self) -> Iterator[bytes]:
        try:
            return iter(self._iterable)
        except RefusedError as error:
            return self._exceed(error)
        except BaseException as error:
            # the server closes what it could not iterate, and that ends the call
            self._failed, self._timed_out = True, is_timeout(error)
            raise

    def __next__(self) -> bytes:
        return self._in_call(self._next)

    def _next(self) -> bytes:
        iterator = self._iterator
        if iterator is None:
            iterator = self._iterator = self._open()
        try:
            chunk = next(iterator)
        except StopIteration:
            self._is_whole = True
            self._end()
            raise
        except RefusedError as error:
            # a generator runs only now, and may be refused before it began to answer
            iterator = self._iterator = self._exceed(error)
            return next(iterator)
        except BaseException as error:
            self._failed, self._timed_out = True, is_timeout(error)
            raise
        self._pass(chunk)
        return chunk

    def _pass(self, chunk: bytes) -> None:
        self._call.feed(chunk)
        if self._left is not None:
            self._left -= len(chunk)
            if self._left <= 0:
                # the client has its whole response with this chunk and may ask again at once: free its slot first
                self._is_whole = True
                self._end()

    def close(self) -> None:
        """
        End the response, in whatever state it is. Servers call this once, always (PEP 3333); twice is once.
        """
        self._in_call(self._close)

    def _close(self) -> None:
        closing, self._iterable = self._iterable, ()
        try:
            close = getattr(closing, "close", None)
            if close is not None:
                close()
        finally:
            self._end()

    def __del__(self) -> None:
        """
        End a response that nobody closed: a middleware around this one that passes blocks on by ``yield`` drops it.
        """
        if self._has_answered and not self._call.is_ended:
            self.close()

    def _end(self) -> None:
        call = self._call
        if call.is_ended:
            return
        if self._is_cut_off and call.first_byte is None:
            call.prompt = None  # it left before its prompt was there, so no model was asked that
        gone = self._is_gone or (not self._is_whole and not self._failed)
        actual = call.end(
            Ending(
                call.status,
                has_body=call.first_byte is not None,
                is_whole=self._is_whole,
                failed=self._failed,
                client_gone=gone,
                timed_out=self._timed_out,
            )
        )
        settle_held(call, actual)
        if call.unrecorded is not None:
            raise call.unrecorded

    def _abort(self, error: BaseException) -> None:
        self._failed, self._timed_out = True, is_timeout(error)
        self._end()

    def _exceed(self, error: RefusedError) -> Iterator[bytes]:
        call, begun = self._call, self._call.status
        # gunicorn 27 sends the headers of both starts, so one that says how the body reads cannot be taken back
        if call.first_byte is not None or self._left is not None or call.content_encoding:
            self._abort(error)
            raise error
        try:
            refusal = call.exceed(decision_of_error(error))
            # in the place of a start that was not sent yet; of one that was, the server raises it (PEP 3333)
            replaced = None if begun is None else (type(error), error, error.__traceback__)
            body = self._refuse(refusal, replaced)
        except BaseException:
            call.status = begun
            self._abort(error)
            raise
        self._is_whole = True
        self._end()
        return iter(body)

    def _refuse(self, refusal: Refusal, exc_info: Any = None) -> Iterable[bytes]:
        line = f"{refusal.status} {PHRASES.get(refusal.status, 'Refused')}"
        headers = [(_title(name), value) for name, value in refusal.headers]
        self._start_response(line, headers, *([exc_info] if exc_info else []))
        return [b"" if self._call.facts.method == "HEAD" else refusal.body]


def _title(name: str) -> str:
    return {"ratelimit": "RateLimit", "ratelimit-policy": "RateLimit-Policy"}.get(name, name.title())
