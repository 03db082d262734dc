"""
A Django project on a workbench: one a process, on an SQLite file of its own. Import it before anything of Django's.

Views stand below; the subject is in ``x-subject``, as on the other workbenches.
"""

from __future__ import annotations

import atexit
import json
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import django
from django.conf import settings

FOLDER = Path(tempfile.mkdtemp(prefix="tokenbudget-django-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
DATABASE = FOLDER / "project.db"
OURS = "tokenbudget_mw_django.TokenBudgetMiddleware"
TOKENBUDGET: dict[str, Any] = {
    "identify": "asgi_rig.subject_of",
    "routes": [{"path": "/v1/chat/completions", "format": "openai.chat"}, {"path": "/plain/*"}],
    "plans": {"one": ["1 concurrent", "1000 tokens/minute"]},
    "default_plan": "one",
}
settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of a test",
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        OURS,
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    INSTALLED_APPS=[
        "tokenbudget_mw_django",
        *[f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages")],
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(DATABASE),
            "OPTIONS": {"transaction_mode": "IMMEDIATE"},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    STATIC_URL="static/",
    USE_TZ=True,
    TOKENBUDGET=TOKENBUDGET,
)
django.setup()

from django.contrib import admin
from django.core.management import call_command
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from tokenbudget_mw_django import current, limit
from tokenbudget_mw_django.conf import core

call_command("migrate", verbosity=0)

USAGE = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
ANSWER = json.dumps({"object": "chat.completion", "model": "gpt-4o", "choices": [], "usage": USAGE}).encode()
TRANSCRIPT = json.dumps(
    {"text": "hello", "usage": {"input_tokens": 14, "output_tokens": 45, "total_tokens": 59}}
).encode()
HEARD: list[tuple[list[str], int]] = []
"""Models and sizes of the recordings that were transcribed."""

PIECES = [b"one ", b"two ", b"three"]


def rows(key: str) -> list[dict[str, Any]]:
    """The usage rows of *key* in the project's database."""
    assert core().flush()
    connection = sqlite3.connect(DATABASE)
    connection.row_factory = sqlite3.Row
    query = "SELECT * FROM tokenbudget_usage WHERE key_id = ? ORDER BY sequence"
    found = [dict(row) for row in connection.execute(query, (key,))]
    connection.close()
    return found


WORD = b'data: {"id": "c", "model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": " word"}}]}\n\n'
ENDLESS_CLOSED: list[str] = []
"""Which endless streams were closed."""


def endless(request: Any) -> StreamingHttpResponse:
    """Stream for ever."""

    def words() -> Iterator[bytes]:
        try:
            while True:
                yield WORD
        finally:
            ENDLESS_CLOSED.append(request.headers["x-subject"])

    return StreamingHttpResponse(words(), content_type="text/event-stream")


async def aendless(request: Any) -> StreamingHttpResponse:
    """Stream for ever, on a loop."""

    async def words() -> AsyncIterator[bytes]:
        try:
            while True:
                yield WORD
        finally:
            ENDLESS_CLOSED.append(request.headers["x-subject"])

    return StreamingHttpResponse(words(), content_type="text/event-stream")


def chat(request: Any) -> HttpResponse:
    """Answer a chat."""
    assert json.loads(request.body)["model"] == "gpt-4o"
    return HttpResponse(ANSWER, content_type="application/json")


async def achat(request: Any) -> HttpResponse:
    """Answer a chat, on a loop."""
    return chat(request)


def streamed(_: Any) -> StreamingHttpResponse:
    """Stream."""
    return StreamingHttpResponse(iter(PIECES), content_type="text/plain")


async def astreamed(_: Any) -> StreamingHttpResponse:
    """Stream, on a loop."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in PIECES:
            yield piece

    return StreamingHttpResponse(pieces(), content_type="text/plain")


def breaking(_: Any) -> StreamingHttpResponse:
    """Stream, and fail after the first piece."""

    def pieces() -> Iterator[bytes]:
        yield PIECES[0]
        raise RuntimeError("the stream fails")

    return StreamingHttpResponse(pieces(), content_type="text/plain")


async def abreaking(_: Any) -> StreamingHttpResponse:
    """Stream, and fail after the first piece, on a loop."""

    async def pieces() -> AsyncIterator[bytes]:
        yield PIECES[0]
        raise RuntimeError("the stream fails")

    return StreamingHttpResponse(pieces(), content_type="text/plain")


def fail(_: Any) -> HttpResponse:
    """Fail."""
    raise RuntimeError("the view fails")


def late(_: Any) -> HttpResponse:
    """Wait for a model in vain."""
    raise TimeoutError("the model does not answer")


async def alate(_: Any) -> HttpResponse:
    """Wait for a model in vain, on a loop."""
    raise TimeoutError("the model does not answer")


def leave(_: Any) -> HttpResponse:
    """End the worker."""
    raise SystemExit(1)


def exceed(_: Any) -> HttpResponse:
    """Reserve more than there is."""
    with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
        return HttpResponse("never")


async def aexceed(_: Any) -> HttpResponse:
    """Reserve more than there is, on a loop."""
    async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
        return HttpResponse("never")


def drain(request: Any) -> HttpResponse:
    """Read the body piece by piece, as a view of large uploads does."""
    length = 0
    while piece := request.read(65536):
        length += len(piece)
    return HttpResponse(str(length))


def filed(_: Any) -> FileResponse:
    """Send a file."""
    return FileResponse(Path(__file__).open("rb"))


def transcribe(request: Any) -> HttpResponse:
    """Transcribe a recording with the model that its form names, of which the answer says nothing."""
    HEARD.append((request.POST.getlist("model"), request.FILES["file"].size))
    return HttpResponse(TRANSCRIPT, content_type="application/json")


async def atranscribe(request: Any) -> HttpResponse:
    """Do the same on a loop."""
    return transcribe(request)


@limit("1 request/minute")
def limited(_: Any) -> HttpResponse:
    """Answer once a minute."""
    return HttpResponse("limited")


@limit("1 request/minute")
async def alimited(_: Any) -> HttpResponse:
    """Answer once a minute, on a loop."""
    return HttpResponse("limited")


@method_decorator(limit("1 request/minute"), name="dispatch")
class Limited(View):
    """Answers once a minute."""

    def get(self, _: Any) -> HttpResponse:
        """Answer."""
        return HttpResponse("limited")


class AlsoLimited(View):
    """Answers once a minute, on a loop."""

    @method_decorator(limit("1 request/minute"))
    async def get(self, _: Any) -> HttpResponse:
        """Answer."""
        return HttpResponse("limited")


@method_decorator(limit("1 request/minute"), name="dispatch")
class Other(View):
    """Answers once a minute, by the method of the same base class."""

    def get(self, _: Any) -> HttpResponse:
        """Answer."""
        return HttpResponse("other")


urlpatterns = [
    path("endless", endless),
    path("aendless", aendless),
    path("admin/", admin.site.urls),
    path("v1/chat/completions", chat),
    path("plain/achat", achat),
    path("plain/streamed", streamed),
    path("plain/astreamed", astreamed),
    path("plain/breaking", breaking),
    path("plain/abreaking", abreaking),
    path("plain/fail", fail),
    path("plain/filed", filed),
    path("plain/leave", leave),
    path("plain/late", late),
    path("plain/alate", alate),
    path("plain/exceed", exceed),
    path("plain/aexceed", aexceed),
    path("plain/limited", limited),
    path("free/limited", limited),
    path("plain/alimited", alimited),
    path("class/limited", Limited.as_view()),
    path("class/alimited", AlsoLimited.as_view()),
    path("class/other", Other.as_view()),
    path("free", chat),
    path("v1/audio/transcriptions", transcribe),
    path("a/v1/audio/transcriptions", atranscribe),
    path("plain/drain", drain),
]
