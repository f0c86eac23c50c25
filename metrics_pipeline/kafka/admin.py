"""The topic: create it where it is missing, describe it."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from metrics_pipeline.errors import ConfigurationError, PipelineError
from metrics_pipeline.kafka.config import calling, new_client, refusal
from metrics_pipeline.settings import KafkaSettings

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as the brokers know it; `topic_id` changes when it is deleted and recreated."""

    topic_id: str
    partitions: tuple[int, ...]


def describe_topic(bootstrap_servers: str, settings: KafkaSettings) -> TopicDescription:
    """Raises ConfigurationError if the topic doesn't exist, KafkaUnavailableError if no broker answers."""
    name = settings.topic
    described = _ask(
        bootstrap_servers,
        settings,
        f"describing topic {name} on {bootstrap_servers}",
        lambda admin: admin.describe_topics(TopicCollection([name]), request_timeout=settings.request_timeout_seconds)[
            name
        ],
    )
    return TopicDescription(str(described.topic_id), tuple(sorted(p.id for p in described.partitions)))


def ensure_topic(bootstrap_servers: str, settings: KafkaSettings) -> None:
    """Create the topic unless it exists; an existing one is left as it is."""
    new = NewTopic(settings.topic, num_partitions=settings.partitions, replication_factor=settings.replication_factor)

    def create(admin: AdminClient) -> Future[None]:
        return admin.create_topics([new], request_timeout=settings.request_timeout_seconds)[settings.topic]

    try:
        _ask(bootstrap_servers, settings, f"creating topic {settings.topic} on {bootstrap_servers}", create)
    except PipelineError as error:
        cause = error.__cause__
        if not isinstance(cause, KafkaException) or cause.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def topic_retention_ms(bootstrap_servers: str, settings: KafkaSettings) -> int | None:
    """How long the topic keeps a message by its age; None where it keeps it for ever.

    Raises KafkaUnavailableError, ConfigurationError if there is no topic.
    """
    resource = ConfigResource(ConfigResource.Type.TOPIC, settings.topic)
    entries = _ask(
        bootstrap_servers,
        settings,
        f"reading the retention of topic {settings.topic}",
        lambda admin: admin.describe_configs([resource], request_timeout=settings.request_timeout_seconds)[resource],
    )
    retention_ms = int(entries["retention.ms"].value)
    return retention_ms if retention_ms >= 0 else None


def _ask(
    bootstrap_servers: str, settings: KafkaSettings, doing: str, request: Callable[[AdminClient], "Future[_T]"]
) -> _T:
    """One request's answer.

    A client that is refused keeps trying until the request times out, and then reports only the timeout; its callback
    gets the reason at once. This is every run's first call, so a refused run ends here without waiting.
    """
    refusals: list[ConfigurationError] = []

    def on_error(error: KafkaError) -> None:
        if (refused := refusal(error, doing)) is not None:
            refusals.append(refused)

    # What it would log comes back as the error.
    admin = new_client(AdminClient, bootstrap_servers, settings, error_cb=on_error, log_level=_LOG_CRITICAL)
    future = request(admin)
    while not future.done() and not refusals:
        admin.poll(_POLL_SECONDS)
    if refusals:
        raise refusals[0]
    return calling(doing, future.result)


_POLL_SECONDS = 0.05
_LOG_CRITICAL = 2
