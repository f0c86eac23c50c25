"""Keeps one drain process per shard alive, as the relay would, and starts it again when it ends."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from metrics_pipeline.errors import PipelineError
from metrics_pipeline.lab.chaos.drain_process import ClockStep, Farewell, Mission, Order, main
from metrics_pipeline.lab.chaos.journal import DrainEnd, Journal
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.drain import DrainRun

KILLED = "killed"
_ENDINGS: Mapping[int | None, str] = {
    -signal.SIGKILL: KILLED,
    # In the first milliseconds, before the drain listens to SIGTERM, it is as good as a kill.
    -signal.SIGTERM: "terminated",
}
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 1.5
_HEALTHY_SECONDS = 5.0
"""A run that lived this long was well: the next one starts at once."""
_TICK_SECONDS = 0.02
_STOP_SECONDS = 30.0


class FleetError(PipelineError):
    """Drains did not do what they must, like ending when told to."""


class DrainProcess:
    """One drain run as a process."""

    def __init__(self, process: ForkServerProcess, control: Connection, mission: Mission) -> None:
        self._process = process
        self._control = control
        self.mission = mission
        self.name = mission.log.stem
        self.started_seconds = time.monotonic()
        self.end: Farewell | None = None

    @property
    def shard(self) -> int:
        return self.mission.run.shard

    @property
    def lived_seconds(self) -> float:
        return time.monotonic() - self.started_seconds

    def is_alive(self) -> bool:
        return self.end is None and self._process.is_alive()

    def is_stopped(self) -> bool:
        """Does it stand still after a SIGSTOP?"""
        pid = self._process.pid if self.end is None else None
        try:
            return pid is not None and psutil.Process(pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def send(self, message: Order | ClockStep) -> None:
        """Heard before the next step begins. A drain that is gone doesn't mind."""
        with suppress(OSError):
            self._control.send(message)

    def signal(self, number: signal.Signals) -> None:
        pid = self._process.pid
        if pid is not None and self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def reap(self) -> Farewell | None:
        """How it ended; None while it is alive."""
        if self.end is None and not self._process.is_alive():
            self.end = self._last_words()
            self._control.close()
        return self.end

    def _last_words(self) -> Farewell:
        with suppress(EOFError, OSError):
            if self._control.poll():
                words = self._control.recv()
                if isinstance(words, Farewell):
                    return words
        code = self._process.exitcode
        return Farewell(_ENDINGS.get(code, f"exit code {code}"))


@dataclass(slots=True)
class Armed:
    """Orders for a drain that is yet to be started; `process` is that drain, even if it is dead by now."""

    orders: tuple[Order, ...]
    process: DrainProcess | None = None


@dataclass(slots=True)
class _Slot:
    """A shard's place in the fleet."""

    current: DrainProcess | None = None
    not_before_seconds: float = 0.0
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    armed: Armed | None = None


@dataclass(slots=True)
class _State:
    slots: dict[int, _Slot] = field(default_factory=dict)
    strays: list[DrainProcess] = field(default_factory=list)
    is_held: bool = True
    started: int = 0


class Fleet:
    """Drains of all shards. `settings` is what the next ones start with. Thread-safe."""

    def __init__(self, settings: Settings, folder: Path, journal: Journal, *, prefix: str = "") -> None:
        self._settings = settings
        self._folder = folder
        self._prefix = prefix
        self._journal = journal
        self._context = _warm_context()
        self._state = _State({shard: _Slot() for shard in range(settings.drain.shards)})
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fleet", daemon=True)
        self._thread.start()

    @property
    def shards(self) -> int:
        return len(self._state.slots)

    @property
    def started(self) -> int:
        """How many drain processes there were so far."""
        return self._state.started

    @property
    def settings(self) -> Settings:
        return self._settings

    def release(self) -> None:
        """Start drains, and keep them alive from now on."""
        with self._lock:
            self._state.is_held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, all drains have ended in good order and none is started."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        """SIGTERM to all, wait until they have flushed; start none. Raises FleetError if one doesn't end."""
        with self._lock:
            self._state.is_held = True
        for process in self._all():
            process.signal(signal.SIGTERM)
        self.await_that(lambda: not self._all(), _STOP_SECONDS, "drains did not end on SIGTERM")

    def reshard(self, shards: int) -> None:
        """Kill all drains where they are; from now on there are `shards` of them."""
        with self._lock:
            for process in self._all():
                process.signal(signal.SIGKILL)
                self._state.strays.append(process)
            drain = self._settings.drain.model_copy(update={"shards": shards})
            self._settings = self._settings.model_copy(update={"drain": drain})
            self._state.slots = {shard: _Slot() for shard in range(shards)}

    def current(self, shard: int) -> DrainProcess | None:
        with self._lock:
            return self._state.slots[shard].current

    def await_current(self, shard: int, limit_seconds: float = 10) -> DrainProcess:
        """The drain of the shard, once there is one. Raises FleetError."""
        found: list[DrainProcess] = []

        def is_there() -> bool:
            process = self.current(shard)
            if process is not None and process.is_alive():
                found.append(process)
            return bool(found)

        self.await_that(is_there, limit_seconds, f"no drain of shard {shard} was started")
        return found[0]

    def arm_next(self, shard: int, orders: Sequence[Order]) -> "Armed":
        """The next drain of the shard starts with these orders."""
        with self._lock:
            self._state.slots[shard].armed = armed = Armed(tuple(orders))
            return armed

    def replace(self, shard: int) -> DrainProcess:
        """Start a successor beside the present drain, which stays alive and is nobody's from now on; returns it."""
        with self._lock:
            slot = self._state.slots[shard]
            former = slot.current
            if former is None:
                raise FleetError(f"shard {shard} has no drain to be replaced")
            self._state.strays.append(former)
            slot.current = None
            slot.not_before_seconds = 0.0
            return former

    def hand_over(self, shard: int) -> tuple[DrainProcess, DrainProcess]:
        """Start a successor that waits for the present drain to hand over; returns both, the present one first."""
        with self._lock:
            former = self.replace(shard)
            self._state.slots[shard].current = successor = self._start(shard, has_predecessor=True)
            return former, successor

    def start_twin(self, shard: int) -> DrainProcess:
        """One more drain of the same shard, started as if there were no other."""
        with self._lock:
            twin = self._start(shard)
            self._state.strays.append(twin)
            return twin

    def drain_once(self, limit_seconds: float) -> list[Farewell]:
        """Hold the fleet and drain every shard to the present end of the topic. Raises FleetError."""
        self.hold()
        with self._lock:
            runs = [self._start(shard, is_once=True) for shard in self._state.slots]
            self._state.strays += runs
        self.await_that(lambda: all(r.end for r in runs), limit_seconds, "drains did not reach the end of the topic")
        return [run.end for run in runs if run.end]

    def close(self) -> None:
        """Kill what is left; harmless when repeated."""
        with self._lock:
            self._state.is_held = True
        for process in self._all():
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGKILL)
        with suppress(FleetError):
            self.await_that(lambda: not self._all(), 5, "")
        self._closed.set()
        self._thread.join()

    def await_that(self, is_reached: Callable[[], bool], limit_seconds: float, failure: str) -> None:
        """Raises FleetError, which says `failure`, if it doesn't come to pass."""
        deadline_seconds = time.monotonic() + limit_seconds
        while not is_reached():
            if time.monotonic() > deadline_seconds:
                raise FleetError(f"{failure} in {limit_seconds:.0f} s")
            time.sleep(_TICK_SECONDS)

    def _all(self) -> list[DrainProcess]:
        with self._lock:
            state = self._state
            return [s.current for s in state.slots.values() if s.current is not None] + list(state.strays)

    def _watch(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            with self._lock:
                self._reap_strays()
                for shard, slot in self._state.slots.items():
                    self._tend(shard, slot)

    def _reap_strays(self) -> None:
        for process in list(self._state.strays):
            if process.reap() is not None:
                self._state.strays.remove(process)
                self._note_end(process)

    def _tend(self, shard: int, slot: _Slot) -> None:
        process = slot.current
        if process is not None and process.reap() is not None:
            slot.current = None
            is_well = process.lived_seconds > _HEALTHY_SECONDS
            slot.backoff_seconds = (
                FIRST_BACKOFF_SECONDS if is_well else min(2 * slot.backoff_seconds, LONGEST_BACKOFF_SECONDS)
            )
            slot.not_before_seconds = time.monotonic() + slot.backoff_seconds
            self._note_end(process)
        is_due = time.monotonic() >= slot.not_before_seconds
        if slot.current is None and not self._state.is_held and is_due:
            armed, slot.armed = slot.armed, None
            slot.current = self._start(shard, orders=armed.orders if armed else ())
            if armed is not None:
                armed.process = slot.current

    def _note_end(self, process: DrainProcess) -> None:
        if process.end is not None:
            self._journal.add_drain_end(
                DrainEnd(time.time(), process.name, process.end.ending, process.end.detail[:300])
            )

    def _start(
        self, shard: int, *, orders: tuple[Order, ...] = (), has_predecessor: bool = False, is_once: bool = False
    ) -> DrainProcess:
        self._state.started += 1
        name = f"{self._prefix}{self._state.started:04d}-shard-{shard}"
        run = DrainRun(run_id=name, shard=shard, has_predecessor=has_predecessor)
        mission = Mission(self._settings, run, is_once, self._folder / f"{name}.log", orders)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=main, args=(mission, theirs), name=name, daemon=True)
        process.start()
        theirs.close()
        return DrainProcess(process, ours, mission)


def _warm_context() -> multiprocessing.context.ForkServerContext:
    """A server that has imported all that a drain needs, and has used none of it: no thread of a client is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "metrics_pipeline.lab.chaos.drain_process"])
    # As the relay does: drains side by side would otherwise start a pool of threads each.
    before = os.environ.get("POLARS_MAX_THREADS")
    os.environ["POLARS_MAX_THREADS"] = "1"
    try:
        warm = context.Process(target=_nothing)
        warm.start()
        warm.join()
    finally:
        if before is None:
            del os.environ["POLARS_MAX_THREADS"]
        else:
            os.environ["POLARS_MAX_THREADS"] = before
    return context


def _nothing() -> None:
    """Makes the server start."""
