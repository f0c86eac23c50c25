"""What a run of retention did, or would do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from metrics_pipeline.retention.plan import Costs, sum_of_costs
from metrics_pipeline.rollups.grains import Grain
from metrics_pipeline.runtime.timerange import minute_name

DROP, DELETE, MOVE = "drop", "delete", "move"
"""What is done to a partition: all of it goes; events that no override keeps go; it moves to another volume."""


@dataclass(frozen=True, slots=True)
class Done:
    action: str
    table: str
    partition: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A partition that stays, since dropping it would make answers or audits wrong; what to do now, if anything."""

    table: str
    partition: str
    reason: str
    advice: str = ""

    @property
    def is_waiting(self) -> bool:
        """Will it go by itself?"""
        return not self.advice

    def __str__(self) -> str:
        return f"partition {self.partition} of {self.table} stays: {self.reason}: {self.advice or 'it goes later'}"


@dataclass(slots=True)
class Report:
    is_dry: bool = False
    done: list[Done] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    times_to_live: dict[str, int] = field(default_factory=dict)
    alerts_forgotten: int = 0
    costs: Costs = field(default_factory=Costs)

    @property
    def stuck(self) -> list[Refused]:
        return [refused for refused in self.refused if not refused.is_waiting]

    @property
    def bytes_freed(self) -> int:
        return sum(done.bytes for done in self.done if done.action != MOVE)


def joined(reports: Sequence[Report]) -> Report:
    """Of the shards of a cluster, which had the same policy: what each did, and the sums of what it costs."""
    one = Report(is_dry=reports[0].is_dry)
    for report in reports:
        one.done += report.done
        one.refused += report.refused
        one.warnings += (warning for warning in report.warnings if warning not in one.warnings)
        one.times_to_live |= report.times_to_live
        one.alerts_forgotten += report.alerts_forgotten
    one.costs = sum_of_costs([report.costs for report in reports])
    return one


def not_built(table: str, partition: str, grain: Grain, stale: Iterable[int]) -> Refused:
    """Buckets of that grain (starts) would be asked instead, and don't count every event."""
    starts = sorted(stale)
    return Refused(
        table,
        partition,
        f"{len(starts)} buckets of {grain.name} over it have no build that counts every event, the first from "
        f"{minute_name(starts[0])}",
        f"metrics-pipeline rollups rebuild --stale {from_to(starts[0], starts[-1] + grain.seconds)}",
    )


def from_to(start_seconds: int, end_seconds: int) -> str:
    return f"--from {minute_name(start_seconds)} --to {minute_name(end_seconds)}"
