"""
One model call of a client, from the start of its response to the charge.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.calls.call import running_call
from tokenbudget_mw.calls.recording import labels
from tokenbudget_mw.calls.reserving import open_reservation, take
from tokenbudget_mw.charging import open_call, tags
from tokenbudget_mw.errors import PayloadError
from tokenbudget_mw.rules.settlement import Ending, settled_usage
from tokenbudget_mw.values import Cost, Facts, Route
from tokenbudget_mw_clients.endpoints import format_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.calls.reserving import Reserved
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.tapping.base import Tap
    from tokenbudget_mw.values import Prompt, Subject, Usage

__all__ = ["ModelCall", "Payer"]

log = logging.getLogger("tokenbudget_mw")

SUCCESS = range(200, 300)


class _Asked(msgspec.Struct, gc=False):
    model: str | None = None


_asked = msgspec.json.Decoder(_Asked)


@dataclass(slots=True, eq=False)
class Payer:
    """
    Who is charged for what an instrumented client does.

    Attributes:
        core: For calls outside of any request; None where only requests pay.

        subject: Who pays for those.

        has_failed: Whether something went wrong before, and was logged.
    """

    core: Core | None
    subject: Subject | None
    has_failed: bool = False

    def watch(self, response: Any, *, is_async: bool) -> ModelCall | None:
        """
        Return the listener to the body of *response*; None where there is nothing to charge, or nobody.
        """
        request = response.request
        wire_format = format_of(request.method, request.url.path)
        if wire_format is None or response.status_code not in SUCCESS:
            return None
        call = running_call()
        held = open_reservation(call)
        call = call if held is None else held.call
        core = self.core if call is None else call.core
        if core is None or (call is None and self.subject is None):
            self.complain("it ran outside of any metered request; give instrument() a core and a subject for those")
            return None
        if not core.settings.enabled:
            return None
        headers = response.headers
        kind = headers.get("content-type", "")
        coding = "" if response.is_stream_consumed else headers.get("content-encoding", "")
        route = Route(request.url.path, wire_format)
        model = _model_of(request) or _model_in(route, core)
        tap = core.meter.open_tap(wire_format, kind, coding, model)
        if tap is None:
            self.complain("its content encoding cannot be undone here; install 'tokenbudget-mw[compression]'")
            return None
        if held is not None:
            held.expect()
        model_call = ModelCall(self, core, call, held, response, route, tap, model, is_async)
        core.end_at_close(model_call)
        return model_call

    @contextmanager
    def shielding(self) -> Iterator[None]:
        """
        Keep whatever goes wrong inside out of the way of the client's user, who is told in the log, once.
        """
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - metering never breaks the call that it meters
            self.complain(f"{type(exc).__name__} was raised", error=exc)

    def complain(self, reason: str, error: Exception | None = None) -> None:
        """
        Say in the log, the first time, that a model call was not charged.
        """
        if not self.has_failed:
            self.has_failed = True
            text = "A model call of an instrumented client was not charged: %s. This is said once for each client."
            log.warning(text, reason, exc_info=error)


@dataclass(slots=True, eq=False, weakref_slot=True)
class ModelCall:
    """
    Hears one response, and charges it when it ends.
    """

    payer: Payer
    core: Core
    call: Call | None
    held: Reserved | None
    response: Any
    route: Route
    tap: Tap
    model: str | None
    is_async: bool
    labels: Mapping[str, str] = field(default_factory=labels.get)
    has_body: bool = False
    is_ended: bool = False
    _lock: Lock = field(default_factory=Lock)

    def feed(self, chunk: bytes) -> None:
        """
        Take a piece of the body.
        """
        if chunk and not self.is_ended:
            self.has_body = True
            with self.payer.shielding():
                self.tap.feed(chunk)

    def end(self, *, was_left: bool) -> None:
        """
        Charge what was used; a body of which nothing was read is charged nothing.
        """
        with self._lock:
            if self.is_ended:
                return
            self.is_ended = True
        if self.has_body:
            with self.payer.shielding():
                self._charge(was_left)

    def _charge(self, was_left: bool) -> None:
        tapped = self.tap.usage()
        prompt = None if tapped.input_tokens or tapped.source == "provider" else self._prompt()
        rule = "input" if tapped.source == "none" else "actual"  # nothing is reserved for what cannot be read
        usage = settled_usage(rule, tapped=tapped, prompt=prompt, reserved=Cost())
        with tags(**self.labels):
            if self.held is not None and self.held.add(usage, model=self.model):
                return
            if self.call is not None:
                self.call.add(usage, model=self.model)
            else:
                self._charge_alone(usage, was_left)

    def _prompt(self) -> Prompt | None:
        try:
            return self.core.meter.read_prompt(self.route, self.response.request.content, self.route.path)
        except PayloadError:
            return None  # the provider made sense of it, so its output is charged in any case

    def _charge_alone(self, usage: Usage, was_left: bool) -> None:
        subject = self.payer.subject
        if subject is None:
            return
        response, url = self.response, self.response.request.url
        facts = Facts("POST", url.path, server=(url.host, url.port))
        route, age = Route(url.path), _age_of(response)
        call = open_call(self.core, subject, facts=facts, route=route, model=self.model, age=age)
        call.respond(response.status_code, [("content-type", response.headers.get("content-type", ""))])
        call.add(usage)
        cost = call.end(Ending(response.status_code, has_body=True, is_whole=usage.complete, client_gone=was_left))
        if self.is_async:
            self.core.aside(lambda: self._take(call, cost, usage))
        else:
            self._take(call, cost, usage)

    def _take(self, call: Call, cost: Cost, usage: Usage) -> None:
        with self.payer.shielding():
            take(call, cost, self.model or usage.model)


def _age_of(response: Any) -> float:
    try:
        seconds: float = response.elapsed.total_seconds()
    except RuntimeError:  # closing failed
        return 0.0
    return seconds


def _model_in(route: Route, core: Core) -> str | None:
    """
    Return the model that a path names, as those of Bedrock, Vertex AI and Gemini do.
    """
    try:
        return core.meter.bound_prompt(route, 0, b"", route.path).model
    except PayloadError:
        return None  # that is no name; the provider's answer has one


def _model_of(request: Any) -> str | None:
    try:
        return _asked.decode(request.content).model
    except msgspec.DecodeError:
        return None
