"""Everything that the load generator knows to get wrong, through the real engines: a reason each, and nothing lost."""

from pathlib import Path

import polars as pl

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.lab.loadgen.sent import read_sent
from metrics_pipeline.settings import Settings
from tests.worlds.pipeline import assert_exact, drain_once


def test_every_kind_of_bad_and_odd_message_lands_where_it_belongs(settings: Settings, tmp_path: Path) -> None:
    sent_file = tmp_path / "sent.ndjson"
    plan = LoadPlan(rate=0, events=3_000, duplicates=0.05, late=0.05, malformed=0.2, odd=0.1, seed=5)
    summary = produce(plan, settings, sent_file)
    assert summary.failed == 0
    drain_once(settings)
    assert_exact(settings, events=summary.unique_events, dead=summary.malformed)
    sent, listed = read_sent(sent_file)
    with connect(settings) as client:
        reasons = dict(client.query("SELECT reason, count() FROM dead_letters GROUP BY reason").result_rows)
        landed = {str(row[0]) for row in client.query("SELECT event_id FROM raw_events").result_rows}
        unexplained = client.query("SELECT count() FROM dead_letters WHERE detail = ''").result_rows[0][0]
        by_offset = client.query(
            "SELECT count(), uniqExact(kafka_partition, kafka_offset) FROM dead_letters"
        ).result_rows[0]
    assert reasons == listed["malformed_reasons"]
    assert landed == set(sent["event_id"].to_list())
    assert unexplained == 0
    assert by_offset == (summary.malformed, summary.malformed)
    assert sent.select(pl.col("copies").sum()).item() == summary.unique_events + summary.duplicates
