"""A cluster for the tests of this folder, started once."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.kubernetes.cluster import Cluster, connect
from tests.system.kubernetes.control_plane import control_plane
from tests.system.kubernetes.kubelet import Kubelet
from tests.system.kubernetes.program import NoProgramError, kubelab


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        program = kubelab()
    except NoProgramError as error:
        pytest.skip(str(error))
    with control_plane(program, tmp_path_factory.mktemp("kubernetes")) as plane:
        yield connect(plane)


@pytest.fixture
def _mounts() -> None:
    """What the stand-in kubelet needs of the machine."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("the stand-in kubelet mounts folders: it needs root and unshare")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not where pods have their own /tmp."""
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def nodes(cluster: Cluster, folder: Path, _mounts: None) -> Iterator[dict[str, Kubelet]]:
    made = {name: Kubelet(cluster.plane.kubeconfig, folder / "nodes", name) for name in ("node-a", "node-b")}
    for node in made.values():
        node.start()
    yield made
    for node in made.values():
        node.stop()
