"""What a ledger row says of its events."""

from collections import Counter

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_pipeline.event.contract import MAX_TIMESTAMP_MS, NO_EVENTS
from metrics_pipeline.ledger.entry import EventMinutes, minutes_of

INSTANT = NO_EVENTS.schema["timestamp"]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, MAX_TIMESTAMP_MS) | st.integers(0, 400_000), max_size=50))
def test_every_event_counts_in_the_minute_of_its_timestamp(times_ms: list[int]) -> None:
    minutes = minutes_of(pl.Series("timestamp", times_ms, dtype=pl.Int64).cast(INSTANT))
    counted = dict(zip(minutes.starts_seconds, minutes.inserted, strict=True))
    assert counted == Counter(t // 60_000 * 60 for t in times_ms)
    assert list(counted) == sorted(counted)


def test_no_events_have_no_minutes() -> None:
    assert minutes_of(NO_EVENTS["timestamp"]) == EventMinutes((), ())
