"""A real control plane on this machine: etcd, API server, controller manager and scheduler, on free ports."""

import contextlib
import csv
import json
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from metrics_pipeline.lab.local.process import EngineProcess, await_answer, choose_port, spawn

_START_SECONDS = 60
UNREACHABLE_SECONDS = 10
"""A node that says nothing for so long is unreachable; 50 s are usual."""
_ADMIN_TOKEN = "the-admin-of-the-tests"  # noqa: S105 - of a server on the loopback interface that lives for a test
CONTROLLERS = (
    "job-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "garbage-collector-controller",
    "pod-garbage-collector-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
    "disruption-controller",
    "resourcequota-controller",
)


@dataclass(frozen=True)
class ControlPlane:
    url: str
    authority: Path
    kubeconfig: Path

    def login(self, file: Path, token: str) -> Path:
        """A kubeconfig of whoever has the token."""
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        file.write_text(json.dumps(content))
        return file


@contextlib.contextmanager
def control_plane(program: Path, folder: Path) -> Iterator[ControlPlane]:
    """Runs while it is open; all of it is gone at once afterwards."""
    _write_certificate(folder)
    _write_account_keys(folder)
    with (folder / "tokens.csv").open("w", newline="") as file:
        csv.writer(file).writerow([_ADMIN_TOKEN, "admin", "admin", "system:masters"])
    clients, peers = (f"http://127.0.0.1:{choose_port(None)}" for _ in range(2))
    port = choose_port(None)
    plane = ControlPlane(f"https://127.0.0.1:{port}", folder / "ca.pem", folder / "kubeconfig")
    started: list[EngineProcess] = []

    def start(part: str, *options: str, answers: Callable[[], bool]) -> None:
        started.append(spawn(part, [str(program), part, *options], folder, {"PATH": "/usr/bin:/bin"}))
        await_answer(started[-1], answers, _START_SECONDS)

    try:
        start(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            "--name=it",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=it={peers}",
            "--unsafe-no-fsync",
            answers=lambda: _answers(f"{clients}/health"),
        )
        start(
            "kube-apiserver",
            f"--etcd-servers={clients}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={folder / 'server.pem'}",
            f"--tls-private-key-file={folder / 'server.key'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            "--profiling=false",
            answers=lambda: _answers(f"{plane.url}/readyz", plane.authority),
        )
        plane.login(plane.kubeconfig, _ADMIN_TOKEN)
        shared = (f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        start(
            "kube-controller-manager",
            *shared,
            f"--service-account-private-key-file={folder / 'accounts.key'}",
            f"--root-ca-file={plane.authority}",
            f"--controllers={','.join(CONTROLLERS)}",
            "--node-monitor-period=1s",
            f"--node-monitor-grace-period={UNREACHABLE_SECONDS}s",
            answers=lambda: _answers(f"{plane.url}/api/v1/namespaces/default/serviceaccounts/default", plane.authority),
        )
        start("kube-scheduler", *shared, answers=lambda: True)
        yield plane
    finally:
        # Nothing of it is kept, and told to end it takes ten seconds.
        for process in reversed(started):
            process.kill()


def _write_certificate(folder: Path) -> None:
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server.private_key_pem.write_to_path(folder / "server.key")
    for pem in server.cert_chain_pems:
        pem.write_to_path(folder / "server.pem", append=True)


def _write_account_keys(folder: Path) -> None:
    """What tokens of service accounts are signed with."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "accounts.key").write_bytes(private)
    (folder / "accounts.pub").write_bytes(public)


def _answers(url: str, authority: Path | None = None) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {_ADMIN_TOKEN}"})  # noqa: S310 - loopback
    try:
        context = ssl.create_default_context(cafile=authority) if authority else None
        with urllib.request.urlopen(request, timeout=2, context=context) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False
