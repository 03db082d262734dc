"""
Streams of metered responses, on their way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.rules.settlement import is_timeout

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw_django.middleware import _Exchange

__all__ = ["AsyncStream", "CollectedStream", "Stream"]


class _Closing:
    """
    A stream on its way out. Django closes it in the end, in whatever state it is; but not where another middleware answers
    in its place, or fails: then the garbage collector ends it.
    """

    _before: Call | None = None

    def __init__(self, exchange: _Exchange, response: Any) -> None:
        # bound before the response's own is replaced
        self._content = response.streaming_content
        self._exchange = exchange

    @classmethod
    def put(cls, exchange: _Exchange, response: Any) -> None:
        """
        Put one in the place of the *response*'s own stream, which Django closes in the call then.
        """
        exchange.bind(response)
        stream = response.streaming_content = cls(exchange, response)
        response._resource_closers.insert(0, stream.open)  # noqa: SLF001 - there is no other way to be the first

    def open(self) -> None:
        """
        Let the call run while what the view has made is closed.
        """
        self._before = self._exchange.enter()

    def __del__(self) -> None:
        call = self._exchange.call
        if not call.is_ended:
            # in a context of its own: this thread may be in the middle of another call
            call.core.off_loop(partial(copy_context().run, partial(self._exchange.end, client_gone=True)))

    def close(self) -> None:
        """
        End the stream where it stands; nothing happens where it has ended.
        """
        self._exchange.end(client_gone=True)
        self._exchange.leave(self._before)

    def _end_by(self, error: BaseException) -> None:
        is_whole = isinstance(error, StopIteration | StopAsyncIteration)
        self._exchange.end(is_whole=is_whole, failed=not is_whole, timed_out=is_timeout(error))


class Stream(_Closing):
    """
    A sync stream.
    """

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        before = self._exchange.enter()
        try:
            chunk: bytes = next(self._content)
        except BaseException as error:
            self._end_by(error)
            raise
        finally:
            self._exchange.leave(before)
        self._exchange.call.feed(chunk)
        return chunk


class AsyncStream(_Closing):
    """
    An async stream on an event loop.
    """

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pass()

    async def _pass(self) -> AsyncIterator[bytes]:
        exchange, is_whole, failed, timed_out = self._exchange, False, False, False
        try:
            content = aiter(self._content)
            while True:
                before = exchange.enter()
                try:
                    chunk = await anext(content)
                except StopAsyncIteration:
                    break
                finally:
                    exchange.leave(before, may_stay=True)
                exchange.call.feed(chunk)
                yield chunk
            is_whole = True
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            failed, timed_out = True, is_timeout(error)
            raise
        finally:
            gone = not is_whole and not failed
            await exchange.aend(is_whole=is_whole, failed=failed, client_gone=gone, timed_out=timed_out)


class CollectedStream(_Closing):
    """
    An async stream under WSGI: Django collects it on a loop of its own, on which nothing else is kept waiting.
    """

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        before = self._exchange.enter()
        try:
            chunk: bytes = await anext(self._content)
        except BaseException as error:
            self._end_by(error)
            raise
        finally:
            self._exchange.leave(before)
        self._exchange.call.feed(chunk)
        return chunk
