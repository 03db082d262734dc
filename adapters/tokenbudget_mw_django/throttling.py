"""
Limits on views of the Django REST framework, as its throttles.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from tokenbudget_mw.errors import ConfigurationError, MissingExtraError
from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.wsgi import facts_of
from tokenbudget_mw_django.conf import core
from tokenbudget_mw_django.decorators import path_of

try:
    from rest_framework.throttling import BaseThrottle
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "rest_framework":
        raise
    message = "TokenBudgetThrottle needs 'djangorestframework': pip install 'tokenbudget-mw[drf]'"
    raise MissingExtraError(message) from exc

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TokenBudgetThrottle"]

_parse = lru_cache(maxsize=1024)(EndpointLimit.parse)


class TokenBudgetThrottle(BaseThrottle):  # type: ignore[misc]  # the framework has no types
    """
    Limits the views that name it in ``throttle_classes``, by *limits* of its own or by ``budget_limits`` of the view.

        class Search(TokenBudgetThrottle):
            limits = ["10 requests/minute"]

    A refusal is the middleware's, which has to be installed: with its body and headers, and not the framework's ``Throttled``.

    Attributes:
        limits: Limits, each counted for every holder and view.

        name: The view's name in counters; views of one name share them. Its dotted path, and the action of a view set, by
            default.
    """

    limits: ClassVar[Sequence[str]] = ()
    name: ClassVar[str | None] = None

    def allow_request(self, request: Any, view: Any) -> bool:
        """
        Return True, where every limit admits the request.

        Raises:
            BudgetExceeded: A limit refuses.

            ConfigurationError: There is no limit, or one makes no sense.
        """
        limits = tuple(getattr(view, "budget_limits", None) or self.limits)
        if not limits:
            raise ConfigurationError(
                f"{type(self).__name__} has no limits for {type(view).__name__}: "
                "set `limits` of the throttle, or `budget_limits` of the view, for example ['10 requests/minute']."
            )
        _parse(limits, name=self.name or _name_of(view)).admit(core(), facts_of(request.META, request.path_info))
        return True

    def wait(self) -> None:
        """
        Return None: a refusal has been raised before anybody asks how long to wait.
        """


def _name_of(view: Any) -> str:
    action = getattr(view, "action", None)
    return path_of(type(view)) + (f".{action}" if action else "")
