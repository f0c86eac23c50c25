"""Changes of a table's columns. Pure."""

import re
from collections.abc import Collection, Iterator

from metrics_pipeline.ddl.change import Change, Phase, Way, Work
from metrics_pipeline.ddl.comparison import canonical, is_wider, same_codec
from metrics_pipeline.ddl.found_schema import FoundColumn, FoundTable, Size
from metrics_pipeline.ddl.objects import Column, Table, quoted


def column_changes(table: Table, found: FoundTable, appended: Collection[str]) -> Iterator[Change]:
    """All of them but `appended`, which are added together with the key that they become part of."""
    for column in table.columns:
        of_server = found.columns.get(column.name)
        if of_server is not None:
            yield from _type(table, column, of_server, found)
            yield from _properties(table, column, of_server)
        elif column.name in appended:
            continue
        elif column.name in table.order_by:
            name, why = f"{table.name}.{column.name}", "a column of the sorting key can't be put into it afterwards"
            yield Change(name, "is missing", phase=Phase.MIGRATE, way=Way.REBUILD, is_needed=True, refusal=why)
        else:
            yield _addition(table, column)
        yield from _fill(table, column, found)
    yield from _extra(table, found)


def _addition(table: Table, column: Column) -> Change:
    is_made = table.is_made_of_events
    note = f", {table.lacking([column.name])}" if is_made else ""
    return Change(
        f"{table.name}.{column.name}",
        f"add the column; rows from before read as {column.default or 'the default of its type'}",
        (f"ALTER TABLE {table.name} {table.addition(column.name)}{note}",),
        is_needed=True,
        work=Work.REMAKE_ROLLUPS if is_made else Work.NOTHING,
        table=table.name,
    )


def _fill(table: Table, column: Column, found: FoundTable) -> Iterator[Change]:
    """Reading would work without: each query would then compute the default of all rows from before."""
    size = found.unfilled.get(column.name, Size()) if column.name in found.columns else found.size
    if column.is_filled and size.rows:
        yield Change(
            f"{table.name}.{column.name}",
            f"write {column.default} into rows from before",
            (f"ALTER TABLE {table.name} MATERIALIZE COLUMN `{column.name}`",),
            Phase.MIGRATE,
            Way.MUTATION,
            size,
            work=Work.FILL_COLUMN,
            table=table.name,
            column=column.name,
        )


def _type(table: Table, column: Column, found: FoundColumn, of_table: FoundTable) -> Iterator[Change]:
    if found.type.replace(" ", "") == column.type.replace(" ", ""):
        return
    what = f"is {found.type}, wanted {column.type}"
    name = f"{table.name}.{column.name}"
    # A wider one takes what this version writes, as drains of a version before need it.
    is_needed = not is_wider(found.type, column.type)
    in_key = _words(of_table.order_by) | _words(of_table.partition_by) | _words(of_table.primary_key)
    if column.name in in_key or "AggregateFunction" in f"{found.type}{column.type}":
        why = "the sorting or partition key holds it" if column.name in in_key else "states of other functions differ"
        yield Change(name, what, phase=Phase.MIGRATE, way=Way.REBUILD, is_needed=is_needed, refusal=why)
        return
    statements = (f"ALTER TABLE {table.name} MODIFY COLUMN `{column.name}` {column.type}",)
    size = Size(of_table.size.partitions, of_table.size.rows, found.size_bytes)
    destroys = not is_wider(column.type, found.type)
    phase = Phase.CONTRACT if destroys else Phase.MIGRATE
    yield Change(name, what, statements, phase, Way.MUTATION, size, destroys=destroys, is_needed=is_needed)


def _properties(table: Table, column: Column, found: FoundColumn) -> Iterator[Change]:
    name = f"{table.name}.{column.name}"
    modify = f"ALTER TABLE {table.name} MODIFY COLUMN `{column.name}`"
    if canonical(found.default) != canonical(column.default):
        yield Change(
            name,
            f"default is {found.default or 'none'}, wanted {column.default or 'none'}; values that are written stay",
            (f"{modify} DEFAULT {column.default}" if column.default else f"{modify} REMOVE DEFAULT",),
        )
    if not same_codec(found.codec, column.codec):
        yield Change(
            name,
            f"codec is {found.codec or 'the default'}, wanted {column.codec or 'the default'}; parts get it when they "
            "are merged",
            (f"{modify} CODEC({column.codec or 'Default'})",),
        )
    if found.comment != column.comment:
        statement = f"ALTER TABLE {table.name} COMMENT COLUMN `{column.name}` '{quoted(column.comment)}'"
        yield Change(name, "another comment", (statement,))


def _extra(table: Table, found: FoundTable) -> Iterator[Change]:
    wanted = {c.name for c in table.columns}
    for name, column in found.columns.items():
        if name not in wanted:
            yield Change(
                f"{table.name}.{name}",
                "drop the column, which this version doesn't know",
                (f"ALTER TABLE {table.name} DROP COLUMN IF EXISTS `{name}`",),
                Phase.CONTRACT,
                Way.MUTATION,
                Size(found.size.partitions, found.size.rows, column.size_bytes),
                destroys=True,
            )


def _words(expression: str) -> set[str]:
    return set(re.findall(r"\w+", expression))
