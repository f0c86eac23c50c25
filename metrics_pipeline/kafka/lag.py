"""How far the committed offsets are behind the topic. Reads offsets only, never payloads, and commits nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.kafka.committed import committed_offsets
from metrics_pipeline.kafka.config import calling, new_client
from metrics_pipeline.kafka.intents import Commit
from metrics_pipeline.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition: the log's [low, high), and what is committed, if anything is."""

    low: int
    high: int
    commit: Commit | None

    @property
    def next_offset(self) -> int:
        """Where a run begins to read, once it has finished the batch that is open, if one is."""
        if self.commit is None:
            return self.low
        return max(self.low, self.commit.intent.end if self.commit.intent else self.commit.offset)

    @property
    def offsets(self) -> int:
        """Offsets that have not landed for sure."""
        return self.high - max(self.low, self.commit.offset if self.commit else self.low)


def read_lag(bootstrap_servers: str, settings: KafkaSettings) -> Mapping[int, PartitionLag]:
    """Partition -> lag. Raises KafkaUnavailableError, ConfigurationError if there is no topic."""
    admin = new_client(AdminClient, bootstrap_servers, settings)
    partitions = describe_topic(bootstrap_servers, settings).partitions
    topic_partitions = [TopicPartition(settings.topic, p) for p in partitions]

    def ends(spec: OffsetSpec) -> Mapping[int, int]:
        futures = admin.list_offsets(
            dict.fromkeys(topic_partitions, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=settings.request_timeout_seconds,
        )
        return {tp.partition: future.result().offset for tp, future in futures.items()}

    doing = f"reading the lag of {settings.group} on {settings.topic}"
    low = calling(doing, lambda: ends(OffsetSpec.earliest()))
    high = calling(doing, lambda: ends(OffsetSpec.latest()))
    commits = committed_offsets(bootstrap_servers, settings, partitions)
    return {p: PartitionLag(low[p], high[p], commits.get(p)) for p in partitions}
