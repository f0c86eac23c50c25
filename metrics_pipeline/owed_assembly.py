"""Puts the jump to the head and the fill of what it skipped together from settings."""

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.owed import ClickHouseOwed
from metrics_pipeline.core.owed import OwedEntry
from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.settings import Settings, kafka_address


def owed_ranges(settings: Settings) -> tuple[OwedEntry, ...]:
    """What drains skipped of the present topic and no fill has landed yet, the oldest hour first."""
    topic_id = describe_topic(kafka_address(settings), settings.kafka).topic_id
    with connect(settings) as client:
        return ClickHouseOwed(client, settings.kafka.topic, topic_id, settings.kafka.group).read()
