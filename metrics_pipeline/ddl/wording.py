"""A plan for people. Pure."""

from collections.abc import Iterator

from metrics_pipeline.ddl.change import Change, Phase, Plan, Way
from metrics_pipeline.ddl.found_schema import Size

_ABOUT = {
    Phase.EXPAND: "expand: versions before and after it work side by side",
    Phase.MIGRATE: "migrate: beside drains and queries; interrupted, it goes on where it was",
    Phase.CONTRACT: "contract: destroys data. Done only by `schema apply --allow-destructive`, once no version that "
    "uses it runs any more",
}


def plan_lines(plan: Plan, *, whole_statements: bool = False) -> Iterator[str]:
    """Grouped by phase; what is not done comes last."""
    for phase in Phase:
        changes = [c for c in plan.of(phase) if not c.refusal]
        if changes:
            yield _ABOUT[phase]
        for change in changes:
            yield f"  {'DESTROYS DATA: ' if change.destroys else ''}{change.object}: {change.what}"
            yield f"      {cost(change)}"
            for statement in change.statements:
                yield from _statement(statement, is_whole=whole_statements)
    if plan.refused:
        yield "not done by `schema apply`:"
    for change in plan.refused:
        yield f"  differs: {change.difference}"
        yield f"      {cost(change)}; {change.refusal}"


def cost(change: Change) -> str:
    """The way of a change, and what it has to go through."""
    size = change.size
    if change.way is Way.METADATA or size == Size():
        return change.way.value
    return f"{change.way.value} of {size.partitions:,} partitions, {size.rows:,} rows, {bytes_name(size.bytes_on_disk)}"


def bytes_name(size_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size_bytes < 1_000:
            return f"{size_bytes:,.0f} {unit}" if unit == "bytes" or size_bytes >= 100 else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1_000
    return f"{size_bytes:,.1f} TB"


def _statement(statement: str, *, is_whole: bool) -> Iterator[str]:
    first, *rest = statement.splitlines()
    if not is_whole:
        yield f"      {first}{' …' if rest else ''}"
        return
    yield from (f"      {line}" for line in [first, *rest[:-1]])
    yield f"      {rest[-1]};" if rest else "      ;"
