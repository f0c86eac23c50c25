"""Chunks of ranges: cut, put on record, and the places of their rows."""

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_pipeline.delivery.chunk import (
    PLACE,
    POSITION,
    SLOT,
    cuts,
    each_position,
    open_chunk,
    open_chunk_of,
    placed,
    ranges_of,
    slot_commits,
)
from metrics_pipeline.event.contract import NO_EVENTS
from metrics_pipeline.event.decode import EventLimits
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import METADATA_LIMIT_BYTES, OffsetRange, decode_commit, encode_metadata

RULES = Rules(EventLimits(1, 2))
_STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1 << 40), st.integers(1, 100_000)), min_size=1, max_size=200
)


def ranges_from(steps: list[tuple[int, int, int]]) -> list[OffsetRange]:
    """Ranges in order, apart from each other within a partition."""
    ends: dict[int, int] = {}
    found = []
    for partition, gap, offsets in steps:
        start = ends.get(partition, -1) + 1 + gap
        found.append(OffsetRange(partition, start, start + offsets))
        ends[partition] = start + offsets
    return sorted(found)


@settings(deadline=None, derandomize=True)
@given(_STEPS, st.integers(1, 150_000))
def test_cuts_cover_every_range_once_and_each_can_be_put_on_record(
    steps: list[tuple[int, int, int]], most: int
) -> None:
    ranges = [OffsetRange(r.partition, r.start, min(r.end, r.start + 20 * most)) for r in ranges_from(steps)]
    parts = list(cuts(ranges, most))
    joined: list[OffsetRange] = []
    for part in parts:
        chunk = open_chunk("replay", "g", "x" * 22, part, RULES, 2**62, "replace")
        assert 0 < chunk.offsets <= most
        searched = chunk.found_until("f" * 1_000)
        metadata = encode_metadata(slot_commits(searched)[SLOT])
        assert len(metadata.encode()) <= METADATA_LIMIT_BYTES
        assert open_chunk_of({SLOT: decode_commit(0, metadata)}) == searched
        for r in part:
            if joined and (joined[-1].partition, joined[-1].end) == (r.partition, r.start):
                joined[-1] = OffsetRange(r.partition, joined[-1].start, r.end)
            else:
                joined.append(r)
    assert joined == ranges


@settings(deadline=None, derandomize=True)
@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 60)), min_size=1), st.randoms(use_true_random=False))
def test_places_are_those_of_the_positions_and_others_have_none(positions: set[tuple[int, int]], random_) -> None:  # type: ignore[no-untyped-def]
    ordered = sorted(positions)
    chunk = open_chunk("replay", "g", "id", ranges_of(ordered), RULES, 1)
    assert each_position(chunk.ranges) == ordered
    asked = [(p, o) for p in range(5) for o in range(62)]
    random_.shuffle(asked)
    rows = pl.DataFrame(asked, schema={n: NO_EVENTS.schema[n] for n in POSITION}, orient="row")
    found = placed(chunk, rows)
    assert list(found.iter_rows()) == [(*at, ordered.index(at)) for at in asked if at in positions]
    assert found.columns == [*POSITION, PLACE]
