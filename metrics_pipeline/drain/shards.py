"""Who owns a shard, and the rules that its messages are judged by."""

from collections.abc import Sequence

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.event.decode import EventLimits
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import Owner
from metrics_pipeline.runtime.timerange import DAY_SECONDS
from metrics_pipeline.settings import Settings


def rules_of(settings: Settings) -> Rules:
    """Today's rules: those that new batches are judged by."""
    return Rules(
        EventLimits(
            max_age_ms=settings.events.max_age_days * DAY_SECONDS * 1_000,
            max_future_ms=settings.events.max_future_seconds * 1_000,
        )
    )


def shard_owner(settings: Settings, shard: int, partitions: Sequence[int]) -> Owner:
    """The owner that `shard` is. Raises ConfigurationError if there are more shards than partitions."""
    shards = settings.drain.shards
    if shards > len(partitions):
        raise ConfigurationError(
            f"METRICS_DRAIN__SHARDS is {shards}, but topic {settings.kafka.topic} has {len(partitions)} partitions: "
            "set it to that at most, or add partitions"
        )
    if shard >= shards:
        raise ConfigurationError(f"there is no shard {shard}: METRICS_DRAIN__SHARDS is {shards}, so 0 to {shards - 1}")
    return Owner(shards, shard)
