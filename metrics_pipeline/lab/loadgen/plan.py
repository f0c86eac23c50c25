"""What a run of the load generator is to send."""

from dataclasses import dataclass

from metrics_pipeline.errors import ConfigurationError

MAX_SPECIAL_FRACTION = 0.9
"""A duplicate needs an event that it can repeat, so not everything may be special."""

_NOMINAL_RATE = 100_000.0


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
        self._check_fractions()

    @property
    def nominal_rate(self) -> float:
        """Messages per second as event ids count time: they depend on the plan, not on how fast it went."""
        return self.rate or _NOMINAL_RATE

    def _check_fractions(self) -> None:
        fractions = {name: getattr(self, name) for name in ("duplicates", "late", "malformed", "odd")}
        for name, fraction in fractions.items():
            if not 0 <= fraction <= MAX_SPECIAL_FRACTION:
                raise ConfigurationError(f"{name} is {fraction}: give a fraction, 0 to {MAX_SPECIAL_FRACTION}")
        if sum(fractions.values()) > MAX_SPECIAL_FRACTION:
            raise ConfigurationError(
                f"{', '.join(fractions)} add up to {sum(fractions.values()):g}: {MAX_SPECIAL_FRACTION} at most"
            )
