"""Skip to head and backfill as jobs, on a real instance, broker and server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, RunConfig

from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.skip_to_head import SkipToHeadConfig
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.backfill import deferred_ranges
from tests.worlds.events import events
from tests.worlds.pipeline import assert_exact, drain_once, send


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def skip_to_head(instance: DagsterInstance, **config: object) -> dict[str, object]:
    run_config = RunConfig(ops={"skip_backlog": SkipToHeadConfig(**config)})  # type: ignore[arg-type]
    result = defs.resolve_job_def("skip_to_head").execute_in_process(instance=instance, run_config=run_config)
    (found,) = result.get_asset_observation_events()
    return {n: v.value for n, v in found.asset_observation_data.asset_observation.metadata.items()}


def rows(result: ExecuteInProcessResult) -> dict[str, object]:
    found = result.asset_materializations_for_node("backfill_backlog")
    return {m.asset_key.path[-1]: m.metadata["rows"].value for m in found}


def test_the_backlog_is_skipped_once_that_is_asked_for_and_backfilled(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_DRAIN__SHARDS", "2")
    send(settings, [*events(300), b"{"])
    assert skip_to_head(instance) == {"dry_run": True, "deferred_offsets": 301}
    assert deferred_ranges(settings) == ()
    assert skip_to_head(instance, dry_run=False, shard=1) == {"dry_run": False, "deferred_offsets": 150}
    assert skip_to_head(instance, dry_run=False) == {"dry_run": False, "deferred_offsets": 151}
    assert sum(entry.offsets for entry in deferred_ranges(settings)) == 301
    backfilled = defs.resolve_job_def("backfill_deferred").execute_in_process(instance=instance)
    assert rows(backfilled)["raw_events"] == rows(backfilled)["rollup_1m"] == 300
    assert rows(backfilled)["dead_letters"] == 1
    monkeypatch.setenv("METRICS_DRAIN__SHARDS", "1")
    drain_once(settings)
    assert_exact(settings, events=300, dead=1)
