"""Every alert, described once. The sensor's rules, the exporter's rows, the Prometheus rules, the Grafana rules and the
list in docs/metrics.md are made of it.

A new alert is a value here, a run book in docs/runbooks, a test, and a function in rules.py if the sensor judges it.
"""

from metrics_pipeline.alerting.burn import FAST, SLOW, BurnRule
from metrics_pipeline.alerting.kind import DEFAULTS, Kind, Part, PromQL, Question, Severity
from metrics_pipeline.alerting.signals import WINDOW_SECONDS
from metrics_pipeline.ledger.entry import DRAIN
from metrics_pipeline.rollups.cubes import SERVICES
from metrics_pipeline.rollups.grains import BUILT, COARSEST_SECONDS
from metrics_pipeline.rollups.tables import BUCKETS, IS_STALE
from metrics_pipeline.runtime.timerange import DAY_SECONDS

DEAD_LETTER_MESSAGES = 200
"""With fewer messages the share of dead letters is not judged: a handful would be a large share."""
ERROR_PERCENT, ERROR_REQUESTS = 5, 100
"""A service's share of errors, and the requests from which on it is judged. Services are not the pipeline's to judge,
so no setting has them: edit the rule in Grafana."""
SILENCE_MINUTES = 10
SENSOR_SILENT_SECONDS = 600


def _since(seconds: int) -> str:
    """Rows of the ledger that became visible within the last seconds; its key has the time of the message."""
    return f"visible_at >= now64(3) - {seconds} AND last_message >= now() - {seconds} - INTERVAL 7 DAY"


def _burns(rule: BurnRule) -> str:
    """Of canaries that are only sent by hand one is a large share: the sensor waits for MIN_LATE, Prometheus can't."""
    limit = f"> {rule.rate:g}"
    return f"""(max(metrics_pipeline_freshness_burn_rate{{window="{rule.long}"}}) {limit}
  and max(metrics_pipeline_freshness_burn_rate{{window="{rule.short}"}}) {limit})
or (max by (shard) (metrics_pipeline_canary_burn_rate{{window="{rule.long}"}}) {limit}
  and max by (shard) (metrics_pipeline_canary_burn_rate{{window="{rule.short}"}}) {limit})"""


_BURN_SUMMARY = (
    "{{ with $labels.shard }}canaries of shard {{ . }}{{ else }}events{{ end }} are late: burn rate "
    "{{ $value | humanize }}"
)
_WINDOW = f"{WINDOW_SECONDS // 60}m"
_MOVED = f"changes(metrics_pipeline_committed_offset[{_WINDOW}])"
"""Not over `stalled_seconds`: a range of two minutes may hold one scrape alone."""

ENGINE_DOWN = Kind(
    "engine_down",
    "an engine does not answer",
    Severity.CRITICAL,
    "Kafka or ClickHouse does not answer",
    "Nothing lands until it is back; events wait in the topic and nothing is lost while its retention lasts.",
    "metrics-pipeline alerts status",
    120,
    (Part.ENGINES,),
    (PromQL('metrics_pipeline_up{engine=~"kafka|clickhouse"} == 0', "{{ $labels.engine }} does not answer"),),
)
FAILED_RUNS = Kind(
    "failed_runs",
    "runs fail",
    Severity.CRITICAL,
    "the newest run of a job, shard or partition failed",
    "The work of these runs is not done. A drain that fails is tried again by the relay, and no event is lost.",
    "metrics-pipeline status",
    0,
    (Part.RUNS,),
)
LAG = Kind(
    "lag",
    "the pipeline is behind",
    Severity.WARNING,
    "more than {lag_offsets:,} offsets wait",
    "Events are produced faster than they land, or draining stood still. All of them will land, later than usual.",
    "metrics-pipeline status",
    120,
    (Part.PARTITIONS,),
    (
        PromQL(
            f"sum by (topic) (metrics_pipeline_lag_offsets) > {DEFAULTS.lag_offsets}",
            "{{ $labels.topic }}: {{ $value | humanize }} offsets behind",
        ),
    ),
)
FRESHNESS = Kind(
    "freshness",
    "events land late",
    Severity.WARNING,
    f"1 of 100 events of the last {WINDOW_SECONDS // 60} minutes took over {{freshness_seconds:g}} s to be visible",
    "Dashboards show the last moments incompletely. Nothing is lost.",
    "metrics-pipeline status",
    120,
    (Part.FLOW,),
    (
        PromQL(
            f"histogram_quantile(0.99, sum by (le) (rate(metrics_pipeline_freshness_seconds_bucket[{_WINDOW}]))) "
            f"> {DEFAULTS.freshness_seconds:g}",
            "1 of 100 events took {{ $value | humanizeDuration }} or more to land",
        ),
    ),
    Question(
        "freshness",
        "SELECT quantileExactWeighted(0.99)(age, weight) / 1000 AS seconds FROM batches "
        f"ARRAY JOIN freshness_ms AS age, freshness_events AS weight WHERE {_since(WINDOW_SECONDS)} "
        "HAVING count() > 0",
        above=DEFAULTS.freshness_seconds,
        span_seconds=WINDOW_SECONDS,
    ),
)
FRESHNESS_BURN = Kind(
    "freshness_burn",
    "the freshness objective is missed",
    Severity.CRITICAL,
    "more events or canaries took over {freshness_seconds:g} s than {freshness_share:.0%} in time allows: burn "
    f"rate above {FAST.rate:g} over {FAST.long} and {FAST.short}, or, as a warning, above {SLOW.rate:g} over "
    f"{SLOW.long} and {SLOW.short}",
    "Events, or canaries of a shard, are late or never seen, more of them than the objective allows. Dashboards are "
    "behind.",
    "metrics-pipeline canary",
    120,
    (Part.BURN,),
    (
        PromQL(_burns(FAST), _BURN_SUMMARY, "FreshnessBurnFast"),
        PromQL(_burns(SLOW), _BURN_SUMMARY, "FreshnessBurnSlow", Severity.WARNING),
    ),
)
STALE_ROLLUPS = Kind(
    "stale_rollups",
    "rollups are not built",
    Severity.WARNING,
    "buckets have no build {rollups_seconds:,} s after their end; Grafana also counts those that miss late events",
    "Readers take finer rows meanwhile: answers are right, but slower over long spans.",
    "metrics-pipeline rollups status",
    3_600,  # Late events make a bucket stale at any time, and the sensor that builds it has its pace.
    (Part.CHECKS,),
    question=Question(
        "stale-rollups",
        f"""SELECT count() AS buckets FROM {BUCKETS.name}
WHERE minute >= now() - {7 * DAY_SECONDS + BUILT[-1].seconds} AND minute < now()
    AND toUnixTimestamp(minute) + grain <= toUnixTimestamp(now()) - {DEFAULTS.rollups_seconds}
    AND events > 0 AND {IS_STALE}""",
        above=0,
        span_seconds=7 * DAY_SECONDS,
    ),
)
AUDIT_DRIFT = Kind(
    "audit_drift",
    "the books contradict each other",
    Severity.CRITICAL,
    "a check of the books failed",
    "Events are missing, or count twice, in the tables that are named: answers about that time are wrong.",
    "metrics-pipeline audit",
    0,
    (Part.CHECKS,),
)
DEAD_LETTERS_EXPIRE = Kind(
    "dead_letters_expire",
    "dead letters are dropped soon",
    Severity.WARNING,
    "messages that were never replayed are dropped soon",
    "Messages that were never replayed are about to be dropped, by the topic's retention or by the table's.",
    "metrics-pipeline dead-letters list",
    0,
    (Part.CHECKS,),
)
_REFUSED, _READ = "metrics_pipeline_dead_letters_total", "metrics_pipeline_consumed_messages_total"
DEAD_LETTER_SHARE = Kind(
    "dead_letter_share",
    "many messages are no valid events",
    Severity.WARNING,
    f"more than {{dead_letter_share:.0%}} of the messages of the last {WINDOW_SECONDS // 60} minutes, of at least "
    f"{DEAD_LETTER_MESSAGES}, became dead letters",
    "A service sends what the event contract does not allow. Its messages are kept in dead_letters, not raw_events.",
    "metrics-pipeline status",
    300,
    (Part.FLOW,),
    (
        PromQL(
            f"sum(rate({_REFUSED}[{_WINDOW}])) / sum(rate({_READ}[{_WINDOW}])) > {DEFAULTS.dead_letter_share:g}\n"
            f"and sum(increase({_READ}[{_WINDOW}])) >= {DEAD_LETTER_MESSAGES}",
            "{{ $value | humanizePercentage }} of messages become dead letters",
        ),
    ),
    Question(
        "dead-letters",
        f"SELECT 100 * sum(dead_letters) / sum(consumed) AS percent FROM batches WHERE {_since(WINDOW_SECONDS)} "
        f"HAVING sum(consumed) >= {DEAD_LETTER_MESSAGES}",
        above=100 * DEFAULTS.dead_letter_share,
        span_seconds=WINDOW_SECONDS,
    ),
)
LOST_OFFSETS = Kind(
    "lost_offsets",
    "events are lost",
    Severity.CRITICAL,
    "the topic dropped offsets before they were read, in the last day",
    "The topic's retention dropped messages before they were read. They are gone; the ledger has their ranges.",
    "metrics-pipeline audit",
    0,
    (Part.FLOW,),
    (
        PromQL(
            "increase(metrics_pipeline_lost_offsets_total[1d]) > 0",
            "{{ $value | humanize }} offsets were dropped by the topic before they were read",
        ),
    ),
    Question(
        "lost",
        f"SELECT sum(lost) AS offsets FROM batches WHERE {_since(DAY_SECONDS)}",
        above=0,
        span_seconds=DAY_SECONDS,
    ),
)
STALLED_PARTITION = Kind(
    "stalled_partition",
    "a partition stands still while others move",
    Severity.CRITICAL,
    "offsets of a partition wait and nothing of it landed for {stalled_seconds:g} s, while others move",
    "Its events do not land, and are lost once the topic's retention reaches them.",
    "metrics-pipeline drain --once",
    120,
    (Part.PARTITIONS, Part.FLOW),
    (
        PromQL(
            f"(metrics_pipeline_lag_offsets > 0 unless {_MOVED} > 0)\nand on (topic) sum by (topic) ({_MOVED}) > 0",
            "{{ $labels.topic }}: partition {{ $labels.partition }} stands still while others move",
        ),
    ),
)
NO_DRAIN = Kind(
    "no_drain",
    "nothing is drained",
    Severity.CRITICAL,
    "offsets wait and nothing landed for {stalled_seconds:g} s",
    "Events wait in the topic and no run lands them: the relay is off, its runs do not start, or they can't go on.",
    "metrics-pipeline drain --once",
    120,
    (Part.PARTITIONS, Part.FLOW),
    (
        PromQL(
            f"sum by (topic) (metrics_pipeline_lag_offsets) > 0\nunless sum by (topic) ({_MOVED}) > 0",
            "{{ $labels.topic }}: offsets wait and nothing is drained",
        ),
    ),
)
DISK_SPACE = Kind(
    "disk_space",
    "a disk runs full",
    Severity.CRITICAL,
    "less than {disk_free_share:.0%} of a disk is free, or less than the present growth needs in {disk_days:g} days",
    "When it is full the server refuses inserts, and draining stops until there is space.",
    "metrics-pipeline status",
    600,
    (Part.STORAGE,),
    (
        PromQL(
            f"metrics_pipeline_disk_free_bytes / metrics_pipeline_disk_size_bytes < {DEFAULTS.disk_free_share:g}\n"
            f"or predict_linear(metrics_pipeline_disk_free_bytes[1d], {DEFAULTS.disk_days:g} * {DAY_SECONDS}) < 0",
            "disk {{ $labels.disk }} runs full",
        ),
    ),
)
TOO_MANY_PARTS = Kind(
    "too_many_parts",
    "merges fall behind",
    Severity.WARNING,
    "a partition of a table has more than {parts_per_partition} active parts",
    "The server slows inserts down, and refuses them at its limit of parts per partition.",
    "metrics-pipeline status",
    300,
    (Part.STORAGE,),
    (
        PromQL(
            f"metrics_pipeline_table_partition_parts > {DEFAULTS.parts_per_partition}",
            "{{ $labels.table }}: {{ $value }} parts in one partition",
        ),
    ),
)
SILENCE = Kind(
    "silence",
    "nothing becomes visible",
    Severity.CRITICAL,
    f"no drain landed a batch for {SILENCE_MINUTES} minutes, whether or not offsets wait",
    "Either nothing is sent, or nothing is drained.",
    "metrics-pipeline status",
    0,
    question=Question(
        "silence",
        "SELECT dateDiff('second', max(visible_at), now64(3)) / 60 AS minutes FROM batches "
        f"WHERE last_message >= now() - {DAY_SECONDS} AND source = '{DRAIN}'",
        above=SILENCE_MINUTES,
        span_seconds=DAY_SECONDS,
    ),
)
SERVICE_ERRORS = Kind(
    "service_errors",
    "a service answers with errors",
    Severity.WARNING,
    f"more than {ERROR_PERCENT}% of a service's requests in the last 5 minutes, of at least {ERROR_REQUESTS}, failed",
    "The service is ill, not the pipeline. The dashboard Incident deep dive shows its raw events.",
    "metrics-pipeline top --when 'last 15 minutes' --by errors",
    300,
    question=Question(
        "errors",
        f"""SELECT service::String AS service, 100 * sum(errors) / sum(requests) AS percent
FROM {SERVICES.name}(start = toStartOfMinute(now('UTC') - 300), end = toStartOfMinute(now('UTC') + 60),
    step = {COARSEST_SECONDS})
GROUP BY service HAVING sum(requests) >= {ERROR_REQUESTS} ORDER BY service LIMIT 1000""",
        above=ERROR_PERCENT,
        span_seconds=300,
    ),
)
ALERT_SENSOR_SILENT = Kind(
    "alert_sensor_silent",
    "the alert sensor is silent",
    Severity.CRITICAL,
    f"the sensor `alerts` has not looked for {SENSOR_SILENT_SECONDS // 60} minutes",
    "Whatever is wrong, the sensor notifies nobody of it.",
    "metrics-pipeline status",
    120,
    (),
    (
        PromQL(
            f"time() - metrics_pipeline_alerts_evaluated_timestamp_seconds > {SENSOR_SILENT_SECONDS}",
            "the sensor `alerts` has not looked for {{ $value | humanizeDuration }}: is Dagster's daemon running?",
        ),
    ),
)
EXPORTER_GONE = Kind(
    "exporter_gone",
    "no exporter is scraped",
    Severity.CRITICAL,
    "Prometheus has no sample of the exporter",
    "Prometheus is blind: none of its other rules can fire.",
    "metrics-pipeline exporter",
    300,
    (),
    (PromQL("absent(metrics_pipeline_up)", "no exporter is scraped: start `metrics-pipeline exporter`"),),
)

KINDS = {
    kind.name: kind for kind in (
        ENGINE_DOWN, FAILED_RUNS, LAG, FRESHNESS, FRESHNESS_BURN, STALE_ROLLUPS, AUDIT_DRIFT, DEAD_LETTERS_EXPIRE,
        DEAD_LETTER_SHARE, LOST_OFFSETS, STALLED_PARTITION, NO_DRAIN, DISK_SPACE, TOO_MANY_PARTS, SILENCE,
        SERVICE_ERRORS, ALERT_SENSOR_SILENT, EXPORTER_GONE,
    )
}  # fmt: skip
FRESHNESS_KINDS = frozenset(kind.name for kind in (FRESHNESS, FRESHNESS_BURN, LAG, NO_DRAIN, STALLED_PARTITION))
"""What keeps events from being visible in time."""
