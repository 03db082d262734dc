from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.rules.calendar_periods import period_at

ZONES = [
    "UTC",
    "Europe/Zurich",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Cairo",
    "America/St_Johns",
]
HOUR = 3_600_000_000


def moment(text, zone):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def local(us, zone):
    return datetime.fromtimestamp(us / 1_000_000, UTC).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


def bounds(name, text, zone, anchor=1):
    period = period_at(name, moment(text, zone), ZoneInfo(zone), anchor)
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
    zone = "America/Havana"  # 2024-11-03: 01:00 becomes 00:00

    day = period_at("day", moment("2024-11-03T12:00:00", zone), ZoneInfo(zone))

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


@pytest.mark.parametrize(
    ("name", "anchor", "now", "expected"),
    [
        ("month", 15, "2026-11-15T00:00:00", ["2026-11-15", "2026-12-15", "2027-01-15"]),
        ("month", 15, "2026-11-14T23:59:59", ["2026-10-15", "2026-11-15", "2026-12-15"]),
        ("month", 31, "2027-02-27T23:59:59", ["2027-01-31", "2027-02-28", "2027-03-31"]),
        ("month", 31, "2027-02-28T00:00:00", ["2027-02-28", "2027-03-31", "2027-04-30"]),
        ("month", 31, "2028-02-28T23:59:59", ["2028-01-31", "2028-02-29", "2028-03-31"]),
        ("month", 31, "2028-02-29T00:00:00", ["2028-02-29", "2028-03-31", "2028-04-30"]),
        ("month", 30, "2027-02-28T12:00:00", ["2027-02-28", "2027-03-30", "2027-04-30"]),
        ("month", 29, "2100-02-28T12:00:00", ["2100-02-28", "2100-03-29", "2100-04-29"]),
        ("quarter", 31, "2026-04-29T12:00:00", ["2026-01-31", "2026-04-30", "2026-07-31"]),
        ("quarter", 215, "2027-02-14T12:00:00", ["2026-11-15", "2027-02-15", "2027-05-15"]),
        ("year", 15, "2027-01-14T12:00:00", ["2026-01-15", "2027-01-15", "2028-01-15"]),
        ("year", 406, "2027-04-05T23:59:59", ["2026-04-06", "2027-04-06", "2028-04-06"]),
        ("year", 229, "2027-06-01T12:00:00", ["2027-02-28", "2028-02-29", "2029-02-28"]),
        ("year", 1231, "2028-12-30T12:00:00", ["2027-12-31", "2028-12-31", "2029-12-31"]),
        ("week", 5, "2026-11-20T00:00:00", ["2026-11-20", "2026-11-27", "2026-12-04"]),
        ("week", 5, "2026-11-19T23:59:59", ["2026-11-13", "2026-11-20", "2026-11-27"]),
        ("week", 7, "2027-01-02T12:00:00", ["2026-12-27", "2027-01-03", "2027-01-10"]),
    ],
)
def test_t17_periods_begin_on_their_anchor(name, anchor, now, expected):
    """
    A period begins at midnight of its anchor's day; where the month is too short for it, on its last day.
    """
    assert bounds(name, now, "Europe/Zurich", anchor) == [f"{day} 00:00" for day in expected]


@pytest.mark.parametrize(
    ("anchor", "now", "hours"),
    [
        (29, "2026-03-20T12:00:00", 29 * 24),  # February 28th to March 29th, the day on which clocks go forward
        (29, "2026-04-01T12:00:00", 31 * 24 - 1),
        (25, "2026-10-01T12:00:00", 30 * 24),  # to October 25th, the day on which they go back
        (25, "2026-10-25T23:00:00", 31 * 24 + 1),
    ],
)
def test_t17_an_anchored_month_has_its_true_length_when_clocks_change(anchor, now, hours):
    """
    The hour that is lost or won belongs to the period that begins on the day of the change.
    """
    period = period_at("month", moment(now, "Europe/Zurich"), ZoneInfo("Europe/Zurich"), anchor)

    assert (period.end_us - period.start_us) // HOUR == hours


def test_t17_an_anchor_on_a_midnight_that_clocks_skip_begins_after_the_gap():
    """
    The period begins at 01:00 of the day whose midnight does not exist.
    """
    assert bounds("month", "2026-09-06T12:00:00", "America/Santiago", 6)[0] == "2026-09-06 01:00"


def test_t17_a_midnight_that_clocks_go_back_over_begins_one_period():
    """
    Where clocks go from 00:01 back to 23:01, the day that had begun goes on, though the date is yesterday's again.
    """
    zone = ZoneInfo("America/St_Johns")  # as until 2011
    back = datetime(2010, 11, 7, 2, 31, tzinfo=UTC).timestamp()  # 00:01 NDT becomes 23:01 NST

    begun, again = period_at("day", back - 30, zone), period_at("day", back + 30, zone)

    assert local(round((back + 30) * 1e6), "America/St_Johns") == "2010-11-06 23:01"
    assert again == begun
    assert begun.start_us == round((back - 60) * 1e6)


ANCHORS = st.one_of(
    st.tuples(st.sampled_from(("hour", "day")), st.just(1)),
    st.tuples(st.just("week"), st.integers(1, 7)),
    st.tuples(st.just("month"), st.integers(1, 31)),
    st.tuples(
        st.sampled_from(("quarter", "year")),
        st.builds(lambda month, day: month * 100 + day, st.sampled_from((0, *range(2, 13))), st.integers(1, 31)),
    ),
)


@given(ANCHORS, st.sampled_from(ZONES), st.integers(min_value=0, max_value=4_000_000_000_000_000))
def test_t17_periods_cover_time_without_gap_or_overlap(period_and_anchor, zone, now_us):
    """
    Each moment lies in its period, and the next period begins where it ends and ends where it said.
    """
    name, anchor = period_and_anchor
    zone = ZoneInfo(zone)
    period = period_at(name, now_us / 1_000_000, zone, anchor)
    following = period_at(name, period.end_us / 1_000_000, zone, anchor)
    last_moment = period_at(name, (period.end_us - 1_000) / 1_000_000, zone, anchor)

    assert period.start_us <= round(now_us) < period.end_us < period.next_end_us
    if name != "hour":  # an hour's bounds are those of its own offset
        assert (following.start_us, following.end_us) == (period.end_us, period.next_end_us)
        assert last_moment == period


@given(ANCHORS.filter(lambda each: each[0] in ("month", "quarter", "year")), st.integers(0, 4_000_000_000))
def test_t17_a_period_begins_on_its_anchor_or_on_the_last_day_before(period_and_anchor, now):
    """
    The first day is the anchor's, or the day after it is the first of a month.
    """
    name, anchor = period_and_anchor
    start = datetime.fromtimestamp(period_at(name, now, ZoneInfo("UTC"), anchor).start_us / 1e6, UTC)
    month, day = divmod(anchor, 100)

    assert start.day == day or (start.day < day and (start + timedelta(days=1)).day == 1)
    if name == "year":
        assert start.month == max(month, 1)
    if name == "quarter":
        assert (start.month - max(month, 1)) % 3 == 0


def test_there_is_no_other_period():
    """
    An unknown period is an error.
    """
    with pytest.raises(KeyError):
        period_at("fortnight", 0.0, ZoneInfo("UTC"))
