"""How far back the tables are whole: reading and noting it, and what a TTL says."""

from collections.abc import Mapping

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ddl.live import IS_OWN, time_to_live_days
from metrics_pipeline.ddl.objects import Column, Table
from metrics_pipeline.rollups.retained_from import DEAD_LETTERS, RAW, REPLACED_BY, RetainedFrom
from metrics_pipeline.runtime.timerange import DAY_SECONDS

RETAINED_FROM = Table(
    name="retained_from",
    engine="AggregatingMergeTree",
    partition_by="tuple()",
    order_by=("what",),
    columns=(
        Column("what", "LowCardinality(String)", comment="A table, or a grain of the rollups"),
        Column(
            "until", "SimpleAggregateFunction(max, DateTime('UTC'))", comment="Rows of times before this may be gone"
        ),
        Column(
            "replaced_by", "SimpleAggregateFunction(max, UInt32)", comment="Length of the buckets read instead, seconds"
        ),
    ),
    comment="How far back each table is whole: noted by retention before it drops anything.",
)

CUTOFFS = f"""(SELECT maxMap(map(replaced_by, toUnixTimestamp(until))) FROM {RETAINED_FROM.name}
    WHERE replaced_by > 0)"""
"""Length of buckets -> epoch seconds: of times before this, nothing finer is left. One small read for a whole query."""


def read_retained_from(client: Client) -> RetainedFrom:
    """What retention noted; of tables with a TTL also how far that may have dropped parts."""
    sql = f"SELECT what, toUnixTimestamp(max(until)) FROM {RETAINED_FROM.name} GROUP BY what"
    noted = {str(what): int(until) for what, until in query_rows(client, "reading what was dropped", sql)}
    expired = {table: max(until, noted.get(table, 0)) for table, until in _expired(client).items()}
    return RetainedFrom(noted | expired)


def note_retained_from(client: Client, until: Mapping[str, int]) -> None:
    """Move these moments forward; one that is further already stays."""
    rows = [[what, moment, REPLACED_BY[what].seconds if what in REPLACED_BY else 0] for what, moment in until.items()]
    calling(
        "noting what is dropped",
        lambda: client.insert(RETAINED_FROM.name, rows, column_names=[column.name for column in RETAINED_FROM.columns]),
    )


def _expired(client: Client) -> Mapping[str, int]:
    """Table with a TTL -> the first midnight after which it has dropped nothing yet."""
    sql = f"""SELECT name, engine_full, toUnixTimestamp(now()) FROM system.tables
        WHERE {IS_OWN} AND name IN {{tables:Array(String)}}"""
    rows = query_rows(client, "reading what TTLs drop", sql, {"tables": [RAW, DEAD_LETTERS]})
    found = {str(table): (time_to_live_days(str(engine)), int(now)) for table, engine, now in rows}
    return {table: _next_midnight(now - days * DAY_SECONDS) for table, (days, now) in found.items() if days is not None}


def _next_midnight(moment_seconds: float) -> int:
    return -(-int(moment_seconds) // DAY_SECONDS) * DAY_SECONDS
