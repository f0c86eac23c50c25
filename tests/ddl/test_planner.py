"""The planner alone: what a server has is made of what is wanted, and then changed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.change import Change, Phase, Way, Work
from metrics_pipeline.ddl.comparison import canonical, is_wider, same_codec, same_engine
from metrics_pipeline.ddl.found_schema import Found, FoundColumn, FoundTable, Size
from metrics_pipeline.ddl.objects import NOT_FILLED, Column, MaterializedView, SchemaObject, Union, View
from metrics_pipeline.ddl.planner import plan
from metrics_pipeline.ddl.wording import plan_lines
from metrics_pipeline.delivery.tables import RAW_EVENTS
from metrics_pipeline.schema import all as schema

ROOT = Path(__file__).parents[2]
STORAGE = Storage(100)
SIZE = Size(3, 1_000, 2_500_000)


def found_of(wanted: SchemaObject, storage: Storage = STORAGE) -> FoundTable:
    """What a server says that has exactly that."""
    if isinstance(wanted, View | MaterializedView):
        return FoundTable("View", wanted.stored_comment)
    if isinstance(wanted, Union):
        columns = {c.name: FoundColumn(c.type) for c in wanted.tables[0].columns}
        return FoundTable(f"Merge('here', '{wanted.pattern}')", wanted.comment, columns)
    return FoundTable(
        engine=wanted.engine,
        comment=wanted.comment,
        columns={c.name: FoundColumn(c.type, c.default, f"CODEC({c.codec})", c.comment, 9) for c in wanted.columns},
        partition_by=wanted.partition_by,
        order_by=", ".join(wanted.order_by),
        primary_key=", ".join(wanted.key),
        ttl=wanted.ttl,
        settings=storage.token_settings,
        indexes=dict(index.split(" ", 1) for index in wanted.indexes),
        size=SIZE,
    )


HAS: Found = {o.name: found_of(o) for o in schema.OBJECTS}
RAW = HAS["raw_events"]


def changes(found: Found, storage: Storage = STORAGE) -> tuple[Change, ...]:
    return plan(schema.OBJECTS, found, storage).changes


def with_raw(**values: object) -> Found:
    return {**HAS, "raw_events": replace(RAW, **values)}  # type: ignore[arg-type]


def with_columns(change: Callable[[dict[str, FoundColumn]], object]) -> Found:
    columns = dict(RAW.columns)
    change(columns)
    return with_raw(columns=columns)


def test_what_is_there_needs_no_change() -> None:
    assert changes(HAS) == ()
    assert len({c.phase for c in changes({})}) == 1


CASES: Mapping[str, tuple[Found, Phase, Way]] = {
    "column": (with_columns(lambda c: c.pop("region")), Phase.EXPAND, Way.METADATA),
    "default": (
        with_columns(lambda c: c.update(region=replace(c["region"], default="'x'"))),
        Phase.EXPAND,
        Way.METADATA,
    ),
    "codec": (
        with_columns(
            lambda c: c.update(
                host=FoundColumn("LowCardinality(String)", codec="CODEC(LZ4)", comment=c["host"].comment)
            )
        ),
        Phase.EXPAND,
        Way.METADATA,
    ),
    "comment": (with_columns(lambda c: c.update(host=replace(c["host"], comment=""))), Phase.EXPAND, Way.METADATA),
    "narrower": (
        with_columns(lambda c: c.update(status=replace(c["status"], type="UInt8"))),
        Phase.MIGRATE,
        Way.MUTATION,
    ),
    "wider": (
        with_columns(lambda c: c.update(status=replace(c["status"], type="UInt64"))),
        Phase.CONTRACT,
        Way.MUTATION,
    ),
    "of the key": (
        with_columns(lambda c: c.update(service=FoundColumn("String", comment=c["service"].comment))),
        Phase.MIGRATE,
        Way.REBUILD,
    ),
    "extra": (with_columns(lambda c: c.update(team=FoundColumn("String"))), Phase.CONTRACT, Way.MUTATION),
    "index": (with_raw(indexes={}), Phase.EXPAND, Way.METADATA),
    "other index": (
        with_raw(indexes={"message_index": "kafka_offset TYPE minmax GRANULARITY 1"}),
        Phase.EXPAND,
        Way.METADATA,
    ),
    "window": (with_raw(settings={}), Phase.EXPAND, Way.METADATA),
    "partition key": (with_raw(partition_by="tuple()"), Phase.MIGRATE, Way.REBUILD),
    "sorting key": (with_raw(order_by="service, timestamp"), Phase.MIGRATE, Way.REBUILD),
    "engine": (with_raw(engine="MergeTree"), Phase.MIGRATE, Way.REBUILD),
}


@pytest.mark.parametrize("case", CASES)
def test_a_difference_is_one_change(case: str) -> None:
    found, phase, way = CASES[case]
    (change,) = changes(found)
    assert change.object.startswith("raw_events")
    assert (change.phase, change.way) == (phase, way)
    assert change.destroys == (case in {"wider", "extra"})
    assert bool(change.refusal) == (way is Way.REBUILD) == (not change.statements)
    # A drain can do with a wider type, not with a narrower one, and needs its columns.
    assert change.is_needed == (case in {"column", "narrower"})


@given(st.sets(st.sampled_from(sorted(set(CASES) - {"partition key", "sorting key", "engine"}))))
def test_the_order_is_expand_migrate_contract(names: set[str]) -> None:
    raw = RAW
    for name in names:
        given_raw = CASES[name][0]["raw_events"]
        parts = {
            part: getattr(given_raw, part)
            for part in ("columns", "indexes", "settings")
            if getattr(given_raw, part) != getattr(RAW, part)
        }
        if "columns" in parts:
            changed = {k: v for k, v in parts["columns"].items() if RAW.columns.get(k) != v}
            gone = RAW.columns.keys() - parts["columns"].keys()
            parts["columns"] = {k: v for k, v in {**raw.columns, **changed}.items() if k not in gone}
        raw = replace(raw, **parts)
    planned = plan(schema.OBJECTS, {**HAS, "raw_events": raw}, STORAGE)
    phases = [list(Phase).index(change.phase) for change in planned.changes]
    assert phases == sorted(phases)
    assert bool(planned.changes) == bool(names)
    assert set(planned.safe) | set(planned.destructive) | set(planned.refused) == set(planned.changes)


def test_retention_owns_the_ttl_of_tables_for_which_the_schema_wants_none() -> None:
    assert changes(with_raw(ttl="toDateTime(timestamp) + toIntervalDay(30)")) == ()
    letters = replace(HAS["replay_plan"], ttl="toDateTime(opened_at) + toIntervalDay(10)")
    assert [(c.phase, c.way) for c in changes({**HAS, "replay_plan": letters})] == [(Phase.EXPAND, Way.METADATA)]


@pytest.mark.parametrize("before", ["", "toDateTime(opened_at) + toIntervalDay(31)", "opened_at + toIntervalMonth(1)"])
def test_a_shorter_ttl_destroys_data(before: str) -> None:
    (change,) = changes({**HAS, "replay_plan": replace(HAS["replay_plan"], ttl=before)})
    assert (change.phase, change.destroys) == (Phase.CONTRACT, True)


def test_a_filled_column_costs_the_partitions_that_lack_it() -> None:
    column = Column("version", "String", default="attributes['version']", is_filled=True)
    wanted = replace(RAW_EVENTS, columns=(*RAW_EVENTS.columns, column))
    objects = tuple(wanted if o.name == wanted.name else o for o in schema.OBJECTS)
    add, fill = plan(objects, HAS, STORAGE).changes
    assert (add.phase, add.way, fill.phase, fill.way, fill.size) == (
        Phase.EXPAND,
        Way.METADATA,
        Phase.MIGRATE,
        Way.MUTATION,
        SIZE,
    )
    has = replace(found_of(wanted), unfilled={"version": Size(1, 10, 100)})
    planned = plan(objects, {**HAS, wanted.name: has}, STORAGE)
    assert [c.size for c in planned.changes] == [Size(1, 10, 100)]
    assert "background mutation of 1 partitions, 10 rows, 100 bytes" in "\n".join(plan_lines(planned))
    # What is left to do is no other plan because some of it is done.
    assert planned.hash == plan(objects, {**HAS, wanted.name: replace(has, unfilled={"version": SIZE})}, STORAGE).hash


def test_a_rollup_that_lacks_a_column_is_made_again() -> None:
    rollup = HAS["rollup_1m"]
    lacking = replace(rollup, columns={k: v for k, v in rollup.columns.items() if k != "errors"})
    add, remake = changes({**HAS, "rollup_1m": lacking})
    assert (add.phase, remake.phase, remake.work) == (Phase.EXPAND, Phase.MIGRATE, Work.REMAKE_ROLLUPS)
    assert NOT_FILLED in add.statements[0]
    # Interrupted after that, the table itself says what is still to be done.
    noted = replace(rollup, comment=f"{rollup.comment}{NOT_FILLED}errors.")
    assert [c.work for c in changes({**HAS, "rollup_1m": noted})] == [Work.REMAKE_ROLLUPS]


def test_tables_of_others_are_no_business_of_ours() -> None:
    other = FoundTable("MergeTree", columns={"x": FoundColumn("UInt8")}, size=SIZE)
    assert changes({**HAS, "theirs": other}) == ()


def test_another_key_is_told_with_the_run_book_that_says_how() -> None:
    (change,) = changes({**HAS, "dead_letters": replace(HAS["dead_letters"], partition_by="tuple()")})
    assert (change.way, change.statements) == (Way.REBUILD, ())
    (page,) = re.findall(r"docs/runbooks/\S+\.md", change.refusal)
    assert (ROOT / page).is_file()


@pytest.mark.parametrize(
    ("wider", "narrower", "expected"),
    [
        ("UInt32", "UInt16", True),
        ("UInt16", "UInt32", False),
        ("Int32", "UInt16", True),
        ("Int16", "UInt16", False),
        ("UInt32", "Int16", False),
        ("Float64", "Float32", True),
        ("String", "UInt64", True),
        ("String", "Array(String)", False),
        ("String", "LowCardinality(String)", True),
        ("Map(String, String)", "Map(LowCardinality(String), String)", True),
        ("Array(UInt64)", "Array(UInt32)", True),
        ("Nullable(UInt16)", "UInt16", True),
        ("UInt16", "Nullable(UInt16)", False),
    ],
)
def test_wider_types(wider: str, narrower: str, *, expected: bool) -> None:
    assert is_wider(wider, narrower) is expected


def test_servers_rewrite_what_they_are_given() -> None:
    assert same_codec("CODEC(Delta(8), ZSTD(1))", "Delta, ZSTD(1)")
    assert same_codec("CODEC(Default)", "")
    assert not same_codec("", "ZSTD(1)")
    assert canonical("toStartOfInterval(minute, INTERVAL 7 DAY)") == "toStartOfInterval(minute,toIntervalDay(7))"
    assert canonical("(a, b)") == canonical("a, b")
    assert canonical("(a) + (b)") == "(a)+(b)"
    assert same_engine("ReplicatedReplacingMergeTree('/path', '{replica}', at)", "ReplacingMergeTree(at)")
    assert not same_engine("MergeTree", "ReplacingMergeTree")
