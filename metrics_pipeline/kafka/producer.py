"""A few messages to the topic, acknowledged by all replicas."""

from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, Message, Producer

from metrics_pipeline.errors import KafkaUnavailableError
from metrics_pipeline.kafka.config import calling, new_client, translate
from metrics_pipeline.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and where it goes."""

    partition: int
    key: str
    value: bytes


class TopicProducer:
    """Connected once it is made, so that `send` takes only as long as its messages do.

    Not idempotent, which would need a grant on the cluster: a message that the client repeats is a duplicate like any.
    """

    def __init__(self, bootstrap_servers: str, settings: KafkaSettings) -> None:
        """Raises KafkaUnavailableError if no broker answers, ConfigurationError if an option is wrong."""
        self._topic = settings.topic
        self._limit_seconds = settings.request_timeout_seconds
        self._doing = f"producing to {settings.topic} on {bootstrap_servers}"
        options = {"acks": "all", "linger.ms": 0, "message.timeout.ms": int(self._limit_seconds * 1_000)}
        self._producer = new_client(Producer, bootstrap_servers, settings, **options)
        calling(self._doing, lambda: self._producer.list_topics(settings.topic, self._limit_seconds))

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Send all and wait for their acknowledgement.

        Raises KafkaUnavailableError if one is not acknowledged within the request timeout, ConfigurationError if the
        topic, or the right to write to it, is missing.
        """
        failures: list[KafkaError] = []

        def note(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error)

        for message in messages:
            self._producer.produce(self._topic, message.value, message.key, message.partition, on_delivery=note)
        left = self._producer.flush(self._limit_seconds + 1)
        if failures:
            raise translate(failures[0], self._doing)
        if left:
            raise KafkaUnavailableError(
                f"while {self._doing}: {left} messages were not acknowledged in {self._limit_seconds:g} s"
            )
