"""The relay on Kubernetes: its runs are Jobs, whose pods are told to end or killed, whose nodes are drained or lost."""

import contextlib
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from kubernetes.client import V1Pod

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.lab.local.dagster import start_dagster
from metrics_pipeline.settings import Settings, clickhouse_url, kafka_address
from tests.system.kubernetes.cluster import Cluster
from tests.system.kubernetes.instance import VALUES, code_location_environment, instance, launcher
from tests.system.kubernetes.kubelet import Kubelet
from tests.worlds.events import encode, event
from tests.worlds.pipeline import assert_exact
from tests.worlds.waiting import await_

DRAINS = "dagster/job=drain"
WINDOW_SECONDS = 30
LIMIT_SECONDS = 90


@pytest.fixture
def hidden() -> Iterator[Path]:
    """A folder that no pod sees."""
    made = Path(tempfile.mkdtemp(dir="/run"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def namespace(cluster: Cluster, settings: Settings) -> str:
    """One with our manifests, and the settings and secrets of the engines."""
    name = cluster.namespace()
    for file in ("access.yaml", "network.yaml", "disruption.yaml", "quota.yaml"):
        cluster.apply_file(file, name)
    values = {
        "METRICS_KAFKA__BOOTSTRAP_SERVERS": kafka_address(settings),
        "METRICS_KAFKA__TOPIC": settings.kafka.topic,
        "METRICS_KAFKA__GROUP": settings.kafka.group,
        "METRICS_DRAIN__WINDOW_SECONDS": str(WINDOW_SECONDS),
        "METRICS_DRAIN__IDLE_SECONDS": "3",
        "POLARS_MAX_THREADS": "1",
    }
    cluster.core.create_namespaced_config_map(name, {"metadata": {"name": "metrics-pipeline"}, "data": values})
    for secret, data in (
        ("metrics-pipeline", {"clickhouse__url": clickhouse_url(settings)}),
        (VALUES["global"]["postgresqlSecretName"], {"postgresql-password": "not used: SQLite"}),
    ):
        cluster.core.create_namespaced_secret(name, {"metadata": {"name": secret}, "stringData": data})
    return name


@pytest.fixture
def dagster(
    cluster: Cluster, namespace: str, nodes: dict[str, Kubelet], folder: Path, hidden: Path
) -> Iterator[DagsterInstance]:
    """Daemon and code location, beside the cluster, with the rights that the daemon's account has; runs have none."""
    home = folder / "dagster"
    home.mkdir()
    token = cluster.token(VALUES["serviceAccount"]["name"], namespace)
    kubeconfig = cluster.plane.login(hidden / "kubeconfig", token)
    config = {**instance(), "run_launcher": launcher(namespace, kubeconfig, home)}
    config["run_monitoring"]["poll_interval_seconds"] = 1
    del config["local_artifact_storage"]
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    own = {**code_location_environment(), "METRICS_DRAIN__WINDOW_SECONDS": str(WINDOW_SECONDS)}
    stack = start_dagster(folder / "stack", home, own)
    try:
        with DagsterInstance.from_config(str(home)) as opened:
            yield opened
    finally:
        for process in reversed(stack.processes):
            process.stop(20)
        cluster.clear(namespace)


class Load:
    """Events in small lots until it is closed."""

    def __init__(self, settings: Settings) -> None:
        self.sent = 0
        self._random = random.Random(7)
        self._settings = settings
        self._producer = Producer({"bootstrap.servers": kafka_address(settings), "linger.ms": 5})
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        while not self._stopped.wait(0.05):
            for _ in range(50):
                self._producer.produce(self._settings.kafka.topic, encode(event(self._random)))
                self.sent += 1
            self._producer.poll(0)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        assert self._producer.flush(30) == 0


@dataclass(frozen=True)
class Relay:
    """What is seen of the runs, and what the tests await."""

    cluster: Cluster
    namespace: str
    dagster: DagsterInstance
    settings: Settings

    def draining(self) -> V1Pod:
        """A pod that has landed a batch and has more to land."""
        return await_("a pod drains", self._draining, LIMIT_SECONDS)

    def _draining(self) -> V1Pod | None:
        pods = self.cluster.pods(self.namespace, DRAINS)
        alive = [pod for pod in pods if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None]
        return next((pod for pod in alive if self._batches(run_of(pod))), None)

    def awaits_end(self, pod: V1Pod, wanted: DagsterRunStatus) -> None:
        run_id = run_of(pod)
        await_(f"the run is {wanted}", lambda: self.status(run_id) is wanted, LIMIT_SECONDS)

    def awaits_all(self, events: int) -> None:
        # The rollup gets a block's rows after raw_events.
        await_("all is drained", lambda: self._number("SELECT sum(requests) FROM rollup_1m") == events, LIMIT_SECONDS)
        assert_exact(self.settings, events=events)

    def status(self, run_id: str) -> DagsterRunStatus | None:
        run = self.dagster.get_run_by_id(run_id)
        return run.status if run else None

    def failed(self) -> list[str]:
        records = self.dagster.get_run_records(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
        return [record.dagster_run.run_id for record in records]

    def told_by(self, pod: V1Pod) -> set[str]:
        """What a run that closed its books says of its end."""
        events = self.dagster.get_records_for_run(run_of(pod), of_type=DagsterEventType.ASSET_MATERIALIZATION).records
        made = [event.asset_materialization for event in events]
        return {str(of.metadata["run_ended"].value) for of in made if of}

    def _batches(self, run_id: str) -> int:
        return self._number("SELECT count() FROM batches WHERE run_id = {run:String}", run=run_id)

    def _number(self, sql: str, **parameters: str) -> int:
        with connect(self.settings) as client:
            return int(client.query(sql, parameters=parameters).result_rows[0][0])


@pytest.fixture
def relay(cluster: Cluster, namespace: str, dagster: DagsterInstance, settings: Settings) -> Relay:
    return Relay(cluster, namespace, dagster, settings)


@pytest.mark.timeout(400)
def test_a_run_that_is_told_to_end_lands_what_it_has(relay: Relay) -> None:
    with contextlib.closing(Load(relay.settings)) as load:
        first = relay.draining()
        assert first.spec.service_account_name == "metrics-pipeline"
        assert first.spec.automount_service_account_token is False

        # What the button "Terminate" does.
        assert relay.dagster.run_launcher.terminate(run_of(first))
        relay.awaits_end(first, DagsterRunStatus.CANCELED)
        assert relay.told_by(first) == {"stopped"}

        # What kubectl delete does: SIGTERM, and the grace period of the pod.
        second = relay.draining()
        assert run_of(second) != run_of(first)
        relay.cluster.core.delete_namespaced_pod(second.metadata.name, relay.namespace)
        await_("it closed its books", lambda: relay.told_by(second) == {"stopped"}, LIMIT_SECONDS)
        third = relay.draining()
        assert run_of(third) != run_of(second)

    relay.awaits_all(load.sent)
    relay.awaits_end(third, DagsterRunStatus.SUCCESS)


@pytest.mark.timeout(400)
def test_pods_are_killed_and_nodes_drained_and_every_event_lands_once(relay: Relay) -> None:
    with contextlib.closing(Load(relay.settings)) as load:
        # Killed at once, as for want of memory: events come all the time, so it is amid a batch.
        first = relay.draining()
        relay.cluster.core.delete_namespaced_pod(first.metadata.name, relay.namespace, grace_period_seconds=0)
        relay.awaits_end(first, DagsterRunStatus.FAILURE)
        second = relay.draining()
        assert run_of(second) != run_of(first)

        # What kubectl drain does: no new pods, then each is asked to go until none is there.
        drained = second.spec.node_name
        relay.cluster.core.patch_node(drained, {"spec": {"unschedulable": True}})
        assert not relay.cluster.evict(second), "the disruption budget keeps it"
        await_("the node is empty", lambda: _is_empty(relay.cluster, relay.namespace, drained), LIMIT_SECONDS)
        third = relay.draining()
        assert third.spec.node_name != drained

    relay.awaits_all(load.sent)
    relay.awaits_end(third, DagsterRunStatus.SUCCESS)
    relay.awaits_end(second, DagsterRunStatus.SUCCESS)
    assert relay.told_by(second) == {"handed over"}, "it was not interrupted"
    assert relay.failed() == [run_of(first)]


@pytest.mark.timeout(400)
def test_a_node_is_lost_and_every_event_lands_once(relay: Relay, nodes: dict[str, Kubelet]) -> None:
    with contextlib.closing(Load(relay.settings)) as load:
        first = relay.draining()
        lost = first.spec.node_name
        nodes[lost].lose()
        # Its pod is as running as ever until Kubernetes gives the node up: the successor does not wait for that.
        second = await_("a pod drains elsewhere", lambda: _other_than(lost, relay.draining()), LIMIT_SECONDS)
        relay.awaits_end(first, DagsterRunStatus.FAILURE)

    relay.awaits_all(load.sent)
    relay.awaits_end(second, DagsterRunStatus.SUCCESS)
    assert not relay.told_by(first)


def _other_than(node: str, pod: V1Pod) -> V1Pod | None:
    return None if pod.spec.node_name == node else pod


def _is_empty(cluster: Cluster, namespace: str, node: str) -> bool:
    left = [pod for pod in cluster.pods(namespace, "") if pod.spec.node_name == node]
    running = [pod for pod in left if pod.status.phase in ("Pending", "Running")]
    for pod in running:
        cluster.evict(pod)
    return not running


def run_of(pod: V1Pod) -> str:
    return str(pod.metadata.labels["dagster/run-id"])
