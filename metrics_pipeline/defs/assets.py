"""The asset graph: the topic, and the tables that drain runs write. Nothing here does work."""

from datetime import timedelta

import dagster as dg

from metrics_pipeline.ddl.objects import Table
from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.rollups.cubes import CUBES, ENDPOINTS
from metrics_pipeline.rollups.grains import LIVE, Grain
from metrics_pipeline.rollups.tables import table_of

GROUP = "events"
ROLLUPS_GROUP = "rollups"

DRAINED = dg.FreshnessPolicy.time_window(warn_window=timedelta(minutes=15), fail_window=timedelta(hours=1))
"""Of tables that each insert feeds. A drain run reports once per window, and while the topic is idle the check `fresh`
does, once it has seen that nothing waits: so what is stale has events waiting, or nobody looks."""


def built_policy(grain: Grain) -> dg.FreshnessPolicy:
    """Of a built grain, whose tables are materialized only after events came: a day without any is not yet wrong."""
    bucket = timedelta(seconds=grain.seconds)
    return dg.FreshnessPolicy.time_window(
        warn_window=bucket + timedelta(days=1), fail_window=bucket + timedelta(days=2)
    )


TOPIC = dg.AssetSpec(
    key=dg.AssetKey(["kafka", "events"]),
    group_name=GROUP,
    kinds={"kafka"},
    description="The topic that services write one event per request to.",
)


def table_spec(
    table: Table, *upstream: dg.AssetSpec, group: str = GROUP, freshness: dg.FreshnessPolicy | None = None
) -> dg.AssetSpec:
    """A table of the server as an asset; without a policy its age says nothing."""
    columns = [dg.TableColumn(c.name, c.type, c.comment or None) for c in table.columns]
    return dg.AssetSpec(
        key=dg.AssetKey(["clickhouse", table.name]),
        deps=upstream,
        group_name=group,
        kinds={"clickhouse", "table"},
        description=table.comment,
        metadata={"dagster/column_schema": dg.TableSchema(columns), "dagster/table_name": table.name},
        freshness_policy=freshness,
    )


RAW_EVENTS_ASSET = table_spec(RAW_EVENTS, TOPIC, freshness=DRAINED)
DEAD_LETTERS_ASSET = table_spec(DEAD_LETTERS, TOPIC)
LIVE_ASSETS = {
    cube: table_spec(table_of(cube, LIVE), RAW_EVENTS_ASSET, group=ROLLUPS_GROUP, freshness=DRAINED) for cube in CUBES
}
"""The finest grain of each cube: fed by each insert into raw_events."""
ROLLUP_1M_ASSET = LIVE_ASSETS[ENDPOINTS]
EVENT_ASSETS = (RAW_EVENTS_ASSET, *LIVE_ASSETS.values())
"""What an insert of events feeds."""

ASSETS = (TOPIC, *EVENT_ASSETS, DEAD_LETTERS_ASSET)
