"""Puts retention together from settings. Command line and Dagster both start here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import connect_shards
from metrics_pipeline.clickhouse.server_time import server_clock
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.kafka.admin import topic_retention_ms
from metrics_pipeline.retention.plan import reach_days
from metrics_pipeline.retention.policy import Policy, given_values, parse_policy
from metrics_pipeline.retention.run import Retention, RetentionOfShards
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.engines import check_schema
from metrics_pipeline.wiring.rollups import rollups_of_shard

MAX_POLICY_BYTES = 1 << 20


@contextmanager
def retention(settings: Settings, *, clock: Clock | None = None) -> Iterator[RetentionOfShards]:
    """Raises ConfigurationError for a wrong policy, SchemaMismatchError where tables are missing."""
    policy = load_policy(settings)
    reach = reach_days(settings.events.max_age_days, topic_retention_ms(kafka_address(settings), settings.kafka))
    with connect(settings) as client:
        check_schema(client, settings)
    with connect_shards(settings) as shards:
        clocks = [clock or server_clock(shard, SystemClock()) for shard in shards]
        yield RetentionOfShards(
            [
                Retention(shard, rollups_of_shard(settings, shard, by), policy, reach, by)
                for shard, by in zip(shards, clocks, strict=True)
            ]
        )


def load_policy(settings: Settings) -> Policy:
    """The policy of METRICS_RETENTION__POLICY; the defaults without one."""
    path = settings.retention.policy
    return Policy() if path is None else parse_policy(_read(path), str(path))


def values_from_file(settings: Settings) -> frozenset[str]:
    """The dotted names of the policy's values that the file gives; all others are defaults."""
    path = settings.retention.policy
    return frozenset() if path is None else given_values(_read(path))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_POLICY_BYTES:
            raise ConfigurationError(f"METRICS_RETENTION__POLICY: {path} is larger than {MAX_POLICY_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"METRICS_RETENTION__POLICY: {path} can't be read: {error}") from None
