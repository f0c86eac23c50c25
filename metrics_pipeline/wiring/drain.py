"""Puts adapters and drain together from settings. The command line and Dagster both start here."""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.audit.run import Audit
from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import connect_shards, shard_database, storage_of
from metrics_pipeline.dead_letters.judge import GROUP_SUFFIX as LETTERS_SUFFIX
from metrics_pipeline.delivery.batch import BatchLimits
from metrics_pipeline.delivery.chunk import SLOT, Chunk, decode_chunk
from metrics_pipeline.delivery.delivery import Delivery, Source
from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.delivery.warehouse import ClickHouseWarehouse
from metrics_pipeline.drain.drain import Drain, DrainReport
from metrics_pipeline.drain.ending import AtOffsets, AtWindowEnd, Ending
from metrics_pipeline.drain.owner import event_limits, shard_owner
from metrics_pipeline.drain.skip_to_head import SkipToHead
from metrics_pipeline.drain.takeover import Takeover, closing_commits, reset_positions
from metrics_pipeline.errors import ConfigurationError, SchemaMismatchError
from metrics_pipeline.kafka.admin import TopicDescription, describe_topic, ensure_topic
from metrics_pipeline.kafka.committed import FencedOffsets, committed_offsets
from metrics_pipeline.kafka.handover import KafkaHandover
from metrics_pipeline.kafka.intents import OpenBatch, open_batches
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.kafka.ports import Log
from metrics_pipeline.ledger.deferred import GROUP_SUFFIX as DEFERRED_GROUP_SUFFIX
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.ledger.minutes import EVERYTHING, Scope
from metrics_pipeline.replay.plan import GROUP_SUFFIX as HOURS_SUFFIX
from metrics_pipeline.rollups.building import RollupBuilder
from metrics_pipeline.rollups.drift import units_of
from metrics_pipeline.rollups.observing import RollupObserver
from metrics_pipeline.rollups.operate import Rollups
from metrics_pipeline.rollups.repair import RollupRepairer
from metrics_pipeline.rollups.retained_from import DEAD_LETTERS
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.rollups.shards import RollupsOfShards
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.retry import Retry, say_waiting
from metrics_pipeline.runtime.timerange import DAY_SECONDS, minute_name
from metrics_pipeline.runtime.worker import ThreadWorker
from metrics_pipeline.schema import all as schema
from metrics_pipeline.schema import distributed
from metrics_pipeline.schema.targets import apply_everywhere
from metrics_pipeline.settings import KafkaSettings, Settings, kafka_address

logger = logging.getLogger("metrics_pipeline.drain")

EndingOf = Callable[[Log, Sequence[int]], Ending]
"""Makes the ending of a run from the log and the shard's partitions."""


@dataclass(frozen=True, slots=True)
class DrainRun:
    """Which shard is drained, by whom, and whether another run may be at it right now.

    `is_jumping`: it begins at the head, however little it is behind.
    """

    run_id: str
    shard: int = 0
    has_predecessor: bool = False
    is_skipping_to_head: bool = False


def prepare(settings: Settings) -> None:
    """Create the topic and the schema where they are missing."""
    ensure_topic(kafka_address(settings), settings.kafka)
    apply_everywhere(settings)


def until_caught_up(log: Log, partitions: Sequence[int]) -> Ending:
    """Ends at what is the high watermark now."""
    return AtOffsets({p: marks.high for p, marks in log.watermarks(partitions).items()})


def at_once(_log: Log, _partitions: Sequence[int]) -> Ending:
    """Ends before anything is fetched: the run takes over, recovers, skips to head if it is to, and closes."""
    return AtOffsets({})


def until_window_ends(settings: Settings) -> EndingOf:
    """Ends when the successor is ready, or the window is over, or nothing arrives."""
    drain = settings.drain
    ending = AtWindowEnd(drain.window_seconds, drain.idle_seconds, drain.handover_seconds)
    return lambda _log, _partitions: ending


def run_drain(
    settings: Settings,
    run: DrainRun,
    ending_of: EndingOf,
    *,
    stop: Callable[[], bool],
    on_entry: Callable[[LedgerEntry], None] = lambda _entry: None,
    observe: Callable[[Step], None] = lambda _step: None,
    clock: Clock | None = None,
) -> DrainReport:
    """Drain one shard in the foreground; see `Drain.run` for what is raised. `clock` is the machine's by default."""
    address = kafka_address(settings)
    clock = clock or SystemClock()
    limits = event_limits(settings)
    report = DrainReport()

    def land(entry: LedgerEntry) -> None:
        report.add(entry)
        on_entry(entry)

    retry = Retry(clock, settings.drain.retry_seconds, stop, say_waiting)
    _calm_garbage_collector()
    with ExitStack() as stack:
        client = retry.call(lambda: stack.enter_context(connect(settings)))
        retry.call(lambda: check_schema(client, settings))
        retry.call(lambda: check_age(client, settings, clock))
        log = retry.call(lambda: stack.enter_context(KafkaLog(address, settings.kafka)))
        owner = shard_owner(settings, run.shard, log.partitions())
        store = stack.enter_context(FencedOffsets(address, settings.kafka, owner, log.partitions()))
        handover = retry.call(
            lambda: stack.enter_context(KafkaHandover(address, settings.kafka, run.shard, run.run_id))
        )
        warehouse = warehouse_of(settings, client, log.topic_id)
        ownership = Ownership(owner, store, clock, retry, zombie_seconds=settings.drain.zombie_seconds, observe=observe)
        source = Source(settings.kafka.group, log.topic_id, run.run_id)
        delivery = Delivery(source, ownership, warehouse, clock, retry, observe=observe)
        partitions = owner.partitions(log.partitions())
        skip_to_head_lag = 0 if run.is_skipping_to_head else settings.drain.skip_to_head_lag_offsets
        drain = Drain(
            log,
            delivery,
            Takeover(log, ownership, delivery, warehouse, clock, retry, limits, land, observe),
            handover,
            clock,
            stack.enter_context(ThreadWorker("delivery")),
            BatchLimits(settings.drain.flush_events, settings.drain.flush_bytes, settings.drain.flush_seconds),
            limits,
            stall_seconds=settings.drain.retry_seconds,
            stop=stop,
            on_entry=land,
            observe=observe,
            skip_to_head=None
            if skip_to_head_lag is None
            else SkipToHead(log, delivery, retry, clock, skip_to_head_lag, land, stop),
        )
        ending = retry.call(lambda: ending_of(log, partitions))
        report.reason = drain.run(partitions, ending, has_predecessor=run.has_predecessor)
    return report


def _calm_garbage_collector() -> None:
    """Collect rarely, and never what the imports made: a drain makes millions of objects, but no cycles.

    With the default thresholds a third of a drain's time goes into looking for cycles.
    """
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)


def check_schema(client: Client, settings: Settings) -> None:
    """Raises SchemaMismatchError unless the tables have what this version needs; those of a later version do."""
    cluster = settings.clickhouse.cluster
    if cluster is None:
        needed = schema.plan(client, storage_of(settings)).needed
    else:
        # An apply changes it last: where it is right, the shards' own tables are.
        needed = distributed.plan(client, cluster, shard_database(settings)).needed
    if needed:
        raise SchemaMismatchError(
            f"the schema is not up to date ({len(needed)} tables, views or columns are missing or too narrow, "
            f"{needed[0].object} for one): run `metrics-pipeline schema plan`, then `schema apply`"
        )


def check_age(client: Client, settings: Settings, clock: Clock) -> None:
    """Raises ConfigurationError if events may be taken that are of times that retention has dropped."""
    retained_from, max_age_days = read_retained_from(client).compared_from, settings.events.max_age_days
    days = (clock.now_ms() // 1_000 - retained_from) // DAY_SECONDS
    if retained_from and days < max_age_days:
        raise ConfigurationError(
            f"METRICS_EVENTS__MAX_AGE_DAYS is {max_age_days}, but events before {minute_name(retained_from)} may be "
            f"dropped, "
            f"and a second copy of one would not be recognised: set it to {max(days, 1)} or less"
        )


def audit(settings: Settings, scope: Scope = EVERYTHING, *, deep: bool = False) -> Verdict:
    """Read the books of the topic and judge them; `deep` also compares the identities of all events in scope."""
    address = kafka_address(settings)
    description = describe_topic(address, settings.kafka)
    with connect(settings) as client:
        retained_from = read_retained_from(client)
        books = ClickHouseBooks(
            client,
            settings.kafka.topic,
            description.topic_id,
            settings.kafka.group,
            dead_letters_from=retained_from.of(DEAD_LETTERS),
        )
        return Audit(
            books,
            lambda: committed_offsets(address, settings.kafka, description.partitions),
            description.topic_id,
            SystemClock(),
            deep=deep,
            beside=lambda: open_beside_drains(settings, description),
            compared_from=retained_from.compared_from,
        ).run(scope)


@contextmanager
def rollups(settings: Settings, clock: Clock | None = None) -> Iterator[RollupsOfShards]:
    """The rollups of all shards."""
    with connect_shards(settings) as shards:
        yield RollupsOfShards([rollups_of_shard(settings, shard, clock) for shard in shards])


def rollups_of_shard(settings: Settings, shard: Client, clock: Clock | None = None) -> Rollups:
    """The rollups of its own tables. Kafka is asked only where a check finds something: what is on its way?"""
    observer = RollupObserver(shard)
    return Rollups(
        RollupBuilder(shard, time.time_ns),
        observer,
        RollupRepairer(shard, observer, time.time_ns),
        clock or SystemClock(),
        partial(_units_in_flight, settings),
        read_retained_from(shard),
    )


def _units_in_flight(settings: Settings, start_seconds: int, end_seconds: int) -> frozenset[int]:
    """Units with rows of batches that are open: begun, and not in the ledger."""
    description = describe_topic(kafka_address(settings), settings.kafka)
    with connect(settings) as client:
        books = ClickHouseBooks(client, settings.kafka.topic, description.topic_id, settings.kafka.group)
        ranges = [r for batch in batches_under_way(settings, books, description) for r in batch.ranges]
        return units_of(books.open_minutes(Scope(start_seconds, end_seconds), ranges)) if ranges else frozenset()


def batches_under_way(
    settings: Settings,
    books: ClickHouseBooks,
    topic: TopicDescription,
    replays: Sequence[str] = (LETTERS_SUFFIX, HOURS_SUFFIX),
) -> tuple[OpenBatch, ...]:
    """What drains, backfills and these replays have begun, and the ledger does not have; read in this order."""
    intents = (
        *open_batches(committed_offsets(kafka_address(settings), settings.kafka, topic.partitions)),
        *open_beside_drains(settings, topic, replays),
    )
    landed = books.landed([batch.token for batch in intents]) if intents else frozenset()
    return tuple(batch for batch in intents if batch.token not in landed)


def open_beside_drains(
    settings: Settings, topic: TopicDescription, replays: Sequence[str] = (LETTERS_SUFFIX, HOURS_SUFFIX)
) -> tuple[OpenBatch, ...]:
    """What backfills and replays, of dead letters and of hours, are landing or left half done."""
    commits = committed_offsets(kafka_address(settings), deferred_group(settings), topic.partitions)
    backfilling = open_batches({p: c for p, c in commits.items() if c.topic_id == topic.topic_id})
    chunks = (_open_chunk(settings, suffix) for suffix in replays)
    return (*backfilling, *(chunk.as_open_batch for chunk in chunks if chunk is not None))


def _open_chunk(settings: Settings, suffix: str) -> Chunk | None:
    return decode_chunk(committed_offsets(kafka_address(settings), side_group(settings, suffix), (SLOT,)).get(SLOT))


def deferred_group(settings: Settings) -> KafkaSettings:
    """The side group of backfills: who may backfill, and the batch that is open."""
    return side_group(settings, DEFERRED_GROUP_SUFFIX)


def replay_group(settings: Settings) -> KafkaSettings:
    """The side group of replays of dead letters: who may replay, and the chunk that is open."""
    return side_group(settings, LETTERS_SUFFIX)


def hours_group(settings: Settings) -> KafkaSettings:
    """The side group of replays of hours, likewise."""
    return side_group(settings, HOURS_SUFFIX)


def side_group(settings: Settings, suffix: str) -> KafkaSettings:
    return settings.kafka.model_copy(update={"group": settings.kafka.group + suffix})


def warehouse_of(settings: Settings, client: Client, topic_id: str) -> ClickHouseWarehouse:
    """The tables, for one incarnation of the topic."""
    kafka, shards = settings.kafka, partial(connect_shards, settings)
    return ClickHouseWarehouse(client, shards, kafka.topic, topic_id, kafka.group, storage_of(settings))


def reset_offsets(settings: Settings, *, to_latest: bool) -> dict[int, int]:
    """Commit an end of the present topic for all partitions, fencing running drains. Returns the new offsets.

    Never before the ledger's end, nor across a batch that is open: what the present topic held there has landed, and
    would land again under other ranges.
    """
    address = kafka_address(settings)
    clock = SystemClock()
    retry = Retry(clock, settings.drain.retry_seconds, lambda: False, say_waiting)
    positions: dict[int, int] = {}
    with KafkaLog(address, settings.kafka) as log, connect(settings) as client:
        warehouse = warehouse_of(settings, client, log.topic_id)
        for shard in range(settings.drain.shards):
            owner = shard_owner(settings, shard, log.partitions())
            with FencedOffsets(address, settings.kafka, owner, log.partitions()) as store:
                ownership = Ownership(
                    owner, store, clock, retry, zombie_seconds=settings.drain.zombie_seconds, observe=lambda _step: None
                )
                commits = ownership.take_over(log.partitions())
                partitions = owner.partitions(log.partitions())
                landed = warehouse.ledger_ends(partitions).get(log.topic_id, {})
                starts = reset_positions(log.watermarks(partitions), commits, landed, log.topic_id, to_latest=to_latest)
                ownership.commit(closing_commits(starts, log.topic_id))
            positions |= starts
    return positions
