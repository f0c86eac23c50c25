"""Canaries: events that the pipeline sends itself, one per shard, and looks for like any reader of events. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metrics_pipeline.kafka.intents import Owner

SERVICE = "metrics-pipeline"
ENDPOINT = "/canary"
TIER = "canary"
"""Canaries have a tier of their own, so that rollups without a service can leave them out."""
EVERY_SECONDS = 60
"""How often Dagster sends them."""


@dataclass(frozen=True, slots=True)
class Canary:
    """One event, sent to a partition of its owner; `event_id` is a UUID, `produced_ms` epoch milliseconds."""

    event_id: str
    owner: Owner
    partition: int
    produced_ms: int

    def payload(self) -> bytes:
        """The event as services write theirs."""
        event = {
            "event_id": self.event_id,
            "timestamp": self.produced_ms,
            "service": SERVICE,
            "endpoint": ENDPOINT,
            "status": 200,
            "latency_ms": 0,
            "customer": {"tier": TIER},
            "host": f"shard-{self.owner}",
        }
        return json.dumps(event, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Sighting:
    """What became of a canary: `seconds` from produced to visible, None if it was not seen."""

    canary: Canary
    seconds: float | None

    def is_late(self, objective_seconds: float) -> bool:
        return self.seconds is None or self.seconds > objective_seconds


def plan_canaries(
    owners: Iterable[Owner], partitions: Sequence[int], event_ids: Iterable[str], produced_ms: int
) -> tuple[Canary, ...]:
    """One canary per owner. Its partitions take turns, a minute each."""
    turn = produced_ms // 1_000 // EVERY_SECONDS
    return tuple(
        Canary(event_id, owner, owned[turn % len(owned)], produced_ms)
        for owner, event_id in zip(owners, event_ids, strict=False)
        if (owned := owner.partitions(partitions))
    )
