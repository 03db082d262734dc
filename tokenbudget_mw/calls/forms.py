"""
A form that is too long to be read ahead: what is behind its head is read while it passes to the app.

Clients may put the model behind their file, or one before it and another behind. What such a call is charged depends on all
of the form, as it was read when the call ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.counting.payloads import parse_form
from tokenbudget_mw.counting.payloads.fields import short_text
from tokenbudget_mw.counting.payloads.forms import FormReader
from tokenbudget_mw.errors import PayloadError
from tokenbudget_mw.rules.pricing import moment_of, price_usage
from tokenbudget_mw.values import Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.counting.payloads.forms import Form
    from tokenbudget_mw.values import Prompt

__all__ = ["LateForm"]

FORM = b"--"
"""Stands for the form's bytes where only that it is one matters."""


class LateForm:
    """
    The form of one call, which has read its *head* already.

    Attributes:
        met: Name of the model that the call was admitted with; None where the head names none.

        models: Models that apps may run on it: one, as a rule; None where nobody knows.

        most: The most that it may take, in tokens; None before more than the head has come.
    """

    __slots__ = ("_call", "_is_new", "_length", "_reader", "_size", "met", "models", "most")

    def __init__(self, call: Call, head: bytes, length: int | None) -> None:
        self.models: tuple[str | None, ...] = (call.prompt.model if call.prompt else None,)
        self.most: Cost | None = None
        self._call = call
        self._length = length or 0
        self._size = len(head)
        self._reader = FormReader()
        self._reader.feed(head)
        self._is_new = self._reader.is_ended  # Django may have all of a body that is too long to be counted on
        self.tell()
        self.met = call.model_name

    @property
    def has_others(self) -> bool:
        """
        Whether a model may have run that is not the one that the limits have met.
        """
        name = self._call.core.model_name
        return self.met is None or any(model is not None and name(model) != self.met for model in self.models)

    def feed(self, data: bytes) -> None:
        """
        Take what passes to the app, behind what was taken before.
        """
        if not data or self._call.is_ended:
            return
        reader, was_ended = self._reader, self._reader.is_ended
        reader.feed(data)
        self._size += len(data)
        self._is_new = True
        if reader.is_ended and not was_ended:
            self.tell()  # a handler that has it all goes on with limits and charges of its own

    def tell(self) -> None:
        """
        Let the call know what the form asks for, as far as it has come: where apps may read it in several ways, the dearest.
        """
        call = self._call
        if not self._is_new or call.prompt is None:
            return
        self._is_new = False
        prompts = list(self._readings(self._reader.form()))
        self.models = tuple(dict.fromkeys(prompt.model for prompt in prompts))
        call.prompt = max(prompts, key=lambda prompt: self._price(self._usage(prompt), prompt.model))
        usage = self._usage(call.prompt)
        self.most = Cost(1, usage.input_tokens, usage.output_tokens)

    def asked(self, usage: Usage) -> str | None:
        """
        Return the model that is charged for *usage*, where the response names none: the dearest that may have run.
        """
        self.tell()
        return max(self.models, key=lambda model: self._price(usage, model))

    def _readings(self, form: Form) -> Iterator[Prompt]:
        """
        Give what apps ask a model for: those that take the last of two fields of a name, and those that take the first.
        """
        yield self._read(form)
        if form.firsts != form.fields:
            yield self._read(form._replace(fields=form.firsts))
        if form.fault is not None:
            yield self._bound(None)  # what is no plain form may name a model that was not seen

    def _read(self, form: Form) -> Prompt:
        call = self._call
        route, path = call.route, call.facts.path
        if self._reader.is_ended and form.fault is None:
            try:
                return call.core.meter.read_prompt(route, FORM, path, parse_form(route.format or "", form, path))
            except PayloadError:
                # it has a field that makes no sense, which is the app's to refuse by now; its model is charged in any case
                return self._bound(form.fields.get("model"))
        return self._bound(form.fields.get("model"))

    def _bound(self, model: str | None) -> Prompt:
        """
        Return what is known of a form that cannot be read whole: its *model*, if the path names none, and its size.
        """
        call, size = self._call, max(self._size, self._length)
        prompt = call.core.meter.bound_prompt(call.route, size, FORM, call.facts.path)
        return replace(prompt, model=prompt.model or short_text(model), is_spoken=True)

    def _usage(self, prompt: Prompt) -> Usage:
        most = prompt.max_output
        output = self._call.core.settings.output_reserve * prompt.choices if most is None else most
        return Usage(prompt.input.upper, output, source="estimated")

    def _price(self, usage: Usage, model: str | None) -> int:
        call = self._call
        moment = moment_of(call.payer, call.prompt, call.started_at)
        return price_usage(call.core.tariffs, usage, moment, asked=model).cost_pico
