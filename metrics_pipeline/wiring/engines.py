"""Connects to Kafka and ClickHouse, checks that they fit, and takes hold of partitions, for all that land events."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import connect_shards, shard_database, storage_of
from metrics_pipeline.clickhouse.server_time import server_clock
from metrics_pipeline.dead_letters.judge import GROUP_SUFFIX as LETTERS_SUFFIX
from metrics_pipeline.delivery.chunk import SLOT
from metrics_pipeline.delivery.ownership import Hold, Ownership
from metrics_pipeline.delivery.warehouse import ClickHouseWarehouse
from metrics_pipeline.errors import ConfigurationError, SchemaMismatchError
from metrics_pipeline.kafka.committed import FencedOffsets
from metrics_pipeline.kafka.intents import Owner
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.ledger.deferred import GROUP_SUFFIX as DEFERRED_SUFFIX
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.run import Run
from metrics_pipeline.runtime.timerange import DAY_SECONDS, minute_name
from metrics_pipeline.schema import all as schema
from metrics_pipeline.schema import distributed
from metrics_pipeline.settings import KafkaSettings, Settings, kafka_address

ONE_OWNER = Owner(1, 0)
"""Of a side group: one backfill, or one replay of a kind, at a time."""


@dataclass(frozen=True, slots=True)
class Engines:
    """Both engines, connected; the schema is right, and the settings fit to what retention has dropped."""

    settings: Settings
    client: Client
    log: KafkaLog
    run: Run
    """Of the one that they were opened for; its wall clock is the server's."""

    @property
    def warehouse(self) -> ClickHouseWarehouse:
        return warehouse_of(self.settings, self.client, self.log.topic_id)


@contextmanager
def open_engines(settings: Settings, run: Run, *, is_gentle: bool = False) -> Iterator[Engines]:
    """Connect, retrying what passes, and check.

    `is_gentle` is for work beside drains, which need the other threads: a query gets one.

    Raises SchemaMismatchError, ConfigurationError.
    """
    retry, threads = run.retry, {"max_threads": 1} if is_gentle else {}
    with ExitStack() as stack:
        client = retry.call(lambda: stack.enter_context(connect(settings, **threads)))
        retry.call(lambda: check_schema(client, settings))
        run = retry.call(lambda: by_server_time(run, client))
        retry.call(lambda: check_age(client, settings, run.clock))
        log = retry.call(lambda: stack.enter_context(KafkaLog(kafka_address(settings), settings.kafka)))
        yield Engines(settings, client, log, run)


def by_server_time(run: Run, client: Client) -> Run:
    """What runs on several hosts write down can be compared only by one clock."""
    return replace(run, retry=replace(run.retry, clock=server_clock(client, run.clock)))


@contextmanager
def hold_of(engines: Engines, group: KafkaSettings, owner: Owner) -> Iterator[Hold]:
    """A drain's hold on the partitions of its shard, or a backfill's on all."""
    with ownership_of(engines.settings, group, owner, engines.log.partitions(), engines.run) as ownership:
        yield Hold(group.group, engines.log, ownership, engines.warehouse)


def backfills_hold(engines: Engines) -> AbstractContextManager[Hold]:
    """In a side group."""
    return hold_of(engines, side_group(engines.settings, DEFERRED_SUFFIX), ONE_OWNER)


def slot_owner(settings: Settings, suffix: str, run: Run) -> AbstractContextManager[Ownership]:
    """A replay's right to the one slot of its side group."""
    return ownership_of(settings, side_group(settings, suffix), ONE_OWNER, (SLOT,), run)


@contextmanager
def ownership_of(
    settings: Settings, group: KafkaSettings, owner: Owner, partitions: tuple[int, ...], run: Run
) -> Iterator[Ownership]:
    """The right to commit, which `Ownership.take_over` makes good."""
    with FencedOffsets(kafka_address(settings), group, owner, partitions) as store:
        yield Ownership(owner, store, run, zombie_seconds=settings.drain.zombie_seconds)


def warehouse_of(settings: Settings, client: Client, topic_id: str) -> ClickHouseWarehouse:
    """The tables, for one incarnation of the topic."""
    kafka, shards = settings.kafka, partial(connect_shards, settings)
    return ClickHouseWarehouse(client, shards, kafka.topic, topic_id, kafka.group, storage_of(settings))


def letters_group(settings: Settings) -> KafkaSettings:
    """The side group of replays of dead letters."""
    return side_group(settings, LETTERS_SUFFIX)


def side_group(settings: Settings, suffix: str) -> KafkaSettings:
    """Of backfills, or of replays of a kind: who may do that, and the batch or chunk that is open."""
    return settings.kafka.model_copy(update={"group": settings.kafka.group + suffix})


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
            f"dropped, and a second copy of one would not be recognised: set it to {max(days, 1)} or less"
        )
