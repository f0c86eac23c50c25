"""What has to be done for a server to have the wanted schema. Pure."""

from collections.abc import Iterator, Sequence

from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.change import Change, Phase, Plan, Way, Work
from metrics_pipeline.ddl.columns import column_changes
from metrics_pipeline.ddl.comparison import canonical, days_of, same_engine, split
from metrics_pipeline.ddl.found_schema import Found, FoundTable, Size
from metrics_pipeline.ddl.objects import (
    NOT_FILLED,
    Distributed,
    MaterializedView,
    SchemaObject,
    Table,
    Union,
    View,
    quoted,
)

EVENTS = "raw_events"
"""The table that rollups are made of."""


def plan(objects: Sequence[SchemaObject], found: Found, storage: Storage) -> Plan:
    """Compare. Within a phase columns come first: views that are made or replaced may read them."""
    tables = [o for o in objects if isinstance(o, Table) and o.name in found]
    changes = [c for table in tables for c in _table(table, found[table.name], storage)]
    for wanted in objects:
        changes += _object(wanted, found.get(wanted.name), storage)
    changes += _remake(tables, changes, found)
    return Plan(tuple(c for phase in Phase for c in changes if c.phase is phase))


def _object(wanted: SchemaObject, found: FoundTable | None, storage: Storage) -> Iterator[Change]:
    """Creating what is missing, and replacing what holds no rows."""
    if found is None:
        yield Change(wanted.name, f"create the {wanted.kind}", (wanted.ddl(storage),), is_needed=True)
    elif isinstance(wanted, View) and found.comment != wanted.stored_comment:
        yield Change(wanted.name, "replace the view by another query", (wanted.replacement,))
    elif isinstance(wanted, MaterializedView) and found.comment != wanted.stored_comment:
        yield Change(wanted.name, f"feed {wanted.target} by another query", wanted.replacements)
    elif isinstance(wanted, Union) and not _same_union(wanted, found):
        yield Change(wanted.name, "replace the union by one of other columns or tables", (wanted.replacement,))
    elif isinstance(wanted, Distributed) and not _same_distributed(wanted, found):
        what = "replace the table over all shards by one of other columns or places"
        yield Change(wanted.name, what, (wanted.replacement,), is_needed=True)


def _table(wanted: Table, found: FoundTable, storage: Storage) -> Iterator[Change]:
    appended = appended_key(wanted, found)
    if appended:
        yield _appending(wanted, appended)
    yield from column_changes(wanted, found, appended)
    yield from _indexes(wanted, found)
    yield from _properties(wanted, found, storage)
    yield from _shapes(wanted, found, storage)


def appended_key(wanted: Table, found: FoundTable) -> tuple[str, ...]:
    """New columns that only have to be put behind the sorting key: rows stay where they are, and are sorted."""
    if canonical(found.primary_key or found.order_by) != canonical(", ".join(wanted.key)):
        return ()
    behind = split(canonical(found.order_by))
    appended = wanted.order_by[len(behind) :]
    is_prefix = tuple(behind) == wanted.order_by[: len(behind)]
    return appended if is_prefix and not set(appended) & found.columns.keys() else ()


def _appending(wanted: Table, names: tuple[str, ...]) -> Change:
    """One statement: an added column may become part of the key only in the ALTER that adds it."""
    parts = [*(wanted.addition(name) for name in names), f"MODIFY ORDER BY ({', '.join(wanted.order_by)})"]
    if wanted.is_made_of_events:
        parts.append(wanted.lacking(names))
    return Change(
        wanted.name,
        f"add {', '.join(names)} to the columns and the end of the sorting key",
        (f"ALTER TABLE {wanted.name} {', '.join(parts)}",),
        is_needed=True,
    )


def _shapes(wanted: Table, found: FoundTable, storage: Storage) -> Iterator[Change]:
    """What only another table can have. None is copied here: a person does it, while nothing writes to the table."""
    differing = []
    if not same_engine(found.engine, wanted.engine):
        differing.append(("engine", found.engine, wanted.engine))
    if canonical(found.partition_by or "tuple()") != canonical(wanted.partition_by):
        differing.append(("partition key", found.partition_by, wanted.partition_by))
    if canonical(found.order_by) != canonical(", ".join(wanted.order_by)) and not appended_key(wanted, found):
        differing.append(("sorting key", found.order_by, ", ".join(wanted.order_by)))
    refusal = _what_to_do(wanted)
    if storage.is_replicated and not found.engine.startswith(("Replicated", "Shared")):
        differing.append(("engine", found.engine, storage.engine(wanted.engine, wanted.name)))
        refusal = (
            "while nothing writes to it: DETACH TABLE, then ATTACH TABLE … AS REPLICATED makes it the first replica of "
            "itself"
        )
    for what, has, wants in differing:
        told = f"its {what} is {has or 'none'}, wanted {wants}"
        yield Change(wanted.name, told, (), Phase.MIGRATE, Way.REBUILD, found.size, refusal=refusal)


def _what_to_do(table: Table) -> str:
    """Of a table whose key, partitions or engine differ."""
    if table.name == EVENTS:
        return (
            "a table's tokens of inserts stay with it: a batch that is open while another table takes its place would "
            "be inserted twice, into the rollups as well. Create a database with the wanted schema, and replay into it"
        )
    if table.is_made_of_events:
        return (
            "drop this table and its feed while no drain runs, apply, then remake it from raw events: "
            "`metrics-pipeline rollups rebuild --from-raw`"
        )
    return "while nothing writes to it, another table takes its place: docs/runbooks/table-keys.md has the statements"


def _indexes(wanted: Table, found: FoundTable) -> Iterator[Change]:
    for index in wanted.indexes:
        name, _, definition = index.partition(" ")
        add = f"ADD INDEX IF NOT EXISTS {index}"
        if name not in found.indexes:
            what, statement = f"add the index {name}", f"ALTER TABLE {wanted.name} {add}"
        elif canonical(found.indexes[name]) != canonical(definition):
            what = f"change the index {name}"
            statement = f"ALTER TABLE {wanted.name} DROP INDEX IF EXISTS {name}, {add}"
        else:
            continue
        yield Change(wanted.name, f"{what}; parts get it when they are merged", (statement,))


def _properties(wanted: Table, found: FoundTable, storage: Storage) -> Iterator[Change]:
    alter = f"ALTER TABLE {wanted.name} "
    for setting, value in storage.token_settings.items():
        if found.settings.get(setting, "0") != value:
            what = f"remember tokens of inserts: {setting} is {value}, so far {found.settings.get(setting, '0')}"
            yield Change(wanted.name, what, (f"{alter}MODIFY SETTING {setting} = {value}",))
    # Without one of our own, the TTL is retention's, or of whoever set it.
    if wanted.ttl and canonical(found.ttl) != canonical(wanted.ttl):
        is_longer = 0 < days_of(found.ttl) <= days_of(wanted.ttl)
        yield Change(
            wanted.name,
            f"keep rows until {wanted.ttl}, so far {f'until {found.ttl}' if found.ttl else 'for good'}",
            (f"{alter}MODIFY TTL {wanted.ttl}",),
            Phase.EXPAND if is_longer else Phase.CONTRACT,
            size=found.size,
            destroys=not is_longer,
        )
    if found.comment.split(NOT_FILLED)[0] != wanted.comment:
        statements = (f"{alter}MODIFY COMMENT '{quoted(wanted.comment)}'",)
        work = wanted.work_before_comment
        if work is Work.NOTHING:
            yield Change(wanted.name, "another comment", statements)
        else:
            what = "count the events of new buckets"
            yield Change(wanted.name, what, statements, Phase.MIGRATE, Way.REBUILD, found.size, work=work)


def _remake(tables: Sequence[Table], changes: Sequence[Change], found: Found) -> Iterator[Change]:
    """One change for all rollups: they are remade together."""
    altered = {c.table for c in changes if c.work is Work.REMAKE_ROLLUPS}
    names = [
        table
        for table in tables
        if table.is_made_of_events
        and (table.name in altered or NOT_FILLED in found[table.name].comment or appended_key(table, found[table.name]))
    ]
    if not names:
        return
    events = found.get(EVENTS)
    yield Change(
        "rollups",
        f"remake {len(names)} tables from {EVENTS}, as far back as it goes; what is older keeps the defaults",
        tuple(f"ALTER TABLE {table.name} MODIFY COMMENT '{quoted(table.comment)}'" for table in names),
        Phase.MIGRATE,
        Way.REBUILD,
        events.size if events else Size(),
        work=Work.REMAKE_ROLLUPS,
    )


def _same_union(wanted: Union, found: FoundTable) -> bool:
    columns = {c.name: c.type.replace(" ", "") for c in wanted.tables[0].columns}
    return f"'{wanted.pattern}'" in found.engine and columns == {
        name: column.type.replace(" ", "") for name, column in found.columns.items()
    }


def _same_distributed(wanted: Distributed, found: FoundTable) -> bool:
    columns = {c.name: (c.type.replace(" ", ""), canonical(c.default)) for c in wanted.table.columns}
    return canonical(found.engine) == canonical(wanted.engine) and columns == {
        name: (column.type.replace(" ", ""), canonical(column.default)) for name, column in found.columns.items()
    }
