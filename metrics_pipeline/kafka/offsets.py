"""Committed offsets of one shard, fenced by a transactional producer.

`init_transactions` makes the broker refuse every earlier producer with the same transactional id; offsets are committed
inside transactions only, so a run that lost its shard, even one that was paused for hours, can't move them any more.
Source: KIP-98 (transactional ids and epochs), KIP-447 (offsets committed by a producer).
"""

from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from metrics_pipeline.core.offsets import Commit, decode_commit, encode_metadata
from metrics_pipeline.kafka.config import calling, client_config, translate
from metrics_pipeline.settings import KafkaSettings


class FencedOffsets:
    """An `OffsetStore`. Close it, or use it as a context manager."""

    def __init__(self, bootstrap_servers: str, settings: KafkaSettings, shard: int) -> None:
        self._topic = settings.topic
        self._shard_name = f"shard {shard} of group {settings.group}"
        self._timeout_seconds = settings.request_timeout_seconds
        self._consumer = Consumer(
            client_config(
                bootstrap_servers,
                settings,
                **{
                    "group.id": settings.group,
                    "enable.auto.commit": False,
                    # Read-committed offsets wait for a transaction that an earlier run left open.
                    "isolation.level": "read_committed",
                },
            )
        )
        self._producer = Producer(
            client_config(
                bootstrap_servers,
                settings,
                **{
                    "transactional.id": f"{settings.group}.{shard}",
                    "retry.backoff.ms": 10,
                    "transaction.timeout.ms": int(settings.request_timeout_seconds * 1000),
                },
            )
        )

    def __enter__(self) -> "FencedOffsets":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._consumer.close()

    def fence(self) -> None:
        calling(f"fencing {self._shard_name}", lambda: self._producer.init_transactions(self._timeout_seconds))

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        return read_committed(self._consumer, self._topic, partitions, self._timeout_seconds)

    def commit(self, commits: Mapping[int, Commit]) -> None:
        offsets = [TopicPartition(self._topic, p, c.offset, encode_metadata(c)) for p, c in sorted(commits.items())]
        doing = f"committing {self._shard_name}"
        try:
            self._producer.begin_transaction()
            self._producer.send_offsets_to_transaction(
                offsets, self._consumer.consumer_group_metadata(), self._timeout_seconds
            )
            self._producer.commit_transaction(self._timeout_seconds)
        except KafkaException as exception:
            error = exception.args[0]
            if error.txn_requires_abort():
                calling(doing, lambda: self._producer.abort_transaction(self._timeout_seconds))
            raise translate(error, doing) from exception


def read_committed(
    consumer: Consumer, topic: str, partitions: Sequence[int], timeout_seconds: float
) -> Mapping[int, Commit]:
    """What the consumer's group has committed; partitions without an entry have none. Raises KafkaUnavailableError.

    Not through the admin client: its look-up of a group's offsets crashes the process when the broker is just loading
    the group (librdkafka issue 5040).
    """
    asked = [TopicPartition(topic, p) for p in partitions]
    answered = calling(
        f"reading the committed offsets of {topic}", lambda: consumer.committed(asked, timeout=timeout_seconds)
    )
    for answer in answered:
        if answer.error is not None:
            raise translate(answer.error, f"reading the committed offset of {topic}[{answer.partition}]")
    return {a.partition: decode_commit(a.offset, a.metadata) for a in answered if a.offset >= 0}
