"""Puts the skip to head to the head and the backfill of what it skipped together from settings, for command line and
Dagster."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.batch import BatchLimits
from metrics_pipeline.delivery.chunk import SLOT, open_chunk_of
from metrics_pipeline.drain.backfill import Backfill, BackfillReport
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.drain.shards import rules_of, shard_owner
from metrics_pipeline.drain.skip_to_head import skipped_hours
from metrics_pipeline.errors import StopError
from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.kafka.committed import CommittedOffsets
from metrics_pipeline.kafka.intents import OffsetRange, open_batches
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.ledger.deferred import DeferredEntry
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.ledger.reading_deferred import ClickHouseDeferred
from metrics_pipeline.replay.units import spans_of
from metrics_pipeline.rollups.grains import UNIT
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.run import new_run
from metrics_pipeline.runtime.worker import ThreadWorker
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.drain import DrainRun, at_once, run_drain
from metrics_pipeline.wiring.engines import backfills_hold, letters_group, open_engines
from metrics_pipeline.wiring.rollups import rollups

logger = logging.getLogger(__name__)

SKIP_TO_HEAD_ATTEMPTS = 5
"""The relay starts a drain some seconds after the one before was fenced, which is longer than a skip to head takes."""


def shards_of(settings: Settings, shard: int | None) -> tuple[int, ...]:
    """The one that is asked for, or all."""
    return tuple(range(settings.drain.shards)) if shard is None else (shard,)


def preview_skip_to_head(settings: Settings, shards: Sequence[int]) -> tuple[DeferredEntry, ...]:
    """What a skip to head of these shards would skip now, the oldest hour first; commits nothing."""
    address = kafka_address(settings)
    retry = new_run("preview", SystemClock(), settings.drain.retry_seconds).retry
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
    observe: Callable[[str], None] = lambda _step: None,
    clock: Clock | None = None,
) -> BackfillReport:
    """Land what is deferred within `ranges` (None: all of it) in the foreground.

    See `Backfill.run` for what is raised.
    """
    address, drain = kafka_address(settings), settings.drain
    run = new_run(run_id, clock or SystemClock(), drain.retry_seconds, stop, observe)
    with ExitStack() as stack:
        engines = stack.enter_context(open_engines(settings, run, is_gentle=True))
        run, client, log = engines.run, engines.client, engines.log
        hold = stack.enter_context(backfills_hold(engines))
        drains = stack.enter_context(CommittedOffsets(address, settings.kafka))
        replays = stack.enter_context(CommittedOffsets(address, letters_group(settings)))
        books = ClickHouseBooks(client, settings.kafka.topic, log.topic_id, settings.kafka.group)
        backfill = Backfill(
            hold,
            run,
            rules_of(settings),
            BatchLimits(drain.flush_events, drain.flush_bytes, float("inf")),
            stack.enter_context(ThreadWorker("delivery")),
            ClickHouseDeferred(client, settings.kafka.topic, log.topic_id, settings.kafka.group).read,
            lambda: _under_way(log, drains, replays, books),
            on_progress,
        )
        stack.callback(lambda: _repair(settings, backfill.report.doubled_minutes, run.clock))
        backfill.run(ranges)
    return backfill.report


def _under_way(
    log: KafkaLog, drains: CommittedOffsets, replays: CommittedOffsets, books: ClickHouseBooks
) -> frozenset[str]:
    """Batches of drains and replays that are open and not in the ledger."""
    commits = {p: c for p, c in drains.read(log.partitions()).items() if c.topic_id == log.topic_id}
    chunk = open_chunk_of(replays.read((SLOT,)))
    tokens = [*(batch.token for batch in open_batches(commits)), *([] if chunk is None else [chunk.token])]
    return frozenset(tokens) - (books.landed(tokens) if tokens else frozenset())


def _repair(settings: Settings, minutes: Iterable[int], clock: Clock) -> None:
    """Make the rollups count once what they counted twice; units that aren't closed yet are left to the drift check."""
    spans = spans_of({UNIT.floor(start) for start in minutes})
    if not spans:
        return
    with rollups(settings, clock) as operated:
        for start, end in spans:
            operated.check(Span(start, end), repair=True)
            if end > operated.closed_until():
                logger.warning("the rollups of the last minutes count events twice until the next check of drift")
