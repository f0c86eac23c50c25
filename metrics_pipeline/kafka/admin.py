"""The topic: create it where it is missing, describe it."""

from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from metrics_pipeline.kafka.config import calling, client_config
from metrics_pipeline.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as the brokers know it; `topic_id` changes when it is deleted and recreated."""

    topic_id: str
    partitions: tuple[int, ...]


def describe_topic(bootstrap_servers: str, settings: KafkaSettings) -> TopicDescription:
    """Raises ConfigurationError if the topic doesn't exist, KafkaUnavailableError if no broker answers."""
    admin = AdminClient(client_config(bootstrap_servers, settings))
    name = settings.topic
    futures = admin.describe_topics(TopicCollection([name]), request_timeout=settings.request_timeout_seconds)
    described = calling(f"describing topic {name} on {bootstrap_servers}", futures[name].result)
    return TopicDescription(str(described.topic_id), tuple(sorted(p.id for p in described.partitions)))


def ensure_topic(bootstrap_servers: str, settings: KafkaSettings) -> None:
    """Create the topic unless it exists; an existing one is left as it is."""
    admin = AdminClient(client_config(bootstrap_servers, settings))
    new = NewTopic(settings.topic, num_partitions=settings.partitions, replication_factor=settings.replication_factor)
    future = admin.create_topics([new], request_timeout=settings.request_timeout_seconds)[settings.topic]

    def created() -> None:
        try:
            future.result()
        except KafkaException as exception:
            if exception.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    calling(f"creating topic {settings.topic} on {bootstrap_servers}", created)


def topic_retention_ms(bootstrap_servers: str, settings: KafkaSettings) -> int | None:
    """How long the topic keeps a message by its age; None where it keeps it for ever.

    Raises KafkaUnavailableError, ConfigurationError if there is no topic.
    """
    admin = AdminClient(client_config(bootstrap_servers, settings))
    resource = ConfigResource(ConfigResource.Type.TOPIC, settings.topic)
    future = admin.describe_configs([resource], request_timeout=settings.request_timeout_seconds)[resource]
    entries = calling(f"reading the retention of topic {settings.topic}", future.result)
    retention_ms = int(entries["retention.ms"].value)
    return retention_ms if retention_ms >= 0 else None
