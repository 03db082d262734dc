"""Views with limits keep their types, for a host's type checker. Checked, never run."""

from collections.abc import Callable, Coroutine
from typing import Any

from django.http import HttpRequest, HttpResponse

from tokenbudget_mw_django import limit


@limit("10/minute")
def view(request: HttpRequest, number: int) -> HttpResponse:
    """Answer."""
    return HttpResponse(number)


@limit("10/minute")
async def aview(request: HttpRequest) -> HttpResponse:
    """Answer, on a loop."""
    return HttpResponse()


limited: Callable[[HttpRequest, int], HttpResponse] = view
alimited: Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]] = aview
view(HttpRequest(), "a number")  # type: ignore[arg-type]
