"""What tests do to a cluster."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient

from tests.system.kubernetes.control_plane import ControlPlane
from tests.system.kubernetes.instance import KUBERNETES
from tests.worlds.waiting import await_


@dataclass(frozen=True)
class Cluster:
    """The control plane as its administrator sees it."""

    plane: ControlPlane
    api: client.ApiClient
    dynamic: DynamicClient

    @property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)

    def namespace(self) -> str:
        """A fresh one, which refuses pods that may more than is needed."""
        name = f"t-{uuid.uuid4().hex[:8]}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.core.create_namespace({"metadata": {"name": name, "labels": labels}})
        return name

    def apply(self, manifest: dict[str, Any], namespace: str) -> None:
        """Server-side, with unknown fields refused. Raises ApiException with the server's words."""
        resource = self.dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        resource.server_side_apply(
            body=manifest,
            namespace=namespace,
            field_manager="tests",
            query_params=[("fieldValidation", "Strict")],
        )

    def apply_file(self, name: str, namespace: str) -> list[dict[str, Any]]:
        manifests = manifests_of(name)
        for manifest in manifests:
            self.apply(manifest, namespace)
        return manifests

    def token(self, account: str, namespace: str) -> str:
        made = self.core.create_namespaced_service_account_token(account, namespace, {"spec": {}})
        return str(made.status.token)

    def may(self, account: str, namespace: str, verb: str, group: str, resource: str) -> bool:
        kind, _, part = resource.partition("/")
        what = {"namespace": namespace, "verb": verb, "group": group, "resource": kind, "subresource": part}
        review = {"spec": {"user": f"system:serviceaccount:{namespace}:{account}", "resourceAttributes": what}}
        answer = client.AuthorizationV1Api(self.api).create_subject_access_review(review)
        return bool(answer.status.allowed)

    def pods(self, namespace: str, selector: str) -> list[client.V1Pod]:
        found: list[client.V1Pod] = self.core.list_namespaced_pod(namespace, label_selector=selector).items
        return found

    def clear(self, namespace: str) -> None:
        """Ends all runs at once, also those of lost nodes. Whoever starts them has to be gone before."""
        jobs = client.BatchV1Api(self.api)
        jobs.delete_collection_namespaced_job(namespace, propagation_policy="Background")
        self.core.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
        await_("no pods are left", lambda: not self.pods(namespace, ""))

    def evict(self, pod: client.V1Pod) -> bool:
        """Whether the pod may go: a disruption budget says no for now, a pod that is gone is gone."""
        meta = {"name": pod.metadata.name, "namespace": pod.metadata.namespace}
        try:
            self.core.create_namespaced_pod_eviction(body={"metadata": meta}, **meta)
        except ApiException as error:
            if error.status == 429:
                return False
            if error.status != 404:
                raise
        return True


def connect(plane: ControlPlane) -> Cluster:
    api = config.new_client_from_config(str(plane.kubeconfig))
    return Cluster(plane, api, DynamicClient(api))


def manifests_of(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(Path(KUBERNETES / name).read_text()))
