"""Options that name a span of time."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from metrics_pipeline.core.timerange import TimeRange, given_range, spelled_range
from metrics_pipeline.errors import ConfigurationError

WHEN = typer.Option(
    None, "--when", help="'yesterday', 'last 3 hours', '2026-11-03', '2026-11-03T10:00..2026-11-03T11:00' …"
)
FROM = typer.Option(None, "--from", help="Start, e.g. 2026-11-03T10:15 or '2 hours ago'.")
TO = typer.Option(None, "--to", help="End, not included; now without it.")
TIMEZONE = typer.Option("UTC", "--timezone", help="Time zone of days and of times without one, e.g. Europe/Berlin.")


def chosen_span(when: str | None, start: str | None, end: str | None, timezone: str) -> TimeRange:
    """What the options say. Raises ConfigurationError."""
    now = datetime.now(UTC).astimezone(_zone(timezone))
    if when is not None and start is None and end is None:
        return spelled_range(when, now)
    if when is None and start is not None:
        return given_range(start, end or "now", now)
    raise ConfigurationError("say when: either --when, or --from with or without --to")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigurationError(f"there is no time zone {name!r}: write it like Europe/Berlin or UTC") from None
