"""Many processes in one thread, on a virtual clock: who goes on next is a matter of the seed alone.

Code under test runs unchanged in greenlets. Wherever it calls a port it waits some virtual time, and whoever is due
first goes on; nothing ever waits in real time.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greenlet import getcurrent, greenlet

LARGEST_STEPS = 60_000
"""A schedule that takes more is taken for one that never ends."""


class KilledError(BaseException):
    """Ends a greenlet of a killed process; no code under test catches it, and what its `finally` calls raises it."""


class LivelockError(Exception):
    """A schedule doesn't come to its end."""


@dataclass(frozen=True, slots=True)
class Incident:
    """What befalls a process at one of its steps: it is killed, or it stands still for some seconds.

    With `is_after` not before the step's call, but when it has taken effect, before its answer.
    """

    pause_seconds: float | None = None
    is_after: bool = False


@dataclass(eq=False, slots=True)
class Process:
    """Greenlets that live and die together. `incidents` is number of a step, or name and occurrence -> what happens."""

    name: str
    incidents: dict[int | tuple[str, int], Incident] = field(default_factory=dict)
    steps: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    is_dead: bool = False
    frozen_until: float = 0.0
    pending: Incident | None = None
    """Befalls it when its call has taken effect."""


class Task:
    """A greenlet of a process, or of an engine where `process` is None."""

    def __init__(self, scheduler: "Scheduler", name: str, process: Process | None, work: Callable[[], Any]) -> None:
        self.name = name
        self.process = process
        self.is_done = False
        self.ticket = 0
        self.waiters: list[tuple[Task, int]] = []
        self._work = work
        self._scheduler = scheduler
        self._result: Any = None
        self._error: BaseException | None = None
        self.greenlet = greenlet(self._run, scheduler.hub)

    def result(self) -> Any:
        """What the work returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self, *_: object) -> None:
        try:
            if self.process is not None and self.process.is_dead:
                raise KilledError  # noqa: TRY301
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            self._error = error
        self.is_done = True
        for task, ticket in self.waiters:
            self._scheduler.wake(task, ticket)


class Scheduler:
    """The virtual clock, and the queue of who is due when."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.hub = getcurrent()
        self.trace: Callable[[str], None] | None = None
        self._queue: list[tuple[float, int, Task, int]] = []
        self._serial = 0
        self._current: Task | None = None

    def spawn(
        self, name: str, work: Callable[[], Any], *, process: Process | None = None, after_seconds: float = 0.0
    ) -> Task:
        task = Task(self, name, process, work)
        self._push(self.now + after_seconds, task)
        return task

    @property
    def is_running(self) -> bool:
        """Does a task ask?"""
        return getcurrent() is not self.hub

    @property
    def who(self) -> str:
        """The process that runs; empty for an engine."""
        process = self._running().process
        return "" if process is None else process.name

    def run(self) -> None:
        """Until nobody is due any more."""
        while self._queue:
            at, _, task, ticket = heapq.heappop(self._queue)
            if ticket != task.ticket or task.is_done:
                continue
            process = task.process
            if process is not None and not process.is_dead and process.frozen_until > at:
                self._push(process.frozen_until, task, ticket)
                continue
            self.now = max(self.now, at)
            self.steps += 1
            if self.steps > LARGEST_STEPS:
                raise LivelockError(f"not at the end after {LARGEST_STEPS} steps")
            task.ticket += 1
            self._current = task
            task.greenlet.switch()

    def pause(self, seconds: float) -> None:
        """Let the running task stand still, and the others go on."""
        task = self._running()
        self._check(task)
        self._push(self.now + seconds, task)
        self._suspend(task)

    def wait(self, other: Task, timeout_seconds: float | None) -> None:
        """Until the other task is done, or the time is over."""
        task = self._running()
        self._check(task)
        if other.is_done:
            return
        other.waiters.append((task, task.ticket))
        if timeout_seconds is not None:
            self._push(self.now + timeout_seconds, task)
        self._suspend(task)

    def wake(self, task: Task, ticket: int) -> None:
        if ticket == task.ticket and not task.is_done:
            self._push(self.now, task, ticket)

    def kill(self, process: Process) -> None:
        """Its tasks end where they wait, at the next moment of each; none of their calls has an effect any more."""
        self.say(process.name, "is killed")
        process.is_dead = True

    def step(self, what: str, *, may_pause: bool = True) -> None:
        """A step of the running process: the moment for an incident. A pause that may not be comes a step later."""
        task = self._running()
        self._check(task)
        process = task.process
        if process is None:
            return
        process.steps += 1
        self.say(process.name, what)
        process.seen[what] += 1
        incident = process.incidents.pop(process.steps, None) or process.incidents.pop((what, process.seen[what]), None)
        if incident is None:
            return
        if incident.is_after:
            process.pending = incident
            return
        if incident.pause_seconds is not None and not may_pause:
            process.incidents.setdefault(process.steps + 1, incident)
            return
        self._befall(process, incident)

    def take_effect(self) -> None:
        """A call of the running process has taken effect: the moment for an incident after it."""
        process = self._running().process
        if process is not None and process.pending is not None:
            incident, process.pending = process.pending, None
            self._befall(process, incident)

    def _befall(self, process: Process, incident: Incident) -> None:
        if incident.pause_seconds is None:
            self.kill(process)
            raise KilledError
        self.say(process.name, f"stands still for {incident.pause_seconds:.0f} s")
        process.frozen_until = self.now + incident.pause_seconds
        self.pause(0)

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.now:9.3f} {who:<12} {what}")

    def _running(self) -> Task:
        assert self._current is not None
        return self._current

    def _suspend(self, task: Task) -> None:
        self.hub.switch()
        self._check(task)

    @staticmethod
    def _check(task: Task) -> None:
        if task.process is not None and task.process.is_dead:
            raise KilledError

    def _push(self, at: float, task: Task, ticket: int | None = None) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (at, self._serial, task, task.ticket if ticket is None else ticket))


@dataclass(slots=True)
class VirtualClock:
    """A `Clock`; `epoch_ms` is the wall clock's start."""

    scheduler: Scheduler
    epoch_ms: int

    def monotonic_seconds(self) -> float:
        return self.scheduler.now

    def now_ms(self) -> int:
        return self.epoch_ms + int(self.scheduler.now * 1000)

    def sleep(self, seconds: float) -> None:
        self.scheduler.pause(seconds)


@dataclass(slots=True)
class VirtualJob:
    """A `Job`."""

    scheduler: Scheduler
    task: Task

    def is_done(self) -> bool:
        return self.task.is_done

    def wait(self, timeout_seconds: float | None = None) -> None:
        self.scheduler.wait(self.task, timeout_seconds)

    def result(self) -> Any:
        return self.task.result()


@dataclass(slots=True)
class VirtualWorker:
    """A `Worker`."""

    scheduler: Scheduler
    process: Process

    def start(self, work: Callable[[], Any]) -> VirtualJob:
        return VirtualJob(self.scheduler, self.scheduler.spawn(f"{self.process.name}/w", work, process=self.process))
