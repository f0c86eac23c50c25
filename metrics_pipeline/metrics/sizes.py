"""How large tables and the backlog of rollups are."""

from collections.abc import Mapping
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ddl.storage_views import PARTS
from metrics_pipeline.rollups.grains import BUILT, SETTLE_SECONDS
from metrics_pipeline.rollups.tables import BUCKETS, IS_STALE

_TABLES = f"""
    SELECT table, sum(parts), max(parts), sum(n), sum(bytes) FROM (
        SELECT table, partition_id, count() AS parts, sum(rows) AS n, sum(bytes_on_disk) AS bytes FROM {PARTS.name}
        GROUP BY table, partition_id)
    GROUP BY table ORDER BY table
"""
_STALE = f"""
    SELECT grain, countIf({IS_STALE}) FROM {BUCKETS.name}
    WHERE minute < now() - grain - {SETTLE_SECONDS} AND events > 0 GROUP BY grain
"""


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table's active parts, `most_parts` of them in its fullest partition."""

    parts: int
    most_parts: int
    rows: int
    size_bytes: int


def read_tables(client: Client) -> Mapping[str, TableSize]:
    """Table -> size, of the tables of the client's database that hold anything."""
    rows = query_rows(client, "reading the sizes of tables", _TABLES)
    return {str(table): TableSize(*map(int, figures)) for table, *figures in rows}


def read_stale_buckets(client: Client) -> Mapping[str, int]:
    """Grain -> closed buckets that wait for a build."""
    rows = query_rows(client, "counting stale rollups", _STALE)
    found = {int(grain): int(count) for grain, count in rows}
    return {grain.name: found.get(grain.seconds, 0) for grain in BUILT}
