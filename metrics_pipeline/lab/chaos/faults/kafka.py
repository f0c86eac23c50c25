"""Faults of Kafka: the broker killed, the topic changed, compacted or eaten, transactions that come to nothing."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from metrics_pipeline.errors import RetryableError
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.kafka.config import calling, client_config
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.kafka.lag import PartitionLag, read_lag
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.lab.chaos.faults.traffic import parcel_of
from metrics_pipeline.lab.chaos.journal import MissedError
from metrics_pipeline.lab.chaos.world import World
from metrics_pipeline.settings import Settings, kafka_address

MOST_PARTITIONS = 24
_PARCEL_EVENTS = 300
_LONGEST_SECONDS = 15.0
_TRANSACTION_SECONDS = 2.0
_READ_SECONDS = 20.0
_DRAIN_SECONDS = 60.0
_LIMITS = EventLimits(max_age_ms=396 * 86_400_000, max_future_ms=3_600_000)


def kill(world: World, rng: Random) -> str:
    """kill -9 of the broker at any moment, then a restart."""
    engines = world.need_engines()
    world.hold(rng.uniform(0, 0.5))
    began = time.monotonic()
    engines.kill_kafka()
    world.hold(rng.uniform(0, 2))
    engines.restart_kafka()
    world.await_that(partial(_is_back, world.settings), _LONGEST_SECONDS, "the broker did not load its groups")
    return f"away for {time.monotonic() - began:.1f} s"


def _is_back(settings: Settings) -> bool:
    try:
        return bool(read_lag(kafka_address(settings), settings.kafka))
    except RetryableError:
        return False


def add_partitions(world: World, rng: Random) -> str:
    """The topic gets more partitions, and producers write to them at once."""
    before = len(describe_topic(kafka_address(world.settings), world.settings.kafka).partitions)
    count = rng.randint(1, 2)
    if before + count > MOST_PARTITIONS:
        raise MissedError(f"the topic has {before} partitions already")
    admin = _admin(world.settings)
    new = NewPartitions(world.settings.kafka.topic, before + count)
    calling("adding partitions", admin.create_partitions([new])[world.settings.kafka.topic].result)
    world.await_that(lambda: _partitions(world.settings) == before + count, _LONGEST_SECONDS, "no new partition came")
    parcel = parcel_of(rng, _PARCEL_EVENTS, lambda p: before + p % count, malformed=0.02)
    world.sender.send(parcel)
    return f"{before} to {before + count}"


def abort_transaction(world: World, rng: Random) -> str:
    """A producer aborts a transaction, another commits one: only the second one's events count."""
    partition = _any_partition(world.settings, rng)
    aborted = parcel_of(rng, _PARCEL_EVENTS, partition)
    committed = parcel_of(rng, _PARCEL_EVENTS, partition)
    hold = partial(world.hold, rng.uniform(0.1, 1.5))
    world.sender.send_and_abort(aborted, _transactional_id(world, rng), hold)
    world.sender.send_and_commit(committed, _transactional_id(world, rng), hold)
    return f"{len(aborted.messages)} aborted, {len(committed.messages)} committed"


def abandon_transaction(world: World, rng: Random) -> str:
    """A producer dies with a transaction open: what follows in that partition waits until the broker aborts it."""
    partition = _any_partition(world.settings, rng)
    parcel = parcel_of(rng, _PARCEL_EVENTS, partition)
    world.sender.send_and_die(parcel, _transactional_id(world, rng), _TRANSACTION_SECONDS)
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
        world.sender.send(parcel_of(rng, _PARCEL_EVENTS, lambda _: number), copies=rng.randint(3, 6))
        end = read_lag(kafka_address(world.settings), world.settings.kafka)[number].high
        changes = {"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.001"}
        _configure(world.settings, changes)
        try:
            checkpoint = engines.kafka_data / "cleaner-offset-checkpoint"

            def is_clean() -> bool:
                return cleaned_until(checkpoint.read_text() if checkpoint.exists() else "", topic, number) >= end

            world.await_that(is_clean, _LONGEST_SECONDS, "the broker did not compact")
        finally:
            _configure(world.settings, dict.fromkeys(changes))
        lags = read_lag(kafka_address(world.settings), world.settings.kafka)
        world.compacted |= {number: lag.high for number, lag in lags.items()}
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
        lags = read_lag(kafka_address(world.settings), world.settings.kafka)
        starts = {number: lag.commit.offset for number, lag in lags.items() if number in victims and lag.commit}
        messages = _read(world.settings, starts, victims)
        decoded = decode(messages, _LIMITS)
        slots = [TopicPartition(world.settings.kafka.topic, number, end) for number, end in victims.items()]
        admin = _admin(world.settings)
        for future in admin.delete_records(slots).values():
            calling("deleting records", future.result)
        world.eaten.ranges += [OffsetRange(number, starts[number], end) for number, end in victims.items()]
        world.eaten.events.update(decoded.events["event_id"].to_list())
        world.eaten.malformed += len(decoded.dead_letters)
    # The broker notes its new first offset only now and then: after a crash the old one could come back.
    _await_committed(world, victims)
    return f"{len(decoded.events)} events and {len(decoded.dead_letters)} malformed, from {len(victims)} partitions"


def _choose_victims(world: World, rng: Random) -> dict[int, int]:
    """partition -> end of what is to be eaten: something unread, below the end, and no open batch in it."""
    numbers = rng.sample(range(world.settings.kafka.partitions), rng.randint(1, 2))
    size = rng.randint(20, 200)
    ends: dict[int, int] = {}

    def is_there() -> bool:
        lags = read_lag(kafka_address(world.settings), world.settings.kafka)
        for number in numbers:
            lag = lags[number]
            if lag.commit is not None and _is_free(world, number, lag) and lag.high > lag.commit.offset + size:
                ends[number] = lag.commit.offset + size
        return len(ends) == len(numbers)

    world.await_that(is_there, _LONGEST_SECONDS, "no partition has unread messages and no open batch")
    return ends


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
    lags = read_lag(kafka_address(world.settings), world.settings.kafka)
    if not all(_is_free(world, number, lag) for number, lag in lags.items()):
        world.fleet.drain_once(_DRAIN_SECONDS)


def _is_free(world: World, number: int, lag: PartitionLag) -> bool:
    """No batch is open, and the next offset is behind the last compaction.

    Before it an event may have its only copy left: how many were sent says nothing there.
    """
    commit = lag.commit
    return commit is not None and commit.intent is None and commit.offset >= world.compacted.get(number, 0)


def _await_committed(world: World, ends: Mapping[int, int]) -> None:
    world.await_that(
        lambda: all(_committed(world.settings).get(n, 0) >= end for n, end in ends.items()),
        2 * _LONGEST_SECONDS,
        "the drains did not go on",
    )


def _committed(settings: Settings) -> dict[int, int]:
    lags: Mapping[int, PartitionLag] = read_lag(kafka_address(settings), settings.kafka)
    return {number: lag.commit.offset for number, lag in lags.items() if lag.commit is not None}


def _configure(settings: Settings, changes: Mapping[str, str | None]) -> None:
    """Set options of the topic; None takes an option back."""
    entries = [
        ConfigEntry(
            name,
            value or "",
            incremental_operation=AlterConfigOpType.SET if value is not None else AlterConfigOpType.DELETE,
        )
        for name, value in changes.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, settings.kafka.topic, incremental_configs=entries)
    admin = _admin(settings)
    for future in admin.incremental_alter_configs([resource]).values():
        calling("changing options of the topic", future.result)


def _partitions(settings: Settings) -> int:
    return len(describe_topic(kafka_address(settings), settings.kafka).partitions)


def _any_partition(settings: Settings, rng: Random) -> Callable[[int], int]:
    number = rng.randrange(settings.kafka.partitions)
    return lambda _: number


def _transactional_id(world: World, rng: Random) -> str:
    return f"{world.settings.kafka.topic}.producer-{rng.getrandbits(32):08x}"


def _admin(settings: Settings) -> AdminClient:
    return AdminClient(client_config(kafka_address(settings), settings.kafka))
