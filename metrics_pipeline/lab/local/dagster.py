"""Dagster on this machine: one code server, the webserver and the daemon, each a process of its own.

`dagster dev` is not used: it leaves children behind when it is stopped.
"""

import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metrics_pipeline.lab.local.process import EngineProcess, answers_http, await_answer, choose_port, spawn

_START_SECONDS = 120
_INSTANCE = Path(__file__).parents[3] / "dagster_home" / "dagster.yaml"
_PACKAGED_INSTANCE = Path(__file__).with_name("dagster.yaml")
"""The wheel carries the checkout's file under this name."""
_WORKSPACE = """load_from:
  - grpc_server:
      host: 127.0.0.1
      port: {port}
      location_name: metrics_pipeline
"""
_CODE_SERVER = "dagster api grpc --module-name metrics_pipeline.definitions --location-name metrics_pipeline"


@dataclass(frozen=True, slots=True)
class DagsterStack:
    processes: tuple[EngineProcess, ...]
    url: str


def start_dagster(
    folder: Path, dagster_home: Path, environment: Mapping[str, str], *, preferred_port: int | None = None
) -> DagsterStack:
    """Start all three and wait until the UI answers and knows the code location. Raises LocalEngineError."""
    folder.mkdir(parents=True, exist_ok=True)
    dagster_home.mkdir(parents=True, exist_ok=True)
    if not (config := dagster_home / "dagster.yaml").exists():
        shutil.copy(_INSTANCE if _INSTANCE.is_file() else _PACKAGED_INSTANCE, config)
    code_port, web_port = choose_port(None), choose_port(preferred_port)
    workspace = folder / "workspace.yaml"
    workspace.write_text(_WORKSPACE.format(port=code_port))
    url = f"http://127.0.0.1:{web_port}"
    variables = {
        # One drain uses one core: more threads of Polars only wait for each other.
        "POLARS_MAX_THREADS": "1",
        **os.environ,
        **environment,
        "DAGSTER_HOME": str(dagster_home),
        "PYTHONUNBUFFERED": "1",
    }
    started: list[EngineProcess] = []

    def start(name: str, command: str, *options: str, answers: Callable[[], bool] = lambda: True) -> None:
        script, *words = command.split()
        started.append(spawn(name, [str(Path(sys.executable).parent / script), *words, *options], folder, variables))
        await_answer(started[-1], answers, _START_SECONDS)

    try:
        start("code-server", f"{_CODE_SERVER} --host 127.0.0.1 --port {code_port}", answers=lambda: _accepts(code_port))
        start("dagster-daemon", "dagster-daemon run -w", str(workspace))
        web = f"dagster-webserver -h 127.0.0.1 -p {web_port} -w"
        start("dagster-webserver", web, str(workspace), answers=lambda: answers_http(f"{url}/server_info"))
    except BaseException:
        for process in started:
            process.stop(5)
        raise
    return DagsterStack(tuple(started), url)


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
