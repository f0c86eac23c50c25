"""What a scrape gets: the figures of every engine that answers, and `up` 0 for each engine that does not."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from metrics_pipeline.alerting.burn import Tallies, burn_rate
from metrics_pipeline.alerting.catalogue import KINDS
from metrics_pipeline.alerting.log import read_alert_states
from metrics_pipeline.alerting.notifications import AlertStates
from metrics_pipeline.alerting.reading import read_burn, read_storage
from metrics_pipeline.alerting.signals import BurnSignal, DiskSignal
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ddl.storage_views import PARTS
from metrics_pipeline.errors import RetryableError
from metrics_pipeline.kafka.lag import PartitionLag, read_lag
from metrics_pipeline.ledger.reading_deferred import read_deferred
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.metrics import catalogue as m
from metrics_pipeline.metrics.counting import Distribution, MonthlyCounter, Totals
from metrics_pipeline.metrics.observe import drain_runs
from metrics_pipeline.metrics.source import Reading, Source
from metrics_pipeline.metrics.statistics import FRESHNESS_WINDOW_SECONDS, Freshness, read_statistics
from metrics_pipeline.rollups.grains import BUILT, SETTLE_SECONDS
from metrics_pipeline.rollups.tables import BUCKETS, IS_STALE
from metrics_pipeline.settings import Settings, kafka_address

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 8
"""Below Prometheus' default timeout of a scrape, 10 s."""
_Labels = tuple[str, ...]
_SUMS = (m.BATCHES, m.CONSUMED, m.READ_BYTES, m.INSERTED, m.DUPLICATES, m.SKIPPED, m.LOST)
_TABLES = f"""
    SELECT table, sum(parts), max(parts), sum(n), sum(bytes) FROM (
        SELECT table, partition_id, count() AS parts, sum(rows) AS n, sum(bytes_on_disk) AS bytes FROM {PARTS.name}
        GROUP BY table, partition_id)
    GROUP BY table ORDER BY table
"""
_STALE = f"""
    SELECT grain, countIf({IS_STALE}) FROM {BUCKETS.name}
    WHERE minute < now() - grain - {SETTLE_SECONDS} AND events > 0 GROUP BY grain
"""


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table's active parts, `most_parts` of them in its fullest partition."""

    parts: int
    most_parts: int
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ClickHouseFigures:
    totals: Totals
    freshness: Freshness | None
    deferred: int
    burn: BurnSignal
    tables: Mapping[str, TableSize]
    disks: tuple[DiskSignal, ...]
    stale: Mapping[str, int]
    alert_states: AlertStates


class PipelineCollector(Collector):
    """Reads on scrape. Close it when the last scrape is served."""

    def __init__(self, settings: Settings, *, limit_seconds: float = LIMIT_SECONDS) -> None:
        self._settings = settings
        self._limit_seconds = limit_seconds
        self._client: Client | None = None
        self._scope = LedgerScope(settings.kafka.topic, settings.kafka.group)
        self._counter = MonthlyCounter(self._scope)
        self._kafka = Source("kafka", self._read_kafka, logger.warning, limit_seconds)
        self._clickhouse = Source("clickhouse", self._read_clickhouse, logger.warning, limit_seconds)
        self._dagster = Source("dagster", self._read_dagster, logger.warning, limit_seconds)

    def warm_up(self) -> None:
        """Wait for the first reading, however long it takes: it covers a month of the ledger."""
        self._clickhouse.reading(patient=True)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def describe(self) -> Iterable[Family]:
        """Empty, so that registering reads no engine."""
        return ()

    def collect(self) -> Iterator[Family]:
        """All families of the catalogue that have a value."""
        # All at once and with one deadline: Prometheus waits for the whole scrape.
        has_dagster = self._settings.alerts.dagster_url is not None
        for source in (self._kafka, self._clickhouse, *((self._dagster,) if has_dagster else ())):
            source.refresh()
        deadline = time.monotonic() + self._limit_seconds
        kafka, clickhouse = self._kafka.reading(deadline=deadline), self._clickhouse.reading(deadline=deadline)
        readings: dict[str, Reading[object]] = {"kafka": kafka, "clickhouse": clickhouse}
        if has_dagster:
            readings["dagster"] = dagster = self._dagster.reading(deadline=deadline)
            if dagster.figures is not None:
                yield _family(m.RUNS, {(status.lower(),): count for status, count in dagster.figures.items()})
        yield _family(m.UP, {(name,): float(r.problem is None) for name, r in readings.items()})
        yield _family(m.READ, {(name,): r.seconds for name, r in readings.items()})
        if kafka.figures is not None:
            yield from _of_kafka(self._settings.kafka.topic, kafka.figures)
        if clickhouse.figures is not None:
            yield from _of_ledger(self._settings.kafka.topic, clickhouse.figures)
            yield from _of_objective(clickhouse.figures.burn, self._settings.alerts.freshness_share)
            yield from _of_server(clickhouse.figures)

    def _read_kafka(self) -> Mapping[int, PartitionLag]:
        return read_lag(kafka_address(self._settings), self._settings.kafka)

    def _read_dagster(self) -> Mapping[str, int]:
        runs = drain_runs(self._settings.alerts.dagster_url or "")
        if runs is None:
            raise RetryableError(f"Dagster does not answer at {self._settings.alerts.dagster_url}")
        return runs

    def _read_clickhouse(self) -> ClickHouseFigures:
        try:
            if self._client is None:
                self._client = connect(self._settings)
            return self._figures(self._client)
        except Exception:
            # A connection may be what is broken: the next reading makes a new one.
            broken, self._client = self._client, None
            if broken is not None:
                with suppress(Exception):
                    broken.close()
            raise

    def _figures(self, client: Client) -> ClickHouseFigures:
        # Without a start, the whole ledger would be read.
        recent_ms = int((time.time() - 2 * FRESHNESS_WINDOW_SECONDS) * 1_000)
        return ClickHouseFigures(
            totals=self._counter.read(client, time.time()),
            freshness=read_statistics(client, since_ms=recent_ms).freshness,
            deferred=sum(entry.offsets for entry in read_deferred(client, self._scope)),
            burn=read_burn(client, self._scope, self._settings.alerts.freshness_seconds),
            tables=_read_tables(client),
            disks=read_storage(client).disks,
            stale=_read_stale_buckets(client),
            alert_states=read_alert_states(client),
        )


def _read_tables(client: Client) -> Mapping[str, TableSize]:
    """Table -> size, of the tables of the client's database that hold anything."""
    rows = query_rows(client, "reading the sizes of tables", _TABLES)
    return {str(table): TableSize(*map(int, figures)) for table, *figures in rows}


def _read_stale_buckets(client: Client) -> Mapping[str, int]:
    """Grain -> closed buckets that wait for a build."""
    rows = query_rows(client, "counting stale rollups", _STALE)
    found = {int(grain): int(count) for grain, count in rows}
    return {grain.name: found.get(grain.seconds, 0) for grain in BUILT}


def _of_kafka(topic: str, lags: Mapping[int, PartitionLag]) -> Iterator[Family]:
    labelled: dict[_Labels, PartitionLag] = {(topic, str(p)): lag for p, lag in sorted(lags.items())}
    yield _family(m.LAG, {labels: lag.offsets for labels, lag in labelled.items()})
    committed = {labels: lag.commit.offset for labels, lag in labelled.items() if lag.commit is not None}
    yield _family(m.COMMITTED, committed)
    yield _family(m.LOG_START, {labels: lag.low for labels, lag in labelled.items()})
    yield _family(m.LOG_END, {labels: lag.high for labels, lag in labelled.items()})


def _of_ledger(topic: str, figures: ClickHouseFigures) -> Iterator[Family]:
    totals = figures.totals
    yield _family(m.DEFERRED, {(topic,): figures.deferred})
    for metric, total in zip(_SUMS, totals.sums, strict=True):
        yield _family(metric, {(): total})
    yield _family(m.DEAD_LETTERS, {(reason,): count for reason, count in sorted(totals.dead_letters.items())})
    yield _histogram(m.FRESHNESS, {(): totals.freshness})
    yield _histogram(m.BATCH_MESSAGES, {(): totals.messages})
    yield _histogram(m.BATCH_STEP, {(step,): found for step, found in totals.steps.items()})
    recent = figures.freshness
    if recent is not None:
        yield _family(m.RECENT_FRESHNESS, {("0.5",): recent.p50, ("0.99",): recent.p99, ("1",): recent.max})


def _of_objective(burn: BurnSignal, objective_share: float) -> Iterator[Family]:
    yield _family(m.BURN, {(window,): rate for window, rate in _rates(burn.events, objective_share).items()})
    yield _family(m.CANARY, {(str(of.shard),): of.seconds for of in burn.canaries if of.seconds is not None})
    of_shards: dict[_Labels, float] = {
        (str(of.shard), window): rate
        for of in burn.canaries
        for window, rate in _rates(of.tallies, objective_share).items()
    }
    yield _family(m.CANARY_BURN, of_shards)


def _rates(tallies: Tallies, objective_share: float) -> Mapping[str, float]:
    rates = ((window, burn_rate(tally, objective_share)) for window, tally in tallies.items())
    return {window: rate for window, rate in rates if rate is not None}


def _of_server(figures: ClickHouseFigures) -> Iterator[Family]:
    tables = figures.tables.items()
    yield _family(m.PARTS, {(table,): size.parts for table, size in tables})
    yield _family(m.PARTITION_PARTS, {(table,): size.most_parts for table, size in tables})
    yield _family(m.ROWS, {(table,): size.rows for table, size in tables})
    yield _family(m.BYTES, {(table,): size.size_bytes for table, size in tables})
    yield _family(m.DISK_FREE, {(disk.name,): disk.free_bytes for disk in figures.disks})
    yield _family(m.DISK_SIZE, {(disk.name,): disk.total_bytes for disk in figures.disks})
    yield _family(m.STALE, {(grain,): count for grain, count in figures.stale.items()})
    yield _family(m.FIRING, _firing(figures.alert_states))
    if figures.alert_states.evaluated is not None:
        yield _family(m.EVALUATED, {(): figures.alert_states.evaluated})


def _firing(alert_states: AlertStates) -> Mapping[_Labels, float]:
    """A row for each kind that the sensor judges: 0 says that it looked and found nothing, which no absent row says."""
    judged = [kind for kind in KINDS.values() if kind.parts and alert_states.evaluated is not None]
    counts = Counter[_Labels]({(kind.name, kind.severity.value): 0 for kind in judged})
    counts.update((state.alert.kind, state.alert.severity.value) for state in alert_states.firing)
    return counts


def _family(metric: m.Metric, values: Mapping[_Labels, float]) -> Family:
    """A gauge or a counter."""
    make = CounterMetricFamily if metric.type is m.Type.COUNTER else GaugeMetricFamily
    family = make(metric.full_name.removesuffix("_total"), metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: m.Metric, values: Mapping[_Labels, Distribution]) -> Family:
    family = HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    for labels, found in values.items():
        # Without any row the sums per bound are empty: all zero.
        below = found.below or (0.0,) * len(metric.bounds)
        buckets = [(f"{bound:g}", count) for bound, count in zip(metric.bounds, below, strict=True)]
        family.add_metric(labels, [*buckets, ("+Inf", found.count)], found.sum)
    return family
