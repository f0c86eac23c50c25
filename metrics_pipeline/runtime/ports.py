"""Time, and work of another thread, as the pipeline sees them."""

from collections.abc import Callable
from typing import Protocol, TypeVar

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Clock(Protocol):
    """Time, so that a simulation can own it."""

    def monotonic_seconds(self) -> float: ...

    def now_ms(self) -> int:
        """Wall clock, epoch milliseconds."""

    def sleep(self, seconds: float) -> None: ...


class Job(Protocol[_T_co]):
    """Work under way beside the caller."""

    def is_done(self) -> bool: ...

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Return when it is done, however it ended, or after the timeout."""

    def result(self) -> _T_co:
        """What it returned; raises what it raised. To be called when it is done."""


class Worker(Protocol):
    """Does one piece of work beside the caller."""

    def start(self, work: Callable[[], _T]) -> Job[_T]: ...
