"""Faults of Kafka: the broker killed, the topic changed, compacted or eaten, transactions that come to nothing.

The topic deleted and recreated has a pipeline of its own beside the one under chaos: nothing else survives it.
"""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from random import Random

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.drain.ranges import UNLIMITED, RangeReader
from metrics_pipeline.drain.shards import rules_of
from metrics_pipeline.errors import LocalEngineError, RetryableError, TopicMismatchError
from metrics_pipeline.kafka.config import calling
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.kafka.lag import PartitionLag
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.lab.chaos.fleet import Fleet
from metrics_pipeline.lab.chaos.journal import MissedError
from metrics_pipeline.lab.chaos.load import SideSender, parcel_of
from metrics_pipeline.lab.chaos.staging import Staging, administer
from metrics_pipeline.lab.chaos.world import World
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.run import new_run
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import prepare, reset_offsets

ASIDE = "recreated-"
"""What the names of drains beside begin with: their ends say nothing about the pipeline under chaos."""
MOST_PARTITIONS = 24
_PARCEL_EVENTS = 300
_LONGEST_SECONDS = 15.0
_TRANSACTION_SECONDS = 2.0
_READ_SECONDS = 20.0
_DRAIN_SECONDS = 60.0
_RECREATED_EVENTS = 400
_ASIDE_SECONDS = 30.0


def kill(world: World, rng: Random) -> str:
    """kill -9 of the broker at any moment, then a restart."""
    broker = world.need_engines().kafka
    world.hold(rng.uniform(0, 0.5))
    broker.kill()
    said = world.come_back(broker, rng)
    world.await_that(lambda: _is_back(world), _LONGEST_SECONDS, "the broker did not load its groups")
    return said


def _is_back(world: World) -> bool:
    with suppress(RetryableError):
        return bool(world.lags())
    return False


def add_partitions(world: World, rng: Random) -> str:
    """The topic gets more partitions, and producers write to them at once."""
    before, topic = len(world.lags()), world.settings.kafka.topic
    after = before + rng.randint(1, 2)
    if after > MOST_PARTITIONS:
        raise MissedError(f"the topic has {before} partitions already")
    more = NewPartitions(topic, after)
    administer(world.settings, "adding partitions", lambda admin: admin.create_partitions([more]))
    world.await_that(lambda: len(world.lags()) == after, _LONGEST_SECONDS, "no new partition came")
    world.sender.send(parcel_of(rng, _PARCEL_EVENTS, range(before, after), malformed=0.02))
    return f"{before} to {after}"


def abort_transaction(world: World, rng: Random) -> str:
    """A producer aborts a transaction, another commits one: only the second one's events count."""
    partitions = [rng.randrange(world.settings.kafka.partitions)]
    aborted, committed = (parcel_of(rng, _PARCEL_EVENTS, partitions) for _ in range(2))
    hold_seconds = rng.uniform(0.1, 1.5)
    first = world.sender.send_in_transaction(aborted, rng)
    world.hold(hold_seconds)
    calling("aborting a transaction", first.abort_transaction)
    second = world.sender.send_in_transaction(committed, rng)
    world.hold(hold_seconds)
    calling("committing a transaction", second.commit_transaction)
    world.sender.record(committed)
    return f"{len(aborted.messages)} aborted, {len(committed.messages)} committed"


def abandon_transaction(world: World, rng: Random) -> str:
    """A producer dies with a transaction open: what follows in that partition waits until the broker aborts it."""
    parcel = parcel_of(rng, _PARCEL_EVENTS, [rng.randrange(world.settings.kafka.partitions)])
    world.sender.send_in_transaction(parcel, rng, _TRANSACTION_SECONDS)
    world.hold(_TRANSACTION_SECONDS + rng.uniform(0.5, 1.5))
    return f"{len(parcel.messages)} events"


def compact(world: World, rng: Random) -> str:
    """The broker removes unread copies of repeated events: holes in the offsets.

    Drains stand still meanwhile, in good order, and the topic is as before when they go on: compaction takes no
    event's last copy, but an open batch would look different when it is read again.
    """
    engines, topic = world.need_engines(), world.settings.kafka.topic
    number = rng.randrange(world.settings.kafka.partitions)
    with world.fleet.held():
        _close_all(world)
        world.sender.send(parcel_of(rng, _PARCEL_EVENTS, [number]), copies=rng.randint(3, 6))
        end = world.lags()[number].high
        changes = {"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.001"}
        _configure(world.settings, changes)
        try:
            checkpoint = engines.kafka_data / "cleaner-offset-checkpoint"

            def is_clean() -> bool:
                return cleaned_until(checkpoint.read_text() if checkpoint.exists() else "", topic, number) >= end

            world.await_that(is_clean, _LONGEST_SECONDS, "the broker did not compact")
        finally:
            _configure(world.settings, dict.fromkeys(changes))
        world.compacted |= {number: lag.high for number, lag in world.lags().items()}
    return f"partition {number} up to offset {end}"


def cleaned_until(checkpoint: str, topic: str, partition: int) -> int:
    """What the broker's note says: lines of `topic partition first-uncleaned-offset` below two of its own."""
    offsets = dict(line.rsplit(" ", 1) for line in checkpoint.splitlines()[2:])
    return int(offsets.get(f"{topic} {partition}", -1))


def eat_unread(world: World, rng: Random) -> str:
    """Retention takes events before they are read: they are lost, and the audit has to say exactly which.

    Drains stand still, and what is taken is read first: the final comparison knows the victims.
    """
    with world.fleet.held():
        _close_all(world)
        victims = _choose_victims(world, rng)
        events, malformed = _read(world.settings, victims)
        slots = [TopicPartition(world.settings.kafka.topic, r.partition, r.end) for r in victims]
        administer(world.settings, "deleting records", lambda admin: admin.delete_records(slots))
        world.eaten.ranges += victims
        world.eaten.events.update(events)
        world.eaten.malformed += malformed
    # The broker notes its new first offset only now and then: after a crash the old one could come back.
    world.await_that(
        lambda: all(_committed(world).get(r.partition, 0) >= r.end for r in victims),
        2 * _LONGEST_SECONDS,
        "the drains did not go on",
    )
    return f"{len(events)} events and {malformed} malformed, from {len(victims)} partitions"


def _choose_victims(world: World, rng: Random) -> list[OffsetRange]:
    """What is to be eaten: something unread, below the end, and no open batch in it."""
    numbers = rng.sample(range(world.settings.kafka.partitions), rng.randint(1, 2))
    size = rng.randint(20, 200)

    def look() -> list[OffsetRange] | None:
        lags = world.lags()
        starts = {number: _next_free(world, number, lags[number]) for number in numbers}
        found = [OffsetRange(n, start, start + size) for n, start in starts.items() if start is not None]
        return found if sum(r.end < lags[r.partition].high for r in found) == len(numbers) else None

    return world.await_that(look, _LONGEST_SECONDS, "no partition has unread messages and no open batch")


def _read(settings: Settings, ranges: Sequence[OffsetRange]) -> tuple[list[str], int]:
    """Ids of the events in these ranges, and how many messages there are malformed."""
    run = new_run("chaos", SystemClock(), _READ_SECONDS)
    with KafkaLog(kafka_address(settings), settings.kafka) as log:
        batch = RangeReader(log, run, rules_of(settings), ranges).next(UNLIMITED)
    return [event_id for part in batch.events for event_id in part["event_id"]], sum(map(len, batch.dead_letters))


def _close_all(world: World) -> None:
    """Finish the batch that a drain left open which was dead just now, and read on behind the last compaction."""
    if any(_next_free(world, number, lag) is None for number, lag in world.lags().items()):
        world.fleet.drain_once(_DRAIN_SECONDS)


def _next_free(world: World, number: int, lag: PartitionLag) -> int | None:
    """The next offset, if no batch is open and it is behind the last compaction.

    Before it an event may have its only copy left: how many were sent says nothing there.
    """
    commit = lag.commit
    if commit is None or commit.intent is not None or commit.offset < world.compacted.get(number, 0):
        return None
    return commit.offset


def _committed(world: World) -> dict[int, int]:
    return {number: lag.commit.offset for number, lag in world.lags().items() if lag.commit is not None}


def _configure(settings: Settings, changes: Mapping[str, str | None]) -> None:
    """Set options of the topic; None takes an option back."""
    change, take_back = AlterConfigOpType.SET, AlterConfigOpType.DELETE
    entries = [
        ConfigEntry(name, value or "", incremental_operation=take_back if value is None else change)
        for name, value in changes.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, settings.kafka.topic, incremental_configs=entries)
    administer(settings, "changing options of the topic", lambda admin: admin.incremental_alter_configs([resource]))


class WrongEndError(LocalEngineError):
    """The pipeline under test did something else than it must."""


def recreate_topic(world: World, rng: Random) -> str:
    """The topic is deleted and created again: a drain has to stop and say so, and go on after `reset-offsets`."""
    name = f"{world.settings.kafka.topic}-{uuid.UUID(int=rng.getrandbits(128)).hex[:8]}"
    with Staging(world.settings, name).made() as staging:
        settings = staging.settings
        prepare(settings)
        sender, partitions = SideSender(settings), range(settings.kafka.partitions)
        with closing(Fleet(settings, world.folder / "drains", world.journal, prefix=ASIDE)) as fleet:
            sender.send(parcel_of(rng, _RECREATED_EVENTS, partitions))
            _drain_until(fleet, Reason.CAUGHT_UP)
            staging.recreate_topic()
            sender.send(parcel_of(rng, _RECREATED_EVENTS, partitions))
            _drain_until(fleet, TopicMismatchError.__name__)
            reset_offsets(settings, to_latest=False)
            _drain_until(fleet, Reason.CAUGHT_UP)
        problems = audit(settings).problems
        with connect(settings) as client:
            ((landed,),) = query_rows(client, "counting events", "SELECT uniqExact(event_id) FROM raw_events")
        sent = sum(len(part.events) for part in sender.sent)
        if problems or landed != sent:
            raise WrongEndError(f"{sent} events sent before and after, {landed} landed; audit: {problems}")
    return f"stopped with TopicMismatchError; after reset-offsets {landed} of {sent} events there"


def _drain_until(fleet: Fleet, wanted: str) -> None:
    endings = [end.ending for end in fleet.drain_once(_ASIDE_SECONDS)]
    if set(endings) != {wanted}:
        raise WrongEndError(f"drains had to end with {wanted!r}, they ended: {endings}")
