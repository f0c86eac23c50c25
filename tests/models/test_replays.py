"""What replays read and write: rows and their removal, plans, the ledger's ranges and minutes, letters and their
marks."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl

from metrics_pipeline.dead_letters.judge import LetterFilter, Outcome, marks
from metrics_pipeline.delivery.chunk import ORIGIN, POSITION, open_chunk
from metrics_pipeline.delivery.ports import StoredEvents
from metrics_pipeline.delivery.stored import CONTENT
from metrics_pipeline.event.contract import IDENTITY
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch
from metrics_pipeline.ledger.entry import DEFERRED, EventMinutes, LedgerEntry, PartitionAccount
from metrics_pipeline.ledger.minutes import EVERYTHING, Scope
from metrics_pipeline.ledger.tables import PlanStep
from metrics_pipeline.replay.plan import PLAN_SCHEMA, LostLetters
from tests.models.benches import Bench
from tests.models.test_warehouse import DAY_MS, NOON_MS, block, entry

NOON = datetime.fromtimestamp(NOON_MS / 1_000, UTC)
MINUTE = NOON_MS // 60_000 * 60
OPENED_MS = time.time_ns() // 1_000_000
"""Of now: the table drops old plans."""
LIMITS = EventLimits(max_age_ms=400 * DAY_MS, max_future_ms=3_600_000)
ALL = LetterFilter()


def chunk(opened_ms: int = OPENED_MS) -> OpenBatch:
    return open_chunk("replay", "group", "topic-1", [OffsetRange(0, 0, 9)], Rules(LIMITS), opened_ms)


def planned(events: pl.DataFrame, step: PlanStep, contents: pl.DataFrame | None = None) -> pl.DataFrame:
    """A plan (PLAN_SCHEMA) that does this with each."""
    rows = events.select(*ORIGIN, "timestamp")
    rows = rows.with_columns(pl.lit(0).alias(CONTENT)) if contents is None else rows.join(contents, on=list(POSITION))
    return (
        rows.with_columns(step=pl.lit(step.value), letter_batch=pl.lit(""))
        .select(PLAN_SCHEMA.names())
        .cast(PLAN_SCHEMA)
    )


def account(
    token: str, start: int, end: int, *, dead: int = 0, minutes: EventMinutes | None = None, source: str = "drain"
) -> LedgerEntry:
    is_deferred = source == DEFERRED
    consumed = 0 if is_deferred else end - start
    of_partition = PartitionAccount(
        OffsetRange(0, start, end), consumed, consumed - dead, 0, dead, 0, is_deferred=is_deferred
    )
    return replace(entry(token, 1), accounts=(of_partition,), minutes=minutes or EventMinutes((), ()), source=source)


def dead_letters(first_offset: int = 0, count: int = 3) -> pl.DataFrame:
    messages = Messages([0] * count, list(range(first_offset, first_offset + count)), [NOON_MS] * count, [b"{"] * count)
    return decode(messages, LIMITS).dead_letters


def remove_all(events: StoredEvents, of: OpenBatch) -> int:
    """How often it had to be asked."""
    for asked in range(1, 500):
        if not events.remove(of):
            return asked
    raise AssertionError("rows are never gone")


def test_rows_are_found_by_what_they_are_with_the_messages_that_brought_them(bench: Bench) -> None:
    warehouse, stored, events = bench.warehouse(), bench.events(), block(days=2)
    assert len(stored.of(events)) == 0
    warehouse.insert_events(events.head(4), "token")
    copies = events.with_columns(pl.col("kafka_offset") + 100).cast(events.schema)
    found = stored.of(copies)
    assert found.columns == [*IDENTITY, *ORIGIN]
    assert found.sort("kafka_offset").equals(events.head(4).select(found.columns))
    warehouse.insert_events(copies.head(1), "another token")
    assert len(stored.of(events.head(1))) == 2


def test_rows_are_found_by_where_they_come_from_with_their_content(bench: Bench) -> None:
    warehouse, stored, events = bench.warehouse(), bench.events(), block(days=2)
    changed = events.with_columns(latency_ms=pl.when(pl.col("kafka_offset") == 1).then(7.0).otherwise("latency_ms"))
    warehouse.insert_events(changed, "token")
    found = stored.at([OffsetRange(0, 1, 3), OffsetRange(1, 0, 9)], NOON, NOON, with_content=True)
    assert sorted(found["kafka_offset"]) == [1, 2]
    wanted = stored.contents(events)
    assert len(wanted) == 6
    assert found.join(wanted, on=[*POSITION, CONTENT], how="semi")["kafka_offset"].to_list() == [2]
    assert stored.at([OffsetRange(0, 1, 3)], NOON, NOON, with_content=False)[CONTENT].to_list() == [0, 0]
    late = datetime.fromtimestamp(NOON_MS / 1_000 + 1, UTC)
    assert len(stored.at([OffsetRange(0, 1, 3)], late, late, with_content=True)) == 0
    assert len(stored.contents(events.clear())) == 0


def test_rows_are_removed_as_the_plan_of_the_chunk_says_by_what_they_hold(bench: Bench) -> None:
    warehouse, stored, books, events = bench.warehouse(), bench.events(), bench.books(), block(days=2)
    warehouse.insert_events(events, "token")
    doomed, of = events.filter(pl.col("kafka_offset").is_in([0, 4])), chunk()
    assert not stored.remove(of), "nothing is planned"
    right = planned(doomed.head(1), PlanStep.REMOVE, stored.contents(events))
    wrong = planned(doomed.tail(1), PlanStep.REMOVE)
    kept = planned(events[1:2], PlanStep.INSERT, stored.contents(events))
    books.write_plan(of, pl.concat([right, wrong, kept]), of.token)
    assert not stored.remove(chunk(OPENED_MS + 1)), "of another chunk"
    assert remove_all(stored, of) > 1
    assert sorted(stored.of(events)["kafka_offset"]) == [1, 2, 3, 4, 5]


def test_a_plan_is_noted_once_for_a_token(bench: Bench) -> None:
    books, of, events = bench.books(), chunk(), block()
    assert books.plan(of).is_empty()
    first, second = planned(events.head(2), PlanStep.RESTORE), planned(events.tail(1), PlanStep.RESTORE)
    for plan in (first, second):
        books.write_plan(of, plan, of.token)
        assert books.plan(of).equals(first)
    books.write_plan(of, pl.concat([first, second]), "another token")
    assert len(books.plan(of)) == 3, "equal rows are one"
    assert books.plan(chunk(OPENED_MS + 1)).is_empty()


def test_what_is_planned_is_unrepaired_until_that_is_noted(bench: Bench) -> None:
    books, events = bench.books(), block()
    assert (books.unrepaired(), books.newest_ms()) == ((frozenset(), 0), 0)
    for number, step in enumerate([PlanStep.RESTORE, PlanStep.LETTER]):
        of = chunk(OPENED_MS + number)
        books.write_plan(of, planned(events, step), of.token)
        assert books.unrepaired() == (frozenset({MINUTE}), OPENED_MS + number)
    books.note_repaired(OPENED_MS)
    assert books.unrepaired() == (frozenset(), OPENED_MS + 1)
    books.note_repaired(OPENED_MS + 1)
    assert books.unrepaired() == (frozenset(), 0)
    assert books.newest_ms() == OPENED_MS + 1


def test_the_ledger_accounts_for_ranges_but_not_for_what_is_deferred(bench: Bench) -> None:
    warehouse, books = bench.warehouse(), bench.books()
    entries = [
        account("a", 0, 3),
        account("b", 3, 6),
        account("c", 8, 9),
        account("d", 6, 8, source=DEFERRED),
        replace(entry("e", 1), accounts=(), source="replay"),
    ]
    for one in entries:
        warehouse.insert_ledger_entry(one, one.token)
    assert list(books.accounted([OffsetRange(0, 0, 20)])) == [OffsetRange(0, 0, 6), OffsetRange(0, 8, 9)]
    assert list(books.accounted([OffsetRange(0, 4, 5)])) == [OffsetRange(0, 3, 6)]
    assert list(books.accounted([OffsetRange(1, 0, 20), OffsetRange(0, 6, 8)])) == []
    hour = NOON_MS // 1_000
    assert list(books.dropped({0: 4, 1: 4}, hour, hour + 3_600)) == [OffsetRange(0, 0, 4)]
    assert list(books.dropped({0: 4}, hour + 3_600, hour + 7_200)) == []
    assert list(books.dropped({0: 0}, hour, hour + 3_600)) == []


def test_letters_that_the_ledger_has_and_the_table_lacks_are_lost(bench: Bench) -> None:
    warehouse, books = bench.warehouse(), bench.books()
    for token, start in (("a", 0), ("b", 3)):
        one = account(token, start, start + 3, dead=2 + (start == 0))
        warehouse.insert_ledger_entry(one, token)
    warehouse.insert_dead_letters(dead_letters(0, 2), "a")
    warehouse.insert_dead_letters(dead_letters(3, 2), "b")
    ranges = [OffsetRange(0, 0, 6)]
    assert list(books.lost_letters(ranges, NOON, NOON)) == [LostLetters("a", OffsetRange(0, 0, 3), 1)]
    assert list(books.lost_letters([OffsetRange(0, 3, 6)], NOON, NOON)) == []
    late = datetime.fromtimestamp(NOON_MS / 1_000 + 1, UTC)
    assert list(books.lost_letters(ranges, late, late)) == []


def test_minutes_are_counted_by_ledger_raw_events_and_rollup(bench: Bench) -> None:
    warehouse, minutes, events = bench.warehouse(), bench.minutes(), block(days=2)
    day_before = MINUTE - DAY_MS // 1_000
    warehouse.insert_events(events, "token")
    both = EventMinutes((day_before, MINUTE), (3, 3))
    taken = replace(account("b", 0, 0), accounts=(), source="replay", minutes=EventMinutes((MINUTE,), (1,), (2,)))
    for one in (account("a", 0, 6, minutes=both), taken):
        warehouse.insert_ledger_entry(replace(one, first_event_ms=day_before * 1_000), one.token)
    ledger = minutes.ledger_minutes(EVERYTHING)
    assert dict(ledger.sort("minute").iter_rows()) == {day_before: 3, MINUTE: 2}
    for scope in (Scope(MINUTE, MINUTE + 60), Scope(day_before, MINUTE + 60, (MINUTE,))):
        assert dict(minutes.ledger_minutes(scope).iter_rows()) == {MINUTE: 2}
        assert dict(minutes.raw_minutes(scope).iter_rows()) == {MINUTE: 3}
        assert dict(minutes.rollup_minutes(scope).iter_rows()) == {MINUTE: 3}
        assert minutes.open_minutes(scope, [OffsetRange(0, 0, 6)]) == {MINUTE}
    assert minutes.open_minutes(EVERYTHING, [OffsetRange(0, 4, 5)]) == {day_before}
    assert minutes.open_minutes(EVERYTHING, [OffsetRange(1, 0, 6)]) == frozenset()


def test_events_that_are_stored_twice_count_once_where_that_is_asked(bench: Bench) -> None:
    warehouse, minutes, events = bench.warehouse(), bench.minutes(), block()
    warehouse.insert_events(events, "token")
    copies = events.with_columns(pl.col("kafka_offset") + 100).cast(events.schema)
    warehouse.insert_events(copies, "another token")
    assert dict(minutes.raw_minutes(EVERYTHING, distinct=True).iter_rows()) == {MINUTE: 3}


def test_letters_come_in_pages_until_they_have_landed(bench: Bench) -> None:
    warehouse, letters = bench.warehouse(), bench.letters(page_letters=2)
    warehouse.insert_dead_letters(dead_letters(), "token")
    assert letters.count(ALL) == 3
    first = letters.page(ALL, None)
    assert first["kafka_offset"].to_list() == [0, 1]
    assert first.select("topic_id", "payload", "batch", "outcome").row(0) == ("topic-1", b"{", "token", "")
    assert letters.page(ALL, ("topic-1", 0, 1))["kafka_offset"].to_list() == [2]
    assert letters.page(ALL, ("topic-1", 0, 2)).is_empty()
    for offset, outcome in ((0, Outcome.LANDED), (1, Outcome.DUPLICATE), (2, Outcome.KEPT)):
        letters.mark(
            "topic-1", marks(first[:1].with_columns(pl.lit(offset, pl.UInt64).alias("kafka_offset")), outcome), NOON_MS
        )
    assert letters.count(ALL) == 1
    assert letters.page(ALL, None)["kafka_offset"].to_list() == [2]
    outcomes = letters.within("topic-1", [OffsetRange(0, 0, 2), OffsetRange(1, 0, 9)])
    assert sorted(outcomes["outcome"]) == ["duplicate", "landed"]
    assert letters.within("topic-2", [OffsetRange(0, 0, 3)]).is_empty()
    assert letters.at("topic-1", [(0, 0), (0, 2), (1, 0)])["outcome"].to_list() == ["landed", "kept"]


def test_a_filter_asks_for_the_present_reason_and_for_times(bench: Bench) -> None:
    warehouse, letters = bench.warehouse(), bench.letters(page_letters=10)
    warehouse.insert_dead_letters(dead_letters(), "token")
    letters.mark("topic-1", marks(dead_letters(1, 1), Outcome.KEPT, "refused", "words"), NOON_MS)
    assert letters.page(LetterFilter(reasons=("refused",)), None)["replay_detail"].to_list() == ["words"]
    assert letters.count(LetterFilter(reasons=("truncated",))) == 2
    assert letters.count(LetterFilter(start_ms=NOON_MS, end_ms=NOON_MS + 1)) == 3
    assert letters.count(LetterFilter(end_ms=NOON_MS)) == 0
    assert letters.count(LetterFilter(services=("nobody",))) == 0


def test_what_has_landed_is_never_marked_otherwise(bench: Bench) -> None:
    warehouse, letters = bench.warehouse(), bench.letters(page_letters=10)
    warehouse.insert_dead_letters(dead_letters(count=1), "token")
    for outcome in (Outcome.KEPT, Outcome.LANDED, Outcome.KEPT, Outcome.DUPLICATE):
        letters.mark("topic-1", marks(dead_letters(count=1), outcome), NOON_MS)
    assert letters.at("topic-1", [(0, 0)])["outcome"].to_list() == ["landed"]


def test_letters_are_added_once_with_the_batches_that_they_name(bench: Bench) -> None:
    warehouse, letters = bench.warehouse(), bench.letters(page_letters=10)
    added = dead_letters().with_columns(batch=pl.Series(["a", "a", "chunk"]))
    for _ in range(2):
        letters.add("topic-1", added, "chunk")
    assert letters.page(ALL, None)["batch"].to_list() == ["a", "a", "chunk"]
    assert warehouse.missing_dead_letters(dead_letters(2, 2))["kafka_offset"].to_list() == [3]
