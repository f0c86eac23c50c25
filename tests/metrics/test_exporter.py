"""What a scrape says, held against the ledger of real drains."""

import math
import urllib.request
from datetime import UTC, datetime

import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from metrics_pipeline.alerting.canary import send_canaries
from metrics_pipeline.alerting.rules import RULES
from metrics_pipeline.alerting.run import Copy, evaluate
from metrics_pipeline.alerting.signals import RunSignal
from metrics_pipeline.cli.exporter import serving
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.metrics.catalogue import METRICS, PREFIX
from metrics_pipeline.metrics.collector import PipelineCollector
from metrics_pipeline.metrics.counting import MonthlyCounter
from metrics_pipeline.settings import Settings, kafka_address, load_settings
from tests.worlds.events import events
from tests.worlds.pipeline import drain_once, send
from tests.worlds.receivers import silent_address

DAY = 86_400


class Scrape:
    """Samples of one scrape, by name without the prefix and by labels."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples: list[Sample] = [s for family in self.families for s in family.samples]

    def value(self, name: str, **labels: str) -> float:
        (found,) = [s.value for s in self.samples if s.name == PREFIX + name and s.labels == labels]
        return found

    def labelled(self, name: str, label: str) -> dict[str, float]:
        return {s.labels[label]: s.value for s in self.samples if s.name == PREFIX + name}


def scrape(settings: Settings, *, limit_seconds: float = 60) -> Scrape:
    collector = PipelineCollector(settings, limit_seconds=limit_seconds)
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        return Scrape(generate_latest(registry).decode())
    finally:
        collector.close()


def ledger(settings: Settings, what: str) -> float:
    with connect(settings) as client:
        return float(client.query(f"SELECT {what} FROM batches FINAL").result_rows[0][0])


@pytest.fixture
def drained(settings: Settings) -> Settings:
    sent = events(500)
    send(settings, [*sent, *sent[:40], b"{", b"nonsense", b"[]"])
    drain_once(settings)
    send(settings, events(120, seed=5))
    drain_once(settings)
    send(settings, events(30, seed=6), partition=2)
    note_a_replay(settings)
    return settings


def note_a_replay(settings: Settings) -> None:
    """A ledger row that is no micro-batch of a drain."""
    with connect(settings) as client:
        client.command(
            """INSERT INTO batches (batch, source, topic, topic_id, consumer_group, last_message, visible_at)
            SELECT 'replayed', 'dead_letters', topic, topic_id, consumer_group, now64(3), now64(3)
            FROM batches LIMIT 1"""
        )


def test_a_scrape_says_what_the_ledger_and_the_topic_say(drained: Settings) -> None:
    evaluate(drained, [RunSignal("nightly", "", 1, "some-run", "boom")], [], Copy())
    found = scrape(drained)
    assert found.labelled("up", "engine") == {"kafka": 1, "clickhouse": 1}
    for name, column in (
        ("consumed_messages_total", "consumed"),
        ("consumed_bytes_total", "size_bytes"),
        ("inserted_events_total", "inserted"),
        ("duplicate_events_total", "duplicates"),
        ("skipped_offsets_total", "skipped"),
        ("lost_offsets_total", "lost"),
    ):
        assert found.value(name) == ledger(drained, f"sum({column})"), name
    assert found.value("inserted_events_total") == 620
    assert found.value("duplicate_events_total") == 40
    assert found.value("batches_total") == ledger(drained, "countIf(source = 'drain')")
    assert sum(found.labelled("dead_letters_total", "reason").values()) == 3
    lags = read_lag(kafka_address(drained), drained.kafka)
    assert found.labelled("lag_offsets", "partition") == {str(p): lag.offsets for p, lag in lags.items()}
    assert found.value("lag_offsets", topic=drained.kafka.topic, partition="2") == 30
    committed = {str(p): lag.commit.offset for p, lag in lags.items() if lag.commit}
    assert found.labelled("committed_offset", "partition") == committed
    assert found.value("table_rows", table="raw_events") == 620
    assert found.value("table_bytes", table="raw_events") > 0
    assert 0 < found.value("disk_free_bytes", disk="default") <= found.value("disk_size_bytes", disk="default")
    assert found.value("alerts_firing", kind="failed_runs", severity="critical") == 1
    assert found.value("alerts_firing", kind="audit_drift", severity="critical") == 0, "the sensor looked"
    assert set(found.labelled("alerts_firing", "kind")) == {kind.name for kind in RULES}
    assert found.value("alerts_evaluated_timestamp_seconds") > 0
    assert set(found.labelled("stale_rollup_buckets", "grain")) == {"10m", "1h", "1d", "7d"}


def test_burn_rates_and_canaries_are_those_of_the_ledger_and_of_the_last_canary(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, events(30))
    drain_once(settings)
    monkeypatch.setenv("METRICS_ALERTS__FRESHNESS_SECONDS", "0.2")
    send_canaries(load_settings())
    found = scrape(load_settings())
    assert found.value("canary_seconds", shard="0") >= 0.2, "nobody drained it"
    assert found.value("canary_burn_rate", shard="0", window="1h") == pytest.approx(100)
    of_batch = "arraySum(arrayMap((a, n) -> if(a > 200, n, 0), freshness_ms, freshness_events))"
    late = ledger(settings, f"sum({of_batch})")
    for window in ("5m", "30m", "1h", "6h"):
        assert found.value("freshness_burn_rate", window=window) == pytest.approx(late / 30 / 0.01)


def test_histograms_are_cumulative_and_agree_with_the_ledger(drained: Settings) -> None:
    found = scrape(drained)
    buckets = found.labelled("freshness_seconds_bucket", "le")
    counts = list(buckets.values())
    assert counts == sorted(counts)
    events_of_ledger = ledger(drained, "sum(arraySum(freshness_events))")
    assert buckets["+Inf"] == found.value("freshness_seconds_count") == events_of_ledger == 620
    for bound, count in buckets.items():
        if bound != "+Inf":
            limit_ms = float(bound) * 1000
            below = f"sum(arraySum(arrayMap((a, n) -> if(a <= {limit_ms}, n, 0), freshness_ms, freshness_events)))"
            assert count == ledger(drained, below)
    total_ms = ledger(drained, "sum(arraySum(arrayMap((a, n) -> a * n, freshness_ms, freshness_events)))")
    assert math.isclose(found.value("freshness_seconds_sum"), total_ms / 1000)
    assert found.value("batch_messages_sum") == ledger(drained, "sum(consumed)")
    for step in ("commit", "look_up", "insert"):
        assert found.value("batch_step_duration_seconds_count", step=step) == ledger(
            drained, "countIf(source = 'drain')"
        )
    spent = ledger(drained, "sum(insert_duration_ms)") / 1000
    assert math.isclose(found.value("batch_step_duration_seconds_sum", step="insert"), spent)


def test_only_what_the_catalogue_names_is_served_each_with_its_help(drained: Settings) -> None:
    catalogue = {m.full_name.removesuffix("_total"): m for m in METRICS}
    families = scrape(drained).families
    assert {f.name for f in families} <= set(catalogue)
    assert set(catalogue) - {f.name for f in families} <= {
        PREFIX + "drain_runs",
        PREFIX + "alerts_evaluated_timestamp_seconds",
    }
    for family in families:
        metric = catalogue[family.name]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


@pytest.mark.parametrize("engine", ["kafka", "clickhouse"])
def test_an_engine_that_is_down_is_up_0_and_the_other_is_served(
    drained: Settings, monkeypatch: pytest.MonkeyPatch, dead_address: str, engine: str
) -> None:
    if engine == "kafka":
        monkeypatch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", dead_address)
        monkeypatch.setenv("METRICS_KAFKA__REQUEST_TIMEOUT_SECONDS", "1")
    else:
        monkeypatch.setenv("METRICS_CLICKHOUSE__URL", f"http://{dead_address}/default")
    found = scrape(load_settings())
    other = {"kafka": "clickhouse", "clickhouse": "kafka"}[engine]
    assert found.labelled("up", "engine") == {engine: 0, other: 1}
    names = {s.name.removeprefix(PREFIX) for s in found.samples}
    assert ("lag_offsets" in names) == (engine != "kafka")
    assert ("inserted_events_total" in names) == (engine != "clickhouse")


# Its own timeouts would be minutes.
@pytest.mark.timeout(60, func_only=True)
def test_an_engine_that_hangs_is_not_waited_for(drained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_address() as clickhouse, silent_address() as dagster:
        monkeypatch.setenv("METRICS_CLICKHOUSE__URL", f"http://{clickhouse}/default")
        monkeypatch.setenv("METRICS_ALERTS__DAGSTER_URL", f"http://{dagster}")
        found = scrape(load_settings(), limit_seconds=5)
    assert found.labelled("up", "engine") == {"kafka": 1, "clickhouse": 0, "dagster": 0}
    assert found.labelled("read_duration_seconds", "engine")["clickhouse"] == 5
    assert found.value("lag_offsets", topic=drained.kafka.topic, partition="2") == 30


def test_it_serves_over_http_and_names_a_port_that_is_taken(drained: Settings) -> None:
    with serving(drained, "127.0.0.1", 0) as url, urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
        assert Scrape(answer.read().decode()).labelled("up", "engine")
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigurationError, match="--port"), serving(drained, "127.0.0.1", port):
            pass


@pytest.fixture
def counter(drained: Settings) -> tuple[MonthlyCounter, Settings]:
    return MonthlyCounter(LedgerScope(drained.kafka.topic, drained.kafka.group)), drained


def test_sums_only_grow_whatever_is_settled_and_begin_again_with_a_month(
    counter: tuple[MonthlyCounter, Settings],
) -> None:
    monthly, settings = counter
    # In the middle of a month, whatever the day is.
    now = datetime(2026, 11, 10, 12, tzinfo=UTC).timestamp()
    move = f"ALTER TABLE batches UPDATE visible_at = toDateTime64({now}, 3, 'UTC') WHERE 1"
    with connect(settings, mutations_sync=1) as client:
        client.command(move)
        first = monthly.read(client, now)
        drain_once(settings)
        client.command(move)
        second = monthly.read(client, now + 2)
        settled = monthly.read(client, now + 700)
        next_month = monthly.read(client, now + 32 * DAY)
    assert second.sums[3] == first.sums[3] + 30
    assert settled == second
    assert not any(next_month.sums)
    assert next_month.dead_letters == {}
