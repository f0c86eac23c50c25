"""A table of another shape in the place of one that is in use: the statements. Pure.

<name>__next   the shadow; after the exchange the table from before, until it is dropped
<name>__feed   hands each insert into the table on to the shadow
<name>__claim  is there while one of several applies exchanges the tables
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.objects import Table

NEXT, FEED, CLAIM = "__next", "__feed", "__claim"


@dataclass(frozen=True, slots=True)
class Shadow:
    """Of a ReplacingMergeTree alone, where a row that is written twice is one row.

    `partition_by` is that of the table from before; copies go by its partitions. `columns` are those that both have.
    """

    wanted: Table
    partition_by: str
    columns: Sequence[str]
    storage: Storage

    @property
    def name(self) -> str:
        return self.wanted.name + NEXT

    @property
    def creation(self) -> tuple[str, ...]:
        """The shadow, and the feed that keeps it up to date; both may be there already."""
        select = f"SELECT {self._names} FROM {self.wanted.name}"
        feed = f"CREATE MATERIALIZED VIEW IF NOT EXISTS {self.wanted.name}{FEED} TO {self.name} AS\n{select}"
        return replace(self.wanted, name=self.name).ddl(self.storage), feed

    @property
    def differing(self) -> str:
        """A condition on rows of the table: the shadow has none like it. Parameter `id`: a partition of the table."""
        same = f"SELECT {self._hashes} FROM {self.name} FINAL"
        if self.partition_by not in ("", "tuple()"):
            # Only of that partition: all hashes of a large table don't fit into memory.
            of = f"SELECT DISTINCT {self.partition_by} FROM {self.wanted.name} WHERE _partition_id = {{id:String}}"
            same += f" WHERE {self.partition_by} IN ({of})"
        return f"_partition_id = {{id:String}} AND ({self._hashes}) NOT IN ({same})"

    @property
    def count(self) -> str:
        return f"SELECT count() FROM {self.wanted.name} FINAL WHERE {self.differing}"

    @property
    def copy(self) -> str:
        return (
            f"INSERT INTO {self.name} ({self._names}) SELECT {self._names} FROM {self.wanted.name} FINAL "
            f"WHERE {self.differing}"
        )

    @property
    def exchange(self) -> str:
        return f"EXCHANGE TABLES {self.wanted.name} AND {self.name}"

    @property
    def leftovers(self) -> str:
        """Run after the exchange: rows that only the table from before got, of an insert that began before the feed."""
        key = ", ".join(self.wanted.order_by)
        return (
            f"INSERT INTO {self.wanted.name} ({self._names}) SELECT {self._names} FROM {self.name} FINAL "
            f"WHERE ({key}) NOT IN (SELECT {key} FROM {self.wanted.name})"
        )

    @property
    def statements(self) -> tuple[str, ...]:
        """For people, in order."""
        return (*self.creation, self.copy, self.exchange, f"DROP VIEW IF EXISTS {self.wanted.name}{FEED}")

    @property
    def _names(self) -> str:
        return ", ".join(f"`{name}`" for name in self.columns)

    @property
    def _hashes(self) -> str:
        return f"cityHash64({', '.join(self.wanted.order_by)}), cityHash64({self._names})"
