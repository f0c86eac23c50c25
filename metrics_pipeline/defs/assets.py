"""The asset graph: the topic, and the tables that drain runs write. Nothing here does work."""

from dagster import AssetKey, AssetSpec, TableColumn, TableSchema

from metrics_pipeline.clickhouse.ddl import Table
from metrics_pipeline.clickhouse.rollups.tables import ROLLUP_1M
from metrics_pipeline.clickhouse.schema import DEAD_LETTERS, RAW_EVENTS

GROUP = "events"

TOPIC = AssetSpec(
    key=AssetKey(["kafka", "events"]),
    group_name=GROUP,
    kinds={"kafka"},
    description="The topic that services write one event per request to.",
)


def _table_spec(table: Table, upstream: AssetSpec) -> AssetSpec:
    columns = [TableColumn(c.name, c.type, c.comment or None) for c in table.columns]
    return AssetSpec(
        key=AssetKey(["clickhouse", table.name]),
        deps=[upstream],
        group_name=GROUP,
        kinds={"clickhouse", "table"},
        description=table.comment,
        metadata={"dagster/column_schema": TableSchema(columns), "dagster/table_name": table.name},
    )


RAW_EVENTS_ASSET = _table_spec(RAW_EVENTS, TOPIC)
ROLLUP_1M_ASSET = _table_spec(ROLLUP_1M, RAW_EVENTS_ASSET)
DEAD_LETTERS_ASSET = _table_spec(DEAD_LETTERS, TOPIC)

ASSETS = (TOPIC, RAW_EVENTS_ASSET, ROLLUP_1M_ASSET, DEAD_LETTERS_ASSET)
