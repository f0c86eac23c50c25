"""The tables: the one place that knows their columns, engines and keys, and how to bring a server there.

Columns of raw_events come from the event contract. Every table that a micro-batch writes remembers the tokens of its
last inserts, so that a repeated insert changes nothing; partition keys depend on the batch alone, never on the time of
the insert, since the server remembers tokens per partition.
"""

from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.tables import ALERT_LOG, CANARIES
from metrics_pipeline.audit.verdict import minute_name
from metrics_pipeline.clickhouse.horizons import HORIZONS, read_horizons
from metrics_pipeline.clickhouse.rollups.borders import refresh_views
from metrics_pipeline.clickhouse.rollups.cubes import CUBES
from metrics_pipeline.clickhouse.rollups.new_grains import count_buckets
from metrics_pipeline.clickhouse.rollups.tables import BOOKS, ROLLUP_FEEDS, ROLLUP_TABLES, ROLLUP_UNIONS
from metrics_pipeline.clickhouse.rollups.views import ROLLUP_VIEWS, rollup_views
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.core.horizons import STANDS_FOR, Horizons
from metrics_pipeline.core.ledger import DRAIN, FILL
from metrics_pipeline.ddl.change import Phase, Plan, hash_of
from metrics_pipeline.ddl.found import Found
from metrics_pipeline.ddl.live import LiveSchema
from metrics_pipeline.ddl.migrating import Migration, Progress, Works
from metrics_pipeline.ddl.objects import Column, SchemaObject, Table
from metrics_pipeline.ddl.planner import plan as compare
from metrics_pipeline.ddl.stock import STOCK_VIEWS
from metrics_pipeline.ddl.work import Work
from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.errors import ConfigurationError

BATCHES = Table(
    name="batches",
    engine="ReplacingMergeTree",
    partition_by="toYYYYMM(last_message)",
    order_by=("topic", "topic_id", "last_message", "batch"),
    columns=(
        Column("batch", "String", comment="Token: hash of group, topic id and ranges"),
        Column(
            "source",
            "LowCardinality(String)",
            default="'drain'",
            comment="drain; fill: of what was owed; owed: what a jump skipped, covers nothing; dead_letters, replay: "
            "without partitions and not consumed anew",
        ),
        Column("topic", "LowCardinality(String)"),
        Column("topic_id", "LowCardinality(String)"),
        Column("consumer_group", "LowCardinality(String)"),
        Column("shard", "UInt32"),
        Column("run_id", "String"),
        Column("partitions", "Array(UInt32)", comment="One element per partition, here and in partition_*"),
        Column("partition_start", "Array(UInt64)", comment="First offset of the range"),
        Column("partition_end", "Array(UInt64)", comment="Offset behind the range"),
        Column("partition_consumed", "Array(UInt64)"),
        Column("partition_inserted", "Array(UInt64)"),
        Column("partition_duplicates", "Array(UInt64)"),
        Column("partition_dead_letters", "Array(UInt64)"),
        Column("partition_skipped", "Array(UInt64)", comment="Offsets that held no message for us"),
        Column("partition_lost", "Array(UInt64)", comment="Offsets that the log dropped before they were read"),
        Column("consumed", "UInt64"),
        Column("inserted", "UInt64"),
        Column("duplicates", "UInt64"),
        Column("dead_letters", "UInt64"),
        Column("skipped", "UInt64"),
        Column("lost", "UInt64"),
        Column("size_bytes", "UInt64"),
        Column("first_event", "DateTime64(3, 'UTC')"),
        Column("last_event", "DateTime64(3, 'UTC')"),
        Column("first_message", "DateTime64(3, 'UTC')"),
        Column("last_message", "DateTime64(3, 'UTC')"),
        Column("started_at", "DateTime64(3, 'UTC')"),
        Column("visible_at", "DateTime64(3, 'UTC')", comment="When its events could be queried"),
        Column("commit_duration_ms", "UInt32"),
        Column("look_up_duration_ms", "UInt32"),
        Column("insert_duration_ms", "UInt32"),
        Column("freshness_ms", "Array(UInt64)", comment="Upper borders of age classes, produced to visible"),
        Column("freshness_events", "Array(UInt32)", comment="Events in each class"),
        Column("minutes", "Array(DateTime('UTC'))", comment="Minutes of the timestamps of the events inserted"),
        Column("minute_inserted", "Array(UInt32)", comment="Events inserted in each of these minutes"),
        Column("minute_removed", "Array(UInt32)", comment="Events removed by a replay, or empty"),
        Column("restored", "UInt64", comment="Events that a replay inserted and an earlier row has accounted for"),
        Column("added_dead_letters", "UInt64", comment="Made by a replay, of messages that have another account"),
    ),
    comment="The ledger: one row per micro-batch, every offset accounted for, and one per replayed chunk.",
    indexes=(
        "batch_index batch TYPE bloom_filter(0.001) GRANULARITY 1",
        "visible_index visible_at TYPE minmax GRANULARITY 1",
    ),
)

IS_BATCH = f"source IN ('{DRAIN}', '{FILL}')"
"""A condition on rows of the ledger: of a micro-batch, which read messages, and lost some perhaps."""
REPLAY_PLAN = Table(
    name="replay_plan",
    engine="ReplacingMergeTree",
    partition_by="toYYYYMM(opened_at)",
    order_by=("consumer_group", "step", "opened_at", "batch", "kafka_partition", "kafka_offset", "content"),
    columns=(
        Column("consumer_group", "LowCardinality(String)"),
        Column(
            "step",
            "LowCardinality(String)",
            comment="remove, insert, restore, letter, lost_letter; settled: rollups count all chunks up to opened_at",
        ),
        Column("opened_at", "DateTime64(3, 'UTC')", comment="When the chunk was opened"),
        Column("batch", "String", comment="Token of the chunk"),
        Column("kafka_partition", "UInt32"),
        Column("kafka_offset", "UInt64", "Delta, ZSTD(1)"),
        Column("kafka_timestamp", "DateTime64(3, 'UTC')", "Delta, ZSTD(1)"),
        Column("timestamp", "DateTime64(3, 'UTC')", "Delta, ZSTD(1)", "Of the event that is removed or inserted"),
        Column("content", "UInt64", comment="Hash of the row that is removed"),
        Column("letter_batch", "String", comment="Micro-batch that has accounted for a lost dead letter"),
    ),
    comment="What replays of hours change: written before it is done, so that it is finished as it was begun.",
    ttl="toDateTime(opened_at) + INTERVAL 30 DAY",
)


OBJECTS: tuple[SchemaObject, ...] = (
    RAW_EVENTS,
    HORIZONS,
    BOOKS,
    *ROLLUP_TABLES,
    *ROLLUP_FEEDS,
    *ROLLUP_UNIONS,
    *ROLLUP_VIEWS,
    *STOCK_VIEWS,
    DEAD_LETTERS,
    BATCHES,
    REPLAY_PLAN,
    ALERT_LOG,
    CANARIES,
)


def wanted_hash(storage: Storage) -> str:
    """Changes with what this version wants, whatever a server has."""
    return hash_of(tuple(o.ddl(storage) for o in OBJECTS))


def plan(client: Client, storage: Storage) -> Plan:
    """Compare the wanted tables, columns and views with those of the client's database."""
    filled = {o.name: [c.name for c in o.columns if c.is_filled] for o in OBJECTS if isinstance(o, Table)}
    found = LiveSchema(client).read(filled)
    objects = OBJECTS
    comments = {name: table.comment for name, table in found.items()}
    is_current = all(comments.get(view.name) == view.stored_comment for view in ROLLUP_VIEWS)
    if HORIZONS.name in found and not is_current:
        horizons = read_horizons(client)
        _refuse_grains_without_rows(found, horizons)
        now = {view.name: view for view in rollup_views(horizons.borders)}
        objects = tuple(now.get(o.name, o) for o in OBJECTS)
    return compare(objects, found, storage)


def _refuse_grains_without_rows(found: Found, horizons: Horizons) -> None:
    """Raises ConfigurationError for a new grain whose buckets would have to stand for rows that are gone already."""
    for fine, coarse in STANDS_FOR.items():
        table, gone_until = CUBES[0].table(coarse), horizons.of(fine)
        if table not in found and gone_until:
            raise ConfigurationError(
                f"the grain {coarse.name} is new, and retention dropped the rows of {fine}, of which it would "
                f"be built, before {minute_name(gone_until)}: add a grain that is longer than all others instead"
            )


def apply(
    client: Client,
    storage: Storage,
    *,
    allow_destructive: bool = False,
    works: Works | None = None,
    progress: Progress = lambda _words: None,
) -> Plan:
    """Expand, migrate and, only where destroying data is allowed, contract; returns what was planned.

    Harmless when repeated, interrupted or run twice at once.
    """
    wanted = plan(client, storage)
    again = partial(plan, client, storage)
    known = {Work.COUNT_BUCKETS: lambda _progress: count_buckets(client), **(works or {})}
    Migration(client, again, known, progress).run(wanted, allow_destructive=allow_destructive)
    if any(change.phase is Phase.EXPAND for change in wanted.safe) and read_horizons(client).borders:
        # Retention may have moved them meanwhile.
        refresh_views(client)
    return wanted
