"""Dagster on this machine: one code server, the webserver and the daemon, each a process of its own.

`dagster dev` is not used: it leaves children behind when it is stopped.
"""

import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metrics_pipeline.lab.local.process import EngineProcess, await_answer, choose_port, spawn

PREFERRED_PORT = 3000
_START_SECONDS = 120
_CODE_LOCATION = "metrics_pipeline"
_INSTANCE = Path(__file__).parents[3] / "dagster_home" / "dagster.yaml"
_PACKAGED_INSTANCE = Path(__file__).with_name("dagster.yaml")
"""The wheel carries the checkout's file under this name."""


@dataclass(frozen=True, slots=True)
class DagsterStack:
    """Running processes and the address of the UI."""

    processes: tuple[EngineProcess, ...]
    url: str


def start_dagster(
    folder: Path, dagster_home: Path, environment: Mapping[str, str], *, preferred_port: int | None = None
) -> DagsterStack:
    """Start all three and wait until the UI answers and knows the code location. Raises LocalEngineError."""
    folder.mkdir(parents=True, exist_ok=True)
    instance_config(dagster_home)
    code_port, web_port = choose_port(None), choose_port(preferred_port)
    workspace = folder / "workspace.yaml"
    workspace.write_text(
        "load_from:\n  - grpc_server:\n      host: 127.0.0.1\n"
        f"      port: {code_port}\n      location_name: {_CODE_LOCATION}\n"
    )
    variables = {
        # One drain uses one core: more threads of Polars only wait for each other.
        "POLARS_MAX_THREADS": "1",
        **os.environ,
        **environment,
        "DAGSTER_HOME": str(dagster_home),
        "PYTHONUNBUFFERED": "1",
    }
    scripts = Path(sys.executable).parent
    started: list[EngineProcess] = []

    def start(name: str, script: str, *options: str) -> EngineProcess:
        started.append(spawn(name, [str(scripts / script), *options], folder, variables))
        return started[-1]

    url = f"http://127.0.0.1:{web_port}"
    try:
        host, place = ("--host", "127.0.0.1"), ("--location-name", _CODE_LOCATION)
        module = ("--module-name", "metrics_pipeline.definitions")
        code = start("code-server", "dagster", "api", "grpc", *module, *host, "--port", str(code_port), *place)
        await_answer(code, lambda: _accepts(code_port), _START_SECONDS)
        start("dagster-daemon", "dagster-daemon", "run", "-w", str(workspace))
        port = ("-h", "127.0.0.1", "-p", str(web_port))
        web = start("dagster-webserver", "dagster-webserver", *port, "-w", str(workspace))
        await_answer(web, lambda: _answers(f"{url}/server_info"), _START_SECONDS)
    except BaseException:
        for process in started:
            process.stop(5)
        raise
    return DagsterStack(tuple(started), url)


def instance_config(dagster_home: Path) -> None:
    """Give an instance folder the project's dagster.yaml, unless it has one."""
    dagster_home.mkdir(parents=True, exist_ok=True)
    if not (dagster_home / "dagster.yaml").exists():
        shutil.copy(_INSTANCE if _INSTANCE.is_file() else _PACKAGED_INSTANCE, dagster_home / "dagster.yaml")


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except OSError:
        return False
