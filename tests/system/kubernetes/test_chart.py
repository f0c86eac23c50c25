"""Our values in Dagster's chart. It is not ours to ship: DAGSTER_CHART names the one of the Dagster that is installed.

helm pull dagster --repo https://dagster-io.github.io/helm --version 1.13.27
make test-deploy DAGSTER_CHART=$PWD/dagster-1.13.27.tgz
"""

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import __version__ as dagster_version

from tests.system.kubernetes.cluster import Cluster
from tests.system.kubernetes.instance import KUBERNETES, code_location_environment, instance, is_within, launcher
from tests.system.kubernetes.program import NoProgramError, helm

NAMESPACE = "metrics"


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    chart = os.environ.get("DAGSTER_CHART")
    if not chart:
        pytest.skip("no chart: DAGSTER_CHART names none")
    try:
        program = helm()
    except NoProgramError as error:
        pytest.skip(str(error))
    shown = yaml.safe_load(_run(program, "show", "chart", chart))
    assert shown["version"] == dagster_version, "the chart is of another Dagster"
    text = _run(
        program, "template", "dagster", chart, "--namespace", NAMESPACE, "--values", str(KUBERNETES / "values.yaml")
    )
    return [document for document in yaml.safe_load_all(text) if document]


def _run(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_chart_makes_of_our_values_what_the_other_tests_rest_on(rendered: list[dict[str, Any]]) -> None:
    config = next(d for d in rendered if d["kind"] == "ConfigMap" and d["metadata"]["name"] == "dagster-instance")
    made = yaml.safe_load(config["data"]["dagster.yaml"])
    for name, value in instance().items():
        if name != "run_coordinator":
            assert is_within(value, made[name]), name
    assert made["run_coordinator"]["config"]["dequeue_interval_seconds"] == 1
    wanted = launcher(NAMESPACE, Path("/of/the/tests"), Path("/opt/dagster"))["config"]
    del wanted["kubeconfig_file"], wanted["load_incluster_config"]
    assert is_within(wanted, made["run_launcher"]["config"])
    code = next(d for d in rendered if d["metadata"]["name"] == "dagster-dagster-user-deployments-metrics-pipeline")
    environment = {v["name"]: v.get("value") for v in code["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert is_within(code_location_environment(), environment)
    assert not [name for name in environment if name.endswith("CONTAINER_CONTEXT")], "runs would get its resources"


def test_the_server_accepts_what_the_chart_makes(cluster: Cluster, rendered: list[dict[str, Any]]) -> None:
    namespace = cluster.namespace()
    cluster.apply_file("access.yaml", namespace)
    assert not [d for d in rendered if d["kind"] in ("Role", "RoleBinding", "ServiceAccount")], "ours are enough"
    for document in rendered:
        if "helm.sh/hook" in document["metadata"].get("annotations", {}):
            continue
        document["metadata"]["namespace"] = namespace
        cluster.apply(document, namespace)
        if document["kind"] == "Deployment":
            pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(document["spec"]["template"])}
            pod["metadata"]["name"] = document["metadata"]["name"]
            cluster.apply(pod, namespace)
