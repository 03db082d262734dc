from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw import units

PICO = st.integers(min_value=-(10**30), max_value=10**30)


@given(PICO)
def test_dollars_round_trip(pico):
    """
    Any amount of pico-dollars survives being written as dollars and read again.
    """
    assert units.pico_from_usd(units.usd_from_pico(pico)) == pico


@given(st.integers(min_value=0, max_value=10**30))
def test_nano_dollars_are_rounded_up(pico):
    """
    A counter never holds less than the money that was spent, and never a whole nano-dollar more.
    """
    nano = units.nano_from_pico_ceil(pico)

    assert 0 <= nano * 1000 - pico < 1000


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (0, "$0.00"),
        (5 * 10**12, "$5.00"),
        (10_000 * 10**12, "$10,000.00"),
        (2_500_000, "$0.0000025"),
        (1, "$0.000000000001"),
        (-1_500_000_000_000, "-$1.50"),
    ],
)
def test_money_for_people_is_exact(pico, text):
    """
    Money is shown with at least the cents, and with every digit it has.
    """
    assert units.format_usd(pico) == text


@pytest.mark.parametrize("text", ["0.0000000000001", "NaN", "inf", "", "1,00", "five", "1e400", "9" * 41, "$5"])
def test_what_is_no_exact_amount_is_refused(text):
    """
    An amount that cannot be held to the pico-dollar, or is no number, is refused rather than rounded.
    """
    with pytest.raises(ValueError, match=r"number|places|too long"):
        units.pico_from_usd(text)


@pytest.mark.parametrize(
    "text", ["0,075", "0,000", "1234,567", "1.234,567", "1,000.5,000", "12,34,567", "1_000,000", "1,000_000", ",100"]
)
def test_a_comma_that_may_stand_for_a_point_is_refused(text):
    """
    Where a comma does not separate thousands, it may be a decimal one: a price of 0,075 is not one of 75 dollars.
    """
    with pytest.raises(ValueError, match="a comma stands between thousands, a point before decimals"):
        units.pico_from_usd(text)
    with pytest.raises(ValueError, match="not an amount"):
        units.parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "dollars"), [("1,234", 1234), ("-1,234,567.50", -1234567.5), ("+10,000", 10_000), ("1,234e3", 1_234_000)]
)
def test_a_comma_may_separate_thousands(text, dollars):
    """
    Amounts may be grouped as they are printed.
    """
    assert units.pico_from_usd(text) == dollars * 10**12


def test_large_amounts_lose_no_digit():
    """
    Amounts beyond the default precision of decimals stay exact.
    """
    assert units.pico_from_usd("123456789012345678901234.000000000001") == 123456789012345678901234_000000000001


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("60", 60),
        ("40k", 40_000),
        ("40K", 40_000),
        ("2.5M", 2_500_000),
        ("1G", 10**9),
        ("1 B", 10**9),
        ("1_000", 1000),
        ("10,000", 10_000),
    ],
)
def test_quantities_take_suffixes_and_groups(text, amount):
    """
    Quantities may be grouped and shortened.
    """
    assert units.parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", "k", "2m", "1,00", "-5", "+5", "5 kk", "٣", "1__0", "0x10", "1e3"])
def test_other_quantities_are_refused(text):
    """
    A quantity in another spelling is refused; `m` might mean minutes.
    """
    with pytest.raises(ValueError, match="not an amount"):
        units.parse_quantity(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_quantities_round_trip(amount):
    """
    The short form of a quantity reads as the same quantity.
    """
    assert units.parse_quantity(units.format_quantity(amount)) == amount


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("15m", 900),
        ("1h30m", 5400),
        ("1h 30 min", 5400),
        ("10 minutes", 600),
        ("7 days", 604_800),
        ("2 WEEKS", 1_209_600),
    ],
)
def test_durations(text, seconds):
    """
    Durations are read in any of their usual spellings.
    """
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "15 fortnights", "m15", "-5m", "1.5h", "5m x", "1 month", f"{'9' * 50}s"])
def test_other_durations_are_refused(text):
    """
    What has no fixed length, or no unit, is no duration.
    """
    with pytest.raises(ValueError, match="not a duration"):
        units.parse_duration(text)


@given(st.integers(min_value=1, max_value=10**9))
def test_durations_round_trip(seconds):
    """
    A duration shown to people reads as the same duration, however long.
    """
    assert units.parse_duration(units.format_duration(seconds).replace(f"{seconds:g}", str(seconds))) == seconds


def test_a_number_is_whole_or_refused():
    """
    Only whole products become integers.
    """
    assert units.exact_int(Decimal("0.075"), 1000) == 75
    with pytest.raises(ValueError, match="decimal places"):
        units.exact_int(Decimal("0.0755"), 1000)
