"""The database that everybody asks where there is a cluster: each table put together from all shards.

    <database>_shard   on every server: the shard's own tables, feeds and views, as on a server without a cluster
    <database>         on every server: tables of the same names over all shards, and views that ask each shard's own

What events become, all of rollups and their books, stays on the shard where the event's row is: so its rollups are
right for its rows, and are built, compared, repaired and dropped there as those of one server are. Events go to shards
by their id, so that both copies of a duplicate go to the same one. Books about batches are all on the first shard: what
proves itself in one query is on one server.
"""

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.tables import ALERT_LOG, CANARIES
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.change import Plan
from metrics_pipeline.ddl.live import LiveSchema
from metrics_pipeline.ddl.migrating import Migration, Progress
from metrics_pipeline.ddl.objects import Distributed, SchemaObject, View
from metrics_pipeline.ddl.planner import plan as compare
from metrics_pipeline.ddl.storage_views import disks_view, parts_view
from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.ledger.tables import BATCHES, REPLAY_PLAN
from metrics_pipeline.rollups.retained_from_store import RETAINED_FROM
from metrics_pipeline.rollups.tables import BUCKETS, BUILDS, ROLLUP_TABLES
from metrics_pipeline.rollups.views import ARGUMENTS, ROLLUP_VIEWS

_BY_EVENT = "cityHash64(event_id)"
_FIRST_SHARD = "0"
_NOWHERE = ""
_SHARDING_KEYS = {
    RAW_EVENTS: _BY_EVENT,
    **dict.fromkeys((RETAINED_FROM, BUILDS, *ROLLUP_TABLES), _NOWHERE),
    **dict.fromkeys((DEAD_LETTERS, BATCHES, REPLAY_PLAN, ALERT_LOG, CANARIES), _FIRST_SHARD),
}
_GIVEN = ", ".join(f"{name} = {{{name}:{kind}}}" for name, kind in ARGUMENTS.items())


def objects(cluster: str, database: str) -> tuple[SchemaObject, ...]:
    """Of the database over all shards, whose own is `database`."""
    tables = (Distributed(table, cluster, database, key) for table, key in _SHARDING_KEYS.items())
    own, disk = f"'{database}'", "concat(hostName(), ':', name)"
    return (
        *tables,
        *(_over_all_shards(view, cluster, f"SELECT * FROM {database}.{view.name}({_GIVEN})") for view in ROLLUP_VIEWS),
        _over_all_shards(BUCKETS, cluster, f"SELECT * FROM {database}.{BUCKETS.name}"),
        *(_over_all_shards(view, cluster, view.select) for view in (parts_view(own), disks_view(own, disk))),
    )


def plan(client: Client, cluster: str, database: str) -> Plan:
    # Nothing here holds rows.
    return compare(objects(cluster, database), LiveSchema(client).read({}), Storage(0))


def apply(client: Client, cluster: str, database: str, progress: Progress) -> Plan:
    """Bring it there; returns what was planned. Harmless when repeated."""
    wanted = plan(client, cluster, database)
    Migration(client, lambda: plan(client, cluster, database), {}, progress).run(wanted)
    return wanted


def _over_all_shards(view: View, cluster: str, of_shard: str) -> View:
    """Each shard is asked the whole question, and groups its own rows."""
    return View(view.name, f"SELECT * FROM cluster('{cluster}', view({of_shard}))", view.comment)
