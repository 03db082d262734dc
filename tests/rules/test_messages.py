"""What refusals say, in a host's own words."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenbudget_mw
from tokenbudget_mw.rules.messages import CODES, check, languages_of, reword
from tokenbudget_mw.values import Decision

REFUSED = Decision(admitted=False, code="limit", status=429, message="Full.", refused_by=("a", "b"), retry_after=12.1)
MESSAGES = {
    "*": {"limit": "Slow down. {message}"},
    "de": {"limit": "Zu viele: {limits}. In {retry_after} s wieder ({status}, {code})."},
    "de-ch": {"money": "Alles ausgegeben."},
}


@pytest.mark.parametrize(
    ("accepted", "message", "language"),
    [
        ("", "Slow down. Full.", None),
        ("fr, en;q=0.8", "Slow down. Full.", None),
        ("de-CH, en", "Zu viele: a, b. In 13 s wieder (429, limit).", "de"),
        ("en;q=0.4,de;q=0.5", "Zu viele: a, b. In 13 s wieder (429, limit).", "de"),
        ("de;q=0", "Slow down. Full.", None),
    ],
)
def test_the_best_language_that_has_it(accepted: str, message: str, language: str | None) -> None:
    """The first language that has this reason is spoken, a region's own before the bare one."""
    assert reword(MESSAGES, REFUSED, accepted) == (message, language)


def test_what_has_no_message_keeps_its_own() -> None:
    """A reason without a message is told as usual."""
    assert reword(MESSAGES, Decision(admitted=False, code="backend", status=503), "de") is None


def test_no_wait_is_empty() -> None:
    """Where waiting does not help, there is no number of seconds."""
    hopeless = Decision(admitted=False, code="limit", status=429)

    assert reword({"*": {"limit": "[{retry_after}]"}}, hopeless, "") == ("[]", None)


@given(st.text(max_size=200))
def test_any_header_is_read(header: str) -> None:
    """No header raises, and no language comes twice."""
    found = languages_of(header)

    assert len(set(found)) == len(found)


@pytest.mark.parametrize("template", ["{wait}", "{", "{message.upper}", "{retry_after:d}", "{}", "{message:q}"])
def test_a_template_that_could_fail_is_none(template: str) -> None:
    """What would fail in a request fails at start."""
    with pytest.raises(ValueError, match=r"."):
        check(template)


def test_codes_are_those_that_are_refused_with() -> None:
    """Every code in the sources can be given a message, and stands on the page."""
    page = (Path(__file__).parents[2] / "docs" / "refusals.md").read_text()
    sources = "".join(path.read_text() for path in Path(tokenbudget_mw.__file__).parent.rglob("*.py"))
    used = set(re.findall(r'\bcode(?:: str)? ?= ?"([a-z_]+)"', sources)) - {"ok"}

    assert used <= set(CODES)
    assert [code for code in CODES if f"`{code}`" not in page] == []
