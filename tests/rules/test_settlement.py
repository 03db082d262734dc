"""What a call is charged when it has ended."""

import pytest

from tokenbudget_mw.rules.settlement import (
    DEFAULT_SETTLE,
    SETTLE_RULES,
    UNREAD,
    Ending,
    is_timeout,
    orphan_usage,
    outcome_of,
    settled_usage,
)
from tokenbudget_mw.values import Cost, Prompt, TokenCount, Usage

PROMPT = Prompt("gpt-4o", TokenCount(100, 120, exact=False))
RESERVED = Cost(1, 120, 500, 7_000, 1)
SAID = Usage(90, 40, model="gpt-4o-2024-08-06")
COUNTED = Usage(0, 33, source="counted", complete=False)


@pytest.mark.parametrize(
    ("ending", "usage", "outcome"),
    [
        (Ending(200, has_body=True, is_whole=True), SAID, "complete"),
        (Ending(200, has_body=True, is_whole=True), None, "complete"),
        (Ending(204, is_whole=True), None, "complete"),
        (Ending(200, has_body=True, is_whole=True), COUNTED, "truncated"),
        (Ending(200, has_body=True), SAID, "truncated"),
        (Ending(200, has_body=True, client_gone=True), COUNTED, "client_gone"),
        (Ending(200, client_gone=True), None, "client_gone_early"),
        (Ending(None, client_gone=True, failed=True), None, "client_gone_early"),
        (Ending(200, has_body=True, is_whole=True, client_gone=True), SAID, "complete"),
        (Ending(200, has_body=True, is_whole=True, client_gone=True), COUNTED, "client_gone"),
        (Ending(200, is_whole=True, client_gone=True), COUNTED, "client_gone_early"),
        (Ending(None, failed=True), None, "app_error"),
        (Ending(None), None, "app_error"),
        (Ending(None, has_body=True, is_whole=True), UNREAD, "app_error"),
        (Ending(200, has_body=True, failed=True), COUNTED, "app_error_late"),
        (Ending(200, has_body=True, is_whole=True, failed=True), SAID, "complete"),
        (Ending(400, has_body=True, is_whole=True), None, "status_4xx"),
        (Ending(500, has_body=True, is_whole=True), None, "status_5xx"),
        (Ending(500, has_body=True, is_whole=True, timed_out=True), None, "timeout"),
        (Ending(504, has_body=True, is_whole=True), None, "timeout"),
        (Ending(None, failed=True, timed_out=True), None, "timeout"),
        (Ending(200, has_body=True, failed=True, timed_out=True), COUNTED, "app_error_late"),
        (Ending(200, has_body=True, is_whole=True), UNREAD, "no_usage"),
        (Ending(200, has_body=True, is_whole=True), Usage(0, 33, source="counted"), "no_usage"),
        (Ending(200, has_body=True, is_whole=True), Usage(90, 0), "complete"),
        (Ending(399, has_body=True, is_whole=True), None, "complete"),
        (Ending(300, is_whole=True), COUNTED, "redirected"),
        (Ending(399, has_body=True, is_whole=True), SAID, "redirected"),
        (Ending(307, client_gone=True), COUNTED, "client_gone_early"),
        (Ending(499, has_body=True, is_whole=True), None, "status_4xx"),
    ],
)
def test_outcome(ending: Ending, usage: Usage | None, outcome: str) -> None:
    """Every way to end has one name, and a rule."""
    assert outcome_of(ending, usage) == outcome
    assert DEFAULT_SETTLE[outcome] in SETTLE_RULES


@pytest.mark.parametrize(
    ("rule", "tapped", "charged"),
    [
        ("actual", SAID, (90, 40)),
        ("actual", COUNTED, (100, 33)),
        ("partial", COUNTED, (100, 33)),
        ("partial", SAID, (90, 40)),
        ("input", SAID, (100, 0)),
        ("input", None, (100, 0)),
        ("reserved", SAID, (120, 500)),
        ("refund", SAID, (0, 0)),
    ],
)
def test_rule(rule: str, tapped: Usage | None, charged: tuple[int, int]) -> None:
    """A rule charges what its name says."""
    usage = settled_usage(rule, tapped=tapped, prompt=PROMPT, reserved=RESERVED)

    assert (usage.input_tokens, usage.output_tokens) == charged


@pytest.mark.parametrize("rule", ["actual", "partial"])
def test_t03_unreadable_response_is_never_free(rule: str) -> None:
    """A response that nothing could read is charged as it was reserved, and marked as an estimate."""
    usage = settled_usage(rule, tapped=None, prompt=PROMPT, reserved=RESERVED)

    assert (usage.input_tokens, usage.output_tokens, usage.source) == (120, 500, "estimated")


def test_counted_input_is_never_below_the_prompt() -> None:
    """A partial stream whose provider named no input is charged the prompt that was sent."""
    said = Usage(0, 5, source="provider", complete=False)

    assert settled_usage("partial", tapped=said, prompt=PROMPT, reserved=RESERVED).input_tokens == 100


@pytest.mark.parametrize(
    ("method", "source"),
    [
        ("exact", "counted"),
        ("given", "counted"),
        ("sampled", "estimated"),
        ("learned", "estimated"),
        ("none", "estimated"),
    ],
)
def test_a_counted_row_says_whether_its_prompt_was_counted(method: str, source: str) -> None:
    """Input that was only estimated makes the row an estimate; what was counted stays counted."""
    prompt = Prompt("gpt-4o", TokenCount(100, 120, method=method))

    assert settled_usage("actual", tapped=COUNTED, prompt=prompt, reserved=RESERVED).source == source
    assert settled_usage("actual", tapped=SAID, prompt=prompt, reserved=RESERVED).source == "provider"


def test_output_that_was_asked_for_and_did_not_come() -> None:
    """An answer without output is empty where output was asked for; a response without figures has none either way."""
    whole = Ending(200, has_body=True, is_whole=True)

    assert outcome_of(whole, Usage(90, 0), has_output=True) == "empty"
    assert outcome_of(whole, SAID, has_output=True) == "complete"
    assert outcome_of(whole, UNREAD, has_output=True) == "no_usage"


def test_timeouts_are_known_by_name() -> None:
    """Python's own, and those of clients' libraries, by what they are called or derive from."""

    class ReadTimeout(OSError):
        pass

    assert [is_timeout(error) for error in (TimeoutError(), ReadTimeout(), OSError())] == [True, True, False]


def test_an_orphan_is_charged_by_its_rule() -> None:
    """All that was held, its prompt alone, or nothing; and never as if anybody had told it."""
    assert orphan_usage("reserved", 90, 100, 500) == Usage(100, 500, source="estimated", complete=False)
    assert orphan_usage("input", 90, 100, 500) == Usage(90, source="estimated", complete=False)
    assert orphan_usage("refund", 90, 100, 500) == Usage(source="none", complete=False)


@pytest.mark.parametrize("prompt", [PROMPT, None])
def test_figures_that_could_not_be_read_are_none(prompt: Prompt | None) -> None:
    """A response with figures that could not be read is charged as one that nothing could read."""
    unread, unheard = (
        settled_usage("actual", tapped=tapped, prompt=prompt, reserved=RESERVED) for tapped in (UNREAD, None)
    )

    assert (
        unread == unheard == (Usage(120, 500, source="estimated", complete=False) if prompt else Usage(source="none"))
    )


def test_no_prompt_no_charge() -> None:
    """A request without a body to read is charged what its response says, or nothing."""
    assert settled_usage("actual", tapped=None, prompt=None, reserved=RESERVED) == Usage(source="none")
    assert settled_usage("actual", tapped=SAID, prompt=None, reserved=RESERVED) == SAID
