"""The pipeline at a glance: what the brokers, the ledger and Dagster say right now."""

import json
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from metrics_pipeline.kafka.intents import Owner
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.ledger.reading_deferred import read_deferred
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.metrics.statistics import FRESHNESS_WINDOW_SECONDS, Statistics, read_statistics
from metrics_pipeline.settings import Settings, kafka_address

_DRAIN_RUNS = """{ runsOrError(filter: {pipelineName: "drain"}, limit: 100) {
  ... on Runs { results { status } } } }"""


@dataclass(frozen=True, slots=True)
class Overview:
    """`produced` counts offsets that were ever written to the topic, `shards` is lag per shard, and `deferred` counts
    offsets that were skipped and wait for a backfill."""

    produced: int
    lag: int
    shards: tuple[int, ...]
    deferred: int
    statistics: Statistics


def look(
    settings: Settings, client: Client, *, since_ms: int = 0, freshness_seconds: int = FRESHNESS_WINDOW_SECONDS
) -> Overview:
    """Ask brokers and ledger. Raises what their adapters raise."""
    lags = read_lag(kafka_address(settings), settings.kafka)
    owners = [Owner(settings.drain.shards, shard) for shard in range(settings.drain.shards)]
    return Overview(
        produced=sum(lag.high for lag in lags.values()),
        lag=sum(lag.offsets for lag in lags.values()),
        shards=tuple(sum(lags[p].offsets for p in owner.partitions(lags)) for owner in owners),
        deferred=sum(e.offsets for e in read_deferred(client, LedgerScope(settings.kafka.topic, settings.kafka.group))),
        statistics=read_statistics(client, since_ms=since_ms, freshness_seconds=freshness_seconds),
    )


def drain_runs(dagster_url: str) -> Mapping[str, int] | None:
    """Status -> number, of the last 100 drain runs; None where Dagster doesn't answer."""
    request = urllib.request.Request(  # noqa: S310 - an address of the settings
        f"{dagster_url}/graphql",
        data=json.dumps({"query": _DRAIN_RUNS}).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            runs = json.load(answer)["data"]["runsOrError"]["results"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Counter(run["status"] for run in runs)
