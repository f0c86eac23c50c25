"""One engine as a source of figures: read when asked, at most every few seconds, and waited for within a limit."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from metrics_pipeline.errors import PipelineError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[_T]):
    """What the engine said, or why it said nothing; `seconds` is how long that took."""

    figures: _T | None
    problem: str | None
    seconds: float
    at: float


class Source(Generic[_T]):
    """Reads through `read` in a thread of its own, one reading at a time; safe for several scrapes at once.

    `say` is called once with each new problem.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], _T],
        *,
        fresh_seconds: float,
        limit_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self.name = name
        self._read = read
        self._fresh_seconds = fresh_seconds
        self._limit_seconds = limit_seconds
        self._say = say
        self._lock = threading.Lock()
        self._latest: Reading[_T] | None = None
        self._running: threading.Event | None = None
        self._said: str | None = None

    def refresh(self) -> threading.Event | None:
        """Begin a new reading unless the latest is fresh. Returns an event that is set when the reading ends."""
        with self._lock:
            if self._latest is not None and time.monotonic() - self._latest.at <= self._fresh_seconds:
                return None
            if self._running is None:
                self._running = threading.Event()
                threading.Thread(target=self._run, args=(self._running,), name=self.name, daemon=True).start()
            return self._running

    def reading(self, *, deadline: float | None = None, patient: bool = False) -> Reading[_T]:
        """The latest reading if it is fresh, else a new one.

        A new one is waited for until `deadline` (monotonic seconds), by default for the limit. A `patient` caller waits
        however long it takes.
        """
        done = self.refresh()
        until = time.monotonic() + self._limit_seconds if deadline is None else deadline
        if done is None or done.wait(None if patient else max(0.0, until - time.monotonic())):
            latest = self._latest
            if latest is not None:
                return latest
        problem = f"{self.name} did not answer within {self._limit_seconds:g} s"
        self._report(problem)
        return Reading(None, problem, self._limit_seconds, time.monotonic())

    def _run(self, done: threading.Event) -> None:
        begun = time.monotonic()
        figures, problem = None, None
        try:
            figures = self._read()
        except PipelineError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - a scrape must serve the other engines whatever one does
            problem = f"while reading {self.name}: {type(error).__name__}: {error}"
        self._report(problem)
        ended = time.monotonic()
        with self._lock:
            self._latest = Reading(figures, problem, ended - begun, ended)
            self._running = None
        done.set()

    def _report(self, problem: str | None) -> None:
        if problem is not None and problem != self._said:
            self._say(problem)
        self._said = problem
