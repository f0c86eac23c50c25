# ruff: noqa: PLC0415 - the order of imports is the point here
"""The command line of a version that wants another schema: `python -m benchmarks.next_version CHANGES COMMAND …`.

CHANGES are names with commas between them: `tables` (a column, a codec, comments, an index, a TTL, a wider type),
`promoted` (the attribute version is a column), `dimension` (rollups by endpoint have the region, too), `grain` (buckets
of 28 days). Constants are changed before what is made of them is imported.
"""

import sys
from dataclasses import replace
from typing import Any


def promote() -> None:
    from metrics_pipeline.event import contract as event

    event.TABLE_COLUMNS = (*event.RAW_COLUMNS, event.promoted("version"))


def add_dimension() -> None:
    from metrics_pipeline.rollups import cubes

    wider = replace(cubes.ENDPOINTS, dimensions=(*cubes.ENDPOINTS.dimensions, "region"), added=("region",))
    cubes.CUBES = (wider, *cubes.CUBES[1:])
    cubes.ENDPOINTS = wider


def add_grain() -> None:
    from metrics_pipeline.rollups import grains

    grains.BUILT = (*grains.BUILT, grains.Grain("28d", 28 * 86_400, partition_days=448))  # type: ignore[assignment]
    grains.GRAINS = (grains.LIVE, *grains.BUILT)


def change_tables() -> None:
    from metrics_pipeline.ddl.objects import Column
    from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
    from metrics_pipeline.ledger.tables import REPLAY_PLAN
    from metrics_pipeline.schema import all as schema

    raw, letters, plan = RAW_EVENTS, DEAD_LETTERS, REPLAY_PLAN
    columns: dict[str, dict[str, Any]] = {
        "status": {"type": "UInt32"},
        "latency_ms": {"codec": "Gorilla, ZSTD(1)"},
        "host": {"comment": "Host or pod"},
    }
    wanted = {
        raw.name: replace(
            raw,
            columns=tuple(replace(c, **columns.get(c.name, {})) for c in raw.columns),
            indexes=(*raw.indexes, "host_index host TYPE set(100) GRANULARITY 4"),
        ),
        letters.name: replace(letters, columns=(*letters.columns, Column("team", "String", default="'nobody'"))),
        plan.name: replace(plan, ttl="toDateTime(opened_at) + INTERVAL 60 DAY"),
    }
    schema.OBJECTS = tuple(wanted.get(o.name, o) for o in schema.OBJECTS)


CHANGES = {
    "grain": add_grain,
    "dimension": add_dimension,
    "promoted": promote,
    "tables": change_tables,
}
"""In the order in which modules import each other."""


def main() -> None:
    names, *arguments = sys.argv[1:]
    unknown = set(names.split(",")) - CHANGES.keys()
    if unknown:
        raise SystemExit(f"there is no change {', '.join(sorted(unknown))}; known are {', '.join(CHANGES)}")
    for name, change in CHANGES.items():
        if name in names.split(","):
            change()
    from metrics_pipeline.cli import main as run

    sys.argv = ["metrics-pipeline", *arguments]
    run()


if __name__ == "__main__":
    main()
