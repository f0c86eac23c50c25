"""A real drain run in a process of its own, which harms itself on order: what `Fleet` starts.

The process is forked from a server that has the imports done: a start costs tens of milliseconds, not two seconds.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.errors import PipelineError
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.drain import DrainRun, run_drain, until_caught_up, until_window_ends

LOG_FORMAT = "%(created).3f %(asctime)s %(levelname)s %(name)s %(message)s"
CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Order:
    """Send yourself the signal `number` right before `step` begins for the `occurrence`th time from now."""

    step: Step
    occurrence: int = 1
    number: signal.Signals = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Mission:
    """What a drain process is started for."""

    settings: Settings
    run: DrainRun
    is_once: bool
    log: Path
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Farewell:
    """The last words of a drain that was not killed."""

    ending: str
    detail: str = ""


class SteppingClock(SystemClock):
    """The machine's clock, whose wall time can be moved. The monotonic one can't: no machine does that."""

    offset_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.offset_ms


class _Obedience:
    """Hears orders and carries them out; steps begin in two threads.

    A number instead of an order says by how many milliseconds the wall clock is off from now on.
    """

    def __init__(self, control: Connection, clock: SteppingClock, order: Order | None) -> None:
        self._control = control
        self._clock = clock
        self._pending = [order] if order else []
        self._lock = threading.Lock()

    def observe(self, step: str) -> None:
        with self._lock:
            while self._control.poll():
                message: Order | int = self._control.recv()
                if isinstance(message, Order):
                    self._pending.append(message)
                else:
                    self._clock.offset_ms = message
                    logging.getLogger(__name__).warning("the wall clock is %d s off", message // 1_000)
            pending = [replace(o, occurrence=o.occurrence - (o.step == step)) for o in self._pending]
            self._pending = [o for o in pending if o.occurrence > 0]
            due = [o for o in pending if o.occurrence <= 0]
        for order in due:
            logging.getLogger(__name__).warning("%s right before %s", order.number.name, step)
            os.kill(os.getpid(), order.number)


def main(mission: Mission, control: Connection) -> None:
    """Drain as the mission says; say farewell through `control`. Entry point of the process."""
    _log_to(mission.log)
    _end_with_parent()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    clock = SteppingClock()
    control.send(_drain(mission, stop, _Obedience(control, clock, mission.order), clock))


def _drain(mission: Mission, stop: threading.Event, obedience: _Obedience, clock: SteppingClock) -> Farewell:
    logger = logging.getLogger(__name__)
    ending = until_caught_up if mission.is_once else until_window_ends(mission.settings)
    logger.info("%s, shard %d of %d", mission.run, mission.run.shard, mission.settings.drain.shards)
    try:
        report = run_drain(
            mission.settings,
            mission.run,
            ending,
            stop=stop.is_set,
            on_entry=lambda entry: logger.info("landed %s: %d messages", entry.token, entry.consumed),
            observe=obedience.observe,
            clock=clock,
        )
    except PipelineError as error:
        logger.warning("ended with %s: %s", type(error).__name__, error)
        return Farewell(type(error).__name__, str(error))
    except BaseException as error:
        logger.exception("crashed")
        return Farewell(CRASHED, f"{type(error).__name__}: {error}")
    logger.info("ended: %s", report)
    return Farewell(report.reason.value)


def _log_to(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, force=True, stream=sys.stderr)


def _end_with_parent() -> None:
    """A kit that dies leaves no drains behind."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
