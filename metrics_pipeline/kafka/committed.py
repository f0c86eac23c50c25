"""Committed offsets, fenced by transactional producers: one transactional id per owner.

`init_transactions` makes the broker refuse every earlier producer with the same transactional id; offsets are committed
inside transactions only, so a run that lost its shard, even one that was paused for hours, can't move them any more.
Source: KIP-98 (transactional ids and epochs), KIP-447 (offsets committed by a producer).

Committed offsets of a side group hold the numbers of shards that were ever used, one slot per number: n at partition
n - 1. So no writer overwrites another's.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from metrics_pipeline.errors import ConfigurationError, RetryableError, StuckClientError
from metrics_pipeline.kafka.config import Closing, calling, new_client, translate, within, without_errors
from metrics_pipeline.kafka.intents import Commit, Owner, decode_commit, encode_metadata
from metrics_pipeline.settings import KafkaSettings

REGISTRY_SUFFIX = ".shards"
_LOOK_SECONDS = 5.0
"""Time between two checks whether the account is refused."""


class FencedOffsets(Closing):
    """An `OffsetStore` of `owner`. Close it, or use it as a context manager."""

    def __init__(
        self, bootstrap_servers: str, settings: KafkaSettings, owner: Owner, partitions: Sequence[int]
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._settings = settings
        self._owner = owner
        self._slots = [TopicPartition(settings.topic, p) for p in partitions]
        self._timeout_seconds = settings.request_timeout_seconds
        self._consumer = self._reader(settings.group)
        self._registry = self._reader(settings.group + REGISTRY_SUFFIX)
        self._producer = self._fencer(owner)
        self._stuck: StuckClientError | None = None

    def close(self) -> None:
        self._consumer.close()
        self._registry.close()

    def fence(self, owner: Owner) -> None:
        producer = self._producer if owner == self._owner else self._fencer(owner)
        doing = f"fencing {self._name(owner)}"
        self._limited(doing, lambda: calling(doing, lambda: producer.init_transactions(self._timeout_seconds)))

    def register(self, shards: int) -> None:
        slot = TopicPartition(self._settings.topic, shards - 1, shards)
        calling(
            f"registering {shards} shards of group {self._settings.group}",
            lambda: self._registry.commit(offsets=[slot], asynchronous=False),
        )

    def registered(self) -> frozenset[int]:
        doing = f"reading the numbers of shards of group {self._settings.group}"
        answered = ask_committed(self._registry, self._slots, self._timeout_seconds, doing)
        return frozenset(slot.partition + 1 for slot in answered if slot.offset >= 0)

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        return read_committed(self._consumer, self._settings.topic, partitions, self._timeout_seconds)

    def commit(self, commits: Mapping[int, Commit]) -> None:
        topic = self._settings.topic
        offsets = [TopicPartition(topic, p, c.offset, encode_metadata(c)) for p, c in sorted(commits.items())]
        doing = f"committing {self._name(self._owner)}"
        self._limited(doing, lambda: self._commit_transaction(offsets, doing))

    def _commit_transaction(self, offsets: list[TopicPartition], doing: str) -> None:
        try:
            self._producer.begin_transaction()
            self._producer.send_offsets_to_transaction(
                offsets, self._consumer.consumer_group_metadata(), self._timeout_seconds
            )
            self._producer.commit_transaction(self._timeout_seconds)
        except KafkaException as exception:
            problem = translate(exception.args[0], doing)
            if isinstance(problem, RetryableError):
                self._abort_transaction(doing)
            raise problem from exception

    def _abort_transaction(self, doing: str) -> None:
        """End the open transaction, so that the next attempt can begin one."""
        try:
            self._producer.abort_transaction(self._timeout_seconds)
        except KafkaException as exception:
            problem = translate(exception.args[0], f"giving up {doing}")
            if isinstance(problem, RetryableError):
                raise StuckClientError(f"{problem}; the next run starts with a new client") from exception
            raise problem from exception

    def _limited(self, doing: str, action: Callable[[], None]) -> None:
        """Run one call. After one that hung, the client can't be used any more."""
        if self._stuck is not None:
            raise self._stuck
        try:
            # Each call but the one that hangs keeps its own time.
            within(1.5 * self._timeout_seconds, doing, action)
        except StuckClientError as error:
            self._stuck = error
            raise

    def _name(self, owner: Owner) -> str:
        return f"shard {owner} of group {self._settings.group}"

    def _reader(self, group: str) -> Consumer:
        more = {
            "group.id": group,
            "enable.auto.commit": False,
            # Read-committed offsets wait for a transaction that an earlier run left open.
            "isolation.level": "read_committed",
        }
        return new_client(Consumer, self._bootstrap_servers, self._settings, **more)

    def _fencer(self, owner: Owner) -> Producer:
        more = {
            "transactional.id": f"{self._settings.group}.{owner}",
            "retry.backoff.ms": 10,
            "transaction.timeout.ms": int(self._settings.request_timeout_seconds * 1000),
        }
        return new_client(Producer, self._bootstrap_servers, self._settings, **more)


class CommittedOffsets(Closing):
    """What the pipeline's group commits, for whoever only looks. Close it, or use it as a context manager."""

    def __init__(self, bootstrap_servers: str, settings: KafkaSettings) -> None:
        self._settings = settings
        more = {"group.id": settings.group, "enable.auto.commit": False}
        self._consumer = new_client(Consumer, bootstrap_servers, settings, **more)

    def close(self) -> None:
        self._consumer.close()

    def read(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        """Raises KafkaUnavailableError."""
        settings = self._settings
        return read_committed(self._consumer, settings.topic, partitions, settings.request_timeout_seconds)


def committed_offsets(
    bootstrap_servers: str, settings: KafkaSettings, partitions: Sequence[int]
) -> Mapping[int, Commit]:
    """What the pipeline's group has committed, for whoever only looks. Raises KafkaUnavailableError."""
    with CommittedOffsets(bootstrap_servers, settings) as offsets:
        return offsets.read(partitions)


def read_committed(
    consumer: Consumer, topic: str, partitions: Sequence[int], timeout_seconds: float
) -> Mapping[int, Commit]:
    """What the consumer's group has committed; partitions without an entry have none. Raises KafkaUnavailableError.

    Not through the admin client: its look-up of a group's offsets crashes the process when the broker is just loading
    the group (librdkafka issue 5040).
    """
    asked = [TopicPartition(topic, p) for p in partitions]
    answered = ask_committed(consumer, asked, timeout_seconds, f"reading the committed offsets of {topic}")
    return {a.partition: decode_commit(a.offset, a.metadata) for a in answered if a.offset >= 0}


def ask_committed(
    consumer: Consumer, slots: list[TopicPartition], timeout_seconds: float, doing: str
) -> Sequence[TopicPartition]:
    """What the consumer's group has committed at these slots; offsets below 0 where it has nothing.

    If the coordinator refuses the account, the client waits until the timeout; only a poll learns of the refusal.
    """
    deadline_seconds = time.monotonic() + timeout_seconds
    while True:
        left_seconds = deadline_seconds - time.monotonic()
        try:
            return without_errors(consumer.committed(slots, timeout=max(0.0, min(_LOOK_SECONDS, left_seconds))))
        except KafkaException as exception:
            message = consumer.poll(0)
            aside = None if message is None else message.error()
            refused = None if aside is None else translate(aside, doing)
            if isinstance(refused, ConfigurationError):
                raise refused from exception
            if exception.args[0].code() != KafkaError._TIMED_OUT or left_seconds <= _LOOK_SECONDS:
                raise translate(exception.args[0], doing) from exception
