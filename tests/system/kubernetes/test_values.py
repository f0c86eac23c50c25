"""The values and manifests against what they repeat or rest on, without a cluster."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import construct_dagster_k8s_job
from kubernetes.client import ApiClient

from metrics_pipeline.defs.drain import drain
from metrics_pipeline.settings import load_settings
from tests.system.kubernetes.cluster import manifests_of
from tests.system.kubernetes.control_plane import ControlPlane
from tests.system.kubernetes.instance import CODE, KUBERNETES, LAUNCHER, VALUES, instance, is_within, launcher

ROOT = Path(__file__).parents[3]
WORKLOADS = [
    document["spec"]["template"]["spec"]
    for file in sorted(KUBERNETES.glob("*.yaml"))
    for document in manifests_of(file.name)
    if "template" in document.get("spec", {})
]


def test_the_instance_is_that_of_the_other_deployments() -> None:
    other = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    found = instance()
    assert found["run_monitoring"].pop("max_resume_run_attempts") == 0
    # The chart has no compute logs by itself, and storage of its own on Postgres.
    assert found == {name: value for name, value in other.items() if name not in ("storage", "compute_logs")}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """The Job that a run becomes."""
    kubeconfig = ControlPlane("https://127.0.0.1:1", tmp_path / "ca.pem", tmp_path).login(tmp_path / "config", "it")
    config = {**instance(), "run_launcher": launcher("metrics", kubeconfig, tmp_path)}
    del config["local_artifact_storage"]
    (tmp_path / "ca.pem").touch()
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    with DagsterInstance.from_config(str(tmp_path)) as opened, DagsterInstance.ephemeral() as runs:
        started = opened.run_launcher
        assert isinstance(started, K8sRunLauncher)
        context = started.get_container_context_for_run(runs.create_run_for_job(drain))
        made = construct_dagster_k8s_job(
            context.get_k8s_job_config("it", started), None, "it", user_defined_k8s_config=context.run_k8s_config
        )
    return dict(ApiClient().sanitize_for_serialization(made))


def test_a_run_is_the_job_that_the_values_say(job: dict[str, Any]) -> None:
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    run = LAUNCHER["runK8sConfig"]
    assert is_within(run["podSpecConfig"], pod)
    assert is_within(run["containerConfig"], container)
    assert is_within(run["jobSpecConfig"], job["spec"])
    assert pod["volumes"] == LAUNCHER["volumes"]
    assert container["volumeMounts"] == LAUNCHER["volumeMounts"]
    assert container["envFrom"] == [{"configMapRef": source} for source in LAUNCHER["envConfigMaps"]]
    assert CODE["env"][0] in container["env"]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """As Kubernetes reads a selector, of what ours have."""
    listed = {"In": lambda rule: labels.get(rule["key"]) in rule["values"]}
    listed["NotIn"] = lambda rule: not listed["In"](rule)
    return is_within(selector.get("matchLabels", {}), labels) and all(
        listed[rule["operator"]](rule) for rule in selector.get("matchExpressions", [])
    )


def test_a_run_reaches_names_engines_and_storage_alone(job: dict[str, Any]) -> None:
    labels = job["spec"]["template"]["metadata"]["labels"]
    policies = [policy for policy in manifests_of("network.yaml") if selects(policy["spec"]["podSelector"], labels)]
    assert {policy["metadata"]["name"] for policy in policies} == {"default-deny", "names", "engines", "storage"}


def test_the_budget_covers_all_drain_runs_and_their_successors() -> None:
    budgets = {budget["metadata"]["name"]: budget["spec"] for budget in manifests_of("disruption.yaml")}
    shards = int(manifests_of("settings.yaml")[0]["data"]["METRICS_DRAIN__SHARDS"])
    assert budgets["drain-runs"]["minAvailable"] == 2 * shards


def test_a_run_has_time_to_flush_and_is_not_given_up_before() -> None:
    grace_seconds = LAUNCHER["runK8sConfig"]["podSpecConfig"]["terminationGracePeriodSeconds"]
    settings = load_settings()
    assert settings.drain.flush_seconds < settings.kafka.request_timeout_seconds < grace_seconds
    assert grace_seconds < VALUES["dagsterDaemon"]["runMonitoring"]["cancelTimeoutSeconds"]


def test_the_settings_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in manifests_of("settings.yaml")[0]["data"].items():
        monkeypatch.setenv(name, value)
    (tmp_path / "clickhouse__url").write_text("http://u:p@clickhouse:8123/metrics")
    monkeypatch.setenv("METRICS_SECRETS_DIR", str(tmp_path))
    assert load_settings().kafka.bootstrap_servers == "kafka:9092"


def test_all_pods_of_ours_run_the_same_image_as_the_same_user_with_the_same_secrets() -> None:
    image = f"{CODE['image']['repository']}:{CODE['image']['tag']}"
    run = LAUNCHER["runK8sConfig"]
    assert len(WORKLOADS) == 2
    for pod in WORKLOADS:
        container = pod["containers"][0]
        assert container["image"] == image
        assert container["env"] == CODE["env"]
        assert container["volumeMounts"] == CODE["volumeMounts"] == LAUNCHER["volumeMounts"]
        assert container["securityContext"] == run["containerConfig"]["securityContext"]
        assert pod["securityContext"] == run["podSpecConfig"]["securityContext"]
        assert pod["automountServiceAccountToken"] is False


def test_no_pod_of_ours_gets_variables_of_services(job: dict[str, Any]) -> None:
    assert [pod["enableServiceLinks"] for pod in (*WORKLOADS, job["spec"]["template"]["spec"])] == [False, False, False]


def test_the_images_are_those_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = {pod["containers"][0]["image"].rpartition(":")[2] for pod in WORKLOADS}
    assert tags | {CODE["image"]["tag"]} == {version}


@pytest.mark.parametrize("part", ["dagsterWebserver", "dagsterDaemon"])
def test_a_part_of_dagster_writes_to_tmp_alone(part: str) -> None:
    values: dict[str, Any] = VALUES[part]
    assert values["securityContext"]["readOnlyRootFilesystem"]
    assert [mount["mountPath"] for mount in values["volumeMounts"]] == ["/tmp"]  # noqa: S108


def test_the_section_of_the_docs_names_all_files() -> None:
    told = (ROOT / "docs" / "deploy.md").read_text()
    for file in KUBERNETES.iterdir():
        assert file.name in told, file.name
