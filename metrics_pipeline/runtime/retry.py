"""Waiting out what passes by itself."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from metrics_pipeline.errors import RetryableError
from metrics_pipeline.runtime.ports import Clock

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Repeats an action while it fails with RetryableError, with waits that double up to 5 s.

    Gives up, raising the last error, after `limit_seconds` or when `is_stopping` says so. `on_wait` hears of each error
    and the wait that follows.
    """

    clock: Clock
    limit_seconds: float
    is_stopping: Callable[[], bool]
    on_wait: Callable[[RetryableError, float], None]

    def call(self, action: Callable[[], _T]) -> _T:
        deadline_seconds = self.clock.monotonic_seconds() + self.limit_seconds
        wait_seconds = FIRST_WAIT_SECONDS
        while True:
            try:
                return action()
            except RetryableError as error:
                if self.is_stopping() or self.clock.monotonic_seconds() + wait_seconds > deadline_seconds:
                    raise
                self.on_wait(error, wait_seconds)
                self.clock.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)


def say_waiting(error: RetryableError, wait_seconds: float) -> None:
    """An `on_wait` that logs."""
    logger.warning("%s; trying again in %.1f s", error, wait_seconds)
