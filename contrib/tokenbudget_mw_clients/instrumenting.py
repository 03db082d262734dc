"""
Putting the meter on a client, and taking it off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw_clients.metering import Payer
from tokenbudget_mw_clients.tees import LIBRARIES, tee

if TYPE_CHECKING:
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.values import Subject

__all__ = ["instrument"]

ClientT = TypeVar("ClientT")


def instrument(
    client: ClientT,
    *,
    core: Core | None = None,
    subject: Subject | None = None,
    mode: Literal["charge", "off"] = "charge",
) -> ClientT:
    """
    Charge what *client* uses: to the subject of the request that runs, else to *subject*.

    Reads the responses while they pass, in the HTTP client beneath, so it covers every style of call: plain, streamed,
    raw, parsed, sync and async, and the copies that ``with_options`` makes. Nothing that goes wrong here reaches the call;
    it is logged once. A second time on the same client replaces the first.

    Args:
        client: A client of ``openai`` or ``anthropic``, or the ``httpx`` or ``httpx2`` client that it is given.

        core: Every part, plugged together, for calls outside of any request; `wiring.wire` makes one.

        subject: Who pays for those.

        mode: ``charge``, or ``off`` to take the meter off again.

    Returns:
        The same client.

    Raises:
        ConfigurationError: *client* is of no kind that is known, *subject* comes without *core* or *core* without
            *subject*, or *mode* is unknown.
    """
    if mode not in ("charge", "off"):
        raise ConfigurationError(f"instrument() has no mode {mode!r}. Known modes: charge, off.")
    if (core is None) != (subject is None):
        raise ConfigurationError("instrument() takes `core` and `subject` together: whose books, and who pays.")
    inner, is_async = _transport_of(client)
    hooks = [hook for hook in inner.event_hooks["response"] if not isinstance(hook, _Hook | _AsyncHook)]
    if mode == "charge":
        payer = Payer(core, subject)
        # before the user's hooks: one of them may read the body
        hooks.insert(0, _AsyncHook(payer) if is_async else _Hook(payer))
    inner.event_hooks = {**inner.event_hooks, "response": hooks}
    return client


def _transport_of(client: object) -> tuple[Any, bool]:
    """
    Return the HTTP client of *client*, and whether it is an async one.
    """
    for candidate in (client, getattr(client, "_client", None)):
        for base in type(candidate).__mro__:
            if base.__module__.partition(".")[0] in LIBRARIES and base.__name__ in ("Client", "AsyncClient"):
                return candidate, base.__name__ == "AsyncClient"
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    message = f"instrument() cannot meter {kind}. Give a client of openai or anthropic, or the httpx client beneath it."
    raise ConfigurationError(message)


class _Hook:
    """
    Called with each response before its body is read.
    """

    def __init__(self, payer: Payer) -> None:
        self._payer = payer

    def __call__(self, response: Any) -> None:
        with self._payer.shielding():
            listener = self._payer.watch(response, is_async=False)
            if listener is not None:
                tee(response, listener, is_async=False)


class _AsyncHook:
    """
    The same on an event loop; nothing in it waits.
    """

    def __init__(self, payer: Payer) -> None:
        self._payer = payer

    async def __call__(self, response: Any) -> None:
        with self._payer.shielding():
            listener = self._payer.watch(response, is_async=True)
            if listener is not None:
                tee(response, listener, is_async=True)
