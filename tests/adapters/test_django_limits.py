"""``@limit`` on what a Django project calls a view: functions, classes, partials and instances."""

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django_rig import TOKENBUDGET
from rest_framework.viewsets import ViewSet

from tokenbudget_mw.calls.call import running
from tokenbudget_mw_django import limit

once = limit("1 request/minute")


def answer(_: Any, word: str = "") -> HttpResponse:
    """Answer."""
    return HttpResponse(word)


def also(_: Any, word: str = "") -> HttpResponse:
    """Answer, too."""
    return HttpResponse(word)


class One(View):
    """Answers."""

    def get(self, _: Any) -> HttpResponse:
        """Answer."""
        return HttpResponse("one")


class Two(View):
    """Answers, too."""

    def get(self, _: Any) -> HttpResponse:
        """Answer."""
        return HttpResponse("two")


@method_decorator([once, csrf_exempt], name="dispatch")
class Three(One):
    """Is limited behind another decorator."""


@method_decorator([once, csrf_exempt], name="dispatch")
class Four(One):
    """Is limited behind another decorator, too."""


class Five(ViewSet):
    """Answers."""

    def list(self, _: Any) -> HttpResponse:
        """Answer."""
        return HttpResponse("five")


class Six(ViewSet):
    """Answers, too."""

    def list(self, _: Any) -> HttpResponse:
        """Answer."""
        return HttpResponse("six")


class Feed:
    """Is called, as Django's own feeds are."""

    def __call__(self, _: Any) -> HttpResponse:
        """Answer."""
        return HttpResponse("feed")


class News(Feed):
    """Is called, too."""


urlpatterns = [
    path("classes/one", once(One.as_view())),
    path("classes/two", once(Two.as_view())),
    path("wrapped/one", once(csrf_exempt(One.as_view()))),
    path("wrapped/two", csrf_exempt(once(Two.as_view()))),
    path("several/three", Three.as_view()),
    path("several/four", Four.as_view()),
    path("sets/five", once(Five.as_view({"get": "list"}))),
    path("sets/six", once(Six.as_view({"get": "list"}))),
    path("partials/one", once(functools.partial(answer, word="one"))),
    path("partials/two", once(functools.partial(also, word="two"))),
    path("instances/feed", once(Feed())),
    path("instances/news", once(News())),
]


@pytest.fixture(autouse=True)
def project() -> Iterator[None]:
    """A project of these URLs alone."""
    with override_settings(ROOT_URLCONF=__name__, TOKENBUDGET=dict(TOKENBUDGET)):
        yield
    running.set(None)


@pytest.mark.parametrize(
    "paths",
    [
        ["/classes/one", "/classes/two"],
        ["/wrapped/one", "/wrapped/two"],
        ["/several/three", "/several/four"],
        ["/sets/five", "/sets/six"],
        ["/partials/one", "/partials/two"],
        ["/instances/feed", "/instances/news"],
    ],
    ids=lambda paths: paths[0].split("/")[1],
)
def test_each_view_has_a_counter_of_its_own(paths: list[str]) -> None:
    """Whatever a view is made of, its limit counts for it alone."""
    client = Client(headers={"x-subject": "ada"})

    assert [client.get(each).status_code for each in paths * 2] == [200, 200, 429, 429]
