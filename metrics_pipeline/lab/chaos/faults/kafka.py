"""Faults of Kafka: the broker killed, the topic changed, compacted or eaten, transactions that come to nothing.

The topic deleted and recreated has a pipeline of its own beside the one under chaos: nothing else survives it.
"""

import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from random import Random

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.drain.shards import rules_of
from metrics_pipeline.errors import LocalEngineError, RetryableError, TopicMismatchError
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.config import calling
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.kafka.lag import PartitionLag
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.lab.chaos.fleet import Fleet
from metrics_pipeline.lab.chaos.journal import MissedError
from metrics_pipeline.lab.chaos.load import SideSender, parcel_of
from metrics_pipeline.lab.chaos.staging import Staging, administer
from metrics_pipeline.lab.chaos.world import World
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
    engines = world.need_engines()
    world.hold(rng.uniform(0, 0.5))
    began = time.monotonic()
    engines.kafka.kill()
    world.hold(rng.uniform(0, 2))
    engines.kafka.restart()
    world.await_that(lambda: _is_back(world), _LONGEST_SECONDS, "the broker did not load its groups")
    return f"away for {time.monotonic() - began:.1f} s"


def _is_back(world: World) -> bool:
    try:
        return bool(world.lags())
    except RetryableError:
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
    partitions = [_any_partition(world, rng)]
    aborted, committed = (parcel_of(rng, _PARCEL_EVENTS, partitions) for _ in range(2))
    hold_seconds = rng.uniform(0.1, 1.5)
    first = world.sender.send_in_transaction(aborted, _transactional_id(world, rng))
    world.hold(hold_seconds)
    calling("aborting a transaction", first.abort_transaction)
    second = world.sender.send_in_transaction(committed, _transactional_id(world, rng))
    world.hold(hold_seconds)
    calling("committing a transaction", second.commit_transaction)
    world.sender.record(committed)
    return f"{len(aborted.messages)} aborted, {len(committed.messages)} committed"


def abandon_transaction(world: World, rng: Random) -> str:
    """A producer dies with a transaction open: what follows in that partition waits until the broker aborts it."""
    parcel = parcel_of(rng, _PARCEL_EVENTS, [_any_partition(world, rng)])
    world.sender.send_in_transaction(parcel, _transactional_id(world, rng), _TRANSACTION_SECONDS)
    world.hold(_TRANSACTION_SECONDS + rng.uniform(0.5, 1.5))
    return f"{len(parcel.messages)} events"


def compact(world: World, rng: Random) -> str:
    """The broker removes unread copies of repeated events: holes in the offsets.

    Drains stand still meanwhile, in good order, and the topic is as before when they go on: compaction takes no
    event's last copy, but an open batch would look different when it is read again.
    """
    engines, topic = world.need_engines(), world.settings.kafka.topic
    number = _any_partition(world, rng)
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
    for line in checkpoint.splitlines()[2:]:
        name, number, offset = line.rsplit(" ", 2)
        if name == topic and int(number) == partition:
            return int(offset)
    return -1


def eat_unread(world: World, rng: Random) -> str:
    """Retention takes events before they are read: they are lost, and the audit has to say exactly which.

    Drains stand still, and what is taken is read first: the final comparison knows the victims.
    """
    with world.fleet.held():
        _close_all(world)
        victims = _choose_victims(world, rng)
        starts = {number: offset for number, offset in _committed(world).items() if number in victims}
        decoded = rules_of(world.settings).decode(_read(world.settings, starts, victims))
        slots = [TopicPartition(world.settings.kafka.topic, number, end) for number, end in victims.items()]
        administer(world.settings, "deleting records", lambda admin: admin.delete_records(slots))
        world.eaten.ranges += [OffsetRange(number, starts[number], end) for number, end in victims.items()]
        world.eaten.events.update(decoded.events["event_id"].to_list())
        world.eaten.malformed += len(decoded.dead_letters)
    # The broker notes its new first offset only now and then: after a crash the old one could come back.
    world.await_that(
        lambda: all(_committed(world).get(n, 0) >= end for n, end in victims.items()),
        2 * _LONGEST_SECONDS,
        "the drains did not go on",
    )
    return f"{len(decoded.events)} events and {len(decoded.dead_letters)} malformed, from {len(victims)} partitions"


def _choose_victims(world: World, rng: Random) -> dict[int, int]:
    """partition -> end of what is to be eaten: something unread, below the end, and no open batch in it."""
    numbers = rng.sample(range(world.settings.kafka.partitions), rng.randint(1, 2))
    size = rng.randint(20, 200)
    ends: dict[int, int] = {}

    def look() -> dict[int, int] | None:
        for number, lag in world.lags().items():
            is_free = number in numbers and _is_free(world, number, lag)
            if is_free and lag.commit is not None and lag.high > lag.commit.offset + size:
                ends[number] = lag.commit.offset + size
        return ends if len(ends) == len(numbers) else None

    return world.await_that(look, _LONGEST_SECONDS, "no partition has unread messages and no open batch")


def _read(settings: Settings, starts: Mapping[int, int], ends: Mapping[int, int]) -> Messages:
    """All committed messages in [start, end) of each partition."""
    deadline_seconds = time.monotonic() + _READ_SECONDS
    positions = dict(starts)
    parts: list[Messages] = []
    with KafkaLog(kafka_address(settings), settings.kafka) as log:
        log.assign(positions)
        while any(positions[number] < end for number, end in ends.items()):
            if time.monotonic() > deadline_seconds:
                raise MissedError("could not read what was to be eaten")
            fetched = log.poll(10_000, 16 << 20, 0.1)
            parts.append(fetched.messages.before(ends))
            positions |= {**fetched.ends, **fetched.messages.next_offsets()}
    return Messages.concat(parts)


def _close_all(world: World) -> None:
    """Finish the batch that a drain left open which was dead just now, and read on behind the last compaction."""
    if not all(_is_free(world, number, lag) for number, lag in world.lags().items()):
        world.fleet.drain_once(_DRAIN_SECONDS)


def _is_free(world: World, number: int, lag: PartitionLag) -> bool:
    """No batch is open, and the next offset is behind the last compaction.

    Before it an event may have its only copy left: how many were sent says nothing there.
    """
    commit = lag.commit
    return commit is not None and commit.intent is None and commit.offset >= world.compacted.get(number, 0)


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


def _any_partition(world: World, rng: Random) -> int:
    return rng.randrange(world.settings.kafka.partitions)


def _transactional_id(world: World, rng: Random) -> str:
    return f"{world.settings.kafka.topic}.producer-{rng.getrandbits(32):08x}"


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
