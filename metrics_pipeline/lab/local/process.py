"""Engines as processes: started in a group of their own, awaited, recognised again, and stopped with their children."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from random import SystemRandom

import psutil

from metrics_pipeline.errors import LocalEngineError

_CHECK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """A process that we started; `created` tells it from a stranger that got its pid later."""

    name: str
    pid: int
    created: float
    log: str

    def is_alive(self) -> bool:
        return self._find() is not None

    def stop(self, limit_seconds: float) -> None:
        """SIGTERM, wait, then SIGKILL, for the process and all that it started."""
        if (process := self._find()) is None:
            return
        family = [process, *process.children(recursive=True)]
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        _, alive = psutil.wait_procs(family, timeout=limit_seconds)
        for member in alive:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(alive, timeout=10)

    def kill(self) -> None:
        """SIGKILL to the whole group, as a crash would."""
        if (process := self._find()) is not None:
            os.killpg(self.pid, signal.SIGKILL)
            psutil.wait_procs([process], timeout=10)

    def _find(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            is_ours = abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if is_ours else None


@dataclass(frozen=True, slots=True)
class Engine:
    process: EngineProcess
    address: str


def spawn(name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> EngineProcess:
    """Start `command` in `folder`, apart from our terminal; its output goes to NAME.log there."""
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return EngineProcess(name, process.pid, psutil.Process(process.pid).create_time(), str(log))


def await_answer(engine: EngineProcess, answers: Callable[[], bool], limit_seconds: float) -> None:
    """Wait until the engine answers; one that dies, stays silent or is no longer waited for is stopped.

    Raises LocalEngineError with the end of its log.
    """
    try:
        _await_answer(engine, answers, limit_seconds)
    except BaseException:
        engine.stop(1)
        raise


def _await_answer(engine: EngineProcess, answers: Callable[[], bool], limit_seconds: float) -> None:
    deadline = time.monotonic() + limit_seconds
    while not answers():
        if not engine.is_alive():
            raise LocalEngineError(f"{engine.name} ended right after its start; {_tail(engine)}")
        if time.monotonic() > deadline:
            raise LocalEngineError(f"{engine.name} does not answer after {limit_seconds:.0f} s; {_tail(engine)}")
        time.sleep(_CHECK_SECONDS)


def answers_http(url: str) -> bool:
    """Does the server at this loopback address answer that all is well?"""
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback address
        return bool(answer.status == 200)
    return False


_PORTS = range(20_000, 32_000)
"""Below those that the system gives to connections: the retries of a client can't take the port of a server that is
away and comes back."""
_TRIES = 40


def choose_port(preferred: int | None) -> int:
    """The preferred port of the loopback interface if it is free, else any free one of _PORTS."""
    for port in (preferred, *SystemRandom().sample(_PORTS, _TRIES)):
        if port is not None:
            with suppress(OSError), socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise LocalEngineError("no free port on 127.0.0.1")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone at work in this folder, which is made if it is missing, among all processes of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


def _tail(engine: EngineProcess, lines: int = 15) -> str:
    with suppress(OSError):
        text = Path(engine.log).read_text(errors="replace")
        return f"the end of {engine.log}:\n" + "\n".join(text.splitlines()[-lines:])
    return f"it left no log at {engine.log}"
