from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from metrics_pipeline.questions.sparkline import MAX_COLUMNS, columns_of, sparkline
from metrics_pipeline.rollups.grains import GRAINS
from metrics_pipeline.runtime.timerange import TimeRange, later

BERLIN = ZoneInfo("Europe/Berlin")
KATHMANDU = ZoneInfo("Asia/Kathmandu")


def span(start: datetime, **length: float) -> TimeRange:
    return TimeRange(start, later(start, timedelta(**length)))


def test_bars_go_from_zero_to_the_greatest_value() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇██"
    assert sparkline([100, 99]) == "██"


def test_a_value_that_there_is_not_is_a_blank() -> None:
    assert sparkline([None, 5, None]) == " █ "
    assert sparkline([None, None]) == "  "
    assert sparkline([]) == ""


def test_zeros_are_low_bars() -> None:
    assert sparkline([0, 0.0]) == "▁▁"


@pytest.mark.parametrize(
    ("length", "width", "columns"),
    [
        ({"minutes": 7}, "10 minutes", 1),
        ({"hours": 5}, "10 minutes", 30),
        ({"hours": 6}, "hour", 6),
        ({"hours": 24}, "hour", 24),
        ({"days": 7}, "3 hours", 56),
        ({"days": 8}, "day", 8),
        ({"days": 60}, "day", 60),
        ({"days": 396}, "7 days", 57),
    ],
)
def test_columns_are_ten_minutes_hours_or_days(length: dict[str, int], width: str, columns: int) -> None:
    found = columns_of(span(datetime(2026, 11, 2, tzinfo=ZoneInfo("UTC")), **length))
    assert (found.width, len(found.starts)) == (width, columns)


@pytest.mark.parametrize("zone", [BERLIN, KATHMANDU, ZoneInfo("UTC")])
@pytest.mark.parametrize("minutes", [1, 59, 361, 1_440, 1_501, 10_080, 10_141, 11_000, 86_400, 570_240])
def test_columns_fit_the_terminal_and_consist_of_whole_buckets(zone: ZoneInfo, minutes: int) -> None:
    asked = span(datetime(2026, 3, 1, 5, 17, tzinfo=zone), minutes=minutes)
    columns = columns_of(asked)
    assert 1 <= len(columns.starts) <= MAX_COLUMNS
    assert columns.starts[0] == asked.start
    seconds = [start.timestamp() for start in columns.starts]
    assert seconds == sorted(set(seconds))
    assert seconds[-1] < asked.end.timestamp()
    assert columns.step_seconds in {grain.seconds for grain in GRAINS[1:]}
    assert all(second % columns.step_seconds == 0 for second in seconds[1:])


def test_hours_go_on_through_a_change_of_clocks() -> None:
    day = TimeRange(datetime(2026, 10, 25, tzinfo=BERLIN), datetime(2026, 10, 26, tzinfo=BERLIN))
    assert [start.hour for start in columns_of(day).starts] == [0, 1, 2, 2, *range(3, 24)]
    day = TimeRange(datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 3, 30, tzinfo=BERLIN))
    assert [start.hour for start in columns_of(day).starts] == [0, 1, *range(3, 24)]


def test_days_begin_at_midnight_on_both_sides_of_a_change_of_clocks() -> None:
    month = TimeRange(datetime(2026, 10, 10, tzinfo=BERLIN), datetime(2026, 11, 10, tzinfo=BERLIN))
    columns = columns_of(month)
    assert len(columns.starts) == 31
    assert {(start.hour, start.minute) for start in columns.starts} == {(0, 0)}
    assert columns.step_seconds == 3_600
