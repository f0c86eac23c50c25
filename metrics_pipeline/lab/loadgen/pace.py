"""How many messages are due: evenly, and after a stall at no more than twice the rate."""

from metrics_pipeline.lab.loadgen.plan import LoadPlan

TICK_SECONDS = 0.05
"""Halving it doubles the requests that the broker has to serve, and its load with them."""

_UNPACED_MESSAGES = 4_096
_CATCH_UP = 2.0
_LATE_TICKS = 1.5
"""A tick that is late by this many ticks may still send all that is due."""


class Pacer:
    """Says how many messages to send at each tick. Seconds are those since the run began."""

    def __init__(self, plan: LoadPlan) -> None:
        self._rate = plan.rate
        self._duration_seconds = plan.duration_seconds
        self._events = plan.events
        self._sent = 0
        self._allowance = 0.0
        self._last_seconds = 0.0

    def due(self, elapsed_seconds: float) -> int:
        """How many to send now; they count as sent."""
        count = self._unsent(elapsed_seconds)
        if self._events is not None:
            count = min(count, self._events - self._sent)
        self._sent += count
        self._allowance -= count
        return count

    def is_over(self, elapsed_seconds: float) -> bool:
        """Is all sent, or the time up?"""
        if self._events is not None:
            return self._sent >= self._events
        return self._duration_seconds is not None and elapsed_seconds >= self._duration_seconds

    def wait_seconds(self, elapsed_seconds: float) -> float:
        """How long to sleep until the next tick."""
        return TICK_SECONDS - elapsed_seconds % TICK_SECONDS if self._rate else 0.0

    def _unsent(self, elapsed_seconds: float) -> int:
        if not self._rate:
            return _UNPACED_MESSAGES
        fastest = self._rate * _CATCH_UP
        self._allowance += fastest * (elapsed_seconds - self._last_seconds)
        # What a stall left unused is gone, or a burst would follow it; one message must fit at any rate.
        self._allowance = min(self._allowance, max(1.0, fastest * TICK_SECONDS * _LATE_TICKS))
        self._last_seconds = elapsed_seconds
        scheduled_seconds = min(elapsed_seconds, self._duration_seconds or elapsed_seconds)
        return max(0, min(int(self._rate * scheduled_seconds) - self._sent, int(self._allowance)))
