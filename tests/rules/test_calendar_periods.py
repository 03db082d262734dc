from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.rules.calendar_periods import PERIODS, period_at

ZONES = [
    "UTC",
    "Europe/Zurich",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Cairo",
]
HOUR = 3_600_000_000


def moment(text, zone):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def local(us, zone):
    return datetime.fromtimestamp(us / 1_000_000, UTC).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


def bounds(name, text, zone):
    period = period_at(name, moment(text, zone), ZoneInfo(zone))
    return [local(us, zone) for us in (period.start_us, period.end_us, period.next_end_us)]


@pytest.mark.parametrize(
    ("name", "now", "zone", "expected"),
    [
        ("day", "2026-11-20T23:59:59", "UTC", ["2026-11-20 00:00", "2026-11-21 00:00", "2026-11-22 00:00"]),
        ("week", "2026-11-20T12:00:00", "UTC", ["2026-11-16 00:00", "2026-11-23 00:00", "2026-11-30 00:00"]),
        ("month", "2026-12-31T23:00:00", "Asia/Tokyo", ["2026-12-01 00:00", "2027-01-01 00:00", "2027-02-01 00:00"]),
        ("month", "2028-02-29T12:00:00", "Europe/Zurich", ["2028-02-01 00:00", "2028-03-01 00:00", "2028-04-01 00:00"]),
        ("month", "2027-01-31T12:00:00", "UTC", ["2027-01-01 00:00", "2027-02-01 00:00", "2027-03-01 00:00"]),
        ("quarter", "2026-11-20T12:00:00", "UTC", ["2026-10-01 00:00", "2027-01-01 00:00", "2027-04-01 00:00"]),
        ("year", "2028-02-29T12:00:00", "UTC", ["2028-01-01 00:00", "2029-01-01 00:00", "2030-01-01 00:00"]),
        ("hour", "2026-11-20T12:34:56", "Asia/Kathmandu", ["2026-11-20 12:00", "2026-11-20 13:00", "2026-11-20 14:00"]),
    ],
)
def test_t17_periods_begin_and_end_by_the_calendar(name, now, zone, expected):
    """
    Every period starts at its first local midnight (or hour), leap years and turns of the year included.
    """
    assert bounds(name, now, zone) == expected


@pytest.mark.parametrize(
    ("now", "hours"), [("2026-03-29T12:00:00", 23), ("2026-10-25T12:00:00", 25), ("2026-06-01T12:00:00", 24)]
)
def test_t17_days_on_which_clocks_change_have_their_true_length(now, hours):
    """
    The day has 23 hours in spring and 25 in autumn.
    """
    period = period_at("day", moment(now, "Europe/Zurich"), ZoneInfo("Europe/Zurich"))

    assert (period.end_us - period.start_us) // HOUR == hours


def test_t17_a_midnight_that_clocks_skip_begins_after_the_gap():
    """
    Where clocks jump from 24:00 to 01:00, the day begins at 01:00, and the day before ends there.
    """
    zone = "America/Santiago"  # 2026-09-06: 00:00 does not exist

    day = period_at("day", moment("2026-09-06T12:00:00", zone), ZoneInfo(zone))
    before = period_at("day", moment("2026-09-05T23:30:00", zone), ZoneInfo(zone))

    assert local(day.start_us, zone) == "2026-09-06 01:00"
    assert before.end_us == day.start_us
    assert (day.end_us - day.start_us) // HOUR == 23


def test_t17_a_midnight_inside_a_gap_begins_after_it():
    """
    Where clocks jump from 23:30 to 00:30, the day begins at 00:30, and the day before ends there.
    """
    zone = "America/Toronto"  # as in 1919

    day = period_at("day", moment("1919-03-31T12:00:00", zone), ZoneInfo(zone))
    before = period_at("day", moment("1919-03-30T12:00:00", zone), ZoneInfo(zone))

    assert local(day.start_us, zone) == "1919-03-31 00:30"
    assert before.end_us == day.start_us


def test_t17_a_midnight_that_occurs_twice_begins_at_the_first():
    """
    Where clocks go back at midnight, the day before has its 25 hours, and no moment belongs to two days.
    """
    zone = "America/Havana"  # 2026-11-01: 01:00 becomes 00:00

    day = period_at("day", moment("2026-11-01T12:00:00", zone), ZoneInfo(zone))

    assert (day.end_us - day.start_us) // HOUR == 25
    assert period_at("day", day.start_us / 1_000_000, ZoneInfo(zone)) == day


def test_t17_the_hour_that_clocks_repeat_counts_as_two():
    """
    Both passes of the repeated hour are hours of their own.
    """
    zone = ZoneInfo("Europe/Zurich")
    first = period_at("hour", datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp(), zone)
    second = period_at("hour", datetime(2026, 10, 25, 1, 30, tzinfo=UTC).timestamp(), zone)

    assert first.end_us == second.start_us


@given(
    st.sampled_from(PERIODS),
    st.sampled_from(ZONES),
    st.integers(min_value=0, max_value=4_000_000_000_000_000),
)
def test_t17_periods_cover_time_without_gap_or_overlap(name, zone, now_us):
    """
    Each moment lies in its period, and the next period begins where it ends and ends where it said.
    """
    zone = ZoneInfo(zone)
    period = period_at(name, now_us / 1_000_000, zone)
    following = period_at(name, period.end_us / 1_000_000, zone)

    assert period.start_us <= round(now_us) < period.end_us < period.next_end_us
    if name != "hour":  # an hour's bounds are those of its own offset
        assert (following.start_us, following.end_us) == (period.end_us, period.next_end_us)


def test_there_is_no_other_period():
    """
    An unknown period is an error.
    """
    with pytest.raises(KeyError):
        period_at("fortnight", 0.0, ZoneInfo("UTC"))
