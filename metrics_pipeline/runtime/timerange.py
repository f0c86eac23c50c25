"""Spans of time as people name them. Pure: `now` is an argument.

Days and weeks are steps of the calendar, so a day on which clocks change has 23 or 25 hours; minutes and hours are
steps of time. Moments of one zone are compared and moved as instants: by the clock on the wall, an hour exists twice.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

import dateparser

from metrics_pipeline.errors import ConfigurationError

MINUTE_SECONDS, HOUR_SECONDS, DAY_SECONDS, WEEK_SECONDS = 60, 3_600, 86_400, 604_800

_SLIDING = re.compile(r"^(?:the )?(?:last|past) (?:(\d{1,6}) )?(minute|hour|day|week)s?$")
_MOMENT = re.compile(r"\d:\d|\b(?:now|ago|am|pm|hours?|minutes?|seconds?)\b")
_STEP_BACK = re.compile(
    r"^(?:(?:the|a|an|one) )?(?:(last|previous) )?(?:(\d{1,4}) )?(minute|hour|day|week)s?(?: (before|earlier))?$"
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAY_BACK = re.compile(rf"^(?:the )?(?:(?:last|previous) )?({'|'.join(_WEEKDAYS)})(?: before)?$")
_DIRECTLY_BEFORE = frozenset({"before", "the span before", "the time before", "previous", "the previous span"})


@dataclass(frozen=True, slots=True)
class TimeRange:
    """[start, end), both aware."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.timestamp() >= self.end.timestamp():
            raise ConfigurationError(f"the range is empty: it starts at {self.start} and ends at {self.end}")

    @property
    def seconds(self) -> float:
        return self.end.timestamp() - self.start.timestamp()


def named_range(words: str, now: datetime) -> TimeRange:
    """A day ("last tuesday", "yesterday", "2026-11-03") or a span up to `now` ("last 30 minutes", "past hour").

    Days are days of now's time zone, also where clocks change. Raises ConfigurationError for anything else.
    """
    cleaned = _cleaned(words)
    sliding = _SLIDING.match(cleaned)
    if sliding and (sliding[1] or sliding[2] in ("minute", "hour")):
        return TimeRange(later(now, -int(sliding[1] or 1) * timedelta(**{f"{sliding[2]}s": 1})), now)
    day = None if _MOMENT.search(cleaned) else _parse(cleaned, now)
    if day is None or sliding:
        raise ConfigurationError(
            f"can't tell which day or span {words!r} is: try 'yesterday', 'last tuesday', '2026-11-03' or "
            "'last 30 minutes', or give --from and --to"
        )
    return TimeRange(midnight(day, now.tzinfo), midnight(day + timedelta(days=1), now.tzinfo))


def given_range(start: str, end: str, now: datetime) -> TimeRange:
    """Two moments as people write them; without a zone of their own they are in now's. Raises ConfigurationError."""
    moments = [_parse(words, now) for words in (start, end)]
    for words, moment in zip((start, end), moments, strict=True):
        if moment is None:
            raise ConfigurationError(f"can't read the time {words!r}: write it like 2026-11-03T10:15 or '2 hours ago'")
    return TimeRange(*(m for m in moments if m is not None))


def spelled_range(words: str, now: datetime) -> TimeRange:
    """FROM..TO, two moments, or what `named_range` takes. Raises ConfigurationError for anything else."""
    start, separator, end = words.partition("..")
    if separator:
        return given_range(start.strip(), end.strip() or "now", now)
    try:
        return named_range(words, now)
    except ConfigurationError:
        raise ConfigurationError(
            f"can't tell which range {words!r} is: write FROM..TO, like 2026-11-03T10:00..2026-11-03T11:00 or "
            "'2 hours ago..now', or a day or span, like 'yesterday' or 'last 30 minutes'"
        ) from None


def compared_range(words: str, span: TimeRange, now: datetime) -> TimeRange:
    """The span that `span` is to be compared with.

    Words like "the day before", "last week", "2 weeks earlier", "the tuesday before" and "before" are relative to
    `span`, and keep its time of day; anything else is what `named_range` takes. Raises ConfigurationError for words
    that are neither, or if clocks left out the span's time on that day.
    """
    cleaned = _cleaned(words)
    if cleaned in _DIRECTLY_BEFORE:
        return TimeRange(later(span.start, -timedelta(seconds=span.seconds)), span.start)
    if weekday := _WEEKDAY_BACK.match(cleaned):
        days = (span.start.weekday() - _WEEKDAYS.index(weekday[1]) - 1) % 7 + 1
        return _moved(span, lambda moment: moment - timedelta(days=days))
    step = _STEP_BACK.match(cleaned)
    if step and (step[4] or (step[1] and not step[2])):
        unit, count = step[3], int(step[2] or 1)
        back = count * timedelta(**{f"{unit}s": 1})
        if unit in ("day", "week"):
            return _moved(span, lambda moment: moment - back)
        return _moved(span, lambda moment: later(moment, -back))
    try:
        return named_range(words, now)
    except ConfigurationError:
        raise ConfigurationError(
            f"can't tell which span {words!r} is: try 'the day before', 'the tuesday before', 'last week', "
            "'2 weeks earlier', 'before' or '2026-11-03'"
        ) from None


def whole_minutes(span: TimeRange) -> TimeRange:
    """The smallest range of whole minutes around `span`."""
    end = _floor(span.end)
    return TimeRange(_floor(span.start), end if end == span.end else later(end, timedelta(minutes=1)))


def midnight(day: datetime, zone: tzinfo | None) -> datetime:
    """Start of the calendar day, in the zone."""
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def later(moment: datetime, by: timedelta) -> datetime:
    """The moment plus `by`, counted in instants, in the moment's zone: right also where clocks repeat an hour."""
    return (moment.astimezone(UTC) + by).astimezone(moment.tzinfo)


def _moved(span: TimeRange, move: Callable[[datetime], datetime]) -> TimeRange:
    return TimeRange(move(span.start), move(span.end))


def _cleaned(words: str) -> str:
    return " ".join(words.lower().split())


def _floor(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _parse(words: str, now: datetime) -> datetime | None:
    moment = dateparser.parse(
        words,
        languages=["en"],
        settings={
            "PREFER_DATES_FROM": "past",
            "RELATIVE_BASE": now.replace(tzinfo=None),
            "DATE_ORDER": "YMD",
        },
    )
    if moment is None:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def minute_name(seconds: int) -> str:
    """A minute as people and `--range` write it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M}Z"
