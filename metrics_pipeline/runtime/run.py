"""Who works: a run's name, its clock, how it waits, when it stops, and who watches its steps."""

from collections.abc import Callable
from dataclasses import dataclass

from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.retry import Retry, say_waiting


def _never() -> bool:
    return False


def _nobody(_step: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a drain, a backfill or a replay.

    `stop` says whether to finish what is under way and end. `observe` hears of each step right before it begins: tests
    end runs there.
    """

    id: str
    clock: Clock
    retry: Retry
    stop: Callable[[], bool] = _never
    observe: Callable[[str], None] = _nobody


def new_run(
    id_: str,
    clock: Clock,
    retry_seconds: float,
    stop: Callable[[], bool] = _never,
    observe: Callable[[str], None] = _nobody,
) -> Run:
    """A run that retries what passes by itself for `retry_seconds`, and logs each wait."""
    return Run(id_, clock, Retry(clock, retry_seconds, stop, say_waiting), stop, observe)
