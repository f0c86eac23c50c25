"""Tokens, refusals and look-ups."""

import random
import time
from functools import partial

import polars as pl
import pytest

from metrics_pipeline.errors import ForeignViewError, RejectedError
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.entry import EventMinutes, Freshness, LedgerEntry, PartitionAccount
from tests.models.benches import Bench
from tests.worlds.events import encode, event

DAY_MS = 86_400_000
NOON_MS = 1_793_448_000_000
LIMITS = EventLimits(max_age_ms=400 * DAY_MS, max_future_ms=3_600_000)
BAD = 555


def block(
    days: int = 1, first_offset: int = 0, seed: int = 1, per_day: int = 3, statuses: tuple[int, ...] = (200,)
) -> pl.DataFrame:
    """Events of so many days, at offsets of partition 0."""
    random_ = random.Random(seed)
    values: list[bytes | None] = [
        encode(event(random_, timestamp=NOON_MS - day * DAY_MS, status=statuses[n % len(statuses)]))
        for day in range(days)
        for n in range(per_day)
    ]
    count = len(values)
    offsets = list(range(first_offset, first_offset + count))
    return decode(Messages([0] * count, offsets, [NOON_MS] * count, values), LIMITS).events


def entry(token: str, inserted: int) -> LedgerEntry:
    account = PartitionAccount(OffsetRange(0, 0, inserted), inserted, inserted, 0, 0, 0)
    times = dict.fromkeys(("first_event_ms", "last_event_ms", "first_message_ms", "last_message_ms"), NOON_MS)
    more = dict.fromkeys(("commit_duration_ms", "look_up_duration_ms", "insert_duration_ms", "size_bytes"), 0)
    return LedgerEntry(
        token=token,
        topic_id="topic-1",
        shard=0,
        run_id="run",
        accounts=(account,),
        started_ms=NOON_MS,
        visible_ms=NOON_MS,
        freshness=Freshness((), ()),
        minutes=EventMinutes((), ()),
        **times,
        **more,
    )


@pytest.mark.parametrize("days", [1, 2, 40])
def test_a_repeated_insert_changes_neither_raw_nor_rollup(bench: Bench, days: int) -> None:
    warehouse, events = bench.warehouse(), block(days)
    for _ in range(3):
        warehouse.insert_events(events, "token")
        assert bench.stored() == (3 * days, 3 * days)


def test_simultaneous_inserts_of_one_token_land_once(bench: Bench) -> None:
    warehouse = bench.warehouse()
    for number in range(5):
        # Others each time: merges make one of equal rows.
        events = block(days=2, per_day=50, seed=number)
        bench.at_once(*[partial(warehouse.insert_events, events, f"token {number}")] * 4)
        assert bench.stored() == ((number + 1) * 100, (number + 1) * 100)


def test_the_token_alone_decides_not_the_content(bench: Bench) -> None:
    warehouse = bench.warehouse()
    warehouse.insert_events(block(seed=1), "token")
    warehouse.insert_events(block(seed=2), "token")
    assert bench.stored() == (3, 3)
    warehouse.insert_events(block(seed=2), "another token")
    assert bench.stored() == (6, 6)


def test_a_known_token_holds_per_partition(bench: Bench) -> None:
    """So that an insert that reached one day of two is completed by its repeat."""
    warehouse, both = bench.warehouse(), block(days=2)
    warehouse.insert_events(both.filter(pl.col("timestamp").cast(pl.Int64) == NOON_MS), "token")
    warehouse.insert_events(both, "token")
    assert bench.stored()[0] == 6


def test_an_insert_that_a_constraint_refuses_leaves_nothing_behind(bench: Bench) -> None:
    warehouse = bench.warehouse()
    bench.refuse(BAD, by_view=False)
    with pytest.raises(RejectedError):
        warehouse.insert_events(block(days=2, statuses=(200, BAD)), "token")
    assert bench.stored() == (0, 0)
    warehouse.insert_events(block(days=2), "token")
    assert bench.stored() == (6, 6), "and its token is not spent"


def test_an_insert_on_which_a_view_throws_lands_and_fails_all_the_same(bench: Bench) -> None:
    """So the drain stops: cutting the block would double its rows. Which of our views ran before is the server's."""
    warehouse, events = bench.warehouse(), block(days=2, statuses=(200, BAD))
    bench.refuse(BAD, by_view=True)
    for _ in range(2):
        with pytest.raises(ForeignViewError):
            warehouse.insert_events(events, "token")
        raw, rollup = bench.stored()
        assert raw == 6
        assert rollup <= 6
    assert len(warehouse.existing(events, ())) == 6
    bench.mend_view()
    for _ in range(2):
        warehouse.insert_events(events, "token")
        assert bench.stored() == (6, 6), "the repeat adds what the views lack"


def test_the_look_up_finds_rows_of_other_batches_only(bench: Bench) -> None:
    warehouse, events = bench.warehouse(), block(days=2)
    assert len(warehouse.existing(events, ())) == 0
    warehouse.insert_events(events.head(4), "token")
    assert len(warehouse.existing(events, ())) == 4
    assert len(warehouse.existing(events, [OffsetRange(0, 0, 6)])) == 0
    assert len(warehouse.existing(events, [OffsetRange(0, 1, 6)])) == 1
    assert len(warehouse.existing(events, [OffsetRange(1, 0, 6)])) == 4
    assert warehouse.existing(events.clear(), ()).is_empty()


def test_tokens_are_forgotten_beyond_the_window_and_remembers_says_so_before(bench: Bench) -> None:
    window = 6
    warehouse = bench.warehouse(window)
    warehouse.insert_events(block(), "first")
    assert warehouse.remembers(NOON_MS)
    for number in range(window):
        warehouse.insert_events(block(seed=10 + number), f"token {number}")
        warehouse.insert_ledger_entry(entry(f"token {number}", 3), f"token {number}")
        before = bench.stored()
        if warehouse.remembers(NOON_MS):
            warehouse.insert_events(block(), "first")
            assert bench.stored() == before
    assert not warehouse.remembers(NOON_MS)
    _, before_requests = bench.stored()
    warehouse.insert_events(block(), "first")
    # Of raw_events a merge may have dropped the doubles already; the rollup counts them.
    assert bench.stored()[1] == before_requests + 3, "the token is gone"


def test_a_batch_that_was_opened_in_the_future_is_not_remembered(bench: Bench) -> None:
    """By a host whose clock is ahead: nobody knows how long ago that was."""
    now_ms = time.time_ns() // 1_000_000
    warehouse = bench.warehouse()
    assert warehouse.remembers(now_ms)
    assert not warehouse.remembers(now_ms + 6 * 3_600_000)


def test_the_ledger_is_found_by_token_and_by_partition(bench: Bench) -> None:
    warehouse = bench.warehouse()
    assert not warehouse.has_ledger_entry("token")
    for _ in range(2):
        warehouse.insert_ledger_entry(entry("token", 3), "token")
    assert warehouse.has_ledger_entry("token")
    assert warehouse.ledger_ends([0, 1]) == {"topic-1": {0: 3}}
