"""Spans of time as people name them. Pure: `now` is an argument."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

import dateparser

from metrics_pipeline.errors import ConfigurationError

_SLIDING = re.compile(r"^(?:the )?(?:last|past) (?:(\d{1,6}) )?(minute|hour|day|week)s?$")
_MOMENT = re.compile(r"\d:\d|\b(?:now|ago|am|pm|hours?|minutes?|seconds?)\b")


@dataclass(frozen=True, slots=True)
class TimeRange:
    """[start, end), both aware."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ConfigurationError(f"the range is empty: it starts at {self.start} and ends at {self.end}")


def named_range(words: str, now: datetime) -> TimeRange:
    """A day ("last tuesday", "yesterday", "2026-11-03") or a span up to `now` ("last 30 minutes", "past hour").

    Days are days of now's time zone, also where clocks change. Raises ConfigurationError for anything else.
    """
    cleaned = " ".join(words.lower().split())
    sliding = _SLIDING.match(cleaned)
    if sliding and (sliding[1] or sliding[2] in ("minute", "hour")):
        return TimeRange(now - int(sliding[1] or 1) * timedelta(**{f"{sliding[2]}s": 1}), now)
    day = None if _MOMENT.search(cleaned) else _parse(cleaned, now)
    if day is None or sliding:
        raise ConfigurationError(
            f"can't tell which day or span {words!r} is: try 'yesterday', 'last tuesday', '2026-11-03' or "
            "'last 30 minutes', or give --from and --to"
        )
    return TimeRange(_midnight(day, now.tzinfo), _midnight(day + timedelta(days=1), now.tzinfo))


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


def whole_minutes(span: TimeRange) -> TimeRange:
    """The smallest range of whole minutes around `span`."""
    end = _floor(span.end)
    return TimeRange(_floor(span.start), end if end == span.end else end + timedelta(minutes=1))


def _floor(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _midnight(day: datetime, zone: tzinfo | None) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


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
