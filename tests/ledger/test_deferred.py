"""Arithmetic of what is deferred, against sets of single offsets."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.delivery.accounts import accounts_of
from metrics_pipeline.delivery.batch import deferred_batch, lost_batch, noted_entry
from metrics_pipeline.event.contract import NO_DEAD_LETTERS, NO_EVENTS
from metrics_pipeline.kafka.intents import Commit, Intent, OffsetRange, batch_token, open_batches
from metrics_pipeline.ledger.deferred import (
    DeferredEntry,
    deferred_hours,
    deferred_within,
    intersected,
    merged,
    still_deferred,
    subtracted,
)

HOUR_MS = 3_600_000

RANGES = st.lists(
    st.builds(
        lambda partition, start, length: OffsetRange(partition, start, start + length),
        st.integers(0, 2),
        st.integers(0, 30),
        st.integers(0, 12),
    ),
    max_size=8,
)
ENTRIES = st.lists(
    st.builds(
        lambda ranges, hour: DeferredEntry(tuple(ranges), hour * HOUR_MS, (hour + 1) * HOUR_MS - 1),
        RANGES,
        st.integers(0, 5),
    ),
    max_size=5,
)


def offsets(ranges: list[OffsetRange] | tuple[OffsetRange, ...]) -> set[tuple[int, int]]:
    return {(r.partition, offset) for r in ranges for offset in range(r.start, r.end)}


def is_canonical(ranges: tuple[OffsetRange, ...]) -> bool:
    return ranges == merged(ranges)


@given(RANGES)
def test_merged_ranges_are_the_same_offsets_in_the_fewest_ranges(ranges: list[OffsetRange]) -> None:
    found = merged(ranges)
    assert offsets(found) == offsets(ranges)
    assert all(a.partition < b.partition or a.end < b.start for a, b in pairwise(found))
    assert all(r.offsets for r in found)


@given(RANGES, RANGES)
def test_subtracting_and_intersecting_are_those_of_sets(ranges: list[OffsetRange], others: list[OffsetRange]) -> None:
    left, common = subtracted(ranges, others), intersected(ranges, others)
    assert offsets(left) == offsets(ranges) - offsets(others)
    assert offsets(common) == offsets(ranges) & offsets(others)
    assert is_canonical(left)
    assert is_canonical(common)


@given(ENTRIES, RANGES)
def test_what_is_still_deferred_is_each_offset_once_in_its_first_entry(
    entries: list[DeferredEntry], covered: list[OffsetRange]
) -> None:
    found = still_deferred(entries, covered)
    known = offsets(covered)
    expected = []
    for entry in entries:
        left = offsets(entry.ranges) - known
        known |= left
        if left:
            expected.append((entry.first_ms, left))
    assert [(e.first_ms, offsets(e.ranges)) for e in found] == expected
    assert sum(e.offsets for e in found) == sum(len(left) for _, left in expected)


@given(ENTRIES, RANGES)
def test_only_what_is_asked_for_is_taken(entries: list[DeferredEntry], ranges: list[OffsetRange]) -> None:
    found = deferred_within(entries, ranges)
    wanted = [(e.first_ms, offsets(e.ranges) & offsets(ranges)) for e in entries]
    assert [(e.first_ms, offsets(e.ranges)) for e in found] == [(ms, both) for ms, both in wanted if both]
    assert deferred_hours(found) == tuple(sorted({ms // 1_000 for ms, both in wanted if both}))


def test_an_entry_survives_the_way_through_an_open_intent() -> None:
    entry = DeferredEntry((OffsetRange(0, 5, 9), OffsetRange(2, 1, 4)), 3 * HOUR_MS + 60_000, 3 * HOUR_MS + 119_999)
    batch = deferred_batch(entry)
    token = batch_token("group", "topic", batch.ranges, batch.note)
    commits = {r.partition: Commit(r.start, Intent(r.end, token, note=batch.note), "topic") for r in batch.ranges}
    (opened,) = open_batches(commits)
    assert noted_entry(opened.ranges, opened.note) == entry
    assert entry.hour_seconds == 3 * 3_600
    assert noted_entry(opened.ranges, "") is None


def test_the_account_of_an_deferred_range_explains_no_offset() -> None:
    """Neither consumed nor skipped nor lost; the token is none that a batch of the same offsets could have."""
    ranges = (OffsetRange(0, 5, 9),)
    batch = deferred_batch(DeferredEntry(ranges, 0, 59_999))
    (account,) = accounts_of(batch, NO_EVENTS, NO_DEAD_LETTERS)
    assert account.is_deferred
    assert (account.consumed, account.skipped, account.lost) == (0, 0, 0)
    (lost,) = accounts_of(lost_batch(ranges), NO_EVENTS, NO_DEAD_LETTERS)
    assert (lost.is_deferred, lost.skipped, lost.lost) == (False, 0, 4)
    assert batch_token("g", "t", ranges, batch.note) != batch_token("g", "t", ranges)
