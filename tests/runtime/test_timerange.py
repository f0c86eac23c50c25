from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.runtime.timerange import (
    TimeRange,
    compared_range,
    given_range,
    named_range,
    spelled_range,
    whole_minutes,
)

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 24, 10, 30, 15, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("words", "day"),
    [("today", 24), ("yesterday", 23), ("last tuesday", 17), ("Monday", 23), ("2026-11-03", 3), ("3 november 2026", 3)],
)
def test_days_are_whole_days_of_the_zone(words: str, day: int) -> None:
    span = named_range(words, NOW)
    assert span.start == datetime(2026, 11, day, tzinfo=BERLIN)
    assert span.end == datetime(2026, 11, day + 1, tzinfo=BERLIN)


def test_a_day_on_which_clocks_change_has_25_hours() -> None:
    span = named_range("2026-10-25", NOW)
    assert span.end.timestamp() - span.start.timestamp() == 25 * 3_600


@pytest.mark.parametrize(("words", "minutes"), [("last 30 minutes", 30), ("past hour", 60), ("last 2 days", 2_880)])
def test_sliding_spans_end_now(words: str, minutes: int) -> None:
    span = named_range(words, NOW)
    assert (span.start, span.end) == (NOW - timedelta(minutes=minutes), NOW)


@pytest.mark.parametrize("words", ["", "soon", "2 hours ago", "10:15", "last week", "the tuesday before"])
def test_what_names_no_day_or_span_is_refused(words: str) -> None:
    with pytest.raises(ConfigurationError, match="--from"):
        named_range(words, NOW)


def test_given_moments_may_carry_their_own_zone() -> None:
    span = given_range("2026-11-03T10:15", "2026-11-03T10:20:30Z", NOW)
    assert span.start == datetime(2026, 11, 3, 10, 15, tzinfo=BERLIN)
    assert whole_minutes(span).end == datetime(2026, 11, 3, 11, 21, tzinfo=BERLIN)
    with pytest.raises(ConfigurationError, match="empty"):
        given_range("2026-11-03", "2026-11-02", NOW)


def test_a_range_is_two_moments_or_a_name() -> None:
    assert spelled_range("2026-11-03T10:00..2026-11-03T11:30", NOW) == given_range(
        "2026-11-03T10:00", "2026-11-03T11:30", NOW
    )
    assert spelled_range("2 hours ago..", NOW).end == given_range("2 hours ago", "now", NOW).end
    assert spelled_range("yesterday", NOW) == named_range("yesterday", NOW)
    for wrong in ("..", "soon..later", "2026-11-03T11:00..2026-11-03T10:00", "sometime"):
        with pytest.raises(ConfigurationError):
            spelled_range(wrong, NOW)


def day(month: int, number: int) -> TimeRange:
    start = datetime(2026, month, number, tzinfo=BERLIN)
    return TimeRange(start, start + timedelta(days=1))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("the tuesday before", 10),
        ("Tuesday before", 10),
        ("last tuesday", 10),
        ("the monday before", 16),
        ("the wednesday before", 11),
        ("the day before", 16),
        ("the previous day", 16),
        ("a day earlier", 16),
        ("2 days before", 15),
        ("last week", 10),
        ("the week before", 10),
        ("2 weeks earlier", 3),
        ("before", 16),
        ("2026-11-05", 5),
        ("yesterday", 23),
    ],
)
def test_a_tuesday_is_compared_with(words: str, expected: int) -> None:
    assert compared_range(words, day(11, 17), NOW) == day(11, expected)


def test_a_compared_span_keeps_its_time_of_day() -> None:
    span = given_range("2026-11-18T10:15", "2026-11-18T11:45", NOW)
    assert compared_range("the tuesday before", span, NOW) == given_range("2026-11-17T10:15", "2026-11-17T11:45", NOW)
    assert compared_range("last week", span, NOW) == given_range("2026-11-11T10:15", "2026-11-11T11:45", NOW)
    assert compared_range("the hour before", span, NOW) == given_range("2026-11-18T09:15", "2026-11-18T10:45", NOW)
    assert compared_range("before", span, NOW) == given_range("2026-11-18T08:45", "2026-11-18T10:15", NOW)


def hours(span: TimeRange) -> float:
    return span.seconds / 3_600


def test_compared_days_are_days_of_the_calendar_where_clocks_change() -> None:
    before = compared_range("the day before", day(10, 26), NOW)
    assert before == day(10, 25)
    assert hours(before) == 25
    assert hours(compared_range("the day before", before, NOW)) == 24
    assert compared_range("the week before", day(4, 1), NOW) == day(3, 25)
    assert hours(compared_range("the sunday before", day(4, 5), NOW)) == 23


def test_compared_hours_are_hours_of_time_where_clocks_change() -> None:
    second = TimeRange(
        datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1), datetime(2026, 10, 25, 2, 50, tzinfo=BERLIN, fold=1)
    )
    first = compared_range("the hour before", second, NOW)
    assert (first.start.fold, first.start.hour, hours(first)) == (0, 2, 40 / 60)
    assert second.start.timestamp() - first.start.timestamp() == 3_600


def test_an_hour_that_clocks_left_out_can_not_be_compared_with() -> None:
    span = given_range("2026-03-30T02:00", "2026-03-30T03:00", NOW)
    with pytest.raises(ConfigurationError, match="empty"):
        compared_range("the day before", span, NOW)


@pytest.mark.parametrize("words", ["", "soon", "the better days", "last 3 fortnights", "weeks"])
def test_what_names_no_span_to_compare_with_is_refused(words: str) -> None:
    with pytest.raises(ConfigurationError, match="the tuesday before"):
        compared_range(words, day(11, 17), NOW)


def test_spans_up_to_now_are_right_in_the_hour_that_comes_twice() -> None:
    now = datetime(2026, 10, 25, 2, 10, 30, tzinfo=BERLIN, fold=1)
    span = named_range("last 30 minutes", now)
    assert span.seconds == 1_800
    assert whole_minutes(span).seconds == 1_860
