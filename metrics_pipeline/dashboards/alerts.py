"""What somebody should be told of: a question about the last minutes, and the value above which it is told."""

from dataclasses import dataclass

from metrics_pipeline.dashboards.names import named_query
from metrics_pipeline.dashboards.panel import Kind, Panel, Unit
from metrics_pipeline.dashboards.rollup_sql import source
from metrics_pipeline.dashboards.steps import DAY, HOUR, Reach
from metrics_pipeline.ledger.entry import DRAIN
from metrics_pipeline.rollups.cubes import SERVICES
from metrics_pipeline.rollups.grains import BUILT
from metrics_pipeline.rollups.tables import BUCKETS, IS_STALE
from metrics_pipeline.settings import AlertSettings

_OBJECTIVES = AlertSettings()
"""Those of the alerts that the pipeline itself tells, as they are set by default."""
DEAD_LETTER_PERCENT = 100 * _OBJECTIVES.dead_letter_share
ERROR_PERCENT = 5
MIN_REQUESTS = 100
"""Of a service, below which its share of errors says little."""
SILENCE_MINUTES = 10
STALE_AFTER_SECONDS = HOUR
"""A bucket should have been built so long after its end."""

_LEDGER = "visible_at >= @start AND last_message >= @start - INTERVAL 7 DAY"


@dataclass(frozen=True, slots=True)
class Alert:
    """Fires when the question's value was above the limit for so long; a text column gives one alert per value."""

    name: str
    title: str
    summary: str
    query: str
    span_seconds: int
    above: float
    for_minutes: int
    reach: Reach = Reach.ROWS
    severity: str = "warning"

    @property
    def sql(self) -> str:
        """About the time up to now by the server's clock; holds no parameter."""
        panel = Panel(self.name, self.title, self.summary, Kind.STAT, Unit.NONE, self.reach, self.query)
        now = "toUnixTimestamp(now())"
        return named_query(panel, time="", start=f"{now} - {self.span_seconds}", end=now, variables={})


ALERTS = (
    Alert(
        "freshness",
        f"Freshness p99 above {_OBJECTIVES.freshness_seconds:g} s",
        "Events take longer than the objective to become visible: look at lag and durations in Pipeline health.",
        f"""SELECT quantileExactWeighted(0.99)(age, weight) / 1000 AS seconds
FROM batches ARRAY JOIN freshness_ms AS age, freshness_events AS weight WHERE {_LEDGER} HAVING count() > 0""",
        span_seconds=300,
        above=_OBJECTIVES.freshness_seconds,
        for_minutes=5,
    ),
    Alert(
        "dead_letters",
        f"More than {DEAD_LETTER_PERCENT:g}% dead letters",
        "A sender breaks the event contract: dead_letters has the messages and the reasons.",
        f"""SELECT 100 * sum(dead_letters) / sum(consumed) AS percent FROM batches WHERE {_LEDGER}
HAVING sum(consumed) >= {_OBJECTIVES.dead_letter_messages}""",
        span_seconds=600,
        above=DEAD_LETTER_PERCENT,
        for_minutes=5,
    ),
    Alert(
        "lost",
        "Offsets lost",
        "The log dropped messages before they were read: the minutes around them are incomplete for good.",
        f"SELECT sum(lost) AS offsets FROM batches WHERE {_LEDGER}",
        span_seconds=HOUR,
        above=0,
        for_minutes=0,
        severity="critical",
    ),
    Alert(
        "errors",
        f"More than {ERROR_PERCENT}% errors of a service",
        f"Of services with at least {MIN_REQUESTS} requests: open Incident deep dive for the service.",
        f"""SELECT service::String AS service, 100 * sum(errors) / sum(requests) AS percent
FROM {source(SERVICES)} GROUP BY service HAVING sum(requests) >= {MIN_REQUESTS} ORDER BY service LIMIT 1000""",
        span_seconds=300,
        above=ERROR_PERCENT,
        for_minutes=5,
        reach=Reach.WHOLE,
    ),
    Alert(
        "silence",
        f"No batch for {SILENCE_MINUTES} minutes",
        "Nothing becomes visible: either nothing is sent, or nothing is drained.",
        "SELECT dateDiff('second', max(visible_at), now64(3)) / 60 AS minutes FROM batches "
        f"WHERE last_message >= @start AND source = '{DRAIN}'",
        span_seconds=DAY,
        above=SILENCE_MINUTES,
        for_minutes=0,
        severity="critical",
    ),
    Alert(
        "stale_rollups",
        "Stale rollups",
        "Buckets are not built an hour after their end, or miss late events: answers are right, but slower.",
        f"""SELECT count() AS buckets FROM (
    SELECT grain, minute FROM {BUCKETS.name}
    WHERE minute >= @start - {BUILT[-1].seconds} AND minute < @end
        AND toUnixTimestamp(minute) + grain <= toUnixTimestamp(now()) - {STALE_AFTER_SECONDS}
        AND events > 0 AND {IS_STALE}
)""",
        span_seconds=7 * DAY,
        above=0,
        for_minutes=60,
    ),
)
