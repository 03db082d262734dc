"""
The middleware, sync and async in one class.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpResponse

from tokenbudget_mw.calls.call import Call, running
from tokenbudget_mw.calls.contexts import forget_ended
from tokenbudget_mw.calls.recounting import arecount, recount
from tokenbudget_mw.calls.refusing import EXPOSE
from tokenbudget_mw.calls.switched_off import stand_in
from tokenbudget_mw.errors import RefusedError, refusal_in
from tokenbudget_mw.identify import check_threads
from tokenbudget_mw.limiting import refusal_of
from tokenbudget_mw.rules.refusals import decision_of_error
from tokenbudget_mw.rules.routes import is_preflight
from tokenbudget_mw.rules.settlement import Ending, is_timeout
from tokenbudget_mw.web.bounding import abound, bound
from tokenbudget_mw.web.shielding import asettle_held, settle_held
from tokenbudget_mw.wsgi import facts_of
from tokenbudget_mw_django.bodies import read_head, watch
from tokenbudget_mw_django.conf import core
from tokenbudget_mw_django.streams import AsyncStream, CollectedStream, Stream

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.values import Cost

__all__ = ["TokenBudgetMiddleware"]

GetResponse = Callable[["HttpRequest"], Any]


class TokenBudgetMiddleware:
    """
    Meters and limits a Django project: ``MIDDLEWARE.insert(0, "tokenbudget_mw_django.TokenBudgetMiddleware")``.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        wired = core()  # so that wrong settings end the start, and workers that are forked from it share the tokenizer
        if not self._is_async:
            check_threads(wired.identifier)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """
        Pass one request on, metered where a route covers it.
        """
        exchange = _open(request, is_async=self._is_async)
        if self._is_async:
            return self.get_response(request) if exchange is None else self.__acall__(request, exchange)
        if exchange is None:
            return self.get_response(request)  # type: ignore[no-any-return]
        try:
            refused = exchange.admit()
            if refused is not None:
                return refused
            before = exchange.enter()
            try:
                return exchange.pass_on(self.get_response(request))
            except BaseException:
                # Django makes responses of exceptions; what comes through ends the worker, or is a response without a body
                exchange.end(failed=True)
                raise
            finally:
                exchange.leave(before)
        except BaseException:  # a signal's handler may raise between any two steps
            if exchange.call.held:
                exchange.break_off()
            raise

    async def __acall__(self, request: HttpRequest, exchange: _Exchange) -> HttpResponseBase:
        """
        Pass one metered request on, on an event loop.
        """
        refused = await exchange.aadmit()
        if refused is not None:
            return refused
        before = exchange.enter()
        try:
            return await exchange.apass_on(await self.get_response(request))
        except asyncio.CancelledError:
            await exchange.aend(client_gone=True)
            raise
        except BaseException:
            await exchange.aend(failed=True)
            raise
        finally:
            exchange.leave(before, may_stay=True)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """
        Turn a refused reservation into its response; every other error stays what it is.
        """
        refused = refusal_in(error)
        if refused is not None:
            return _response_of(refusal_of(refused), request)
        call = running.get()
        if call is not None:
            call.timed_out = is_timeout(error)  # Django makes a response of it, which no longer says what it was
        return None


def _open(request: HttpRequest, *, is_async: bool) -> _Exchange | None:
    wired = core()
    if not wired.settings.enabled:
        stand_in(wired, request.META, is_alone=is_async)
        return None
    forget_ended()
    facts = facts_of(request.META, request.path_info)
    route = None if is_preflight(facts) else wired.routes.match(facts.method, facts.path)
    return None if route is None else _Exchange(request, Call(wired, facts, route))


class _Exchange:
    """
    One metered request of Django's.
    """

    def __init__(self, request: HttpRequest, call: Call) -> None:
        self._request = request
        self.call = call
        # taken by whoever ends the call: a thread that closes a stream, or the loop that runs its generator
        self._end_of_call = threading.Lock()

    # -- before the view -------------------------------------------------------------------------------------------

    def admit(self) -> HttpResponse | None:
        call = self.call
        try:
            identifier = call.core.identifier
            call.subject = identifier.quick(call.facts) or identifier.resolve(call.facts)
            body = self._read()
            decision = call.core.guard.admit(call.request())
            if not decision.admitted:
                decision = recount(call, body, decision)
        except RefusedError as error:
            decision = decision_of_error(error)
        if not decision.admitted:
            return _response_of(call.refuse(decision), self._request)
        call.hold(decision)
        return None

    async def aadmit(self) -> HttpResponse | None:
        call = self.call
        try:
            identifier = call.core.identifier
            call.subject = identifier.quick(call.facts) or await identifier.aresolve(call.facts)
            body = self._read()
            decision = await call.core.async_guard.admit(call.request())
            if not decision.admitted:
                decision = await arecount(call, body, decision)
        except RefusedError as error:
            decision = decision_of_error(error)
        if not decision.admitted:
            return _response_of(call.refuse(decision), self._request)
        call.hold(decision)
        return None

    def _read(self) -> bytes:
        if not self.call.wants_body:
            return b""
        call = self.call
        body, is_whole = read_head(self._request, call.core.settings.max_body)
        call.read(body, is_whole)
        if call.form is not None:
            watch(self._request, len(body), call.form.feed)
        return body

    # -- after the view --------------------------------------------------------------------------------------------

    def pass_on(self, response: HttpResponseBase) -> HttpResponseBase:
        self._start(response)
        if self._is_file(response):
            # a server may send it by itself, which it does only while it is as it came
            self.end(is_whole=True)
            return response
        if response.streaming:
            (CollectedStream if response.is_async else Stream).put(self, response)  # type: ignore[attr-defined]
            return response
        self._feed_whole(response)
        self.end(is_whole=True)
        return response

    async def apass_on(self, response: HttpResponseBase) -> HttpResponseBase:
        if response.streaming and not response.is_async:  # type: ignore[attr-defined]
            return self.pass_on(response)
        self._start(response)
        if response.streaming:
            AsyncStream.put(self, response)
            return response
        self._feed_whole(response)
        await self.aend(is_whole=True)
        return response

    def bind(self, response: Any) -> None:
        if self.call.route.on_budget_end != "pass":
            binding: Callable[..., Any] = abound if response.is_async else bound
            content = binding(self.call, response.streaming_content, has_length="Content-Length" in response)
            response.streaming_content = content

    def _start(self, response: HttpResponseBase) -> None:
        self.call.respond(response.status_code, [(name.lower(), value) for name, value in response.items()])
        for name, value in self.call.limit_headers():
            response[name] = f"{response[name]}, {value}" if name == EXPOSE and name in response else value

    def _is_file(self, response: HttpResponseBase) -> bool:
        is_sent = "wsgi.file_wrapper" in self._request.META and getattr(response, "file_to_stream", None) is not None
        return is_sent and self.call.route.format is None

    def _feed_whole(self, response: HttpResponseBase) -> None:
        self.call.feed(response.content)  # type: ignore[attr-defined]

    def enter(self) -> Call | None:
        """
        Let the call run here, and return the one that ran here before.
        """
        before = running.get()
        running.set(self.call)
        return before

    def leave(self, before: Call | None, *, may_stay: bool = False) -> None:
        """
        Give the context back to the call that ran here *before*, whose view has asked its own project, as for a batch; without
        such a one to nobody.

        Args:
            before: That call.

            may_stay: Whether this call stays until its end without such a one: in the context of a task, which is this request's
                alone and may close what the view has made. A thread goes on with others.
        """
        is_there = before is not None and not before.is_ended
        if is_there or not may_stay:
            running.set(before if is_there else None)

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self, **ending: bool) -> None:
        call, is_first = self.call, self._end_of_call.acquire(blocking=False)
        if is_first:
            settle_held(call, self._actual(**ending))
        if running.get() is call:
            running.set(None)
        if is_first and call.unrecorded is not None:
            raise call.unrecorded

    def break_off(self) -> None:
        for reservation in self.call.held:  # first: nobody ends what was interrupted as it began to end
            self.call.core.heartbeat.drop(reservation)
        self.end(failed=True)

    async def aend(self, **ending: bool) -> None:
        call = self.call
        if not self._end_of_call.acquire(blocking=False):
            return
        await asettle_held(call, self._actual(**ending))
        if call.unrecorded is not None:
            raise call.unrecorded

    def _actual(self, **ending: bool) -> Cost:
        return self.call.end(Ending(self.call.status, has_body=self.call.first_byte is not None, **ending))


def _response_of(refusal: Refusal, request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        b"" if request.method == "HEAD" else refusal.body, status=refusal.status, headers=dict(refusal.headers)
    )
