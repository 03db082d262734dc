"""A Django project whose view answers as a program of WSGI's says, bare or inside the middleware as the request says."""

import os

import django
import programs_frameworks as frameworks
import programs_host as shared
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings

settings.configure(
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of a test",
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["programs_django.Switch"],
    INSTALLED_APPS=["tokenbudget_mw_django"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": shared.SETTINGS["database"].removeprefix("sqlite:///"),
        }
    },
    TOKENBUDGET={k: v for k, v in shared.SETTINGS.items() if k != "database"},
)
django.setup()

from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path

from tokenbudget_mw_django import TokenBudgetMiddleware
from tokenbudget_mw_django.asgi import get_asgi_application

IS_ASYNC = os.environ.get("CONTRACT_ASYNC") == "1"


class Switch:
    """Goes through the middleware, or past it."""

    sync_capable = async_capable = True

    def __init__(self, get_response):
        self._bare, self._metered = get_response, TokenBudgetMiddleware(get_response)
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request):
        """Serve a request."""
        return (self._metered if "x-subject" in request.headers else self._bare)(request)


def respond(request, stream):
    """Answer as the program says."""
    program = shared.program(request.headers["x-program"])
    frameworks.read(program, request)
    status, headers = frameworks.start_of(program)
    if program.kind == "file":
        return FileResponse(shared.FILE.open("rb"))
    if program.kind in ("list", "tuple"):
        response = HttpResponse(frameworks.whole(program), status=status)
    else:
        response = StreamingHttpResponse(stream(program), status=status)
    for name, value in headers:
        response[name] = value
    return response


def view(request):
    """Answer."""
    return respond(request, frameworks.streamed)


async def aview(request):
    """Answer, on a loop."""
    return respond(request, frameworks.astreamed)


urlpatterns = [path("read", aview if IS_ASYNC else view), path("plain/x", aview if IS_ASYNC else view)]
application = get_asgi_application() if IS_ASYNC else get_wsgi_application()
