"""Two code locations of ours, and runs without one, in one instance."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.remote_representation.code_location import InProcessCodeLocation
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

import metrics_pipeline.defs
from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.own_runs import LABEL_TAG, OwnRuns
from metrics_pipeline.defs.relay import SHARD_TAG
from metrics_pipeline.settings import Settings
from tests.defs.located import label, located, sensor_context
from tests.worlds.events import events
from tests.worlds.pipeline import send


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


class Location:
    """A code location as the daemon has it: runs and ticks get their names from Dagster."""

    def __init__(self, instance: DagsterInstance, name: str) -> None:
        target = LoadableTargetOrigin(module_name="metrics_pipeline.definitions")
        self._instance = instance
        self._held = InProcessCodeLocation(InProcessCodeLocationOrigin(target, location_name=name), instance)
        (self._repository,) = self._held.get_repositories().values()

    def launch(self, job: str, tags: dict[str, str]) -> str:
        origin = self._repository.get_full_job(job).get_remote_origin()
        made = self._instance.create_run_for_job(defs.resolve_job_def(job), tags=tags, remote_job_origin=origin)
        return made.run_id

    def relay(self) -> str:
        """What a tick of the relay says."""
        data = self._held.get_sensor_execution_data(
            self._instance, self._repository.handle, "relay", None, None, None, None, None
        )
        return data.skip_message or f"{len(data.run_requests or ())} launched"


def test_each_relay_sees_the_runs_of_its_own_code_location(settings: Settings, instance: DagsterInstance) -> None:
    blue, green = Location(instance, "blue"), Location(instance, "green")
    send(settings, events(10))
    assert (blue.relay(), green.relay()) == ("1 launched", "1 launched")
    run_id = blue.launch("drain", {SHARD_TAG: "0-of-1"})
    assert blue.relay() == "shard 0: 10 offsets behind, 1 active runs"
    assert green.relay() == "1 launched"
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert OwnRuns.of_run(instance, run).among([run_id]) == {run_id}
    assert OwnRuns(instance, label("green")).among([run_id]) == set()


def test_where_nothing_says_whose_it_is_no_run_is_ours(instance: DagsterInstance) -> None:
    drain = defs.resolve_job_def("drain")
    unlabelled = instance.create_run_for_job(drain)
    labelled = instance.create_run_for_job(drain, tags=located())
    for own in (OwnRuns.of_run(instance, unlabelled), OwnRuns.of_sensor(sensor_context(instance, location=None))):
        assert own.records(limit=10) == ()
        assert own.among([unlabelled.run_id, labelled.run_id]) == set()
    of_one = OwnRuns.of_run(instance, labelled)
    assert [record.dagster_run.run_id for record in of_one.records(limit=10)] == [labelled.run_id]


def test_the_label_is_the_one_of_dagster() -> None:
    assert LABEL_TAG == REPOSITORY_LABEL_TAG


def test_runs_are_looked_for_in_one_place() -> None:
    folder = Path(metrics_pipeline.defs.__file__).parent
    words = ("RunsFilter", "get_run")
    found = {file.name for file in folder.glob("*.py") if any(word in file.read_text() for word in words)}
    assert found == {"own_runs.py"}
