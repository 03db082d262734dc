"""The contract's host as a Django project, sync and async views both, under WSGI and ASGI."""

import asyncio
import os

import django
import host
from django.conf import settings

database = host.SETTINGS["database"].removeprefix("sqlite:///")
settings.configure(
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of a test",
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["tokenbudget_mw_django.TokenBudgetMiddleware"],
    INSTALLED_APPS=["tokenbudget_mw_django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}},
    TOKENBUDGET={k: v for k, v in host.SETTINGS.items() if k != "database"},
)
django.setup()

from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from tokenbudget_mw_django import current, limit
from tokenbudget_mw_django.asgi import get_asgi_application
from tokenbudget_mw_django.conf import core

IS_ASYNC = os.environ.get("CONTRACT_ASYNC") == "1"


def _headers(request):
    return {k.lower(): v for k, v in request.headers.items()}


def _respond(answered, chunks):
    if answered.abort_at == 0:
        answered.check(0)
    headers = dict(answered.headers)
    if len(answered.chunks) == 1:
        return HttpResponse(answered.chunks[0], status=answered.status, headers=headers)
    return StreamingHttpResponse(chunks, status=answered.status, headers=headers)


def model(request):
    """Answer as the provider."""
    answered = host.answer(request.path, request.body, _headers(request))
    return _respond(answered, host.slowly(answered, host.pause(_headers(request))))


async def amodel(request):
    """Answer as the provider, on a loop."""
    answered = host.answer(request.path, request.body, _headers(request))
    pause = host.pause(_headers(request))
    return _respond(answered, answered.aiterate(lambda _: asyncio.sleep(pause)))


def flush(_):
    """Write what waits."""
    return JsonResponse({"flushed": core().flush()})


def charge(request):
    """Charge."""
    return JsonResponse(host.charge(request.body))


async def acharge(request):
    """Charge, on a loop."""
    return JsonResponse(host.charge(request.body))


def reserve(request):
    """Reserve."""
    return JsonResponse(host.reserve(request.body))


async def areserve(request):
    """Reserve, on a loop."""
    return JsonResponse(await host.areserve(request.body))


def fail(_):
    """Fail."""
    raise RuntimeError("the app fails")


@limit("2 requests/minute", name="limited")
def limited(_):
    """Answer twice a minute."""
    return JsonResponse({"key": current().subject.key})


@limit("2 requests/minute", name="limited")
async def alimited(_):
    """Answer twice a minute, on a loop."""
    return JsonResponse({"key": current().subject.key})


urlpatterns = [
    path("v1/chat/completions", amodel if IS_ASYNC else model),
    path("v1/messages", amodel if IS_ASYNC else model),
    path("flush", flush),
    path("assistant/charge", acharge if IS_ASYNC else charge),
    path("assistant/reserve", areserve if IS_ASYNC else reserve),
    path("assistant/raise", fail),
    path("assistant/limited", alimited if IS_ASYNC else limited),
]
application = get_asgi_application() if IS_ASYNC else get_wsgi_application()
