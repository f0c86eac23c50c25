import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.delivery.bisection import LARGEST_SEARCH_BITS, Bisection
from metrics_pipeline.kafka.intents import (
    METADATA_LIMIT_BYTES,
    Commit,
    Intent,
    OffsetRange,
    Owner,
    batch_token,
    decode_commit,
    encode_metadata,
    open_batches,
    rivals,
)

OFFSETS = st.integers(0, 2**63 - 1)


TOKENS = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(
    OFFSETS,
    st.none() | st.builds(Intent, OFFSETS, TOKENS, OFFSETS, st.text("0123456789 "), st.text("0123456789abcdef")),
    st.text(),
)
def test_metadata_survives_the_way_to_the_broker_and_back(offset: int, intent: Intent | None, topic_id: str) -> None:
    commit = Commit(offset, intent, topic_id)
    assert decode_commit(offset, encode_metadata(commit)) == commit


def test_the_longest_metadata_fit() -> None:
    search = Bisection(10**9)
    while not search.is_exhausted:
        search.note(is_refused=True)
    assert len(search.search_bits) * 4 >= LARGEST_SEARCH_BITS
    longest = Commit(
        2**63 - 1, Intent(2**63 - 1, "f" * 32, 2**63 - 1, f"{2**63} {2**63}", search.search_bits), "x" * 22
    )
    assert len(encode_metadata(longest)) < METADATA_LIMIT_BYTES


@given(st.text())
def test_metadata_of_other_tools_reads_as_none(metadata: str) -> None:
    assert decode_commit(7, metadata).offset == 7


def test_a_token_depends_on_ranges_alone_not_on_their_order() -> None:
    ranges = [OffsetRange(0, 1, 5), OffsetRange(1, 0, 9)]
    token = batch_token("group", "topic", ranges)
    assert token == batch_token("group", "topic", reversed(ranges))
    assert len({token, batch_token("other", "topic", ranges), batch_token("group", "topic", ranges[:1])}) == 3


@given(st.integers(1, 64), st.integers(1, 16))
def test_every_partition_has_exactly_one_shard(partitions: int, shards: int) -> None:
    owned = [p for shard in range(shards) for p in Owner(shards, shard).partitions(range(partitions))]
    assert sorted(owned) == list(range(partitions))


def test_open_batches_are_grouped_by_token() -> None:
    commits = {0: Commit(1, Intent(4, "a")), 1: Commit(2), 2: Commit(3, Intent(9, "a"))}
    (batch,) = open_batches(commits)
    assert (batch.token, batch.ranges) == ("a", (OffsetRange(0, 1, 4), OffsetRange(2, 3, 9)))
    assert batch.ends == {0: 4, 2: 9}


def test_of_an_open_batch_the_earliest_time_and_the_longest_search_count() -> None:
    commits = {0: Commit(1, Intent(4, "a", 20, "", "b")), 2: Commit(3, Intent(9, "a", 10, "", "b7"))}
    (batch,) = open_batches(commits)
    assert (batch.opened_ms, batch.search_bits) == (10, "b7")


@given(st.integers(1, 12), st.integers(0, 11), st.sets(st.integers(1, 12)))
def test_rivals_are_those_that_could_commit_a_partition_of_ours(shards: int, shard: int, counts: set[int]) -> None:
    owner = Owner(shards, shard % shards)
    owned = owner.partitions(range(24))
    sharing = {
        rival
        for count in counts - {shards}
        for rival in (Owner(count, n) for n in range(count))
        if set(rival.partitions(range(24))) & set(owned)
    }
    assert set(rivals(owner, owned, counts)) == sharing


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="not a range"):
        OffsetRange(0, 5, 4)
