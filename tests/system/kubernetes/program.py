"""The control plane's binary: built once from the sources beside this file, then taken from the cache.

`make control-plane` builds it, which takes some minutes and 3 GB of Go's caches.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from metrics_pipeline.lab.local.fetch import cache_folder
from metrics_pipeline.settings import LocalSettings

SOURCES = Path(__file__).parent / "kubelab"
VERSION = "v1.35.4"
HELM_VERSION = "v3.21.4"
_BUILD_LIMIT_SECONDS = 900


class NoProgramError(Exception):
    """Says why there is none, for a test that is skipped."""


def kubelab() -> Path:
    """Raises NoProgramError where it is not built."""
    program = _cached()
    if not program.is_file():
        raise NoProgramError("the control plane is not built: make control-plane builds it, which takes minutes once")
    return program


def build() -> Path:
    """Raises NoProgramError where Go is missing."""
    program = _cached()
    if program.is_file():
        return program
    program.parent.parent.mkdir(parents=True, exist_ok=True)
    package = "k8s.io/component-base/version"
    flags = f"-s -w -X {package}.gitVersion={VERSION} -X {package}.gitMajor=1 -X {package}.gitMinor=35"
    with tempfile.TemporaryDirectory(dir=program.parent.parent) as folder:
        made = Path(folder) / "kubelab"
        made.mkdir()
        subprocess.run(
            [_go(), "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", made / program.name, "."],
            cwd=SOURCES,
            env={**os.environ, "CGO_ENABLED": "0"},
            check=True,
            timeout=_BUILD_LIMIT_SECONDS,
        )
        if not program.parent.exists():
            made.rename(program.parent)
    return program


def helm() -> Path:
    """The one on PATH, else built once from its Go module. Raises NoProgramError where Go is missing, too."""
    installed = shutil.which("helm")
    if installed:
        return Path(installed)
    program = cache_folder(LocalSettings()) / f"helm-{HELM_VERSION}" / "helm"
    if not program.is_file():
        subprocess.run(
            [_go(), "install", f"helm.sh/helm/v3/cmd/helm@{HELM_VERSION}"],
            env={**os.environ, "CGO_ENABLED": "0", "GOBIN": str(program.parent)},
            check=True,
            timeout=_BUILD_LIMIT_SECONDS,
        )
    return program


def _cached() -> Path:
    """Keyed on the sources and the version of Go."""
    digest = hashlib.sha256()
    for name in ("main.go", "go.mod", "go.sum"):
        digest.update((SOURCES / name).read_bytes())
    said = subprocess.run([_go(), "env", "GOVERSION"], capture_output=True, check=True, cwd=SOURCES)
    digest.update(said.stdout)
    return cache_folder(LocalSettings()) / f"kubelab-{digest.hexdigest()[:16]}" / "kubelab"


def _go() -> str:
    program = shutil.which("go")
    if program is None:
        raise NoProgramError("no go on PATH: the control plane is built from Go modules")
    return program


if __name__ == "__main__":
    try:
        print(build())
        if os.environ.get("DAGSTER_CHART"):
            print(helm())
    except NoProgramError as error:
        print(f"{error}; the tests of Kubernetes are skipped", file=sys.stderr)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        sys.exit(f"the build failed: {error}")
