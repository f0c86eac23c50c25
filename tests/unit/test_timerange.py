from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from metrics_pipeline.core.timerange import given_range, named_range, spelled_range, whole_minutes
from metrics_pipeline.errors import ConfigurationError

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
