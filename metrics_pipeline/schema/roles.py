"""Who may do what in the database: the one place that knows the grants of each role.

| role | whose |
|---|---|
| schema | `schema apply` and retention: creates and alters tables and views, drops partitions |
| writer | drains, backfills, replays, rollups, alerts: reads all, inserts, deletes single rows where a repair does |
| reader | dashboards and questions: reads all, changes nothing, with limits per query and per hour |
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from metrics_pipeline.delivery.tables import RAW_EVENTS
from metrics_pipeline.rollups.tables import ROLLUP_TABLES, ROLLUP_UNIONS

_SYSTEM = (
    "columns",
    "data_skipping_indices",
    "disks",
    "mutations",
    "parts",
    "parts_columns",
    "storage_policies",
    "tables",
)
_READS_OF_SHARDS = ("GRANT SELECT ON system.clusters", "GRANT READ ON REMOTE", "GRANT CREATE TEMPORARY TABLE ON *.*")
_DELETABLE = (RAW_EVENTS, *ROLLUP_TABLES)
"""Tables of which a writer deletes single rows: what a replay or a repair replaces."""
_ENGINES = ("AggregatingMergeTree", "Merge", "ReplacingMergeTree")
_ENGINES_OF_CLUSTERS = ("Distributed", "ReplicatedAggregatingMergeTree", "ReplicatedReplacingMergeTree")


@dataclass(frozen=True, slots=True)
class Role:
    """`grants` are statements up to their TO. `settings` hold for each query, `per_hour` for all of an hour."""

    name: str
    grants: tuple[str, ...]
    settings: Mapping[str, int] = field(default_factory=dict)
    per_hour: Mapping[str, int] = field(default_factory=dict)


def roles(database: str, own: str = "") -> tuple[Role, ...]:
    """Of one database; with a cluster also `own`, that of each shard's own tables."""
    over = database if own else ""
    database = own or database
    reads = (
        *(f"GRANT SELECT ON {name}.*" for name in (database, over) if name),
        *(f"GRANT SELECT ON system.{table}" for table in _SYSTEM),
        *(_READS_OF_SHARDS if over else ()),
    )
    writes = (
        *reads,
        *(f"GRANT INSERT ON {name}.*" for name in (database, over) if name),
        *(f"GRANT ALTER DELETE ON {database}.{table.name}" for table in _DELETABLE),
    )
    return (
        Role(
            "schema",
            (
                *writes,
                # What is over all shards holds nothing; another one replaces it.
                *([f"GRANT CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW ON {over}.*"] if over else ()),
                *(f"GRANT TABLE ENGINE ON {engine}" for engine in (_ENGINES_OF_CLUSTERS if over else ())),
                f"GRANT CREATE TABLE, CREATE VIEW, DROP VIEW, ALTER TABLE ON {database}.*",
                # A union holds nothing; one of other tables replaces it, for a moment under such a name.
                f"GRANT DROP TABLE ON {database}._tmp_replace_*",
                *(f"GRANT DROP TABLE ON {database}.{union.name}" for union in ROLLUP_UNIONS),
                *(f"GRANT TABLE ENGINE ON {engine}" for engine in _ENGINES),
                # Views that fill tables work with the rights of who made them.
                "GRANT SET DEFINER ON *",
            ),
        ),
        Role("writer", writes),
        Role(
            "reader",
            reads,
            # 2: may choose settings for a query, such as its formats, but not change data. The limits stay.
            {"readonly": 2, "max_execution_time": 30, "max_memory_usage": 4_000_000_000, "max_result_rows": 1_000_000},
            {"queries": 100_000, "execution_time": 7_200},
        ),
    )


def statements(database: str, prefix: str = "metrics_pipeline_", own: str = "") -> list[str]:
    """SQL that makes the roles; repeating it changes nothing."""
    return [line for role in roles(database, own) for line in _statements(role, prefix + role.name)]


def _statements(role: Role, name: str) -> Iterator[str]:
    yield f"CREATE ROLE IF NOT EXISTS {name}"
    for grant in role.grants:
        yield f"{grant} TO {name}"
    if role.settings:
        # A query may lower a limit, not raise it.
        limits = ", ".join(f"{key} = {value} MAX {value}" for key, value in role.settings.items())
        yield f"CREATE SETTINGS PROFILE OR REPLACE {name} SETTINGS {limits} TO {name}"
    if role.per_hour:
        quota = ", ".join(f"{key} = {value}" for key, value in role.per_hour.items())
        yield f"CREATE QUOTA OR REPLACE {name} KEYED BY user_name FOR INTERVAL 1 hour MAX {quota} TO {name}"
