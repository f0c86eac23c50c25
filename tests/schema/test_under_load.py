"""Versions of the schema one after the other, while events are produced and drained and dashboards ask."""

import uuid
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dashboards.panel import panel_query
from metrics_pipeline.dashboards.panels import PANELS
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import DrainRun, run_drain, until_window_ends
from tests.worlds.pipeline import drain_once
from tests.worlds.schemas import next_version, rows

VERSIONS = ("tables,promoted", "tables,promoted,grain,dimension")


def ask_panels(settings: Settings, until: "Future[object]") -> tuple[int, Counter[str]]:
    """All panels, again and again; returns how many answered, and what was said by those that did not."""
    answered, failed = 0, Counter[str]()
    with connect(settings) as client:
        while not until.done():
            for panel in PANELS:
                end = datetime.now(UTC)
                sql, parameters = panel_query(panel, end - timedelta(hours=1), end)
                try:
                    client.query(sql, parameters=parameters)
                    answered += 1
                except Exception as error:  # noqa: BLE001 - any failure is one
                    failed[f"{panel.name}: {str(error)[:300]}"] += 1
    return answered, failed


def change_versions() -> None:
    for version in VERSIONS:
        next_version(version, "schema", "apply")


@pytest.mark.timeout(600)
def test_versions_change_beside_drains_and_questions(settings: Settings) -> None:
    quick = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_seconds": 0.3})})
    plan = LoadPlan(rate=1_000, events=20_000, duplicates=0.02, late=0.02, malformed=0.01, seed=5)
    with ThreadPoolExecutor(4) as pool:
        producing = pool.submit(produce, plan, settings)
        run = DrainRun(str(uuid.uuid4()))
        draining = pool.submit(run_drain, quick, run, until_window_ends(quick), stop=producing.done)
        changing = pool.submit(change_versions)
        asking = pool.submit(ask_panels, settings, changing)
        changing.result(240)
        answered, failed = asking.result(60)
        summary = producing.result(120)
        draining.result(60)
    assert failed == {}
    assert answered > len(PANELS)
    # The version before goes on where it was, and so does the next one.
    drain_once(settings)
    produce(LoadPlan(rate=0, events=1_000, seed=6), settings)
    next_version(VERSIONS[-1], "drain", "--once")
    next_version(VERSIONS[-1], "rollups", "rebuild", "--when", "last 4 days", "--stale")
    assert audit(settings).problems == ()
    with connect(settings) as client:
        assert rows(client, "SELECT count(), uniqExact(event_id) FROM raw_events") == [
            (summary.unique_events + 1_000, summary.unique_events + 1_000)
        ]
        differing = "SELECT countIf(version != attributes['version']), countIf(version != '') > 0 FROM raw_events"
        assert rows(client, differing) == [(0, 1)]
        assert rows(client, "SELECT count() FROM dead_letters") == [(summary.malformed,)]
    left = next_version(VERSIONS[-1], "schema", "plan")
    assert "expand:" not in left
