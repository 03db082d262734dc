"""
Streams that end where the budget does (a route's ``on_budget_end``): held tokens that have passed are asked for anew, and a
stream that gets none is ended in its own format. Stands between app and middleware, in ASGI, WSGI and Django.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    MutableMapping,
)
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tokenbudget_mw.calls.recording import new_id
from tokenbudget_mw.rules.admission import METERED_UNITS, Request
from tokenbudget_mw.rules.pricing import estimate, moment_of
from tokenbudget_mw.tapping.bounded import FOREVER
from tokenbudget_mw.tapping.ending import open_endable
from tokenbudget_mw.values import NOTHING, Cost, Prompt, Reservation, TokenCount, Usage
from tokenbudget_mw.web.files import is_file

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.tapping.ending import Endable
    from tokenbudget_mw.values import Decision

__all__ = ["BoundedApp", "BoundedWSGI", "abound", "bound"]

LEAST = 32
"""Output tokens below which it is not worth asking."""

MOST_ASKED = 64
"""Most reservations of one stream. Each asks for twice the tokens of the one before, so more are a budget that drips."""

FIRST_ERROR = 400

Message = MutableMapping[str, Any]
Asked = Request | Reservation
"""A question to the limits, or what one of them has granted and gets back: the answer to that is nothing."""

Asking = Generator[Asked, Any, bytes]


class StreamEndedError(OSError):
    """
    The stream has been ended, and the app sends on: what a server raises where the client has gone (ASGI, "send").
    """


class _Bounds:
    """
    The bounds of one call's stream.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._stream: Endable | None = None
        self._step = call.core.settings.output_reserve or LEAST
        self._has_begun = False
        self.is_cut = False

    @property
    def passes_all(self) -> bool:
        """
        Whether the response has begun, and can be no stream that ends.
        """
        return self._has_begun and self._stream is None

    def begin(self, *, has_length: bool) -> None:
        """
        Take the start of the response, when the call has; one of a known length cannot be cut.
        """
        call, self._has_begun = self._call, True
        prompt = call.prompt
        is_answer = call.status is not None and call.status < FIRST_ERROR
        if has_length or prompt is None or not is_answer or not call.held:
            return
        self._stream = open_endable(
            call.route.format or "",
            content_type=call.content_type or "",
            content_encoding=call.content_encoding,
            count_text=lambda text: call.core.meter.count(text, prompt.model).estimate,
            allowed=call.held[0].cost.output_tokens,
        )

    def take(self, chunk: bytes) -> Asking:
        """
        Return what goes out in the place of *chunk*; asks for more tokens on the way.
        """
        stream = self._stream
        if stream is None:
            return chunk
        passing, rest = stream.split(chunk if type(chunk) is bytes else b"".join((chunk,)))
        while rest:
            refusal = yield from self._extend(stream)
            if refusal is not None:
                return self._cut(stream, passing, refusal)
            more, rest = stream.split(rest)
            passing += more
        return passing

    def _extend(self, stream: Endable) -> Generator[Asked, Any, Decision | None]:
        call = self._call
        while True:
            before = len(call.extensions)
            refusal = yield from self._ask(self._step)
            if refusal is None:
                # nothing limits it any more, or nobody can say: a stream ends because its budget does, for nothing else
                stream.allow(self._step if len(call.extensions) > before else FOREVER)
                self._step *= 2
                return None
            if self._step <= LEAST or before >= MOST_ASKED:
                return refusal
            self._step //= 2

    def _ask(self, tokens: int) -> Generator[Asked, Any, Decision | None]:
        """
        Ask for *tokens* more, and return the refusal: of all limits that the call has met, those on single endpoints apart. If one
        says no, none is charged.
        """
        call, granted = self._call, list[Reservation]()
        for request in self._requests(tokens):
            decision: Decision = yield request
            if decision.reservation is not None:
                granted.append(decision.reservation)
                call.extensions = (*call.extensions, decision.reservation)
                call.core.heartbeat.hold(decision.reservation)
            elif not decision.admitted and decision.code != "backend":
                for reservation in granted:
                    call.core.heartbeat.drop(reservation)
                    yield reservation
                call.extensions = tuple([each for each in call.extensions if each not in granted])
                return decision
        return None

    def _requests(self, tokens: int) -> Iterator[Request]:
        call = self._call
        now = call.core.clock()
        most = self._cost(tokens)
        yield Request(new_id(now), call.payer, call.route, call.model_name, most, most, METERED_UNITS)
        for route, limits, _ in call.endpoints:
            if any(limit.unit in METERED_UNITS for limit in limits):
                yield Request(new_id(now), call.payer, route, call.model_name, most, most, METERED_UNITS, limits)

    def _cost(self, tokens: int) -> Cost:
        # at the price that it will be charged; a long prompt and a tier have prices of their own for output, too
        call, prompt = self._call, self._call.prompt or Prompt(None, TokenCount(0, 0))
        moment = moment_of(call.payer, call.prompt, call.started_at)
        money = [
            estimate(call.core.tariffs, replace(prompt, max_output=most), moment, output_reserve=0)[0].money_nano
            for most in (0, tokens)
        ]
        return Cost(output_tokens=tokens, money_nano=money[1] - money[0])

    def _cut(self, stream: Endable, passing: bytes, refusal: Decision) -> bytes:
        call = self._call
        self.is_cut = True
        passing += stream.flush()
        call.feed(passing)
        call.ended_by = refusal
        if call.tap is not None:
            call.tap = _Read(call.tap.usage())
        return passing + (stream.fail(refusal.message) if call.route.on_budget_end == "error" else stream.finish())

    def pass_on(self, chunk: bytes) -> bytes:
        """
        Drive `take` in a thread.
        """
        asking, core = self.take(chunk), self._call.core
        try:
            asked = next(asking)
            while True:
                if isinstance(asked, Request):
                    asked = asking.send(core.guard.admit(asked))
                else:
                    core.guard.settle(asked, NOTHING)
                    asked = next(asking)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]

    async def apass_on(self, chunk: bytes) -> bytes:
        """
        Drive `take` on an event loop.
        """
        asking, core = self.take(chunk), self._call.core
        try:
            asked = next(asking)
            while True:
                if isinstance(asked, Request):
                    asked = asking.send(await core.async_guard.admit(asked))
                else:
                    await core.async_guard.settle(asked, NOTHING)
                    asked = next(asking)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]


class _Read:
    """
    A tap that has read all that counts: what is put behind the answer is not the provider's.
    """

    def __init__(self, usage: Usage) -> None:
        self._usage = replace(usage, complete=False)

    def feed(self, chunk: bytes) -> None:
        """
        Read nothing.
        """

    def usage(self) -> Usage:
        """
        Return what was read.
        """
        return self._usage


# -- ASGI --------------------------------------------------------------------------------------------------------------


class BoundedApp:
    """
    An ASGI app whose stream is bounded.

    Once its stream is ended, the app is told that the client has gone, as a server tells it.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], call: Call) -> None:
        self._app = app
        self._bounds = _Bounds(call)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """
        Run the app.
        """
        bounds, has_trailers = self._bounds, False

        async def bounded_receive() -> Message:
            return {"type": "http.disconnect"} if bounds.is_cut else await receive()

        async def bounded_send(message: Message) -> None:
            nonlocal has_trailers
            if bounds.is_cut:
                raise StreamEndedError
            if message["type"] == "http.response.body" and (chunk := message.get("body")):
                passing = await bounds.apass_on(chunk)
                is_cut = self._bounds.is_cut
                more = message.get("more_body", False) and not is_cut
                await send({**message, "body": passing, "more_body": more})
                if is_cut:
                    if has_trailers:  # a server waits for those that are announced
                        await send({"type": "http.response.trailers", "headers": [], "more_trailers": False})
                    raise StreamEndedError
                return
            if message["type"] == "http.response.start":
                has_trailers = message.get("trailers", False)
                given = message.get("headers", ())
                if not isinstance(given, list | tuple):  # it can be read once
                    given = list(given)
                    message = {**message, "headers": given}
                await send(message)
                bounds.begin(has_length=any(name.lower() == b"content-length" for name, _ in given))
                return
            await send(message)

        try:
            await self._app(scope, bounded_receive, bounded_send)
        except Exception as error:
            if not _is_ours(error):
                raise


def _is_ours(error: BaseException) -> bool:
    """
    Tell whether *error* is, or comes of, the end of the stream; frameworks make an error of their own of it.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, StreamEndedError):
            return True
        if isinstance(seen, BaseExceptionGroup):
            return all(map(_is_ours, seen.exceptions))
        seen = seen.__cause__ or seen.__context__
    return False


# -- WSGI and Django ---------------------------------------------------------------------------------------------------


class BoundedWSGI:
    """
    A WSGI app whose stream is bounded, what it gives to ``write()`` too: that raises where the stream has been ended.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], call: Call) -> None:
        self._app = app
        self._bounds = _Bounds(call)

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """
        Run the app.
        """
        bounds = self._bounds

        def bounded_start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            write = start_response(status, headers, *exc_info)
            bounds.begin(has_length=any(name.lower() == "content-length" for name, _ in headers))

            def bounded_write(data: bytes) -> object:
                if bounds.is_cut:
                    raise StreamEndedError
                written = write(bounds.pass_on(data))
                if bounds.is_cut:
                    raise StreamEndedError
                return written

            return bounded_write

        try:
            content = self._app(environ, bounded_start)
        except Exception as error:
            if not _is_ours(error):
                raise
            content = ()
        if bounds.passes_all or is_file(environ, content):
            return content  # servers look at what it is
        return _Bounded(content, bounds)


class _Bounded:
    """
    A bounded iterable. The end of the stream closes the app's own, so that nothing more is generated.
    """

    def __init__(self, content: Iterable[bytes], bounds: _Bounds) -> None:
        self._content = content
        self._iterator = iter(content)
        self._bounds = bounds

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._bounds.is_cut:
            self._iterator = iter(())  # `write()` has ended it
        passing = self._bounds.pass_on(next(self._iterator))
        if self._bounds.is_cut:
            self._iterator = iter(())
            self.close()
        return passing

    def close(self) -> None:
        """
        Close what is bounded, once.
        """
        content, self._content = self._content, ()
        close = getattr(content, "close", None)
        if close is not None:
            close()


def bound(call: Call, content: Iterable[bytes], *, has_length: bool) -> Iterable[bytes]:
    """
    Return *content*, the stream of a response that has begun, bounded.
    """
    bounds = _Bounds(call)
    bounds.begin(has_length=has_length)
    return _Bounded(content, bounds)


async def abound(call: Call, content: AsyncIterable[bytes], *, has_length: bool) -> AsyncIterator[bytes]:
    """
    Return *content*, the stream of a response that has begun, bounded, on an event loop.
    """
    bounds = _Bounds(call)
    bounds.begin(has_length=has_length)
    try:
        async for chunk in content:
            yield await bounds.apass_on(chunk)
            if bounds.is_cut:
                return
    finally:
        close = getattr(content, "aclose", None)
        if close is not None:
            await close()
