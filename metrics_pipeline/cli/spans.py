"""Options that say which span of time is meant, and spans as people read them."""

from datetime import UTC, datetime, timedelta
from math import ceil
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.runtime.timerange import TimeRange, given_range, midnight, spelled_range

WHEN = typer.Option(
    None,
    "--when",
    help="'yesterday', 'last tuesday', '2026-11-03', 'last 30 minutes', '2026-11-03T10:00..2026-11-03T11:00' …",
)
START = typer.Option(None, "--from", help="Start, e.g. 2026-11-03T10:15 or '2 hours ago'.")
END = typer.Option(None, "--to", help="End, not included; now without it.")
TIMEZONE = typer.Option("UTC", "--timezone", help="Time zone of days and of times without one, e.g. Europe/Berlin.")


def now_in(timezone: str) -> datetime:
    """Raises ConfigurationError for an unknown zone."""
    try:
        return datetime.now(UTC).astimezone(ZoneInfo(timezone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(f"there is no time zone {timezone!r}: write it like Europe/Berlin or UTC") from None


def asked_span(when: str | None, start: str | None, end: str | None, now: datetime) -> TimeRange:
    """What the options say. Raises ConfigurationError if they say nothing, two things, or nonsense."""
    if when is not None and start is None and end is None:
        return spelled_range(when, now)
    if when is None and start is not None:
        return given_range(start, end or "now", now)
    raise ConfigurationError("say when: either --when, or --from with or without --to")


def whole_seconds(span: TimeRange) -> tuple[int, int]:
    """Epoch seconds of its start and of its end."""
    return int(span.start.timestamp()), ceil(span.end.timestamp())


def elapsed(span: TimeRange, now: datetime) -> TimeRange:
    """The part of the span that is over, so that half a day isn't compared with a whole one."""
    return TimeRange(span.start, now) if span.start < now < span.end else span


def bounds(span: TimeRange) -> dict[str, str]:
    """For scripts."""
    return {"from": span.start.isoformat(), "to": span.end.isoformat()}


def span_text(span: TimeRange) -> str:
    """Like "Tue 2026-11-03" for a day, else with times; and the zone."""
    start, end = span.start, span.end.astimezone(span.start.tzinfo)
    zone = getattr(start.tzinfo, "key", None) or start.strftime("%Z")
    if start == midnight(start, start.tzinfo) and end == midnight(start + timedelta(days=1), start.tzinfo):
        hours = round(span.seconds / 3_600)
        return f"{start:%a %Y-%m-%d} {zone}" + ("" if hours == 24 else f", a day of {hours} hours")
    same_day = start.date() == end.date()
    return f"{start:%a %Y-%m-%d %H:%M} to {end:{'%H:%M' if same_day else '%a %Y-%m-%d %H:%M'}} {zone}"


def short_span_text(span: TimeRange) -> str:
    """For the head of a column."""
    start = span.start
    if start == midnight(start, start.tzinfo) and span.seconds >= 23 * 3_600:
        return f"{start:%a %Y-%m-%d}"
    return f"{start:%a %m-%d %H:%M}"
