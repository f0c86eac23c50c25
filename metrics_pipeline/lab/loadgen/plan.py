"""What a run of the load generator is to send, and when how much of it is due."""

from dataclasses import dataclass

from metrics_pipeline.errors import ConfigurationError

MAX_SPECIAL_FRACTION = 0.9
"""A duplicate needs an event that it can repeat, so not everything may be special."""

TICK_SECONDS = 0.05
"""Halving it doubles the requests that the broker has to serve, and its load with them."""

_UNPACED_MESSAGES = 4_096
_CATCH_UP = 2.0
_LATE_TICKS = 1.5
"""A tick that is late by this many ticks may still send all that is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How much is sent, how fast, and how much of it is out of the ordinary.

    `events` counts messages of every kind, duplicates and malformed ones included; `rate` is messages per
    second, 0 for as fast as possible; with neither `events` nor `duration_seconds` a run lasts until it is
    stopped. The fractions are of messages and exclude each other. Raises ConfigurationError.
    """

    rate: float = 5_000
    events: int | None = None
    duration_seconds: float | None = None
    duplicates: float = 0
    late: float = 0
    malformed: float = 0
    odd: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        if self.events is not None and self.duration_seconds is not None:
            raise ConfigurationError("give a number of events or a duration, not both")
        if self.events is not None and self.events < 0:
            raise ConfigurationError(f"events is {self.events}: it can't be negative")
        if self.duration_seconds is not None and not 0 < self.duration_seconds < float("inf"):
            raise ConfigurationError(f"duration is {self.duration_seconds}: give seconds above 0")
        if not 0 <= self.rate < float("inf"):
            raise ConfigurationError(f"rate is {self.rate}: give messages per second, or 0 for no limit")
        fractions = {name: getattr(self, name) for name in ("duplicates", "late", "malformed", "odd")}
        for name, fraction in fractions.items():
            if not 0 <= fraction <= MAX_SPECIAL_FRACTION:
                raise ConfigurationError(f"{name} is {fraction}: give a fraction, 0 to {MAX_SPECIAL_FRACTION}")
        if sum(fractions.values()) > MAX_SPECIAL_FRACTION:
            raise ConfigurationError(
                f"{', '.join(fractions)} add up to {sum(fractions.values()):g}: {MAX_SPECIAL_FRACTION} at most"
            )


class Pacer:
    """How many messages are due at each tick: evenly, and after a stall at no more than twice the rate.

    Seconds are those since the run began.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._sent = 0
        self._allowance = 0.0
        self._last_seconds = 0.0

    def due(self, elapsed_seconds: float) -> int:
        """How many to send now; they count as sent."""
        plan, count = self._plan, _UNPACED_MESSAGES
        if plan.rate:
            fastest = plan.rate * _CATCH_UP
            self._allowance += fastest * (elapsed_seconds - self._last_seconds)
            # What a stall left unused is gone, or a burst would follow it; one message must fit at any rate.
            self._allowance = min(self._allowance, max(1.0, fastest * TICK_SECONDS * _LATE_TICKS))
            self._last_seconds = elapsed_seconds
            scheduled_seconds = min(elapsed_seconds, plan.duration_seconds or elapsed_seconds)
            count = max(0, min(int(plan.rate * scheduled_seconds) - self._sent, int(self._allowance)))
        if plan.events is not None:
            count = min(count, plan.events - self._sent)
        self._sent += count
        self._allowance -= count
        return count

    def is_over(self, elapsed_seconds: float) -> bool:
        events, duration_seconds = self._plan.events, self._plan.duration_seconds
        if events is not None:
            return self._sent >= events
        return duration_seconds is not None and elapsed_seconds >= duration_seconds

    def wait_seconds(self, elapsed_seconds: float) -> float:
        return TICK_SECONDS - elapsed_seconds % TICK_SECONDS if self._plan.rate else 0.0
