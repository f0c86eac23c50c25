"""Fencing, metadata, the registry; holes, watermarks and the ends of the log."""

import pytest

from metrics_pipeline.errors import FencedError, OffsetOutOfRangeError
from metrics_pipeline.kafka.intents import METADATA_LIMIT_BYTES, Commit, Intent, Owner, Watermarks, encode_metadata
from metrics_pipeline.kafka.ports import Fetched, Log
from tests.models.benches import Bench

WHOLE, HALF = Owner(1, 0), Owner(2, 0)


def read(log: Log, positions: dict[int, int], until: dict[int, int]) -> list[Fetched]:
    """Polls until messages or ends reach `until`."""
    log.assign(positions)
    fetched = []
    reached = dict(positions)
    for _ in range(400):
        fetched.append(log.poll(100, 1 << 20, 0.1))
        for news in (fetched[-1].messages.next_offsets(), fetched[-1].ends):
            reached |= {p: max(end, reached[p]) for p, end in news.items()}
        if all(reached[p] >= end for p, end in until.items()):
            return fetched
    raise AssertionError(f"got to {reached} only, not to {until}")


def test_the_newest_run_of_an_owner_commits_and_the_others_never_again(bench: Bench) -> None:
    old, new = bench.offsets(WHOLE), bench.offsets(WHOLE)
    old.fence(WHOLE)
    old.commit({0: Commit(1, None, "t")})
    new.fence(WHOLE)
    for _ in range(2):
        with pytest.raises(FencedError):
            old.commit({0: Commit(2, None, "t")})
    new.commit({0: Commit(3, None, "t")})
    with pytest.raises(FencedError):
        old.commit({0: Commit(4, None, "t")})
    assert new.committed([0, 1]) == {0: Commit(3, None, "t")}


def test_a_rival_is_fenced_by_name_and_the_one_who_fences_goes_on(bench: Bench) -> None:
    whole, half = bench.offsets(WHOLE), bench.offsets(HALF)
    whole.fence(WHOLE)
    half.fence(HALF)
    half.fence(WHOLE)
    for _ in range(2):
        with pytest.raises(FencedError):
            whole.commit({0: Commit(1, None, "t")})
    half.commit({0: Commit(2, None, "t")})
    half.fence(WHOLE)
    half.commit({0: Commit(3, None, "t")})
    assert half.committed([0]) == {0: Commit(3, None, "t")}


def test_commits_of_several_partitions_come_back_with_all_they_say(bench: Bench) -> None:
    store = bench.offsets(WHOLE)
    store.fence(WHOLE)
    longest = Commit(5, Intent(9, "f" * 32, 1_793_448_000_000, "f" * 3_001), "A" * 22)
    assert len(encode_metadata(longest)) <= METADATA_LIMIT_BYTES
    commits = {0: longest, 1: Commit(7, None, "A" * 22)}
    store.commit(commits)
    assert store.committed([0, 1]) == commits


def test_a_commit_that_was_left_open_is_gone_after_the_fence(bench: Bench) -> None:
    """Nor does reading wait for it for long: the fence aborts it."""
    store = bench.offsets(WHOLE)
    store.fence(WHOLE)
    store.commit({0: Commit(1, None, "t")})
    bench.leave_commit_open(WHOLE, {0: Commit(9, None, "t"), 1: Commit(9, None, "t")})
    successor = bench.offsets(WHOLE)
    successor.fence(WHOLE)
    assert successor.committed([0, 1]) == {0: Commit(1, None, "t")}
    successor.commit({0: Commit(2, None, "t")})
    assert successor.committed([0, 1]) == {0: Commit(2, None, "t")}


def test_numbers_of_shards_stay_registered(bench: Bench) -> None:
    store, other = bench.offsets(WHOLE), bench.offsets(HALF)
    assert store.registered() == frozenset()
    store.register(1)
    other.register(2)
    store.register(1)
    assert store.registered() == other.registered() == {1, 2}


def test_holes_are_told_by_ends_beyond_the_last_message(bench: Bench) -> None:
    bench.produce(0, [b"a", b"b"])
    bench.produce(0, [b"x", b"y"], is_aborted=True)
    log = bench.log()
    assert log.watermarks([0, 1]) == {0: Watermarks(0, 6), 1: Watermarks(0, 0)}
    fetched = read(log, {0: 0, 1: 0}, {0: 6, 1: 0})
    values = [value for f in fetched for value in f.messages.values]
    assert values == [b"a", b"b"]
    assert [f.ends[0] for f in fetched if 0 in f.ends][-1] == 6
    bench.produce(0, [b"c"])
    again = read(log, {0: 1, 1: 0}, {0: 8})
    assert [value for f in again for value in f.messages.values] == [b"b", b"c"]


def test_offsets_that_the_log_dropped_are_out_of_range(bench: Bench) -> None:
    bench.produce(0, [b"a", b"b", b"c"])
    bench.delete_records(0, 2)
    log = bench.log()
    assert log.watermarks([0]) == {0: Watermarks(2, 4)}
    with pytest.raises(OffsetOutOfRangeError):
        read(log, {0: 1}, {0: 4})
    fetched = read(log, {0: 2}, {0: 4})
    assert [value for f in fetched for value in f.messages.values] == [b"c"]
