"""Wanted tables and views as values, and the statements that create them. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import ClassVar

from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.change import Work

NOT_FILLED = " Rows from before lack: "
"""Ends the comment of a table whose new columns are still to be filled from raw events; the names follow."""


@dataclass(frozen=True, slots=True)
class Column:
    """`default` is written as the server prints it; an insert that doesn't name the column gets it.

    With `is_filled` rows from before the column are given the default's value once, so that reading them costs nothing.
    """

    name: str
    type: str
    codec: str = ""
    comment: str = ""
    default: str = ""
    is_filled: bool = False

    @property
    def ddl(self) -> str:
        default = f" DEFAULT {self.default}" if self.default else ""
        codec = f" CODEC({self.codec})" if self.codec else ""
        comment = f" COMMENT '{quoted(self.comment)}'" if self.comment else ""
        return f"`{self.name}` {self.type}{default}{comment}{codec}"


@dataclass(frozen=True, slots=True)
class Table:
    kind: ClassVar[str] = "table"
    name: str
    engine: str
    partition_by: str
    order_by: tuple[str, ...]
    columns: tuple[Column, ...]
    comment: str
    indexes: tuple[str, ...] = ()
    primary_key: tuple[str, ...] = ()
    """A prefix of `order_by`; without it all of that is held in memory per granule."""
    index_granularity: int = 8_192
    ttl: str = ""
    """Without one, the schema has no say: rows are kept, or retention sets one."""
    is_made_of_events: bool = False
    """A rollup: remade when it gets a column."""
    work_before_comment: Work = Work.NOTHING
    """Done before the comment is changed, which says that it was done."""

    @property
    def key(self) -> tuple[str, ...]:
        return self.primary_key or self.order_by

    def ddl(self, storage: Storage) -> str:
        time_to_live = f"TTL {self.ttl}\n" if self.ttl else ""
        lines = [c.ddl for c in self.columns] + [f"INDEX {index}" for index in self.indexes]
        body = ",\n    ".join(lines)
        given = {**storage.token_settings, "index_granularity": str(self.index_granularity)}
        settings = ", ".join(f"{name} = {value}" for name, value in given.items())
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name}\n(\n    {body}\n)\n"
            f"ENGINE = {storage.engine(self.engine, self.name)}\nPARTITION BY {self.partition_by}\n"
            f"PRIMARY KEY ({', '.join(self.key)})\nORDER BY ({', '.join(self.order_by)})\n"
            f"{time_to_live}SETTINGS {settings}\n"
            f"COMMENT '{quoted(self.comment)}'"
        )

    def addition(self, name: str) -> str:
        """The part of an ALTER TABLE that adds the column: metadata only, old rows read as the default."""
        at = [c.name for c in self.columns].index(name)
        place = f"AFTER `{self.columns[at - 1].name}`" if at else "FIRST"
        return f"ADD COLUMN IF NOT EXISTS {self.columns[at].ddl} {place}"

    def lacking(self, names: Iterable[str]) -> str:
        """The part of an ALTER TABLE that notes what is still to be remade, for whoever goes on."""
        return f"MODIFY COMMENT '{quoted(self.comment + NOT_FILLED + ', '.join(names))}.'"


class _HoldsNothing(ABC):
    """A table that reads others."""

    __slots__ = ()

    @property
    @abstractmethod
    def _definition(self) -> str:
        """Name, columns, engine and comment."""

    def ddl(self, storage: Storage) -> str:  # noqa: ARG002 - the same call for all objects
        return f"CREATE TABLE IF NOT EXISTS {self._definition}"

    @property
    def replacement(self) -> str:
        """Nothing is lost; queries see the one or the other."""
        return f"CREATE OR REPLACE TABLE {self._definition}"


@dataclass(frozen=True, slots=True)
class Union(_HoldsNothing):
    """Reads several tables of the same columns as one (engine Merge); holds nothing itself."""

    kind: ClassVar[str] = "union of tables"
    name: str
    tables: tuple[Table, ...]
    comment: str

    @property
    def pattern(self) -> str:
        return f"^({'|'.join(table.name for table in self.tables)})$"

    @property
    def _definition(self) -> str:
        columns = ", ".join(f"`{c.name}` {c.type}" for c in self.tables[0].columns)
        return (
            f"{self.name} ({columns})\n"
            f"ENGINE = Merge(currentDatabase(), '{self.pattern}')\nCOMMENT '{quoted(self.comment)}'"
        )


@dataclass(frozen=True, slots=True)
class Distributed(_HoldsNothing):
    """A table of the same name, put together from all shards of a cluster (engine Distributed); holds nothing itself.

    `database` is where each shard has its own table. Rows go to the shard that `sharding_key` says, an expression;
    without one, nothing can be inserted through it.
    """

    kind: ClassVar[str] = "table over all shards"
    table: Table
    cluster: str
    database: str
    sharding_key: str = ""

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def engine(self) -> str:
        """As the server prints it."""
        key = f", {self.sharding_key}" if self.sharding_key else ""
        return f"Distributed('{self.cluster}', '{self.database}', '{self.name}'{key})"

    @property
    def _definition(self) -> str:
        columns = ",\n    ".join(replace(column, codec="").ddl for column in self.table.columns)
        return f"{self.name}\n(\n    {columns}\n)\nENGINE = {self.engine}\nCOMMENT '{quoted(self.table.comment)}'"


@dataclass(frozen=True, slots=True)
class MaterializedView:
    """Writes into `target` what `select` makes of each inserted block."""

    kind: ClassVar[str] = "feed"
    name: str
    target: str
    select: str
    comment: str

    @property
    def stored_comment(self) -> str:
        return _versioned(self.comment, self.select)

    def ddl(self, storage: Storage) -> str:  # noqa: ARG002 - the same call for all objects
        return (
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {self.name} TO {self.target} AS\n{self.select}\n"
            f"COMMENT '{quoted(self.stored_comment)}'"
        )

    @property
    def replacements(self) -> tuple[str, ...]:
        """An insert takes the old query or the new one, and none is without. The comment says that it is done."""
        return (
            f"ALTER TABLE {self.name} MODIFY QUERY\n{self.select}",
            f"ALTER TABLE {self.name} MODIFY COMMENT '{quoted(self.stored_comment)}'",
        )


@dataclass(frozen=True, slots=True)
class View:
    """A query with a name; where it holds {parameters}, readers give them like arguments of a function."""

    kind: ClassVar[str] = "view"
    name: str
    select: str
    comment: str
    template: str = ""
    """Of a query that holds figures of the server: what it has in common with those of other figures."""

    @property
    def stored_comment(self) -> str:
        return _versioned(self.comment, self.template or self.select)

    def ddl(self, storage: Storage) -> str:  # noqa: ARG002 - the same call for all objects
        return self.replacement

    @property
    def replacement(self) -> str:
        return f"CREATE OR REPLACE VIEW {self.name} AS\n{self.select}\nCOMMENT '{quoted(self.stored_comment)}'"


SchemaObject = Table | Union | Distributed | MaterializedView | View


def quoted(text: str) -> str:
    """For use between single quotes."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _versioned(comment: str, query: str) -> str:
    """Names the query's version: servers rewrite queries, so that two of them can't be compared."""
    return f"{comment} Version {sha256(query.encode()).hexdigest()[:8]}."
