"""Keeps one drain process per shard alive, as the relay would, and starts it again when it ends."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from metrics_pipeline.lab.chaos.drain_process import Farewell, Mission, Order, main
from metrics_pipeline.lab.chaos.journal import DrainEnd, Journal, MissedError, await_that
from metrics_pipeline.lab.chaos.staging import altered
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.drain import DrainRun

KILLED = "killed"
_ENDINGS: Mapping[int | None, str] = {
    -signal.SIGKILL: KILLED,
    # In the first milliseconds, before the drain listens to SIGTERM, it is as good as a kill.
    -signal.SIGTERM: "terminated",
}
_HEALTHY_SECONDS = 5.0
"""A run that lived this long was well: the next one starts at once, another one's successor a while later."""
_AT_ONCE_SECONDS, _LATER_SECONDS = 0.1, 0.5
_TICK_SECONDS = 0.02
_START_SECONDS = 10.0
_STOP_SECONDS = 30.0


class DrainProcess:
    def __init__(self, process: ForkServerProcess, control: Connection, shard: int) -> None:
        self._process = process
        self._control = control
        self.name = process.name
        self.shard = shard
        self.started_seconds = time.monotonic()
        self.end: Farewell | None = None

    def is_alive(self) -> bool:
        return self.end is None and self._process.is_alive()

    def is_stopped(self) -> bool:
        """Does it stand still after a SIGSTOP?"""
        with suppress(psutil.NoSuchProcess):
            return self.end is None and psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED
        return False

    def send(self, message: Order | int) -> None:
        """An order, or by how many milliseconds the wall clock is off; heard before the next step begins.

        A drain that is gone doesn't mind.
        """
        with suppress(OSError):
            self._control.send(message)

    def signal(self, number: signal.Signals) -> None:
        if self._process.pid is not None and self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def reap(self) -> Farewell | None:
        """How it ended; None while it is alive."""
        if self.end is None and not self._process.is_alive():
            self.end = self._last_words()
            self._control.close()
        return self.end

    def _last_words(self) -> Farewell:
        with suppress(EOFError, OSError):
            if self._control.poll():
                words: Farewell = self._control.recv()
                return words
        code = self._process.exitcode
        return Farewell(_ENDINGS.get(code, f"exit code {code}"))


@dataclass(slots=True)
class Armed:
    """An order for a drain that is yet to be started; `process` is that drain, even if it is dead by now."""

    order: Order
    process: DrainProcess | None = None


@dataclass(slots=True)
class _Slot:
    """A shard's place in the fleet."""

    current: DrainProcess | None = None
    not_before_seconds: float = 0.0
    armed: Armed | None = None


class Fleet:
    """Drains of all shards. `settings` is what the next ones start with. Thread-safe."""

    def __init__(self, settings: Settings, folder: Path, journal: Journal, *, prefix: str = "") -> None:
        self._settings = settings
        self._folder = folder
        self._prefix = prefix
        self._journal = journal
        self._context = _warm_context()
        self._slots = {shard: _Slot() for shard in range(settings.drain.shards)}
        self._strays: list[DrainProcess] = []
        self._is_held = True
        self.started = 0
        """How many drain processes there were so far."""
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fleet", daemon=True)
        self._thread.start()

    @property
    def shards(self) -> int:
        return len(self._slots)

    def release(self) -> None:
        """Start drains, and keep them alive from now on."""
        self._is_held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, all drains have ended in good order and none is started."""
        try:
            self._hold()
            yield
        finally:
            self.release()

    def reshard(self, shards: int) -> None:
        """Kill all drains where they are; from now on there are `shards` of them."""
        with self._lock:
            self._strays = self._all()
            for process in self._strays:
                process.signal(signal.SIGKILL)
            self._settings = altered(self._settings, drain={"shards": shards})
            self._slots = {shard: _Slot() for shard in range(shards)}

    def await_current(self, shard: int) -> DrainProcess:
        """The drain of the shard, once there is one. Raises MissedError."""

        def look() -> DrainProcess | None:
            process = self._slots[shard].current
            return process if process is not None and process.is_alive() else None

        return await_that(look, _START_SECONDS, f"no drain of shard {shard} was started")

    def arm_next(self, shard: int, order: Order) -> Armed:
        """The next drain of the shard starts with this order."""
        with self._lock:
            self._slots[shard].armed = armed = Armed(order)
            return armed

    def replace(self, shard: int) -> DrainProcess:
        """Start a successor beside the present drain, which stays alive and is nobody's from now on; returns it."""
        with self._lock:
            slot = self._slots[shard]
            if (former := slot.current) is None:
                raise MissedError(f"shard {shard} has no drain to be replaced")
            self._strays.append(former)
            self._slots[shard] = _Slot(armed=slot.armed)
            return former

    def hand_over(self, shard: int) -> tuple[DrainProcess, DrainProcess]:
        """Start a successor that waits for the present drain to hand over; returns both, the present one first."""
        with self._lock:
            former = self.replace(shard)
            self._slots[shard].current = successor = self._start(shard, has_predecessor=True)
            return former, successor

    def start_twin(self, shard: int) -> DrainProcess:
        """One more drain of the same shard, started as if there were no other."""
        with self._lock:
            twin = self._start(shard)
            self._strays.append(twin)
            return twin

    def drain_once(self, limit_seconds: float) -> list[Farewell]:
        """Hold the fleet and drain every shard to the present end of the topic. Raises MissedError."""
        self._hold()
        with self._lock:
            runs = [self._start(shard, is_once=True) for shard in self._slots]
            self._strays += runs
        await_that(lambda: all(r.end for r in runs), limit_seconds, "drains did not reach the end of the topic")
        return [run.end for run in runs if run.end]

    def close(self) -> None:
        """Kill what is left; harmless when repeated."""
        with suppress(MissedError):
            self._end_all(5, "drains did not die", signal.SIGCONT, signal.SIGKILL)
        self._closed.set()
        self._thread.join()

    def _hold(self) -> None:
        """SIGTERM to all, wait until they have flushed; start none. Raises MissedError if one doesn't end."""
        self._end_all(_STOP_SECONDS, "drains did not end on SIGTERM", signal.SIGTERM)

    def _end_all(self, limit_seconds: float, otherwise: str, *signals: signal.Signals) -> None:
        with self._lock:
            self._is_held = True
        for process in self._all():
            for number in signals:
                process.signal(number)
        await_that(lambda: not self._all(), limit_seconds, otherwise)

    def _all(self) -> list[DrainProcess]:
        with self._lock:
            return [s.current for s in self._slots.values() if s.current is not None] + self._strays

    def _watch(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            with self._lock:
                self._strays = [process for process in self._strays if not self._has_ended(process)]
                for shard, slot in self._slots.items():
                    self._tend(shard, slot)

    def _tend(self, shard: int, slot: _Slot) -> None:
        process = slot.current
        if process is not None and self._has_ended(process):
            slot.current = None
            is_well = time.monotonic() - process.started_seconds > _HEALTHY_SECONDS
            slot.not_before_seconds = time.monotonic() + (_AT_ONCE_SECONDS if is_well else _LATER_SECONDS)
        if slot.current is None and not self._is_held and time.monotonic() >= slot.not_before_seconds:
            armed, slot.armed = slot.armed, None
            slot.current = self._start(shard, order=armed.order if armed else None)
            if armed is not None:
                armed.process = slot.current

    def _has_ended(self, process: DrainProcess) -> bool:
        """How it did is noted, once."""
        end = process.reap()
        if end is not None:
            self._journal.add_drain_end(DrainEnd(time.time(), process.name, end.ending, end.detail[:300]))
        return end is not None

    def _start(
        self, shard: int, *, order: Order | None = None, has_predecessor: bool = False, is_once: bool = False
    ) -> DrainProcess:
        self.started += 1
        name = f"{self._prefix}{self.started:04d}-shard-{shard}"
        run = DrainRun(run_id=name, shard=shard, has_predecessor=has_predecessor)
        mission = Mission(self._settings, run, is_once, self._folder / f"{name}.log", order)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=main, args=(mission, theirs), name=name, daemon=True)
        process.start()
        theirs.close()
        return DrainProcess(process, ours, shard)


def _warm_context() -> multiprocessing.context.ForkServerContext:
    """A server that has imported all that a drain needs, and has used none of it: no thread of a client is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "metrics_pipeline.lab.chaos.drain_process"])
    # As the relay does: drains side by side would otherwise start a pool of threads each.
    before = os.environ.copy()
    os.environ["POLARS_MAX_THREADS"] = "1"
    try:
        # The server starts with its first process.
        warm = context.Process(target=int)
        warm.start()
        warm.join()
    finally:
        del os.environ["POLARS_MAX_THREADS"]
        os.environ.update(before)
    return context
