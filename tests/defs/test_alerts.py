"""The alert sensor on a real instance, broker, server and receiver."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import (
    AssetCheckKey,
    AssetCheckResult,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DefaultSensorStatus,
    Definitions,
    Failure,
    JobDefinition,
    asset_check,
    in_process_executor,
    job,
    op,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned

from metrics_pipeline.alerting.log import read_alert_states
from metrics_pipeline.alerting.notifications import Phase
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.alerts import alerts, read_checks, read_runs
from metrics_pipeline.defs.assets import RAW_EVENTS_ASSET
from metrics_pipeline.defs.relay import SHARD_TAG
from metrics_pipeline.settings import Settings
from tests.defs.located import HERE, located, own_runs, sensor_context
from tests.worlds.receivers import HttpReceiver, http_receiver

TAGS = {SHARD_TAG: "0-of-1"}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        monkeypatch.setenv("METRICS_ALERTS__DESTINATIONS", made.url)
        yield made


def flaky(*, fails: bool) -> JobDefinition:
    @op
    def work() -> None:
        if fails:
            raise Failure("the disk of the moon is full", allow_retries=False)

    @job(name="nightly", executor_def=in_process_executor)
    def nightly() -> None:
        work()

    return nightly


def run(instance: DagsterInstance, *, fails: bool, tags: dict[str, str] = TAGS, location: str = HERE) -> None:
    tags = located(location, **tags)
    result = flaky(fails=fails).execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    assert result.success is not fails


class Ticks:
    """Evaluates the sensor as the daemon does, its cursor handed on."""

    def __init__(self, instance: DagsterInstance, definitions: Definitions = defs) -> None:
        self._instance = instance
        self._repository = definitions.get_repository_def()
        self.cursor: str | None = None

    def tick(self) -> str:
        context = sensor_context(self._instance, cursor=self.cursor, repository=self._repository)
        evaluated = alerts.evaluate_tick(context)
        assert not evaluated.run_requests
        self.cursor = evaluated.cursor
        return evaluated.skip_message or ""


def test_a_failed_run_is_told_once_its_retries_are_not_and_its_recovery_is(
    settings: Settings, instance: DagsterInstance, receiver: HttpReceiver
) -> None:
    ticks = Ticks(instance)
    assert ticks.tick() == "nothing is wrong"
    run(instance, fails=True)
    assert "failed_runs:nightly shard 0-of-1" in ticks.tick()
    for _ in range(3):
        run(instance, fails=True)
        ticks.tick()
    (notified,) = receiver.received
    assert notified["type"] == "failure"
    assert notified["title"] == "metrics-pipeline critical: runs fail (nightly shard 0-of-1)"
    assert "the disk of the moon is full" in notified["message"]
    assert "docs/runbooks/failed-runs.md" in notified["message"]
    run(instance, fails=False, tags={SHARD_TAG: "1-of-2"})
    ticks.tick()
    assert len(receiver.received) == 1, "another shard's success heals nothing"
    run(instance, fails=False)
    assert ticks.tick() == "nothing is wrong"
    assert receiver.titles[1:] == ["metrics-pipeline resolved: runs fail (nightly shard 0-of-1)"]
    ticks.tick()
    assert len(receiver.received) == 2


def test_runs_of_other_code_locations_are_not_told_and_push_none_of_ours_aside(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.defs.alerts.MAX_RUNS", 2)
    run(instance, fails=True)
    for _ in range(3):
        run(instance, fails=False, location="elsewhere")
        run(instance, fails=True, tags={}, location="elsewhere")
    flaky(fails=True).execute_in_process(instance=instance, raise_on_error=False)
    (notified,) = read_runs(own_runs(instance), datetime.now(UTC))
    assert (notified.job, notified.failures) == ("nightly", 1)
    assert len(read_runs(own_runs(instance, "elsewhere"), datetime.now(UTC))) == 2


def test_another_process_goes_on_from_the_table(
    settings: Settings, instance: DagsterInstance, receiver: HttpReceiver
) -> None:
    run(instance, fails=True)
    Ticks(instance).tick()
    Ticks(instance).tick()
    assert len(receiver.received) == 1
    with connect(settings) as client:
        alert_states = read_alert_states(client)
    (state,) = alert_states.firing
    assert state.alert.run_id
    assert len(alert_states.sent) == 1
    assert alert_states.evaluated is not None


def test_while_clickhouse_is_away_people_learn_of_it_once_and_of_its_return(
    settings: Settings,
    instance: DagsterInstance,
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
    dead_address: str,
) -> None:
    monkeypatch.setenv("METRICS_ALERTS__PENDING_SECONDS", "0")
    url = settings.clickhouse.url
    assert url is not None
    ticks = Ticks(instance)
    run(instance, fails=True)
    ticks.tick()
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", f"http://{dead_address}/default")
    for _ in range(3):
        assert "engine_down:clickhouse" in ticks.tick()
    assert receiver.titles[1:] == ["metrics-pipeline critical: an engine does not answer (clickhouse)"]
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", url.get_secret_value())
    ticks.tick()
    assert receiver.titles[2:] == ["metrics-pipeline resolved: an engine does not answer (clickhouse)"]
    with connect(settings) as client:
        states = read_alert_states(client).states
    assert states["engine_down:clickhouse"].phase is Phase.RESOLVED
    assert states["failed_runs:nightly shard 0-of-1"].phase is Phase.FIRING


def test_a_destination_that_is_down_fails_no_tick_and_gets_the_alert_when_it_is_back(
    settings: Settings, instance: DagsterInstance, receiver: HttpReceiver
) -> None:
    ticks = Ticks(instance)
    receiver.status = 503
    run(instance, fails=True)
    assert "failed_runs" in ticks.tick()
    assert receiver.received == []
    receiver.status = 200
    ticks.tick()
    ticks.tick()
    assert len(receiver.received) == 1


def test_a_failed_check_is_told_and_resolved(
    settings: Settings, instance: DagsterInstance, receiver: HttpReceiver
) -> None:
    passes = False

    @asset_check(asset=RAW_EVENTS_ASSET.key, name="exact")
    def exact() -> AssetCheckResult:
        return AssetCheckResult(passed=passes, description=None if passes else "3 events are missing")

    made = Definitions(assets=[RAW_EVENTS_ASSET], asset_checks=[exact])
    ticks = Ticks(instance, made)

    def check(location: str = HERE) -> None:
        job = made.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, tags=located(location)).success

    check()
    ticks.tick()
    check()
    ticks.tick()
    (notified,) = receiver.received
    assert "raw_events exact: 3 events are missing" in notified["message"]
    passes = True
    check("elsewhere")
    assert "1 firing" in ticks.tick(), "the check of that name in another code location says nothing of ours"
    check()
    ticks.tick()
    assert receiver.titles[1:] == ["metrics-pipeline resolved: the books contradict each other (raw_events exact)"]


def test_a_check_that_is_being_evaluated_says_nothing(instance: DagsterInstance) -> None:
    key = AssetCheckKey(RAW_EVENTS_ASSET.key, "exact")
    planned = DagsterEvent(
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        "nightly",
        event_specific_data=AssetCheckEvaluationPlanned(asset_key=key.asset_key, check_name=key.name),
    )
    run_id = instance.create_run_for_job(flaky(fails=False), tags=located()).run_id
    instance.report_dagster_event(planned, run_id)
    assert key in instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
    assert read_checks(own_runs(instance), [key]) == ()


def test_without_destinations_it_evaluates_and_notes(settings: Settings, instance: DagsterInstance) -> None:
    assert alerts.default_status is DefaultSensorStatus.RUNNING
    run(instance, fails=True)
    assert "1 firing" in Ticks(instance).tick()
    with connect(settings) as client:
        assert [s.alert.kind for s in read_alert_states(client).firing] == ["failed_runs"]
