"""What the server has: tables, columns, keys, indexes, sizes, and changes that are under way."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import SHARD_SUFFIX
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ddl.comparison import split
from metrics_pipeline.ddl.found_schema import Found, FoundColumn, FoundTable, Size

_TABLES = """SELECT name, engine, engine_full, comment, partition_key, sorting_key, primary_key FROM system.tables
    WHERE database = currentDatabase()"""
_COLUMNS = """SELECT table, name, type, default_kind, default_expression, compression_codec, comment,
        data_compressed_bytes FROM system.columns
    WHERE database = currentDatabase() ORDER BY table, position"""
_INDEXES = """SELECT table, name, expr, type_full, granularity FROM system.data_skipping_indices
    WHERE database = currentDatabase()"""
_SIZES = """SELECT table, uniqExact(partition_id), sum(rows), sum(bytes_on_disk) FROM system.parts
    WHERE active AND database = currentDatabase() GROUP BY table"""
_HOLDERS = """SELECT DISTINCT name FROM system.parts_columns
    WHERE active AND database = currentDatabase() AND table = {table:String} AND column = {column:String}"""
_UNFILLED = f"""SELECT partition_id, sum(rows), sum(bytes_on_disk) FROM system.parts
    WHERE active AND database = currentDatabase() AND table = {{table:String}} AND name NOT IN ({_HOLDERS})
    GROUP BY partition_id HAVING sum(rows) > 0 ORDER BY partition_id DESC"""
_MUTATIONS = """SELECT table, mutation_id, command, parts_to_do, latest_fail_reason FROM system.mutations
    WHERE database = currentDatabase() AND NOT is_done AND NOT is_killed ORDER BY create_time, mutation_id"""
IS_OWN = f"database IN (currentDatabase(), currentDatabase() || '{SHARD_SUFFIX}') AND engine != 'Distributed'"
"""A condition on system.tables: those that hold rows, also where the database has tables over all shards."""
_TIME_TO_LIVE = re.compile(r"\bTTL \S.*?toInterval(Day|Week|Month|Year)\((\d+)\)")
_OTHER_TTL = re.compile(r" TO (?:DISK|VOLUME) | RECOMPRESS | GROUP BY | WHERE ")
_UNIT_DAYS = {"Day": 1, "Week": 7, "Month": 28, "Year": 365}
"""A lower bound: a warning may be early, not late."""
_TTL = re.compile(r" TTL (.*?)(?: SETTINGS |$)")
_ENGINE = re.compile(r"^(.*?)(?: PARTITION BY | PRIMARY KEY | ORDER BY | TTL | SETTINGS |$)")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One that is under way. `problem` is "" unless it failed last time; the server tries again by itself."""

    table: str
    id: str
    command: str
    parts_to_do: int
    problem: str


@dataclass(frozen=True, slots=True)
class LiveSchema:
    client: Client

    def read(self, filled: Mapping[str, Sequence[str]]) -> Found:
        """Everything in the database. `filled`: table -> columns of which it is asked what parts lack them."""
        columns: dict[str, dict[str, FoundColumn]] = defaultdict(dict)
        for table, name, kind, default_kind, default, codec, comment, size in self._rows(_COLUMNS):
            # Of another kind it is another default, whatever it says.
            expression = default if default_kind in ("", "DEFAULT") else f"{default_kind} {default}"
            columns[table][name] = FoundColumn(kind, expression, codec, comment, int(size))
        indexes: dict[str, dict[str, str]] = defaultdict(dict)
        for table, name, expression, kind, granularity in self._rows(_INDEXES):
            indexes[table][name] = f"{expression} TYPE {kind} GRANULARITY {granularity}"
        sizes = {table: Size(*map(int, figures)) for table, *figures in self._rows(_SIZES)}
        return {
            name: FoundTable(
                engine=_first(_ENGINE, full) or engine,
                comment=comment,
                columns=columns[name],
                partition_by=partition_by,
                order_by=order_by,
                primary_key=primary_key,
                ttl=_first(_TTL, full),
                settings=_settings(full),
                indexes=indexes[name],
                size=sizes.get(name, Size()),
                unfilled={
                    column: _sum(self.unfilled(name, column))
                    for column in filled.get(name, ())
                    if column in columns[name]
                },
            )
            for name, engine, full, comment, partition_by, order_by, primary_key in self._rows(_TABLES)
        }

    def unfilled(self, table: str, column: str) -> dict[str, Size]:
        """Partitions with parts that don't hold the column, newest first."""
        rows = self._rows(_UNFILLED, {"table": table, "column": column})
        return {str(id_): Size(1, int(count), int(size)) for id_, count, size in rows}

    def mutations(self) -> list[Mutation]:
        return [
            Mutation(table, id_, command, int(parts), problem)
            for table, id_, command, parts, problem in self._rows(_MUTATIONS)
        ]

    def _rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        return query_rows(self.client, "reading the schema", sql, parameters or {})


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _settings(engine: str) -> dict[str, str]:
    _, _, given = engine.partition(" SETTINGS ")
    return {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in split(given))}


def _sum(sizes: Mapping[str, Size]) -> Size:
    return Size(len(sizes), sum(s.rows for s in sizes.values()), sum(s.bytes_on_disk for s in sizes.values()))


def time_to_live_days(engine: str) -> float | None:
    """Days that an engine's TTL keeps a row; None without one, or where it moves or changes rows as well."""
    found = _TIME_TO_LIVE.search(engine)
    if found is None or _OTHER_TTL.search(engine, found.start()):
        return None
    return int(found[2]) * _UNIT_DAYS[found[1]]
