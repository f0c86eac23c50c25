"""Pods of ours beside Services whose variables begin as settings do."""

import copy

import pytest

from tests.system.kubernetes.cluster import Cluster, manifests_of
from tests.system.kubernetes.kubelet import Kubelet
from tests.worlds.waiting import await_


@pytest.mark.parametrize("has_switch", [True, False])
def test_a_pod_starts_beside_services_with_the_switch_and_without(
    cluster: Cluster, nodes: dict[str, Kubelet], has_switch: bool
) -> None:
    namespace = cluster.namespace()
    for file in ("access.yaml", "settings.yaml", "exporter.yaml"):
        cluster.apply_file(file, namespace)
    secret = {"metadata": {"name": "metrics-pipeline"}, "stringData": {"clickhouse__url": "http://u:p@clickhouse/m"}}
    cluster.core.create_namespaced_secret(namespace, secret)
    code = {"metadata": {"name": "metrics-pipeline"}, "spec": {"ports": [{"name": "grpc", "port": 4000}]}}
    cluster.core.create_namespaced_service(namespace, code)

    template = copy.deepcopy(manifests_of("schema.yaml")[0]["spec"]["template"])
    assert template["spec"].pop("enableServiceLinks") is False
    if has_switch:
        template["spec"]["enableServiceLinks"] = False
    # A command that reads the settings and asks no engine, once the variables are told.
    template["spec"]["containers"][0]["command"] = ["sh", "-c", "env && metrics-pipeline schema roles"]
    name = f"{namespace}-it"
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}, namespace)

    def ended() -> str | None:
        phase = cluster.core.read_namespaced_pod(name, namespace).status.phase
        return phase if phase in ("Succeeded", "Failed") else None

    phase = await_("the pod has ended", ended, 90)
    said = "".join(node.log_of(name) for node in nodes.values())
    cluster.clear(namespace)
    assert phase == "Succeeded", said
    assert "KUBERNETES_SERVICE_HOST=" in said
    for line in ("METRICS_PIPELINE_EXPORTER_PORT_9464_TCP_PROTO=tcp", "METRICS_PIPELINE_SERVICE_PORT_GRPC=4000"):
        assert (line in said.splitlines()) is not has_switch, line
