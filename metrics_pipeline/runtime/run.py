"""Who works: a run's name, its clock, how it waits, when it stops, and who watches its steps."""

from collections.abc import Callable
from dataclasses import dataclass

from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.retry import Retry, say_waiting


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a drain, a backfill or a replay.

    `observe` hears of each step right before it begins: tests end runs there.
    """

    id: str
    retry: Retry
    observe: Callable[[str], None]

    @property
    def clock(self) -> Clock:
        return self.retry.clock

    def stop(self) -> bool:
        """Is it time to finish what is under way and end?"""
        return self.retry.is_stopping()


def new_run(
    id_: str,
    clock: Clock,
    retry_seconds: float,
    stop: Callable[[], bool] = lambda: False,
    observe: Callable[[str], None] = lambda _step: None,
) -> Run:
    """A run that retries what passes by itself for `retry_seconds`, and logs each wait."""
    return Run(id_, Retry(clock, retry_seconds, stop, say_waiting), observe)
