"""The manifests against a real API server."""

import copy
import json
from typing import Any

import pytest
from kubernetes.client.rest import ApiException

from tests.system.kubernetes.cluster import Cluster, manifests_of
from tests.system.kubernetes.instance import KUBERNETES, LAUNCHER, VALUES
from tests.worlds.waiting import await_

FILES = sorted(file.name for file in KUBERNETES.glob("*.yaml") if file.name != "values.yaml")


def pod_of(file: str, name: str) -> dict[str, Any]:
    """A pod as the workload's controller would make it."""
    template = next(d["spec"]["template"] for d in manifests_of(file) if "template" in d["spec"])
    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
    pod["metadata"]["name"] = name
    return pod


def words(error: ApiException) -> str:
    return str(json.loads(error.body)["message"])


@pytest.mark.parametrize("file", FILES)
def test_the_server_accepts_a_manifest_and_accepts_it_again(cluster: Cluster, file: str) -> None:
    namespace = cluster.namespace()
    for _ in range(2):
        assert cluster.apply_file(file, namespace)


@pytest.mark.parametrize("file", ["schema.yaml", "exporter.yaml"])
def test_a_pod_passes_the_restricted_standard(cluster: Cluster, file: str) -> None:
    namespace = cluster.namespace()
    cluster.apply_file("access.yaml", namespace)
    cluster.apply(pod_of(file, "it"), namespace)
    unsafe = pod_of(file, "unsafe")
    del unsafe["spec"]["containers"][0]["securityContext"]
    with pytest.raises(ApiException) as refused:
        cluster.apply(unsafe, namespace)
    assert 'violates PodSecurity "restricted' in words(refused.value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("resources", "limits", "memory"), "1 gigabyte", "quantities must match the regular expression"),
        (("resources", "requests", "memory"), "4Gi", "must be less than or equal to memory limit"),
        (("ressources",), {}, "field not declared in schema"),
    ],
)
def test_a_wrong_resource_is_refused_with_the_reason(
    cluster: Cluster, path: tuple[str, ...], value: object, told: str
) -> None:
    wrong = copy.deepcopy(manifests_of("exporter.yaml")[0])
    part = wrong["spec"]["template"]["spec"]["containers"][0]
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(ApiException) as refused:
        cluster.apply(wrong, cluster.namespace())
    assert told in words(refused.value)


def test_what_is_over_the_quota_is_refused(cluster: Cluster) -> None:
    namespace = cluster.namespace()
    cluster.apply_file("access.yaml", namespace)
    quota, *_ = cluster.apply_file("quota.yaml", namespace)
    await_(
        "the quota is in force",
        lambda: cluster.core.read_namespaced_resource_quota(quota["metadata"]["name"], namespace).status.hard,
    )
    # A container that names no limits gets those of the range.
    plain = pod_of("exporter.yaml", "plain")
    del plain["spec"]["containers"][0]["resources"]
    cluster.apply(plain, namespace)
    large = pod_of("exporter.yaml", "large")
    large["spec"]["containers"][0]["resources"] = {"requests": {"memory": "25Gi"}, "limits": {"memory": "25Gi"}}
    with pytest.raises(ApiException) as refused:
        cluster.apply(large, namespace)
    assert "exceeded quota: metrics-pipeline" in words(refused.value)


def test_accounts_may_what_they_need_and_no_more(cluster: Cluster) -> None:
    namespace = cluster.namespace()
    cluster.apply_file("access.yaml", namespace)
    dagster = VALUES["serviceAccount"]["name"]
    ours = VALUES["dagster-user-deployments"]["serviceAccount"]["name"]
    for verb, group, resource in (("create", "batch", "jobs"), ("delete", "", "pods"), ("get", "", "pods/log")):
        assert cluster.may(dagster, namespace, verb, group, resource)
        assert not cluster.may(ours, namespace, verb, group, resource)
    for verb, group, resource in (
        ("get", "", "secrets"),
        ("create", "", "pods"),
        ("create", "", "pods/exec"),
        ("create", "apps", "deployments"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ):
        assert not cluster.may(dagster, namespace, verb, group, resource), (verb, resource)
    assert not cluster.may(dagster, cluster.namespace(), "create", "batch", "jobs")
    assert LAUNCHER["runK8sConfig"]["podSpecConfig"]["automountServiceAccountToken"] is False
