"""Messages to Kafka: idempotent, acknowledged by all replicas, with a bounded queue."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from metrics_pipeline.kafka.config import new_client
from metrics_pipeline.lab.loadgen.stream import Outgoing
from metrics_pipeline.settings import Settings, kafka_address

DELIVERY_SECONDS = 120
"""A message that isn't acknowledged within this time has failed."""

_POLL_SECONDS = 0.1
_MAX_REASONS = 20

_OPTIONS = {
    "enable.idempotence": True,
    "acks": "all",
    # 1 µs a message cheaper than zstd, for the broker and consumers too; 0.4 µs dearer than none.
    "compression.type": "lz4",
    "linger.ms": 5,
    "batch.num.messages": 100_000,
    "message.max.bytes": 1_048_588,
    "message.timeout.ms": DELIVERY_SECONDS * 1_000,
    # Sent and not yet acknowledged at most; then `send` waits.
    "queue.buffering.max.messages": 200_000,
    "queue.buffering.max.kbytes": 128 << 10,
    # A callback per message would cost as much again as the message. So only failures are reported, and when
    # nothing is outstanding, all that was not reported is acknowledged.
    "delivery.report.only.error": True,
}


class EventSender:
    """Sends to the topic of the settings, which must exist; `options` of the client win over ours."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self._topic = settings.kafka.topic
        self._give_up_seconds = settings.kafka.request_timeout_seconds
        self.producer = new_client(Producer, kafka_address(settings), settings.kafka, **{**_OPTIONS, **options})
        self._failed: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.is_broken = False

    @property
    def outstanding(self) -> int:
        """Messages that are neither acknowledged nor failed."""
        return len(self.producer)

    def send(self, messages: Outgoing, is_stopping: Callable[[], bool]) -> None:
        """Queue all of them; waits while the queue is full, but not for long once `is_stopping` says so.

        What can't be queued is a failure like any other.
        """
        produce, topic, on_failure = self.producer.produce, self._topic, self._on_failure
        for payload, key, partition in zip(messages.payloads, messages.keys, messages.partitions, strict=True):
            try:
                produce(topic, payload, key, partition, on_failure)
            except (BufferError, KafkaException):
                self._insist(payload, key, partition, is_stopping)
        self.serve()

    def serve(self) -> None:
        """Let the client report failures."""
        self.producer.poll(0)

    def settle(self, timeout_seconds: float) -> bool:
        """Wait until nothing is outstanding; False if something still is."""
        return bool(self.producer.flush(timeout_seconds) == 0)

    def abandon(self) -> None:
        """Count all that is outstanding as failed; whether it reached the log is unknown."""
        self.producer.purge()
        self.producer.flush(self._give_up_seconds)

    def take_failures(self) -> Counter[str]:
        """Keys of the messages that failed since the last call, and how many of each."""
        failed, self._failed = self._failed, Counter()
        return failed

    def _insist(self, payload: str | bytes | None, key: str, partition: int, is_stopping: Callable[[], bool]) -> None:
        """Queue one message that was not taken at once."""
        give_up: float | None = None
        while not self.is_broken:
            try:
                self.producer.produce(self._topic, payload, key, partition, self._on_failure)
            except BufferError:
                self.producer.poll(_POLL_SECONDS)
            except KafkaException as exception:
                self._note_failure(exception.args[0], key)
                return
            else:
                return
            if is_stopping():
                give_up = give_up or time.monotonic() + self._give_up_seconds
                if time.monotonic() > give_up:
                    break
        self._note_failure(None, key)

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        key = message.key()
        self._note_failure(error, key.decode() if isinstance(key, bytes) else str(key))

    def _note_failure(self, error: KafkaError | None, key: str) -> None:
        reason = error.str() if error else "stopped before the broker took it"
        self._failed[key] += 1
        is_listed = reason in self.reasons or len(self.reasons) < _MAX_REASONS
        self.reasons[reason if is_listed else "others"] += 1
        self.is_broken = self.is_broken or bool(error and error.fatal())
