"""The Django REST framework's views, limited by its throttles."""

import importlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from django.test import Client, override_settings
from django.urls import path
from django_rig import TOKENBUDGET, urlpatterns

pytest.importorskip("rest_framework")

from rest_framework.decorators import api_view, throttle_classes
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from tokenbudget_mw.calls.call import running
from tokenbudget_mw.errors import ConfigurationError, MissingExtraError
from tokenbudget_mw_django import current, limit
from tokenbudget_mw_django.throttling import TokenBudgetThrottle

PLAIN: Any = {"authentication_classes": [], "permission_classes": []}


class OncePerMinute(TokenBudgetThrottle):
    """A limit of the throttle's own."""

    limits = ("1 request/minute",)


class Shared(OncePerMinute):
    """A limit that views share."""

    name = "search"


class Search(APIView):
    """A view with a throttle."""

    authentication_classes: Any = ()
    permission_classes: Any = ()
    throttle_classes = (OncePerMinute,)

    def get(self, request: Any) -> Response:
        """Answer."""
        return Response({"ok": True})


class Other(Search):
    """Another view with the same throttle."""


class ByView(Search):
    """The view names the limits."""

    throttle_classes = (TokenBudgetThrottle,)
    budget_limits = ("2 requests/minute",)


class First(Search):
    """One of two that share a limit."""

    throttle_classes = (Shared,)


class Second(First):
    """The other."""


class Nothing(Search):
    """Neither throttle nor view has a limit."""

    throttle_classes = (TokenBudgetThrottle,)


class Things(ViewSet):
    """Two actions."""

    authentication_classes: Any = ()
    permission_classes: Any = ()
    throttle_classes = (OncePerMinute,)

    def list(self, request: Any) -> Response:
        """All."""
        return Response([])

    def retrieve(self, request: Any, pk: str) -> Response:
        """One."""
        return Response({"id": pk})


class Model(APIView):
    """A view that calls a model."""

    authentication_classes: Any = ()
    permission_classes: Any = ()

    def post(self, request: Any) -> Response:
        """Charge, or reserve too much."""
        if request.data.get("most"):
            with current().reserve(model="gpt-4o", prompt=request.data["most"], max_output=10):
                return Response("never")
        current().charge({"prompt_tokens": 8, "completion_tokens": 5})
        return Response({"asked": request.data})


@api_view(["GET"])
@throttle_classes([OncePerMinute])
def function(request: Any) -> Response:
    """A function."""
    return Response("ok")


@api_view(["GET"])
@throttle_classes([OncePerMinute])
def also_function(request: Any) -> Response:
    """Another function, which the framework wraps in a class of the same qualified name."""
    return Response("ok")


@api_view(["GET"])
def bare(request: Any) -> Response:
    """A function without a throttle."""
    return Response("ok")


@api_view(["GET"])
def also_bare(request: Any) -> Response:
    """Another one."""
    return Response("ok")


urls = [
    *urlpatterns,
    path("plain/search", Search.as_view()),
    path("plain/other", Other.as_view()),
    path("plain/by-view", ByView.as_view()),
    path("plain/first", First.as_view()),
    path("plain/second", Second.as_view()),
    path("plain/nothing", Nothing.as_view()),
    path("plain/function", function),
    path("plain/also-function", also_function),
    path("plain/bare", limit("1 request/minute")(bare)),
    path("plain/also-bare", limit("1 request/minute")(also_bare)),
    path("plain/things", Things.as_view({"get": "list"})),
    path("plain/things/<pk>", Things.as_view({"get": "retrieve"})),
    path("plain/model", Model.as_view()),
    path("free/search", Search.as_view()),
]


class urlconf:
    """The project's paths, with ours."""

    urlpatterns = urls


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Counters of the test's own."""
    drf = {"DEFAULT_AUTHENTICATION_CLASSES": [], "DEFAULT_PERMISSION_CLASSES": [], "UNAUTHENTICATED_USER": None}
    with override_settings(
        TOKENBUDGET=dict(TOKENBUDGET), ROOT_URLCONF=urlconf, REST_FRAMEWORK=drf, DEFAULT_CHARSET="utf-8"
    ):
        yield
    running.set(None)


def get(path_: str, subject: str | None = "k1") -> Any:
    client = Client(raise_request_exception=False, headers={"x-subject": subject} if subject else None)
    return client.get(path_, headers={"accept": "application/json"})


@pytest.mark.parametrize("path_", ["/plain/search", "/plain/function", "/free/search"])
def test_a_throttle_refuses_as_the_middleware_does(path_: str) -> None:
    """On a class, on a function, and outside of metered routes: with our body, our headers, our wait."""
    first, second, somebody = get(path_), get(path_), get(path_, "k2")

    assert (first.status_code, second.status_code, somebody.status_code) == (200, 429, 200)
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
    assert second.json()["violated-policies"] == ["requests-minute-endpoint"]
    assert 0 < int(second["retry-after"]) <= 61
    assert second["cache-control"] == "no-store"


def test_each_view_has_a_counter_of_its_own() -> None:
    """So has each action of a view set, and each function."""
    views = ["search", "other", "things", "things/7", "function", "also-function", "bare", "also-bare"]

    assert [get(f"/plain/{each}").status_code for each in views] == [200] * 8
    assert [get(f"/plain/{each}").status_code for each in views] == [429] * 8


def test_views_of_one_name_share_a_counter() -> None:
    """As limits with a name do everywhere."""
    assert [get("/plain/first").status_code, get("/plain/second").status_code] == [200, 429]


def test_a_view_may_name_its_limits() -> None:
    """For a throttle that stands in the settings' defaults."""
    assert [get("/plain/by-view").status_code for _ in range(3)] == [200, 200, 429]


def test_a_throttle_without_limits_says_what_to_set() -> None:
    """It is a mistake of the project's, not of the client's."""
    client = Client(headers={"x-subject": "k1"})
    with pytest.raises(ConfigurationError, match=r"TokenBudgetThrottle has no limits for Nothing: .*budget_limits"):
        client.get("/plain/nothing")


def test_nobody_is_refused_with_a_401() -> None:
    """Outside of routes the throttle asks who is there."""
    assert get("/free/search", None).status_code == 401


def test_views_charge_and_reserve() -> None:
    """`current()` is there, the body too; a refused reservation passes the framework's own handler."""
    client = Client(headers={"x-subject": "models"})
    charged = client.post("/plain/model", {"text": "hello"}, content_type="application/json")
    refused = client.post("/plain/model", {"most": 5000}, content_type="application/json")

    assert charged.json() == {"asked": {"text": "hello"}}
    assert refused.status_code == 429
    assert "tokens-minute" in refused.json()["error"]["message"]


def test_without_the_framework_the_extra_is_named() -> None:
    """Importing the throttle says what to install."""
    gone = {name: None for name in sys.modules if name.partition(".")[0] == "rest_framework"}
    with patch.dict(sys.modules, {**gone, "rest_framework": None, "rest_framework.throttling": None}):
        del sys.modules["tokenbudget_mw_django.throttling"]
        with pytest.raises(MissingExtraError, match=r"tokenbudget-mw\[drf\]"):
            importlib.import_module("tokenbudget_mw_django.throttling")
