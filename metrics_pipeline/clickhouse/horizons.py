"""Where the tables are whole: reading and noting horizons, and what a TTL says."""

import re
import time
from collections.abc import Mapping

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import SHARD_SUFFIX
from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.core.horizons import DEAD_LETTERS, RAW, STANDS_FOR, Horizons
from metrics_pipeline.core.schema.objects import Column, Table

HORIZONS = Table(
    name="horizons",
    engine="AggregatingMergeTree",
    partition_by="tuple()",
    order_by=("what",),
    columns=(
        Column("what", "LowCardinality(String)", comment="A table, or a grain of the rollups"),
        Column(
            "until", "SimpleAggregateFunction(max, DateTime('UTC'))", comment="Rows of times before this may be gone"
        ),
        Column("stands", "SimpleAggregateFunction(max, UInt32)", comment="Length of the buckets read instead, seconds"),
    ),
    comment="How far back what is whole: noted by retention before it drops anything.",
)

BORDERS = f"""(SELECT maxMap(map(stands, toUnixTimestamp(until))) FROM {HORIZONS.name} WHERE stands > 0)"""
"""Length of buckets -> epoch seconds: of times before this, nothing finer is left. One small read for a whole query."""

IS_OWN = f"database IN (currentDatabase(), currentDatabase() || '{SHARD_SUFFIX}') AND engine != 'Distributed'"
"""A condition on system.tables: those that hold rows, also where the database has tables over all shards."""

_DAY_SECONDS = 86_400
_TIME_TO_LIVE = re.compile(r"\bTTL \S.*?toInterval(Day|Week|Month|Year)\((\d+)\)")
_OTHER_TTL = re.compile(r" TO (?:DISK|VOLUME) | RECOMPRESS | GROUP BY | WHERE ")
_UNIT_DAYS = {"Day": 1, "Week": 7, "Month": 28, "Year": 365}
"""At least so many: a warning may be early, not late."""


def time_to_live_days(engine: str) -> float | None:
    """Days that an engine's TTL keeps a row; None without one, or where it moves or changes rows as well."""
    found = _TIME_TO_LIVE.search(engine)
    if found is None or _OTHER_TTL.search(engine, found.start()):
        return None
    return int(found[2]) * _UNIT_DAYS[found[1]]


def read_horizons(client: Client) -> Horizons:
    """As retention noted them; of tables with a TTL also where it has begun to drop parts, one after the other."""
    sql = f"SELECT what, toUnixTimestamp(max(until)) FROM {HORIZONS.name} GROUP BY what"
    rows = calling("reading what was dropped", lambda: client.query(sql).result_rows)
    noted = {str(what): int(until) for what, until in rows}
    expired = {table: max(until, noted.get(table, 0)) for table, until in _expired(client).items()}
    return Horizons(noted | expired)


def note_horizons(client: Client, until: Mapping[str, int]) -> None:
    """Move horizons forward; one that is further already stays."""
    rows = [[what, moment, STANDS_FOR[what].seconds if what in STANDS_FOR else 0] for what, moment in until.items()]
    calling(
        "noting what is dropped",
        lambda: client.insert(HORIZONS.name, rows, column_names=[column.name for column in HORIZONS.columns]),
    )


def _expired(client: Client) -> Mapping[str, int]:
    """Table with a TTL -> the first midnight after which it has dropped nothing yet."""
    sql = f"""SELECT name, engine_full FROM system.tables
        WHERE {IS_OWN} AND name IN {{tables:Array(String)}}"""
    parameters = {"tables": [RAW, DEAD_LETTERS]}
    rows = calling("reading what TTLs drop", lambda: client.query(sql, parameters=parameters).result_rows)
    now = time.time()
    found = {str(table): time_to_live_days(str(engine)) for table, engine in rows}
    return {table: _next_midnight(now - days * _DAY_SECONDS) for table, days in found.items() if days is not None}


def _next_midnight(moment_seconds: float) -> int:
    return -(-int(moment_seconds) // _DAY_SECONDS) * _DAY_SECONDS
