"""What a skip to head skips, cut at hours: every offset once, as Kafka answers for times, whatever order they are
in."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.drain import skip_to_head
from metrics_pipeline.drain.skip_to_head import skipped_hours
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.deferred import DeferredEntry
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.retry import Retry
from tests.models.kafka import Partition, Record

HOUR_MS = 3_600_000
NOW_MS = 1_793_491_198_000
RETRY = Retry(SystemClock(), 1, lambda: False, lambda *_: None)


class Times:
    """The one answer of a log that a skip to head needs."""

    def __init__(self, partitions: Mapping[int, Partition]) -> None:
        self.partitions = partitions
        self.questions = 0

    def offsets_at(self, partitions: Sequence[int], time_ms: int) -> Mapping[int, int]:
        self.questions += 1
        found = {p: self.partitions[p].first_at(time_ms) for p in partitions}
        return {p: offset for p, offset in found.items() if offset is not None}


def records(hours: Sequence[float | None]) -> list[Record | None]:
    """A message per number, so many hours ago; a hole per None."""
    return [None if h is None else Record(int(NOW_MS - h * HOUR_MS), b"") for h in hours]


def skip(partitions: Mapping[int, Partition], positions: Mapping[int, int]) -> tuple[list[DeferredEntry], int]:
    log = Times(partitions)
    heads = {p: partitions[p].high for p in positions}
    return list(skipped_hours(log, RETRY, positions, heads, NOW_MS)), log.questions  # type: ignore[arg-type]


AGES = st.one_of(st.none(), st.floats(-30, 200, allow_nan=False), st.sampled_from([0.0, 1.0, 490_000.0]))
LOGS = st.lists(st.tuples(st.lists(AGES, max_size=12), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=3)


@given(LOGS)
def test_hours_tile_what_is_skipped_as_kafka_cuts_it(logs: list[tuple[list[float | None], int, int]]) -> None:
    partitions, positions = {}, {}
    for p, (hours, low, ahead) in enumerate(logs):
        partitions[p] = Partition(records(hours), min(low, len(hours)))
        positions[p] = min(partitions[p].low + ahead, partitions[p].high)
    entries, _ = skip(partitions, positions)
    has_messages = any(r is not None for p, at in positions.items() for r in partitions[p].records[at:])
    if not entries:
        assert not has_messages
        return
    assert all(a.hour_seconds < b.hour_seconds for a, b in pairwise(entries))
    for p, position in positions.items():
        ranges = [r for e in entries for r in e.ranges if r.partition == p]
        ends = [position, *(r.end for r in ranges)]
        assert [*(r.start for r in ranges), partitions[p].high] == ends
        for entry in entries[1:]:
            # But for holes at the beginning, an hour begins where Kafka says so.
            begins = [r.start for r in entry.ranges if r.partition == p]
            at_hour = partitions[p].first_at(entry.hour_seconds * 1_000)
            assert not begins or begins[0] in (position, at_hour)
    for entry in entries:
        assert entry.hour_seconds * 1_000 <= entry.first_ms <= entry.last_ms
        assert entry.last_ms < entry.hour_seconds * 1_000 + HOUR_MS


def test_the_times_of_an_hour_are_known_to_the_minute_and_found_with_few_questions() -> None:
    """The message before the position is older; NOW_MS is two seconds before midnight."""
    partitions = {0: Partition(records([30.0, 3.5, 3.4, 2.2, 0.25])), 1: Partition(records([0.5]))}
    entries, questions = skip(partitions, {0: 1, 1: 0})
    hour_ms = (NOW_MS + 2_000) - HOUR_MS
    assert [e.ranges for e in entries] == [
        (OffsetRange(0, 1, 3),),
        (OffsetRange(0, 3, 4),),
        (OffsetRange(0, 4, 5), OffsetRange(1, 0, 1)),
    ]
    assert [(e.first_ms - hour_ms) / 60_000 for e in entries] == [29 - 180, -120, 0]
    assert [(e.last_ms + 1 - hour_ms) / 60_000 for e in entries] == [-120, -60, 45]
    assert questions < 50


def test_what_no_real_backlog_has_ends_in_one_entry() -> None:
    ages = [float(h) for h in range(20, 0, -1)]
    with patch.object(skip_to_head, "MAX_ENTRIES", 5):
        entries, _ = skip({0: Partition(records(ages))}, {0: 0})
    assert [r for e in entries for r in e.ranges] == [
        *(OffsetRange(0, n, n + 1) for n in range(4)),
        OffsetRange(0, 4, 20),
    ]
    assert entries[-1].last_ms > NOW_MS - HOUR_MS
