"""A shard that is not there: nothing is answered by halves, nothing lands by halves for long."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.errors import ClickHouseUnavailableError, PipelineError
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer
from metrics_pipeline.lab.local.kafka import KafkaServer
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.rollups import rollups
from tests.system.cluster.conftest import Shard, cluster, spread_over
from tests.worlds.hours import assert_exact, past_events, query
from tests.worlds.pipeline import drain_once, send


class Mortal:
    """Two servers of which the second one is killed and started again."""

    def __init__(self, shards: tuple[Shard, Shard]) -> None:
        self.shards = shards
        self.running: list[ClickHouseServer] = [shard.start() for shard in shards]

    def kill(self) -> None:
        self.running[1].process.kill()

    def revive(self) -> None:
        self.running[1] = self.shards[1].start()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    made = Mortal(cluster(tmp_path))
    yield made
    for server in made.running:
        server.process.stop(20)


@pytest.fixture
def settings(mortal: Mortal, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    with spread_over(mortal.shards, kafka, monkeypatch) as made:
        yield made


@pytest.mark.parametrize("step", [Step.LOOK_UP, Step.EVENTS])
def test_a_drain_whose_shard_dies_lands_all_of_it_once_it_is_back(
    mortal: Mortal, settings: Settings, step: Step
) -> None:
    values = past_events(800)
    send(settings, values[:400])
    drain_once(settings)
    send(settings, [*values[300:], b"no event"])
    impatient = settings.model_copy(update={"drain": settings.drain.model_copy(update={"retry_seconds": 1.0})})
    with pytest.raises(PipelineError):
        drain_once(impatient, at(step, mortal.kill))
    for question in ("SELECT count() FROM raw_events", "SELECT count() FROM rollup_buckets"):
        with pytest.raises(DatabaseError, match="Code: 279"):
            query(settings, question)
    with pytest.raises(ClickHouseUnavailableError, match=f"refused .127.0.0.1:{mortal.shards[1].ports[1]}"):
        audit(settings, deep=True)
    with pytest.raises(ClickHouseUnavailableError, match="no server of shard 2"), rollups(settings):
        pass
    mortal.revive()
    drain_once(settings)
    assert_exact(settings, events=800, dead=1)


def test_a_drain_waits_for_a_shard_that_is_started_again(mortal: Mortal, settings: Settings) -> None:
    values = past_events(400)
    send(settings, values)
    with ThreadPoolExecutor(1) as beside:

        def kill_and_revive() -> None:
            mortal.kill()
            beside.submit(mortal.revive)

        drain_once(settings, at(Step.EVENTS, kill_and_revive))
    assert_exact(settings, events=400)


def at(step: Step, action: Callable[[], None]) -> Callable[[Step], None]:
    def observe(begun: Step) -> None:
        if begun is step:
            action()

    return observe
