"""Hours once more: which offsets are replayed, what is found in a window, and how it changes the ledger."""

import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_pipeline.dead_letters.judge import LETTERS_SCHEMA
from metrics_pipeline.delivery.chunk import ORIGIN, POSITION
from metrics_pipeline.delivery.stored import CONTENT, ROW_SCHEMA
from metrics_pipeline.event.contract import IDENTITY
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.decode.frame import lineage_frame
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.intents import Commit, OffsetRange, Watermarks
from metrics_pipeline.ledger.deferred import subtracted
from metrics_pipeline.ledger.tables import PlanStep
from metrics_pipeline.replay import hours as hours_module
from metrics_pipeline.replay import plan as core
from metrics_pipeline.replay.hours import hours_around, plan_hour, windows, with_accounts
from metrics_pipeline.replay.plan import (
    Found,
    LostLetters,
    Mode,
    Window,
    examine,
    inserts,
    make_plan,
    minutes_of_plan,
    of_step,
    planned_letters,
    still_to_land,
    without_letters,
    wrong_rows,
)
from metrics_pipeline.replay.units import UnitAccount, spans_of
from tests.worlds.events import encode, event

NOW_MS = 1_790_000_000_000
HOUR = 1_790_000_000 // 3_600 * 3_600
LIMITS = EventLimits(max_age_ms=1 << 50, max_future_ms=1 << 50)
NO_ROWS = pl.DataFrame(schema=ROW_SCHEMA)
NO_LETTERS = pl.DataFrame(schema=LETTERS_SCHEMA)
CLOSED = NOW_MS // 1_000 + 10_000


def values(count: int, seed: int = 0, **changes: Any) -> list[bytes | None]:
    random_ = random.Random(seed)
    return [encode(event(random_, **({"timestamp": NOW_MS - n * 30_000} | changes))) for n in range(count)]


def messages_of(sent: list[bytes | None], partition: int = 0) -> Messages:
    return Messages([partition] * len(sent), list(range(len(sent))), [NOW_MS] * len(sent), sent)


def rows_of(events: pl.DataFrame, content: int | None = None) -> pl.DataFrame:
    """As raw_events has them; the content is that of today unless told."""
    content_of = content_hash(events) if content is None else pl.lit(content)
    return events.with_columns(content_of.alias(CONTENT)).select(ROW_SCHEMA.names()).cast(ROW_SCHEMA)


def content_hash(events: pl.DataFrame) -> pl.Expr:
    return pl.col("event_id").hash(seed=1)


def look(
    sent: list[bytes | None], rows: pl.DataFrame, mode: Mode, letters: pl.DataFrame = NO_LETTERS, closed: int = CLOSED
) -> Found:
    """What is found, where raw_events holds `rows` and nothing else."""
    messages = messages_of(sent)
    origins = lineage_frame(messages)
    own = core.rows_of_messages(rows, origins)
    decoded = without_letters(decode(messages, LIMITS), letters)
    window = Window(origins, own, letters, decoded)
    wrong = NO_ROWS
    if mode is Mode.REPLACE:
        contents = window.decoded.events.with_columns(content_hash(decoded.events).alias(CONTENT))
        wrong = wrong_rows(window, contents.select(*POSITION, CONTENT))
    return examine(window, wrong, rows.select(*IDENTITY, *ORIGIN), mode, closed)


def steps(plan: pl.DataFrame) -> dict[str, list[int]]:
    return {str(step): of_step(plan, step)["kafka_offset"].to_list() for step in PlanStep if len(of_step(plan, step))}


def test_hours_are_whole_ones_around_a_span() -> None:
    assert list(hours_around(HOUR, HOUR + 3_600)) == [HOUR]
    assert list(hours_around(HOUR + 1, HOUR + 3_601)) == [HOUR, HOUR + 3_600]


_BOUNDS = st.lists(st.integers(0, 100), min_size=5, max_size=5).map(sorted)


@settings(derandomize=True)
@given(_BOUNDS, st.integers(0, 100), st.integers(0, 100), st.integers(0, 120) | st.none())
def test_hours_tile_what_the_log_holds_and_drains_have_landed(
    cutoffs: list[int], one: int, other: int, committed: int | None
) -> None:
    low, high = sorted((one, other))
    clipped = [min(max(b, low), high) for b in cutoffs]
    commits = {} if committed is None else {0: Commit(min(max(committed, low), high), None, "id")}
    plans = [
        plan_hour(n, {0: clipped[n]}, {0: clipped[n + 1]}, {0: Watermarks(low, high)}, commits, "id") for n in range(4)
    ]
    replayed = [o for plan in plans for r in plan.ranges for o in range(r.start, r.end)]
    left = [o for plan in plans for r in plan.left_to_drains for o in range(r.start, r.end)]
    done = low if committed is None else commits[0].offset
    assert replayed == list(range(clipped[0], max(clipped[0], min(done, clipped[-1]))))
    assert replayed + left == list(range(clipped[0], clipped[-1]))


def test_a_commit_of_another_life_of_the_topic_has_landed_nothing() -> None:
    plan = plan_hour(0, {0: 0}, {0: 9}, {0: Watermarks(0, 9)}, {0: Commit(5, None, "other")}, "id")
    assert (plan.ranges, plan.left_to_drains) == ((), (OffsetRange(0, 0, 9),))


_RANGES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 20)).map(
        lambda t: OffsetRange(t[0], t[1], t[1] + t[2])
    ),
    max_size=8,
)


def test_only_what_the_ledger_accounts_for_is_replayed() -> None:
    plan = plan_hour(0, {0: 0}, {0: 100}, {0: Watermarks(0, 100)}, {0: Commit(90, None, "id")}, "id")
    ledger = [OffsetRange(0, 0, 30), OffsetRange(0, 50, 90)]
    known = with_accounts(plan, ledger, [OffsetRange(1, 0, 4)])
    assert known.ranges == tuple(ledger)
    assert known.unaccounted == (OffsetRange(0, 30, 50),)
    assert known.dropped == (OffsetRange(1, 0, 4),)


@settings(derandomize=True, deadline=None)
@given(_RANGES.map(lambda found: subtracted([OffsetRange(p, 0, 90) for p in range(3)], found)), st.integers(1, 50))
def test_windows_cover_every_offset_once_with_one_range_per_partition(
    ranges: tuple[OffsetRange, ...], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hours_module, "MAX_WINDOW_MESSAGES", most)
        patch.setattr(hours_module, "MAX_WINDOW_PARTITIONS", 2)
        cut = list(windows(ranges))
    for window in cut:
        assert len({r.partition for r in window}) == len(window) <= 2
        assert sum(r.offsets for r in window) <= most + 2
    offsets = sorted((r.partition, o) for window in cut for r in window for o in range(r.start, r.end))
    assert offsets == [(r.partition, o) for r in sorted(ranges) for o in range(r.start, r.end)]


def test_a_fill_finds_what_is_missing_and_touches_nothing_else() -> None:
    sent = [*values(6), *values(1), b"{", b"[]"]
    events = decode(messages_of(sent), LIMITS).events
    letters = pl.DataFrame([(0, 7, "")], schema=LETTERS_SCHEMA, orient="row")
    found = look(sent, rows_of(events[:3], content=9), Mode.FILL, letters)
    assert (found.messages, found.right, found.duplicates, found.letters) == (9, 3, 1, 1)
    assert found.insert["kafka_offset"].to_list() == [3, 4, 5]
    assert len(found.remove) == 0
    assert found.bad["kafka_offset"].to_list() == [8]


def test_a_replacement_removes_what_its_message_does_not_say() -> None:
    sent = [*values(4), b"{"]
    events = decode(messages_of(sent), LIMITS).events
    of_bad = rows_of(events[:1]).with_columns(kafka_offset=pl.lit(4, pl.UInt64), service=pl.lit("other"))
    rows = pl.concat([rows_of(events[:2]), rows_of(events[2:3], content=9), of_bad])
    found = look(sent, rows, Mode.REPLACE)
    assert sorted(found.remove["kafka_offset"]) == [2, 4]
    assert found.insert["kafka_offset"].to_list() == [2, 3]
    assert found.bad["kafka_offset"].to_list() == [4]
    assert (found.right, found.vanishing) == (2, 1)


def test_a_row_of_another_life_of_the_topic_is_no_row_of_a_message() -> None:
    sent = values(1)
    rows = rows_of(decode(messages_of(sent), LIMITS).events).with_columns(
        pl.col("kafka_timestamp") - pl.duration(days=1)
    )
    for mode in Mode:
        found = look(sent, rows, mode)
        assert (len(found.remove), len(found.insert), found.duplicates) == (0, 0, 1)


def test_what_is_not_closed_yet_is_left_on_both_sides() -> None:
    """A row that is wrong and stays keeps its identity: no other message may take its place."""
    sent = values(3)
    events = decode(messages_of(sent), LIMITS).events
    closed = (NOW_MS // 1_000 - 45) // 600 * 600
    found = look(sent, rows_of(events[:1], content=9), Mode.REPLACE, closed=closed)
    assert found.unrepaired == 3
    assert not found.has_changes


def test_as_many_events_are_restored_as_the_ledger_misses() -> None:
    sent = [*values(3, timestamp=NOW_MS), *values(2, seed=1, timestamp=NOW_MS - 600_000)]
    found = look(sent, NO_ROWS, Mode.REPLACE)
    minute = NOW_MS // 60_000 * 60
    assert steps(make_plan(found, [], {minute: 2}, Mode.REPLACE)) == {"restore": [0, 1, 3, 4], "insert": [2]}
    assert steps(make_plan(found, [], {minute: 2}, Mode.FILL)) == {"restore": [0, 1, 3, 4]}


def test_lost_letters_come_back_to_their_batches_and_others_are_made_by_a_replacement_only() -> None:
    found = look([b"{"] * 5, NO_ROWS, Mode.FILL)
    lost = [LostLetters("b1", OffsetRange(0, 0, 3), 2), LostLetters("b2", OffsetRange(0, 3, 9), 1)]
    filled = make_plan(found, lost, {}, Mode.FILL)
    assert steps(filled) == {"lost_letter": [0, 1, 3]}
    replaced = make_plan(found, lost, {}, Mode.REPLACE)
    assert steps(replaced) == {"lost_letter": [0, 1, 3], "letter": [2, 4]}
    letters = planned_letters(replaced, found.bad, "token")
    assert letters["batch"].to_list() == ["b1", "b1", "token", "b2", "token"]


def test_the_ledger_changes_by_what_landed_and_by_what_is_gone() -> None:
    sent = values(4, timestamp=NOW_MS)
    events = decode(messages_of(sent), LIMITS).events
    found = look(sent, rows_of(events[:1], content=9), Mode.REPLACE)
    minute = NOW_MS // 60_000 * 60
    plan = make_plan(found, [], {minute: 2}, Mode.REPLACE)
    assert steps(plan) == {"remove": [0], "insert": [0, 3], "restore": [1, 2]}
    all_landed = minutes_of_plan(plan, events, events[:0])
    assert (all_landed.starts_seconds, all_landed.inserted, all_landed.removed) == ((minute,), (2,), (1,))
    # Another message brought the second one meanwhile, and the server refused the last one.
    fewer = minutes_of_plan(plan, events[[0, 2]], events[[1, 3]])
    assert (fewer.inserted, fewer.removed) == ((1,), (2,))


def test_restored_events_are_noted_with_their_minutes_and_add_nothing() -> None:
    sent = values(2)
    found = look(sent, NO_ROWS, Mode.FILL)
    plan = make_plan(found, [], {}, Mode.FILL)
    minutes = minutes_of_plan(plan, inserts(plan), found.insert[:0])
    assert (minutes.inserted, minutes.removed) == ((0,) * len(minutes.starts_seconds),) * 2
    assert len(minutes.starts_seconds) in (1, 2)


def test_letters_that_have_landed_are_not_to_land_again() -> None:
    sent = [b"{"] * 3
    letters = pl.DataFrame([(0, 0, ""), (0, 1, "landed"), (0, 2, "kept")], schema=LETTERS_SCHEMA, orient="row")
    origins = lineage_frame(messages_of(sent))
    window = Window(origins, NO_ROWS, letters, decode(messages_of([]), LIMITS))
    assert still_to_land(window)["kafka_offset"].to_list() == [0, 2]


def test_units_are_looked_at_in_spans_of_a_day() -> None:
    day = 86_400 * 20_000
    assert spans_of([day - 600, day, day + 600, day + 3_600]) == [
        (day - 600, day),
        (day, day + 1_200),
        (day + 3_600, day + 4_200),
    ]
    assert spans_of([day, day + 3_600], 6) == [(day, day + 4_200)]
    assert spans_of([]) == []


def test_a_unit_is_repaired_where_raw_events_knows_more_than_the_rollup() -> None:
    assert UnitAccount(ledger=10, raw=10, rollup=15).is_repairable
    assert UnitAccount(ledger=10, raw=9, rollup=5).is_repairable
    assert not UnitAccount(ledger=1_000, raw=3, rollup=1_003).is_repairable
    assert UnitAccount(ledger=0, raw=0, rollup=4).is_to_be_forgotten
