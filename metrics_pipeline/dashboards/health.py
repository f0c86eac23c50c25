"""Pipeline health: what the ledger, the dead letters, the books of rollups and the server say about the pipeline."""

from metrics_pipeline.alerting.burn import WINDOWS
from metrics_pipeline.dashboards.panel import Dashboard, Kind, Panel, Unit
from metrics_pipeline.dashboards.rollup_sql import FILL, POINT, SECONDS, WITHIN, source
from metrics_pipeline.dashboards.steps import DAY, WEEK, Reach
from metrics_pipeline.ddl.storage_views import PARTS
from metrics_pipeline.ledger.tables import IS_BATCH
from metrics_pipeline.rollups.cubes import ENDPOINTS
from metrics_pipeline.rollups.grains import BUILT, SETTLE_SECONDS
from metrics_pipeline.rollups.tables import BUCKETS, IS_STALE
from metrics_pipeline.settings import AlertSettings

LEDGER_SPAN_SECONDS = WEEK
FRESHNESS_SPAN_SECONDS = DAY
"""Of longer spans the last part is read: the ledger has some 200,000 rows a day and shard."""
OBJECTIVES = AlertSettings()
"""The settings' defaults: generated dashboards read no settings."""
SAMPLED_BATCHES = 5_000
"""A panel of ages reads this many batches of a span: each has some hundred classes of ages."""

_LEDGER = (
    # last_message is in the table's key, visible_at is not. A lag beyond a week is not drawn.
    f"{WITHIN.format('visible_at')} AND last_message >= @start - INTERVAL 7 DAY"
)
_T = POINT.format("visible_at")
_AGES = f"""FROM batches ARRAY JOIN freshness_ms AS age, freshness_events AS weight
    WHERE {_LEDGER} AND cityHash64(batch) % (
        SELECT greatest(1, intDiv(count(), {SAMPLED_BATCHES})) FROM batches WHERE {_LEDGER}) = 0"""


def _ledger(name: str, title: str, unit: Unit, lines: str, description: str = "", *, is_count: bool = True) -> Panel:
    """A panel about the micro-batches of drains and backfills. Where there was no batch, counts are drawn as zero."""
    fill = f" ORDER BY t {FILL}" if is_count else ""
    query = f"""SELECT @t, * EXCEPT (t) FROM (
    SELECT {_T}, {lines} FROM batches WHERE {_LEDGER} AND {IS_BATCH} GROUP BY t{fill}
) ORDER BY t"""
    note = f"{description} Of the last {LEDGER_SPAN_SECONDS // DAY} days of a longer span.".strip()
    return Panel(name, title, note, query, unit, span_seconds=LEDGER_SPAN_SECONDS)


FRESHNESS = Panel(
    "freshness",
    "Freshness p50, p99, s",
    "Age of events, from produced to visible, in classes of 2%. Of the last 24 hours of a longer span; from some "
    f"{SAMPLED_BATCHES:,} batches where it has more.",
    f"""SELECT @t, q[1] / 1000 AS p50, q[2] / 1000 AS p99 FROM (
    SELECT {_T}, quantilesExactWeighted(0.5, 0.99)(age, weight) AS q {_AGES} GROUP BY t
) ORDER BY t""",
    Unit.SECONDS,
    span_seconds=FRESHNESS_SPAN_SECONDS,
)
_PRODUCED_T = POINT.format("produced_at")
_IS_LATE = "if(seconds > 0, seconds, dateDiff('millisecond', produced_at, now64(3)) / 1000) > objective_seconds"
CANARY = Panel(
    "canary",
    "Canary, s",
    "From produced to visible, of an event per shard that the pipeline sends itself; the slowest of a point. One that "
    "was not seen is drawn at its objective.",
    f"""SELECT @t, line::String AS shard, value FROM (
    SELECT {_PRODUCED_T}, toString(shard) AS line, max(if(seconds > 0, seconds, objective_seconds)) AS value
    FROM canaries FINAL
    WHERE {WITHIN.format("produced_at")}
        AND (seconds > 0 OR {_IS_LATE})
    GROUP BY t, line
) ORDER BY t, line""",
    Unit.SECONDS,
    span_seconds=LEDGER_SPAN_SECONDS,
)

_LONGEST_WINDOW = max(WINDOWS.values())
_RATES = ", ".join(
    f"sum(late) OVER last_{window} / sum(known) OVER last_{window} / {1 - OBJECTIVES.freshness_share:g}"
    for window in WINDOWS
)
_FRAMES = ",\n        ".join(
    f"last_{window} AS (PARTITION BY source, shard ORDER BY t RANGE BETWEEN {seconds - 1} PRECEDING AND CURRENT ROW)"
    for window, seconds in WINDOWS.items()
)
BURN = Panel(
    "burn_rate",
    "Burn rate by window",
    f"Share of late ones over the share that the objective allows: {OBJECTIVES.freshness_share:.0%} of events, and of "
    f"each shard's canaries (the worst shard), are visible within {OBJECTIVES.freshness_seconds:g} s. 1 uses up just "
    "that. Of the last 24 hours of a longer span.",
    f"""SELECT @t, line::String AS window, value FROM (
    SELECT t, concat(source, ' ', name) AS line, max(rate) AS value FROM (
        SELECT t, source, [{_RATES}] AS rates FROM (
            SELECT t, source, shard, sum(late) AS late, sum(known) AS known FROM (
                SELECT {_T}, 'events' AS source, 0 AS shard, arraySum(freshness_events) AS known,
                    arraySum((age, n) -> if(age > {1_000 * OBJECTIVES.freshness_seconds:g}, n, 0), freshness_ms,
                        freshness_events) AS late
                FROM batches
                WHERE visible_at >= toDateTime64(@start - {_LONGEST_WINDOW}, 3) AND visible_at < toDateTime64(@end, 3)
                    AND last_message >= @start - INTERVAL 7 DAY
                UNION ALL
                SELECT {_PRODUCED_T}, 'canaries' AS source, shard, 1 AS known, {_IS_LATE} AS late
                FROM canaries FINAL
                WHERE produced_at >= toDateTime64(@start - {_LONGEST_WINDOW}, 3)
                    AND produced_at < toDateTime64(@end, 3) AND (seconds > 0 OR {_IS_LATE})
            ) GROUP BY t, source, shard HAVING known > 0
        ) WINDOW {_FRAMES}
    ) ARRAY JOIN rates AS rate, {list(WINDOWS)} AS name
    WHERE t >= toUnixTimestamp(@start) GROUP BY t, line
) ORDER BY t, line""",
    span_seconds=FRESHNESS_SPAN_SECONDS,
)

EVENTS_IN = _ledger("events_in", "Events in/s", Unit.PER_SECOND, f"sum(consumed) / {SECONDS} AS events")
DUPLICATES = _ledger(
    "duplicates", "Duplicates/s", Unit.PER_SECOND, f"sum(duplicates) / {SECONDS} AS duplicates",
    "Messages whose event was there already.",
)  # fmt: skip
DURATIONS = _ledger(
    "durations", "Batch durations, mean ms", Unit.MILLISECONDS,
    "avg(commit_duration_ms) AS commit, avg(look_up_duration_ms) AS look_up, avg(insert_duration_ms) AS insert",
    "Of the commit of its offsets, of the look-up of duplicates, of the insert.", is_count=False,
)  # fmt: skip

DEAD_LETTERS = Panel(
    "dead_letters",
    "Dead letters/s by reason",
    "By the time of the message; `all` is what the ledger counts. Of the last 7 days of a longer span.",
    f"""SELECT @t, line::String AS reason, count / {SECONDS} AS value FROM (
    SELECT {POINT.format("kafka_timestamp")}, reason AS line, count() AS count FROM dead_letters
    WHERE {WITHIN.format("kafka_timestamp")} GROUP BY t, line
    UNION ALL
    SELECT t, 'all' AS line, count FROM (
        SELECT {POINT.format("last_message")}, sum(dead_letters) AS count FROM batches
        WHERE {WITHIN.format("last_message")}
        GROUP BY t ORDER BY t {FILL})
) ORDER BY t, line""",
    Unit.PER_SECOND,
    span_seconds=LEDGER_SPAN_SECONDS,
)

_BUILDS_AT = "greatest(toUnixTimestamp(minute), toUnixTimestamp(@start))"
_BUILDS_T = f"{_BUILDS_AT} - {_BUILDS_AT} % @bucket AS t"
_GRAIN_NAME = f"transform(grain, {[g.seconds for g in BUILT]}, {[g.name for g in BUILT]}, toString(grain))"
STALE = Panel(
    "stale_buckets",
    "Stale buckets by grain",
    "Closed buckets without a build that counts every event, by the bucket's time. Readers take finer rows meanwhile: "
    "right, but slower.",
    f"""SELECT @t, line::String AS grain, countIf(is_stale) AS value FROM (
    SELECT {_BUILDS_T}, {_GRAIN_NAME} AS line,
        {IS_STALE}
            AND toUnixTimestamp(minute) + grain <= toUnixTimestamp(now()) - {SETTLE_SECONDS} AS is_stale
    FROM {BUCKETS.name}
    WHERE minute > @start - INTERVAL 7 DAY AND minute + grain > @start AND minute < @end AND events > 0
) GROUP BY t, line ORDER BY t, line""",
    Unit.COUNT,
)

STORAGE = Panel(
    "storage",
    "Storage per table",
    "On disk now: active parts, rows, bytes and what they cost a month at the price of a GB-month.",
    f"""SELECT table, count() AS parts, uniqExact(partition_id) AS partitions, sum(rows) AS stored_rows,
    sum(bytes_on_disk) AS bytes, bytes / stored_rows AS bytes_per_row, bytes / 1e9 * @price AS price_per_month
FROM {PARTS.name} WHERE rows > 0 GROUP BY table ORDER BY bytes DESC""",
    kind=Kind.TABLE,
)
COST = Panel(
    "cost",
    "Storage and cost per service",
    "What is on disk now, shared among services: raw events and the rest by requests, rollups by their states in the "
    "span. The price per million events is that of a month.",
    f"""SELECT service, requests, requests / all_requests * raw_bytes + states / all_states * rollup_bytes AS bytes,
    bytes / 1e9 * @price AS price_per_month,
    1e6 * price_per_month / (requests / all_requests * raw_rows) AS price_per_million_events
FROM (
    SELECT service, n AS requests, states, sum(n) OVER () AS all_requests, sum(states) OVER () AS all_states FROM (
        SELECT service, sum(requests) AS n, count() AS states FROM {source(ENDPOINTS)} GROUP BY service)
) AS services CROSS JOIN (
    SELECT sumIf(bytes_on_disk, table LIKE 'rollup%') AS rollup_bytes, sum(bytes_on_disk) - rollup_bytes AS raw_bytes,
        sumIf(rows, table = 'raw_events') AS raw_rows FROM {PARTS.name}
) AS disk ORDER BY bytes DESC LIMIT 200""",
    kind=Kind.TABLE,
    reach=Reach.WHOLE,
)
TOTALS_OF_LEDGER = Panel(
    "ledger_figures",
    "Whole span",
    "From the ledger, of the last 7 days of a longer span.",
    f"""SELECT countIf({IS_BATCH}) AS batches, sum(consumed) AS events, sum(inserted) AS inserted,
    sum(duplicates) AS duplicates, sum(dead_letters) AS dead_letters, sum(lost) AS lost_offsets
FROM batches WHERE {_LEDGER} HAVING batches > 0""",
    Unit.COUNT,
    kind=Kind.STAT,
    span_seconds=LEDGER_SPAN_SECONDS,
)

PIPELINE_HEALTH = Dashboard(
    "pipeline-health",
    "Pipeline health",
    "Freshness, throughput, what was refused or lost, storage and what it costs, and the rollups' builds.",
    (
        FRESHNESS,
        CANARY,
        BURN,
        EVENTS_IN,
        _ledger("batches", "Batches/s", Unit.PER_SECOND, f"count() / {SECONDS} AS batches"),
        DUPLICATES,
        DEAD_LETTERS,
        _ledger("lost", "Lost offsets", Unit.COUNT, "sum(lost) AS lost", "Dropped by the log before they were read."),
        DURATIONS,
        _ledger("longest_durations", "Batch durations, max ms", Unit.MILLISECONDS,
                "max(commit_duration_ms) AS commit, max(look_up_duration_ms) AS look_up, "
                "max(insert_duration_ms) AS insert", is_count=False),
        STALE,
        TOTALS_OF_LEDGER,
        STORAGE,
        COST,
    ),
)  # fmt: skip
