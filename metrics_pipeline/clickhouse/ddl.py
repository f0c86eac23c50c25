"""Tables and views as values, and the statements that create them."""

from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    codec: str = ""
    comment: str = ""

    @property
    def ddl(self) -> str:
        codec = f" CODEC({self.codec})" if self.codec else ""
        comment = f" COMMENT '{_quoted(self.comment)}'" if self.comment else ""
        return f"`{self.name}` {self.type}{comment}{codec}"


@dataclass(frozen=True, slots=True)
class Table:
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
    """Without one, rows are kept until somebody drops them."""

    def ddl(self, deduplication_window_blocks: int) -> str:
        time_to_live = f"TTL {self.ttl}\n" if self.ttl else ""
        lines = [c.ddl for c in self.columns] + [f"INDEX {index}" for index in self.indexes]
        body = ",\n    ".join(lines)
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name}\n(\n    {body}\n)\n"
            f"ENGINE = {self.engine}\nPARTITION BY {self.partition_by}\n"
            f"PRIMARY KEY ({', '.join(self.primary_key or self.order_by)})\nORDER BY ({', '.join(self.order_by)})\n"
            f"{time_to_live}SETTINGS non_replicated_deduplication_window = {deduplication_window_blocks}, "
            f"index_granularity = {self.index_granularity}\n"
            f"COMMENT '{_quoted(self.comment)}'"
        )

    def addition_ddl(self, name: str) -> str:
        """Adds the column to a table that was made without it: metadata only, old rows read as the type's default."""
        at = [c.name for c in self.columns].index(name)
        place = f"AFTER `{self.columns[at - 1].name}`" if at else "FIRST"
        return f"ALTER TABLE {self.name} ADD COLUMN IF NOT EXISTS {self.columns[at].ddl} {place}"

    def index_ddl(self, index: str) -> str:
        """Adds one of `indexes`: metadata only, parts get it when they are merged."""
        return f"ALTER TABLE {self.name} ADD INDEX IF NOT EXISTS {index}"


@dataclass(frozen=True, slots=True)
class Union:
    """Reads several tables of the same columns as one (engine Merge); holds nothing itself."""

    name: str
    tables: tuple[Table, ...]
    comment: str

    def ddl(self, deduplication_window_blocks: int) -> str:  # noqa: ARG002 - the same call for all objects
        names = "|".join(table.name for table in self.tables)
        columns = ", ".join(f"`{c.name}` {c.type}" for c in self.tables[0].columns)
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} ({columns})\n"
            f"ENGINE = Merge(currentDatabase(), '^({names})$')\nCOMMENT '{_quoted(self.comment)}'"
        )


@dataclass(frozen=True, slots=True)
class MaterializedView:
    """Writes into `target` what `select` makes of each inserted block."""

    name: str
    target: str
    select: str
    comment: str

    def ddl(self, deduplication_window_blocks: int) -> str:  # noqa: ARG002 - the same call for all objects
        return (
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {self.name} TO {self.target} AS\n{self.select}\n"
            f"COMMENT '{_quoted(self.comment)}'"
        )


@dataclass(frozen=True, slots=True)
class View:
    """A query with a name; where it holds {parameters}, readers give them like arguments of a function."""

    name: str
    select: str
    comment: str

    @property
    def stored_comment(self) -> str:
        """Names the query's version: servers rewrite queries, so that two of them can't be compared."""
        return f"{self.comment} Version {sha256(self.select.encode()).hexdigest()[:8]}."

    def ddl(self, deduplication_window_blocks: int) -> str:  # noqa: ARG002 - the same call for all objects
        return f"CREATE OR REPLACE VIEW {self.name} AS\n{self.select}\nCOMMENT '{_quoted(self.stored_comment)}'"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
