"""A question: whose requests, over which span; and where its answer is read from."""

from dataclasses import dataclass, fields
from typing import Any

from metrics_pipeline.rollups.cubes import ENDPOINTS, REGIONS, SERVICES, TOTALS, Cube
from metrics_pipeline.rollups.grains import COARSEST_SECONDS
from metrics_pipeline.runtime.timerange import TimeRange, whole_minutes

RAW = "raw_events"
_SMALLEST_FIRST = (TOTALS, SERVICES, REGIONS, ENDPOINTS)


@dataclass(frozen=True, slots=True)
class Names:
    """Whose requests. An empty name means all."""

    service: str = ""
    endpoint: str = ""
    tier: str = ""
    region: str = ""
    method: str = ""

    @property
    def asked(self) -> dict[str, str]:
        """Dimension -> name, where one is given."""
        return {f.name: getattr(self, f.name) for f in fields(Names) if getattr(self, f.name)}

    @property
    def cube(self) -> Cube | None:
        """The smallest cube that keeps all asked dimensions apart; None if no cube does."""
        return next((cube for cube in _SMALLEST_FIRST if self.asked.keys() <= set(cube.dimensions)), None)

    @property
    def condition(self) -> str:
        """For a WHERE clause, with the names as parameters."""
        return " AND ".join(f"{name} = {{{name}:String}}" for name in self.asked) or "1"

    def __str__(self) -> str:
        return " ".join(self.asked.values()) or "everything"


@dataclass(frozen=True, slots=True)
class Question:
    """Whose requests, over which span: the whole minutes around it.

    `step_seconds` is the length of the longest buckets that may be read. It changes what the answer costs, not what it
    is.
    """

    span: TimeRange
    names: Names = Names()
    step_seconds: int = COARSEST_SECONDS

    @property
    def minutes(self) -> TimeRange:
        return whole_minutes(self.span)

    @property
    def parameters(self) -> dict[str, Any]:
        """Of its condition and of the views of rollups; instants are epoch seconds."""
        return {**bounds(self.minutes), "step": self.step_seconds, **self.names.asked}


def bounds(minutes: TimeRange, prefix: str = "") -> dict[str, int]:
    """Parameters `start` and `end`, epoch seconds."""
    return {f"{prefix}start": int(minutes.start.timestamp()), f"{prefix}end": int(minutes.end.timestamp())}
