"""Deduplication within a batch: against a model, in any order and any chunks."""

import random

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metrics_pipeline.event.contract import EVENT_SCHEMA, IDENTITY, NO_EVENTS
from metrics_pipeline.event.deduplicate import deduplicate

FEW_IDS = ["00000000-0000-4000-8000-000000000001", "ffffffff-ffff-4fff-8fff-ffffffffffff"]
ORIGINS = st.tuples(st.integers(0, 3), st.integers(0, 5))
IDENTITIES = st.tuples(
    st.sampled_from(["checkout", "cart", ""]),
    st.sampled_from(["/", "é"]),
    st.integers(1_793_700_930_000, 1_793_700_930_002),
    st.sampled_from(FEW_IDS),
)
ROWS = st.lists(st.tuples(IDENTITIES, ORIGINS), unique_by=lambda row: row[1], max_size=20)


def frame(rows: list[tuple[tuple[str, str, int, str], tuple[int, int]]]) -> pl.DataFrame:
    """Events whose other columns say which message they come from."""
    columns = {
        "service": [identity[0] for identity, _ in rows],
        "endpoint": [identity[1] for identity, _ in rows],
        "timestamp": [identity[2] for identity, _ in rows],
        "event_id": [identity[3] for identity, _ in rows],
        "kafka_partition": [partition for _, (partition, _) in rows],
        "kafka_offset": [offset for _, (_, offset) in rows],
        "host": [f"{partition}-{offset}" for _, (partition, offset) in rows],
        "attributes": [[{"key": "at", "value": f"{p}-{offset}"}] for _, (p, offset) in rows],
    }
    given_columns = pl.DataFrame(columns, schema={name: EVENT_SCHEMA[name] for name in columns})
    missing = [pl.lit(None, kind).alias(name) for name, kind in EVENT_SCHEMA.items() if name not in columns]
    return given_columns.with_columns(missing).select(EVENT_SCHEMA.names())


@settings(deadline=None, derandomize=True)
@given(ROWS)
def test_the_first_message_of_each_identity_is_kept(
    rows: list[tuple[tuple[str, str, int, str], tuple[int, int]]],
) -> None:
    first: dict[tuple[str, str, int, str], tuple[int, int]] = {}
    for identity, origin in sorted(rows, key=lambda row: row[1]):
        first.setdefault(identity, origin)

    assert_frame_equal(deduplicate(frame(rows)), frame(sorted(first.items())))


@settings(deadline=None, derandomize=True)
@given(ROWS, st.integers(0, 2**32))
def test_order_and_chunks_do_not_matter(
    rows: list[tuple[tuple[str, str, int, str], tuple[int, int]]], seed: int
) -> None:
    shuffled = random.Random(seed).sample(rows, len(rows))
    cut = seed % (len(rows) + 1)
    chunks = [NO_EVENTS, frame(shuffled[:cut]), frame(shuffled[cut:])]

    once, again = deduplicate(frame(rows)), deduplicate(pl.concat(chunks, rechunk=False))

    assert_frame_equal(once, again)


@settings(deadline=None, derandomize=True)
@given(ROWS)
def test_doing_it_twice_changes_nothing(
    rows: list[tuple[tuple[str, str, int, str], tuple[int, int]]],
) -> None:
    once = deduplicate(frame(rows))
    assert_frame_equal(once, deduplicate(once))


def test_no_events() -> None:
    result = deduplicate(NO_EVENTS)
    assert result.schema == EVENT_SCHEMA
    assert len(result) == 0


def test_each_part_of_the_identity_counts() -> None:
    base = ("checkout", "/", 1_793_700_930_000, FEW_IDS[0])
    others = [("cart", *base[1:]), (base[0], "é", *base[2:]), (*base[:2], 1_793_700_930_001, base[3])]
    others.append((*base[:3], FEW_IDS[1]))
    rows = [(identity, (0, offset)) for offset, identity in enumerate([base, *others])]
    assert len(deduplicate(frame(rows))) == len(rows)
    assert set(IDENTITY) == {"service", "endpoint", "timestamp", "event_id"}
