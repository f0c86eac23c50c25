"""Dead letters that nobody has looked at, and that something drops soon: when to warn, and in which words."""

from datetime import UTC, datetime

MARGIN_SHARE = 0.2
"""Warn when so much of the time that a letter is kept for remains."""
MAX_MARGIN_MS = 7 * 86_400_000


def warning_end_ms(now_ms: int, kept_ms: int) -> int:
    """Letters of messages from before this are dropped soon, where they are kept for `kept_ms`."""
    return now_ms - kept_ms + min(round(kept_ms * MARGIN_SHARE), MAX_MARGIN_MS)


def expiry_warning(holder: str, kept_ms: int, letters: int, oldest_ms: int | None) -> str | None:
    """The warning that `holder` soon drops `count` letters, the oldest first; None if there are none."""
    if not letters or oldest_ms is None:
        return None
    gone = datetime.fromtimestamp((oldest_ms + kept_ms) / 1_000, UTC)
    return (
        f"{holder} drops {letters} dead letters that were never replayed, the first one at {gone:%Y-%m-%dT%H:%MZ}: "
        "look at them with `metrics-pipeline dead-letters list`, then run `metrics-pipeline dead-letters replay`"
    )
