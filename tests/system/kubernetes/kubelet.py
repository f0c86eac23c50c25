"""A stand-in for the kubelet: a node whose pods are processes of this machine.

It runs the first container of each pod that the scheduler bound to the node, with its environment, the variables of
Services, secrets and folders, reports what became of it, and ends it as a kubelet would: SIGTERM, the grace period,
SIGKILL. It knows no images, users, limits, probes or networks: what it tests is the way between Dagster and the control
plane. It needs root, to mount. A lost node says nothing any more, and its pods are gone with it.
"""

import base64
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

from tests.system.kubernetes.links import service_links

_WATCH_SECONDS = 30
_REPORT_SECONDS = 10
_HEARTBEAT_SECONDS = 1
_MOUNTS_BELOW = "/run/"
_GONE = 404

Pod = dict[str, Any]


class Kubelet:
    """One node, from `start` to `stop`."""

    def __init__(self, kubeconfig: Path, folder: Path, node: str) -> None:
        self._core = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
        self._folder = folder / node
        self._node = node
        self._stopped = threading.Event()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._reported: dict[str, threading.Event] = {}
        self._ending: set[str] = set()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._look, self._beat)]

    def start(self) -> None:
        self._folder.mkdir(parents=True)
        self._core.create_node(
            {"metadata": {"name": self._node, "labels": {"kubernetes.io/hostname": self._node}}},
        )
        room = {"cpu": "8", "memory": "16Gi", "pods": "50", "ephemeral-storage": "50Gi"}
        self._core.patch_node_status(self._node, {"status": {"capacity": room, "allocatable": room}})
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """The node is gone for good."""
        self.lose()
        self._core.delete_node(self._node)

    def lose(self) -> None:
        """As when the power fails."""
        self._stopped.set()
        for process in list(self._running.values()):
            _kill(process)

    def _beat(self) -> None:
        ready = {"type": "Ready", "status": "True", "reason": "StandIn", "lastTransitionTime": _now()}
        while not self._stopped.is_set():
            try:
                self._core.patch_node_status(
                    self._node, {"status": {"conditions": [{**ready, "lastHeartbeatTime": _now()}]}}
                )
            except Exception as error:  # noqa: BLE001 - whatever it was, the next one may arrive
                if not self._stopped.is_set():
                    print(f"{self._node}: {error!r}", file=sys.stderr)
            self._stopped.wait(_HEARTBEAT_SECONDS)

    def log_of(self, pod: str) -> str:
        files = list(self._folder.glob(f"*/{pod}.log"))
        return files[0].read_text(errors="replace") if files else ""

    def _look(self) -> None:
        selector = f"spec.nodeName={self._node}"
        while not self._stopped.is_set():
            try:
                for event in watch.Watch().stream(
                    self._core.list_pod_for_all_namespaces, field_selector=selector, timeout_seconds=_WATCH_SECONDS
                ):
                    if self._stopped.is_set():
                        return
                    self._handle(event["type"], event["raw_object"])
            except Exception as error:  # noqa: BLE001 - whatever it was, the watch begins anew
                if not self._stopped.wait(0.2):
                    print(f"{self._node}: {error!r}", file=sys.stderr)

    def _handle(self, kind: str, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED" or pod["metadata"].get("deletionTimestamp"):
            if uid not in self._ending:
                self._ending.add(uid)
                threading.Thread(target=self._end, args=(pod,), daemon=True).start()
        elif uid not in self._reported and pod["status"].get("phase") == "Pending":
            self._reported[uid] = threading.Event()
            threading.Thread(target=self._run, args=(pod,), daemon=True).start()

    def _run(self, pod: Pod) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        folder = self._folder / uid
        folder.mkdir()
        began = _now()
        try:
            command, environment = self._command(pod, folder)
            with (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        except (ApiException, OSError, ValueError, KeyError) as error:
            stated = {"exitCode": 128, "reason": "StartError", "message": str(error)[:500]}
            self._report(pod, "Failed", {"terminated": {**stated, "startedAt": began, "finishedAt": _now()}})
            return
        self._running[uid] = process
        if uid in self._ending:
            _kill(process)
        self._report(pod, "Running", {"running": {"startedAt": began}})
        code = process.wait()
        _kill(process)
        code = 128 - code if code < 0 else code
        stated = {"exitCode": code, "reason": "Error" if code else "Completed"}
        self._report(
            pod, "Failed" if code else "Succeeded", {"terminated": {**stated, "startedAt": began, "finishedAt": _now()}}
        )
        del self._running[uid]
        self._reported[uid].set()

    def _end(self, pod: Pod) -> None:
        meta = pod["metadata"]
        process = self._running.get(meta["uid"])
        grace_seconds = meta.get("deletionGracePeriodSeconds") or 0
        if process is not None:
            if grace_seconds:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                _kill(process)
            # First what became of it, then the end of the pod.
            self._reported[meta["uid"]].wait(_REPORT_SECONDS)
        try:
            self._core.delete_namespaced_pod(
                meta["name"], meta["namespace"], grace_period_seconds=0, body={"preconditions": {"uid": meta["uid"]}}
            )
        except ApiException as error:
            if error.status not in (_GONE, 409):
                raise

    def _report(self, pod: Pod, phase: str, state: dict[str, Any]) -> None:
        if self._stopped.is_set():
            return
        container = pod["spec"]["containers"][0]
        is_running = phase == "Running"
        status = {
            "phase": phase,
            "podIP": "127.0.0.1",
            "conditions": [
                {"type": kind, "status": str(is_running), "lastTransitionTime": _now()}
                for kind in ("ContainersReady", "Ready")
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": is_running,
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }
        try:
            self._core.patch_namespaced_pod_status(
                pod["metadata"]["name"], pod["metadata"]["namespace"], {"status": status}
            )
        except ApiException as error:
            if error.status != _GONE:
                raise

    def _command(self, pod: Pod, folder: Path) -> tuple[list[str], dict[str, str]]:
        """The container's command behind its mounts, in a mount namespace of its own."""
        container = pod["spec"]["containers"][0]
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(folder),
            **self._environment(pod, container),
        }
        volumes = {volume["name"]: self._volume(pod, volume, folder) for volume in pod["spec"].get("volumes", [])}
        script = ["set -e", f"mount -t tmpfs tmpfs {_MOUNTS_BELOW}"]
        for mount in container.get("volumeMounts", []):
            source, target = volumes[mount["name"]], mount["mountPath"]
            if target == "/tmp":  # noqa: S108 - where images of ours write; the machine's own has what tests need
                environment["TMPDIR"] = str(source)
            elif target.startswith(_MOUNTS_BELOW):
                script.append(f"mkdir -p '{target}'; mount --bind '{source}' '{target}'")
            else:
                raise ValueError(f"a mount at {target} would hide what the machine has there")
        script.append('exec "$@"')
        argv = [*container.get("command", []), *container.get("args", [])]
        return ["unshare", "--mount", "--", "sh", "-c", "; ".join(script), "sh", *argv], environment

    def _environment(self, pod: Pod, container: dict[str, Any]) -> dict[str, str]:
        namespace = pod["metadata"]["namespace"]
        found = self._links(pod)
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                read = self._core.read_namespaced_config_map(source["configMapRef"]["name"], namespace)
                found |= read.data or {}
            else:
                found |= {k: v.decode() for k, v in self._secret(source["secretRef"]["name"], namespace).items()}
        for variable in container.get("env", []):
            origin = variable.get("valueFrom", {}).get("secretKeyRef")
            if origin is None:
                found[variable["name"]] = variable.get("value", "")
            else:
                found[variable["name"]] = self._secret(origin["name"], namespace)[origin["key"]].decode()
        return found

    def _links(self, pod: Pod) -> dict[str, str]:
        """The API's own Service in each pod, those of its namespace unless the pod says otherwise."""
        services = [self._core.read_namespaced_service("kubernetes", "default")]
        if pod["spec"].get("enableServiceLinks", True):
            services += self._core.list_namespaced_service(pod["metadata"]["namespace"]).items
        found: dict[str, str] = {}
        for service in services:
            if service.spec.cluster_ip not in (None, "", "None"):
                ports = [(port.name, port.port, port.protocol) for port in service.spec.ports]
                found |= service_links(service.metadata.name, service.spec.cluster_ip, ports)
        return found

    def _volume(self, pod: Pod, volume: dict[str, Any], folder: Path) -> Path:
        """Secrets lie as a kubelet lays them: links into a folder that is swapped as a whole when they change."""
        target = folder / "volumes" / volume["name"]
        target.mkdir(parents=True)
        if "secret" in volume:
            current = target / "..2026_01_01_00_00_00.000000000"
            current.mkdir()
            (target / "..data").symlink_to(current.name)
            for key, value in self._secret(volume["secret"]["secretName"], pod["metadata"]["namespace"]).items():
                (current / key).write_bytes(value)
                (target / key).symlink_to(Path("..data") / key)
        elif "emptyDir" not in volume:
            raise ValueError(f"no volumes like {volume}")
        return target

    def _secret(self, name: str, namespace: str) -> dict[str, bytes]:
        read = self._core.read_namespaced_secret(name, namespace)
        return {key: base64.b64decode(value) for key, value in (read.data or {}).items()}


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """The process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
