"""Puts the rollups together from settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import connect_shards
from metrics_pipeline.clickhouse.server_time import server_clock
from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.ledger.minutes import Scope
from metrics_pipeline.rollups.building import RollupBuilder
from metrics_pipeline.rollups.drift import units_of
from metrics_pipeline.rollups.observing import RollupObserver
from metrics_pipeline.rollups.operate import Rollups
from metrics_pipeline.rollups.repair import RollupRepairer
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.rollups.shards import RollupsOfShards
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import batches_under_way


@contextmanager
def rollups(settings: Settings, clock: Clock | None = None) -> Iterator[RollupsOfShards]:
    with connect_shards(settings) as shards:
        yield RollupsOfShards([rollups_of_shard(settings, shard, clock) for shard in shards])


def rollups_of_shard(settings: Settings, shard: Client, clock: Clock | None = None) -> Rollups:
    """The rollups of its own tables. Kafka is asked only where a check finds something: what is on its way?"""
    observer, by_server = RollupObserver(shard), server_clock(shard, SystemClock())
    return Rollups(
        RollupBuilder(shard, by_server.now_ns),
        observer,
        RollupRepairer(shard, observer, by_server.now_ns),
        clock or by_server,
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
