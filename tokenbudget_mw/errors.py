"""
Errors that this package raises. A refusal is a value (`Decision`), not an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenbudget_mw.values import Decision

__all__ = [
    "BackendUnavailableError",
    "BudgetExceeded",
    "ConfigurationError",
    "CredentialError",
    "MissingExtraError",
    "PayloadError",
    "PermanentSinkError",
    "RefusedError",
    "SpoolFullError",
    "TokenBudgetError",
    "TokenBudgetWarning",
    "UnknownKeyError",
    "UnpricedModelError",
    "refusal_in",
]


class TokenBudgetError(Exception):
    """
    Base of every error of this package.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class TokenBudgetWarning(UserWarning):
    """
    Something works, but not the way a production setup should.
    """


class ConfigurationError(TokenBudgetError):
    """
    The settings are wrong. The message names the path, the value and the mend.
    """


class MissingExtraError(ConfigurationError):
    """
    A chosen part needs a package that is not installed.
    """


class RefusedError(TokenBudgetError):
    """
    The request may not run, or not go on. Whoever serves it answers with the refusal.

    Attributes:
        asked: The request that was refused, where no call stands for it; `refusal_of` answers it as the settings want.
    """

    asked: object | None = None


class CredentialError(RefusedError):
    """
    The request's credentials cannot be used.

    Attributes:
        status: HTTP status of the refusal: 401 (unknown, malformed, expired, suspended), 400 (several).

        code: Machine-readable reason, for example ``invalid_api_key``.
    """

    def __init__(self, message: str, *, status: int = 401, code: str = "invalid_api_key") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class PayloadError(RefusedError):
    """
    The request's body cannot be metered. Becomes a 4xx response in the route's format.

    Attributes:
        status: HTTP status, 400 or 413.

        param: The offending field of the body, if one is.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class UnpricedModelError(RefusedError):
    """
    The model has no price and ``unknown_price`` is ``deny``.

    Attributes:
        model: The model as the request named it.
    """

    def __init__(self, model: str | None) -> None:
        super().__init__(
            f"No price is known for model {model!r}. Add it to `tariffs`, or set `unknown_price` to 'ceiling' or 'flag'."
        )
        self.model = model


class BackendUnavailableError(TokenBudgetError):
    """
    The backend did not answer. The driver's error is in ``__cause__``.
    """


class UnknownKeyError(TokenBudgetError):
    """
    There is no API key with this id, or none in a state that allows the change.
    """


class PermanentSinkError(TokenBudgetError):
    """
    The sink refuses these records for good: writing the same ones again cannot help.

    Any other exception of a sink counts as transient and is retried.
    """


class SpoolFullError(TokenBudgetError):
    """
    The usage spool is full and `spool_full` is 'raise': this request's usage was not recorded.
    """


class BudgetExceeded(RefusedError):  # noqa: N818 - reads as the event it is, as in `except BudgetExceeded`
    """
    A reservation made inside a handler was refused.

    Adapters turn it into the same response that the middleware gives.

    Attributes:
        decision: The refusal, with every limit's state.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.message)
        self.decision = decision


def refusal_in(error: BaseException) -> RefusedError | None:
    """
    Return the refusal that *error* is, or that ended a task group in which nothing else went wrong; None where it is another.
    """
    if isinstance(error, BaseExceptionGroup):
        found = [refusal_in(each) for each in error.exceptions]
        return None if None in found else found[0]
    return error if isinstance(error, RefusedError) else None
