"""One engine as a source of figures: read when asked, at most every few seconds, and waited for within a limit."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from metrics_pipeline.errors import PipelineError

FRESH_SECONDS = 5
"""Scrapes within it get the same figures."""

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Reading(Generic[_T_co]):
    """What the engine said, or why it said nothing; `seconds` is how long that took."""

    figures: _T_co | None
    problem: str | None
    seconds: float
    at: float


@dataclass(slots=True)
class Source(Generic[_T]):
    """Reads through `read` in a thread of its own, one reading at a time; safe for several scrapes at once.

    `say` is called once with each new problem.
    """

    name: str
    read: Callable[[], _T]
    say: Callable[[str], None]
    limit_seconds: float
    fresh_seconds: float = FRESH_SECONDS
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _latest: Reading[_T] | None = field(default=None, init=False)
    _running: threading.Event | None = field(default=None, init=False)
    _said: str | None = field(default=None, init=False)

    def refresh(self) -> threading.Event | None:
        """Begin a new reading unless the latest is fresh. Returns an event that is set when the reading ends."""
        with self._lock:
            if self._latest is not None and time.monotonic() - self._latest.at <= self.fresh_seconds:
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
        until = time.monotonic() + self.limit_seconds if deadline is None else deadline
        is_over = done is None or done.wait(None if patient else max(0.0, until - time.monotonic()))
        if is_over and (latest := self._latest) is not None:
            return latest
        problem = f"{self.name} did not answer within {self.limit_seconds:g} s"
        self._report(problem)
        return Reading(None, problem, self.limit_seconds, time.monotonic())

    def _run(self, done: threading.Event) -> None:
        begun = time.monotonic()
        figures, problem = None, None
        try:
            figures = self.read()
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
            self.say(problem)
        self._said = problem
