"""The audit on real engines: what it finds, what it leaves alone, and that it may run while events flow."""

import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import storage_of
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.ledger.minutes import Scope
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.runtime.timerange import minute_name
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import Settings, load_settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import DrainRun, run_drain, until_window_ends
from metrics_pipeline.wiring.rollups import rollups
from tests.worlds.events import encode, event
from tests.worlds.hours import command
from tests.worlds.pipeline import CrashError, crash_at, drain_once, send

MINUTE = 60
NOON = int(datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0).timestamp()) - 2 * 86_400
"""Two days ago, a whole minute."""


def at(minute: int, count: int, seed: int = 0) -> list[bytes]:
    """Events within one minute, counted from NOON."""
    random_ = random.Random(1_000 * minute + seed)
    start_ms = (NOON + minute * MINUTE) * 1_000
    return [encode(event(random_, timestamp=start_ms + random_.randrange(60_000))) for _ in range(count)]


def name(minute: int) -> str:
    return minute_name(NOON + minute * MINUTE)


def drain_batches(settings: Settings, *batches: list[bytes]) -> None:
    """One batch each, all in partition 0."""
    for values in batches:
        send(settings, values, partition=0)
        drain_once(settings)


@pytest.fixture
def three(settings: Settings) -> Settings:
    """Three batches: minutes 0 and 1, minute 1 and two dead letters, minute 2."""
    drain_batches(settings, [*at(0, 10), *at(1, 5)], [*at(1, 5, seed=1), b"{", b"["], at(2, 10))
    return settings


def problem_of(settings: Settings, *, deep: bool = False) -> str:
    (problem,) = audit(settings, deep=deep).problems
    return problem


def test_the_ledger_says_its_minutes(three: Settings) -> None:
    with connect(three) as client:
        rows = client.query(
            "SELECT arrayMap(toUnixTimestamp, minutes), minute_inserted FROM batches ORDER BY partition_start"
        ).result_rows
    assert [list(zip(*row, strict=True)) for row in rows] == [
        [(NOON, 10), (NOON + MINUTE, 5)],
        [(NOON + MINUTE, 5)],
        [(NOON + 2 * MINUTE, 10)],
    ]
    verdict = audit(three)
    assert verdict.problems == ()
    books = verdict.books
    assert books.ledger_events == books.raw_rows == books.rollup_requests == books.ledger.counts.inserted == 30
    assert books.ledger.counts.dead_letters == 2
    assert books.minutes_in_flight == ()


def test_a_row_missing_in_the_ledger_is_a_gap_and_its_minutes_drift(three: Settings) -> None:
    command(three, "ALTER TABLE batches DELETE WHERE partition_start[1] = 15")
    verdict = audit(three)
    assert verdict.books.ledger.gaps == (OffsetRange(0, 15, 22),)
    assert verdict.books.ledger.overlaps == ()
    assert [(m.minute, m.ledger, m.raw, m.rollup) for m in verdict.books.drifting_minutes] == [
        (NOON + MINUTE, 5, 10, 10)
    ]


def test_offsets_committed_behind_the_last_row_of_the_ledger_are_a_gap(three: Settings) -> None:
    command(three, "ALTER TABLE batches DELETE WHERE partition_start[1] = 22")
    verdict = audit(three)
    assert verdict.books.tail == (OffsetRange(0, 22, 32),)
    assert "partition 0, offsets 22 to 31 are committed as done but in no row" in verdict.problems[0]


def test_ranges_that_overlap_are_found(three: Settings) -> None:
    command(three, "ALTER TABLE batches UPDATE partition_end = [24] WHERE partition_start[1] = 15")
    verdict = audit(three)
    assert verdict.books.ledger.overlaps == (OffsetRange(0, 22, 24),)
    assert verdict.books.ledger.gaps == ()
    assert "9 offsets, but 7 consumed, skipped or lost" in " ".join(verdict.problems)


def test_a_lost_row_is_found_in_its_minute(three: Settings) -> None:
    command(three, "ALTER TABLE raw_events DELETE WHERE kafka_offset = 3")
    problem = problem_of(three)
    assert problem.startswith(f"minute {name(0)}: 10 in the ledger, 9 in raw_events, 10 in rollup_1m: rows are missing")
    assert audit(three).books.rollup_drift == 1


def test_a_doubled_row_is_found_also_after_a_merge_dropped_it(three: Settings) -> None:
    command(three, "INSERT INTO raw_events SELECT * FROM raw_events WHERE kafka_offset = 3")
    problem = problem_of(three)
    assert "10 in the ledger, 11 in raw_events (1 more than once), 11 in rollup_1m" in problem
    assert audit(three).books.raw_doubles == 1
    command(three, "OPTIMIZE TABLE raw_events FINAL")
    assert "10 in the ledger, 10 in raw_events, 11 in rollup_1m" in problem_of(three)


def test_a_double_that_covers_for_a_lost_row_is_found_by_a_deep_audit(three: Settings) -> None:
    command(
        three,
        "INSERT INTO raw_events SELECT * FROM raw_events WHERE kafka_offset = 3",
        "ALTER TABLE raw_events DELETE WHERE kafka_offset = 4",
        "ALTER TABLE rollup_1m DELETE WHERE 1",
        "INSERT INTO rollup_1m (minute, service, endpoint, tier, requests) "
        "SELECT toStartOfMinute(timestamp) AS m, service, endpoint, tier, count() FROM raw_events "
        "GROUP BY m, service, endpoint, tier",
    )
    assert audit(three).is_ok
    assert "10 in raw_events (1 more than once)" in problem_of(three, deep=True)


def test_a_minute_that_drifts_in_the_rollup_alone_is_found(three: Settings) -> None:
    command(three, f"ALTER TABLE rollup_1m DELETE WHERE toUnixTimestamp(minute) = {NOON + 2 * MINUTE}")
    assert "10 in the ledger, 10 in raw_events, 0 in rollup_1m: rebuild the minute" in problem_of(three)
    verdict = audit(three)
    assert verdict.books.rollup_drift == 10
    assert verdict.rollup_problems == verdict.problems


def test_of_rows_of_the_rollup_only_those_count_that_readers_take(three: Settings) -> None:
    """Of a unit that was repaired, those of its newest repair: not what it replaced, nor one that was not published."""
    with rollups(three) as operated:
        operated.remake(Span(NOON, NOON + 600))
    command(
        three,
        "INSERT INTO rollup_1m SELECT * REPLACE (0 AS build) FROM rollup_1m WHERE build > 0",
        "INSERT INTO rollup_1m SELECT * REPLACE (build + 1 AS build) FROM rollup_1m WHERE build > 0",
    )
    verdict = audit(three)
    assert verdict.problems == ()
    assert verdict.books.rollup_requests == 30


def test_a_minute_that_drifts_in_the_ledger_alone_is_found(three: Settings) -> None:
    command(three, "ALTER TABLE batches UPDATE minute_inserted = [9, 6] WHERE partition_start[1] = 0")
    verdict = audit(three)
    assert [(m.minute, m.ledger, m.raw) for m in verdict.books.drifting_minutes] == [
        (NOON, 9, 10),
        (NOON + MINUTE, 11, 10),
    ]
    assert verdict.rollup_problems == ()


def test_accounts_that_do_not_balance_are_named_by_batch_and_partition(three: Settings) -> None:
    command(
        three,
        "ALTER TABLE batches UPDATE partition_duplicates = [1] WHERE partition_start[1] = 15",
        "ALTER TABLE batches UPDATE inserted = 11 WHERE partition_start[1] = 22",
    )
    account, row = audit(three).problems
    assert "partition 0, offsets 15 to 21: 7 consumed, but 8 inserted, duplicate or dead" in account
    assert "11 inserted, but 10 by its partitions, 10 by its minutes" in row


def test_a_dead_letter_that_is_gone_is_found(three: Settings) -> None:
    command(three, "ALTER TABLE dead_letters DELETE WHERE kafka_offset = 20")
    assert problem_of(three).startswith("partition 0: 2 dead letters in the ledger, but dead_letters has 1 rows")


def test_a_range_covers_its_minutes_the_ledger_rows_that_touch_it_and_all_offsets(three: Settings) -> None:
    only_1 = Scope(NOON + MINUTE, NOON + 2 * MINUTE)
    command(three, f"ALTER TABLE rollup_1m DELETE WHERE toUnixTimestamp(minute) = {NOON + 2 * MINUTE}")
    verdict = audit(three, only_1)
    assert verdict.is_ok
    assert (verdict.books.ledger.counts.consumed, verdict.books.ledger.counts.dead_letters) == (22, 2)
    assert verdict.books.ledger_events == verdict.books.raw_rows == verdict.books.rollup_requests == 10
    command(three, "ALTER TABLE dead_letters DELETE WHERE kafka_offset = 20")
    assert len(audit(three, only_1).problems) == 1
    assert audit(three, Scope(NOON, NOON + MINUTE)).is_ok
    assert not audit(three, Scope(NOON + 2 * MINUTE)).is_ok
    command(three, "ALTER TABLE batches DELETE WHERE partition_start[1] = 22")
    assert any(p.startswith("gap") for p in audit(three, Scope(NOON, NOON + MINUTE)).problems)


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("step", [Step.EVENTS, Step.DEAD, Step.LEDGER, Step.CLOSE])
def test_a_batch_left_open_is_in_flight_and_no_contradiction(three: Settings, step: Step) -> None:
    """Before EVENTS nothing is visible, before CLOSE all is in the ledger; in between the batch's minutes can't be
    judged, and only they."""
    send(three, [*at(2, 3, seed=1), *at(3, 4), b"{"], partition=0)
    with pytest.raises(CrashError):
        drain_once(three, crash_at(step))
    verdict = audit(three)
    assert verdict.problems == ()
    half_done = step in {Step.DEAD, Step.LEDGER}
    assert verdict.books.minutes_in_flight == ((NOON + 2 * MINUTE, NOON + 3 * MINUTE) if half_done else ())
    assert [b.ranges for b in verdict.books.open_batches] == ([] if step is Step.CLOSE else [(OffsetRange(0, 32, 40),)])
    command(three, f"ALTER TABLE rollup_1m DELETE WHERE toUnixTimestamp(minute) = {NOON}")
    assert problem_of(three).startswith(f"minute {name(0)}")
    drain_once(three)
    verdict = audit(three)
    assert verdict.books.minutes_in_flight == ()
    assert len(verdict.problems) == 1


def test_a_column_of_a_sorting_key_is_not_added_but_named(settings: Settings) -> None:
    command(
        settings,
        "DROP TABLE dead_letters",
        "CREATE TABLE dead_letters (topic LowCardinality(String)) ENGINE = MergeTree ORDER BY topic",
    )
    with connect(settings) as client:
        planned = schema.plan(client, storage_of(load_settings()))
    assert "dead_letters.kafka_offset: is missing" in planned.differences
    assert not any("`kafka_offset`" in s.split("AFTER")[0] for s in planned.statements)


def test_beside_a_live_drain_it_never_raises_a_false_alarm(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of some 50 ms, with late events over days, duplicates and dead letters, audited all the while; at least
    one batch lands between any two readings of tables, as if they were large."""
    quick = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_seconds": 0.05})})
    plan = LoadPlan(rate=4_000, events=40_000, duplicates=0.02, late=0.05, malformed=0.01, seed=5)
    beside = 0
    with ThreadPoolExecutor(2) as pool, connect(settings) as client:
        producing = pool.submit(produce, plan, settings)
        run = DrainRun(str(uuid.uuid4()))
        draining = pool.submit(run_drain, quick, run, until_window_ends(quick), stop=producing.done)

        def batches() -> int:
            return int(client.query("SELECT count() FROM batches").result_rows[0][0])

        def after_a_batch(read: Callable[..., pl.DataFrame]) -> Callable[..., pl.DataFrame]:
            def wait_and_read(*arguments: Any, **named: Any) -> pl.DataFrame:
                before = batches()
                while batches() == before and not draining.done():
                    pass
                return read(*arguments, **named)

            return wait_and_read

        # A broker that has just started is not coordinator of the group at once.
        while not batches():
            assert not draining.done(), draining.result()
        for method in ("raw_minutes", "rollup_minutes"):
            monkeypatch.setattr(ClickHouseBooks, method, after_a_batch(getattr(ClickHouseBooks, method)))
        while not draining.done():
            verdict = audit(settings)
            assert verdict.problems == ()
            beside += verdict.books.ledger_events != verdict.books.raw_rows
        draining.result()
    drain_once(settings)
    assert beside, "batches landed between two reads"
    verdict = audit(settings)
    assert verdict.problems == ()
    assert verdict.books.minutes_in_flight == ()
    assert verdict.books.ledger_events == producing.result().unique_events
