"""The tables: the one place that knows their columns, engines and keys, and how to bring a server there.

Columns of raw_events come from the event contract. Every table that a micro-batch writes remembers the tokens of its
last inserts, so that a repeated insert changes nothing; partition keys depend on the batch alone, never on the time of
the insert, since the server remembers tokens per partition.
"""

from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.tables import ALERT_LOG, CANARIES
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.change import Phase, Plan, Work, hash_of
from metrics_pipeline.ddl.found_schema import Found
from metrics_pipeline.ddl.live import LiveSchema
from metrics_pipeline.ddl.migrating import Migration, Progress, Works
from metrics_pipeline.ddl.objects import SchemaObject, Table
from metrics_pipeline.ddl.planner import plan as compare
from metrics_pipeline.ddl.storage_views import DISKS, PARTS
from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.ledger.tables import BATCHES, REPLAY_PLAN
from metrics_pipeline.rollups.cubes import CUBES
from metrics_pipeline.rollups.cutoffs import refresh_views
from metrics_pipeline.rollups.new_grains import count_buckets
from metrics_pipeline.rollups.retained_from import REPLACED_BY, RetainedFrom
from metrics_pipeline.rollups.retained_from_store import RETAINED_FROM, read_retained_from
from metrics_pipeline.rollups.tables import BUCKETS, BUILDS, ROLLUP_FEEDS, ROLLUP_TABLES, ROLLUP_UNIONS
from metrics_pipeline.rollups.views import ROLLUP_VIEWS, rollup_views
from metrics_pipeline.runtime.timerange import minute_name

OBJECTS: tuple[SchemaObject, ...] = (
    RAW_EVENTS,
    RETAINED_FROM,
    BUILDS,
    *ROLLUP_TABLES,
    *ROLLUP_FEEDS,
    *ROLLUP_UNIONS,
    *ROLLUP_VIEWS,
    BUCKETS,
    PARTS,
    DISKS,
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
    if RETAINED_FROM.name in found and not is_current:
        retained_from = read_retained_from(client)
        _refuse_grains_without_rows(found, retained_from)
        now = {view.name: view for view in rollup_views(retained_from.cutoffs)}
        objects = tuple(now.get(o.name, o) for o in OBJECTS)
    return compare(objects, found, storage)


def _refuse_grains_without_rows(found: Found, retained_from: RetainedFrom) -> None:
    """Raises ConfigurationError for a new grain whose buckets would have to stand for rows that are gone already."""
    for fine, coarse in REPLACED_BY.items():
        table, gone_until = CUBES[0].table(coarse), retained_from.of(fine)
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
    known = {Work.COUNT_BUCKETS: lambda _progress: count_buckets(client), **(works or {})}
    Migration(client, partial(plan, client, storage), known, progress).run(wanted, allow_destructive=allow_destructive)
    if any(change.phase is Phase.EXPAND for change in wanted.safe) and read_retained_from(client).cutoffs:
        # Retention may have moved them meanwhile.
        refresh_views(client)
    return wanted
