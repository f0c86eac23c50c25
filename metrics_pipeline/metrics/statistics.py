"""Figures of the running pipeline, read from the ledger."""

from dataclasses import dataclass, field

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ledger.tables import IS_BATCH

RATE_WINDOW_SECONDS = 10
FRESHNESS_WINDOW_SECONDS = 60

_TOTALS = f"""
    SELECT countIf({IS_BATCH}), sum(consumed), sum(inserted), sum(duplicates), sum(dead_letters), sum(lost),
        sumIf(consumed, visible_at > now64(3) - {{rate_seconds:UInt32}}) / {{rate_seconds:UInt32}}
    FROM batches FINAL WHERE visible_at >= {{since:DateTime64(3, 'UTC')}}
"""

_FRESHNESS = """
    SELECT quantilesExactWeighted(0.5, 0.99, 1)(age, weight) FROM batches FINAL
    ARRAY JOIN freshness_ms AS age, freshness_events AS weight
    WHERE visible_at > now64(3) - {seconds:UInt32} AND visible_at >= {since:DateTime64(3, 'UTC')}
"""
"""The age of events, from produced to visible, weighted by events, in classes of 2%. Rows of backfills have no ages."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """Age of events when they became visible, seconds."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since a moment; `freshness` is None where nothing landed lately.

    `inserted` includes dead letters that a replay landed; `consumed` counts them once, when they arrived.
    """

    batches: int
    consumed: int
    inserted: int
    duplicates: int
    dead_letters: int
    lost: int
    events_per_second: float = field(kw_only=True)
    freshness: Freshness | None = field(kw_only=True)


def read_statistics(
    client: Client, *, since_ms: int = 0, freshness_seconds: int = FRESHNESS_WINDOW_SECONDS
) -> Statistics:
    """Counts of batches that became visible since then; freshness of the last `freshness_seconds`."""
    parameters = {"rate_seconds": RATE_WINDOW_SECONDS, "seconds": freshness_seconds, "since": since_ms / 1000}
    doing = "reading the pipeline's figures"
    ((*counts, events_per_second),) = query_rows(client, doing, _TOTALS, parameters)
    ((freshness,),) = query_rows(client, doing, _FRESHNESS, parameters)
    p50, p99, most = (float(age) / 1000 for age in freshness)
    return Statistics(
        *map(int, counts),
        events_per_second=float(events_per_second),
        freshness=Freshness(p50, p99, most) if most > 0 else None,
    )
