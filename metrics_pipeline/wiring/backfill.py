"""Puts the skip to head to the head and the backfill of what it skipped together from settings, for command line and
Dagster."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import groupby

import polars as pl

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.batch import BatchLimits
from metrics_pipeline.delivery.chunk import SLOT, decode_chunk
from metrics_pipeline.delivery.delivery import Delivery, Source
from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.delivery.yielding import Yielding
from metrics_pipeline.drain.backfill import Backfill, BackfillReport
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.drain.owner import event_limits, shard_owner
from metrics_pipeline.drain.skip_to_head import skipped_hours
from metrics_pipeline.drain.takeover import Takeover
from metrics_pipeline.errors import StopError
from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.kafka.committed import CommittedOffsets, FencedOffsets
from metrics_pipeline.kafka.intents import OffsetRange, Owner, open_batches
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.ledger.deferred import DeferredEntry
from metrics_pipeline.ledger.entry import BACKFILL, LedgerEntry, minutes_of
from metrics_pipeline.ledger.reading_deferred import ClickHouseDeferred
from metrics_pipeline.rollups.grains import UNIT
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.retry import Retry, say_waiting
from metrics_pipeline.runtime.worker import ThreadWorker
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.drain import (
    DrainRun,
    at_once,
    check_age,
    check_schema,
    deferred_group,
    replay_group,
    rollups,
    run_drain,
    warehouse_of,
)

logger = logging.getLogger("metrics_pipeline.backfill")

BACKFILL_OWNER = Owner(1, 0)
"""Of the side group of backfills: one at a time."""
SKIP_TO_HEAD_ATTEMPTS = 5
"""The relay starts a drain some seconds after the one before was fenced, which is longer than a skip to head takes."""


def shards_of(settings: Settings, shard: int | None) -> tuple[int, ...]:
    """The one that is asked for, or all."""
    return tuple(range(settings.drain.shards)) if shard is None else (shard,)


def preview_skip_to_head(settings: Settings, shards: Sequence[int]) -> tuple[DeferredEntry, ...]:
    """What a skip to head of these shards would skip now, the oldest hour first; commits nothing."""
    address = kafka_address(settings)
    retry = Retry(SystemClock(), settings.drain.retry_seconds, lambda: False, say_waiting)
    lags = retry.call(lambda: read_lag(address, settings.kafka))
    partitions = [p for shard in shards for p in shard_owner(settings, shard, tuple(lags)).partitions(lags)]
    with KafkaLog(address, settings.kafka) as log:
        heads = {p: max(lags[p].high, lags[p].next_offset) for p in partitions}
        positions = {p: lags[p].next_offset for p in partitions}
        return tuple(skipped_hours(log, retry, positions, heads, SystemClock().now_ms()))


def skip_to_head(
    settings: Settings,
    shards: Sequence[int],
    run_id: str,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_entry: Callable[[LedgerEntry], None] = lambda _entry: None,
) -> int:
    """Let these shards go on at the head, fencing their drains; returns the offsets that are deferred since.

    Each is a drain run that skips to head and ends; the next drain goes on at the head. One that the relay starts
    meanwhile fences the skip to head, which then tries again. Raises StopError if it is fenced every time.
    """
    deferred = 0
    for shard in shards:
        run = DrainRun(run_id, shard, is_skipping_to_head=True)
        for _ in range(SKIP_TO_HEAD_ATTEMPTS):
            report = run_drain(settings, run, at_once, stop=stop, on_entry=on_entry)
            deferred += report.deferred
            if report.reason is not Reason.FENCED:
                break
        else:
            raise StopError(
                f"shard {shard}: new drains fenced the skip to head {SKIP_TO_HEAD_ATTEMPTS} times, "
                f"{deferred} offsets are deferred so far: "
                "stop what starts them (the sensor `relay`) for a moment, or set "
                "METRICS_DRAIN__SKIP_TO_HEAD_LAG_OFFSETS for it"
            )
    return deferred


def deferred_ranges(settings: Settings) -> tuple[DeferredEntry, ...]:
    """What drains skipped of the present topic and no backfill has landed yet, the oldest hour first."""
    topic_id = describe_topic(kafka_address(settings), settings.kafka).topic_id
    with connect(settings) as client:
        return ClickHouseDeferred(client, settings.kafka.topic, topic_id, settings.kafka.group).read()


def backfill_deferred(
    settings: Settings,
    ranges: Sequence[OffsetRange] | None,
    run_id: str,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[BackfillReport], None] = lambda _report: None,
    observe: Callable[[Step], None] = lambda _step: None,
    clock: Clock | None = None,
) -> BackfillReport:
    """Land what is deferred within `ranges` (None: all of it) in the foreground; see `Fill.run` for what is raised."""
    address, clock = kafka_address(settings), clock or SystemClock()
    retry = Retry(clock, settings.drain.retry_seconds, stop, say_waiting)
    side, drain, limits = deferred_group(settings), settings.drain, event_limits(settings)
    report = BackfillReport()
    units: set[int] = set()

    def note_taken_back(events: pl.DataFrame) -> None:
        report.taken_back += len(events)
        units.update(UNIT.floor(start) for start in minutes_of(events["timestamp"]).starts_seconds)

    with ExitStack() as stack:
        # One thread per query: the drains beside need the others.
        client = retry.call(lambda: stack.enter_context(connect(settings, max_threads=1)))
        retry.call(lambda: check_schema(client, settings))
        retry.call(lambda: check_age(client, settings, clock))
        log = retry.call(lambda: stack.enter_context(KafkaLog(address, settings.kafka)))
        store = stack.enter_context(FencedOffsets(address, side, BACKFILL_OWNER, log.partitions()))
        drains = stack.enter_context(CommittedOffsets(address, settings.kafka))
        replays = stack.enter_context(CommittedOffsets(address, replay_group(settings)))
        books = ClickHouseBooks(client, settings.kafka.topic, log.topic_id, settings.kafka.group)
        warehouse = warehouse_of(settings, client, log.topic_id)
        ownership = Ownership(BACKFILL_OWNER, store, clock, retry, zombie_seconds=drain.zombie_seconds, observe=observe)
        yielding = Yielding(
            warehouse, ownership, clock, retry, lambda: _under_way(log, drains, replays, books), note_taken_back
        )
        source = Source(side.group, log.topic_id, run_id, BACKFILL)
        delivery = Delivery(source, ownership, warehouse, clock, retry, observe=observe, yielding=yielding)
        stack.callback(lambda: _repair(settings, units, clock))
        Backfill(
            log,
            delivery,
            Takeover(log, ownership, delivery, warehouse, clock, retry, limits, report.add, observe),
            ClickHouseDeferred(client, settings.kafka.topic, log.topic_id, settings.kafka.group).read,
            clock,
            stack.enter_context(ThreadWorker("delivery")),
            retry,
            BatchLimits(drain.flush_events, drain.flush_bytes, float("inf")),
            limits,
            report,
            stop=stop,
            on_progress=on_progress,
        ).run(ranges)
    return report


def _under_way(
    log: KafkaLog, drains: CommittedOffsets, replays: CommittedOffsets, books: ClickHouseBooks
) -> frozenset[str]:
    """Batches of drains and replays that are open and not in the ledger."""
    commits = {p: c for p, c in drains.read(log.partitions()).items() if c.topic_id == log.topic_id}
    chunk = decode_chunk(replays.read((SLOT,)).get(SLOT))
    tokens = [*(batch.token for batch in open_batches(commits)), *([] if chunk is None else [chunk.token])]
    return frozenset(tokens) - (books.landed(tokens) if tokens else frozenset())


def _repair(settings: Settings, units: Iterable[int], clock: Clock) -> None:
    """Make the rollups count once what they counted twice; units that aren't closed yet are left to the drift check."""
    numbered = enumerate(sorted(units))
    spans = [[unit for _, unit in run] for _, run in groupby(numbered, key=lambda n: n[1] - n[0] * UNIT.seconds)]
    if not spans:
        return
    with rollups(settings, clock) as operated:
        for span in spans:
            operated.check(Span(span[0], span[-1] + UNIT.seconds), repair=True)
            if span[-1] + UNIT.seconds > operated.closed_until():
                logger.warning("the rollups of the last minutes count events twice until the next check of drift")
