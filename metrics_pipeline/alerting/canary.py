"""Sends canaries and looks for each until a query finds it, as a consumer would. The command line and Dagster both
start here.

The table canaries has each canary before it is sent, so that one of which nothing more is heard counts as late.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.burn import Burning, burning
from metrics_pipeline.alerting.canary_notes import CanaryNotes, find
from metrics_pipeline.alerting.canary_rules import Canary, Sighting, plan_canaries
from metrics_pipeline.alerting.reading import read_burn
from metrics_pipeline.alerting.signals import BurnSignal
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.server_time import server_clock
from metrics_pipeline.drain.shards import shard_owner
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.kafka.producer import Outgoing, TopicProducer
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.retry import Retry, say_waiting
from metrics_pipeline.settings import Settings, kafka_address

POLL_SECONDS = 0.1
"""Between two looks. A canary is measured no more exactly."""


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one canary per shard, in order of shards, and how fast the budget burns afterwards."""

    sightings: tuple[Sighting, ...]
    objective_seconds: float
    objective_share: float
    burn: BurnSignal

    @property
    def late(self) -> tuple[Sighting, ...]:
        return tuple(sighting for sighting in self.sightings if sighting.is_late(self.objective_seconds))

    @property
    def burning(self) -> Burning | None:
        """The fastest rule that fires for the canaries of any shard."""
        found = (burning(canaries.tallies, self.objective_share) for canaries in self.burn.canaries)
        return max((one for one in found if one is not None), key=lambda one: one.rule.rate, default=None)


def send_canaries(
    settings: Settings,
    *,
    limit_seconds: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_seen: Callable[[Sighting], None] = lambda _sighting: None,
) -> Round:
    """Send one per shard and wait until all are seen, at most for `limit_seconds` (by default the objective).

    Raises RetryableError if an engine is away until then, and ConfigurationError.
    """
    objective_seconds = settings.alerts.freshness_seconds
    limit_seconds = objective_seconds if limit_seconds is None else limit_seconds
    if limit_seconds < objective_seconds:
        raise ConfigurationError(
            f"a limit of {limit_seconds:g} s is shorter than the objective, METRICS_ALERTS__FRESHNESS_SECONDS "
            f"({objective_seconds:g} s): a canary that is given up earlier would count as late; wait longer"
        )
    address = kafka_address(settings)
    scope = LedgerScope(settings.kafka.topic, settings.kafka.group)
    partitions = describe_topic(address, settings.kafka).partitions
    owners = [shard_owner(settings, shard, partitions) for shard in range(settings.drain.shards)]
    with connect(settings) as client:
        clock = server_clock(client, SystemClock())
        producer = TopicProducer(address, settings.kafka)
        notes = CanaryNotes(client, scope, objective_seconds)
        ids = [str(uuid.uuid4()) for _ in owners]
        canaries = plan_canaries(owners, partitions, ids, clock.now_ms())
        notes.note(Sighting(canary, None) for canary in canaries)
        began = clock.monotonic_seconds()
        producer.send([Outgoing(c.partition, c.event_id, c.payload()) for c in canaries])
        retry = Retry(clock, limit_seconds, stop, say_waiting)
        seconds = _seconds_until_seen(client, notes, canaries, began, retry, on_seen)
        return Round(
            tuple(Sighting(canary, seconds.get(canary.event_id)) for canary in canaries),
            objective_seconds,
            settings.alerts.freshness_share,
            read_burn(client, scope, objective_seconds),
        )


def _seconds_until_seen(
    client: Client,
    notes: CanaryNotes,
    canaries: Sequence[Canary],
    began_seconds: float,
    retry: Retry,
    on_seen: Callable[[Sighting], None],
) -> Mapping[str, float]:
    """event_id -> seconds until a query found it. Canaries that no query found within the limit are missing."""
    seconds: dict[str, float] = {}
    while waiting := [canary for canary in canaries if canary.event_id not in seconds]:
        found = retry.call(partial(find, client, waiting))
        passed = retry.clock.monotonic_seconds() - began_seconds
        sightings = [Sighting(canary, passed) for canary in waiting if canary.event_id in found]
        if sightings:
            retry.call(partial(notes.note, sightings))
        elif passed >= retry.limit_seconds or retry.is_stopping():
            break
        else:
            retry.clock.sleep(POLL_SECONDS)
        for sighting in sightings:
            seconds[sighting.canary.event_id] = passed
            on_seen(sighting)
    return seconds
