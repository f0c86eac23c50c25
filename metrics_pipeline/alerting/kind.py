"""What a kind of alert is, and what finds it: the sensor, and the rules of Prometheus and Grafana."""

from dataclasses import dataclass
from enum import StrEnum
from string import Formatter

from metrics_pipeline.settings import AlertSettings

DEFAULTS = AlertSettings()
"""Prometheus and Grafana read no settings of the pipeline: their thresholds are these."""
RUNBOOKS = DEFAULTS.runbook_url


class Severity(StrEnum):
    """How soon somebody must act: now, or within the day."""

    WARNING = "warning"
    CRITICAL = "critical"


class Part(StrEnum):
    """A field of `Signals` that the sensor judges from."""

    ENGINES = "engines"
    PARTITIONS = "partitions"
    FLOW = "flow"
    BURN = "burn"
    STORAGE = "storage"
    RUNS = "runs"
    CHECKS = "checks"

    @property
    def engine(self) -> str:
        """Which engine must answer for the part to be known; empty: none."""
        return {"engines": "", "partitions": "Kafka", "runs": "Dagster", "checks": "Dagster"}.get(self, "ClickHouse")

    @property
    def lists_subjects(self) -> bool:
        """What is known is what the part lists; any other part, once read, says something about every subject."""
        return self in (Part.ENGINES, Part.RUNS, Part.CHECKS)


@dataclass(frozen=True, slots=True)
class PromQL:
    """A Prometheus rule. Name and severity are the kind's unless they are given; None is the kind's `for_seconds`."""

    expr: str
    summary: str
    name: str = ""
    severity: Severity | None = None
    for_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A Grafana rule: fires when the last column is above the limit; a text column gives one alert per value.

    `uid` ends the rule's identity in Grafana. It must not change: Grafana keeps rules that its files no longer have.
    """

    uid: str
    sql: str
    above: float
    span_seconds: int


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of alert. `when` is its condition, with the settings that it depends on in braces.

    `for_seconds` is how long it must last in Prometheus and Grafana; the sensor has METRICS_ALERTS__PENDING_SECONDS. 0
    is an event, of which all of them notify at once. The alert sensor judges the kind from `parts`, once all of them
    could be read (see rules.py); without any it does not judge it.
    """

    name: str
    title: str
    severity: Severity
    when: str
    meaning: str
    command: str
    for_seconds: int
    parts: tuple[Part, ...] = ()
    promql: tuple[PromQL, ...] = ()
    question: Question | None = None

    @property
    def is_state(self) -> bool:
        """It must hold for a while before anybody is notified, so that a blip is no message."""
        return self.for_seconds > 0

    @property
    def runbook(self) -> str:
        """File in docs/runbooks."""
        return f"{self.name.replace('_', '-')}.md"

    @property
    def condition(self) -> str:
        """`when` with the settings' defaults."""
        return self.when.format_map(DEFAULTS.model_dump())

    @property
    def settings(self) -> tuple[str, ...]:
        """The fields of AlertSettings that it depends on."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.when) if name)

    @property
    def prometheus(self) -> tuple[PromQL, ...]:
        """Its rules; where Prometheus can't judge, one that repeats what the sensor found and has waited for."""
        if self.promql or not self.parts:
            return self.promql
        firing = f'metrics_pipeline_alerts_firing{{kind="{self.name}"}}'
        expr = f"sum by (kind) (max by (kind, severity) ({firing})) > 0"
        summary = f"{self.title}: `metrics-pipeline alerts status` lists {{{{ $value }}}}"
        return (PromQL(expr, summary, for_seconds=0),)
