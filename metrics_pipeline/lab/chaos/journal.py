"""What was injected, and how drains ended: the account of a run, and its log file."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from metrics_pipeline.lab.chaos.plan import Injection

_T = TypeVar("_T")


class Result(StrEnum):
    """What became of a planned fault."""

    INJECTED = "injected"
    MISSED = "missed"
    """The moment that it needs did not come."""
    FAILED = "failed"
    """The kit could not inject or heal it."""


class MissedError(Exception):
    """Something that had to come to pass didn't; a fault that waited for it did no harm, and doesn't count."""


_NEVER = threading.Event()
_CHECK_SECONDS = 0.02


def await_that(
    look: Callable[[], _T | None], limit_seconds: float, otherwise: str, stop: threading.Event = _NEVER
) -> _T:
    """What `look` found, as soon as it is true; MissedError, which says `otherwise`, after the limit or with `stop`."""
    deadline_seconds = time.monotonic() + limit_seconds
    while not (found := look()):
        if time.monotonic() > deadline_seconds or stop.is_set():
            raise MissedError(f"{otherwise} in {limit_seconds:.0f} s")
        stop.wait(_CHECK_SECONDS)
    return found


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was tried. Times are epoch seconds."""

    injection: Injection
    began_seconds: float
    ended_seconds: float
    result: Result
    detail: str


@dataclass(frozen=True, slots=True)
class DrainEnd:
    """How a drain process ended: a reason of the drain, the name of an error, `killed`, or `crashed`."""

    at_seconds: float
    drain: str
    ending: str
    detail: str = ""


@dataclass(slots=True)
class Journal:
    """Collects from many threads. Each line of the log starts with the seconds since the run began."""

    log: Path
    say: Callable[[str], None]
    injected: list[Injected] = field(default_factory=list)
    drain_ends: list[DrainEnd] = field(default_factory=list)
    began_seconds: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, text: str) -> None:
        """A line in the log, and for whoever watches."""
        self.say(self._write(text))

    def add(self, injected: Injected) -> None:
        self.injected.append(injected)
        self.note(f"#{injected.injection.number} {injected.injection.kind} {injected.result}: {injected.detail}")

    def add_drain_end(self, end: DrainEnd) -> None:
        self.drain_ends.append(end)
        self._write(f"    drain {end.drain} ended: {end.ending}{f': {end.detail}' if end.detail else ''}")

    def count(self, result: Result) -> int:
        return sum(i.result is result for i in list(self.injected))

    def kinds(self) -> set[str]:
        """Kinds that were injected at least once."""
        return {i.injection.kind for i in list(self.injected) if i.result is Result.INJECTED}

    def _write(self, text: str) -> str:
        line = f"{time.time() - self.began_seconds:7.2f} s  {text}"
        with self._lock, self.log.open("a") as file:
            file.write(line + "\n")
        return line
