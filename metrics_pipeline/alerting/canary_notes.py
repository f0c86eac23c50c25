"""The table canaries, and the look for canaries in raw_events, as any reader of it would look."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.canary_rules import ENDPOINT, SERVICE, Canary, Sighting
from metrics_pipeline.alerting.tables import CANARIES
from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ledger.tables import LedgerScope

_COLUMNS = tuple(column.name for column in CANARIES.columns)
_NOT_SEEN = datetime.fromtimestamp(0, UTC)
_OF_CANARIES = f"service = '{SERVICE}' AND endpoint = '{ENDPOINT}'"
_FIND = f"""
    SELECT toString(event_id) FROM raw_events
    WHERE {_OF_CANARIES} AND event_id IN {{ids:Array(UUID)}}
        AND timestamp IN arrayMap(ms -> fromUnixTimestamp64Milli(ms, 'UTC'), {{produced_ms:Array(Int64)}})
"""
_COUNT = f"SELECT count() FROM raw_events WHERE {_OF_CANARIES}"


@dataclass(frozen=True, slots=True)
class CanaryNotes:
    """Writes the table canaries. A canary that takes longer than `objective_seconds` is late."""

    client: Client
    scope: LedgerScope
    objective_seconds: float

    def note(self, sightings: Iterable[Sighting]) -> None:
        """Called before they are sent, too: a canary of which nothing more is heard counts as late."""
        rows = [self._row(sighting) for sighting in sightings]
        calling("noting canaries", lambda: self.client.insert(CANARIES.name, rows, column_names=_COLUMNS))

    def _row(self, sighting: Sighting) -> list[Any]:
        canary, seconds = sighting.canary, sighting.seconds
        produced_at = datetime.fromtimestamp(canary.produced_ms / 1_000, UTC)
        return [
            self.scope.topic,
            self.scope.group,
            canary.event_id,
            canary.owner.shard,
            canary.owner.shards,
            canary.partition,
            produced_at,
            _NOT_SEEN if seconds is None else produced_at + timedelta(seconds=seconds),
            seconds or 0.0,
            self.objective_seconds,
        ]


def find(client: Client, canaries: Sequence[Canary]) -> frozenset[str]:
    """The event_ids of the canaries that a query finds now."""
    parameters = {
        "produced_ms": sorted({canary.produced_ms for canary in canaries}),
        "ids": [canary.event_id for canary in canaries],
    }
    return frozenset(str(row[0]) for row in query_rows(client, "looking for canaries", _FIND, parameters))


def count_landed(client: Client) -> int:
    """Canaries that raw_events holds."""
    return int(query_rows(client, "counting canaries", _COUNT)[0][0])
