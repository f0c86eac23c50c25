"""Changes of the schema on a real server: what is planned, how it is done, and what becomes of the rows."""

import json
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.change import Phase, Way
from metrics_pipeline.ddl.migrating import Migration
from metrics_pipeline.ddl.objects import Column, SchemaObject, Table
from metrics_pipeline.errors import ConfigurationError, SchemaMismatchError
from metrics_pipeline.retention.store import RetentionStore
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.engines import check_schema
from metrics_pipeline.wiring.rollups import rollups
from tests.worlds.rollups import NOON, assert_answers_are_raws, insert_evenly
from tests.worlds.schemas import (
    STORAGE,
    commands,
    insert,
    next_version,
    rows,
    table,
    want,
    with_column,
    with_version,
    without_column,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(database: Client) -> Client:
    """A database with this version's schema, also in the environment."""
    schema.apply(database, STORAGE)
    return database


def changed(name: str, **values: object) -> Callable[[], SchemaObject]:
    return lambda: with_column(name, lambda column: replace(column, **values))  # type: ignore[arg-type]


def added(name: str, column: Column) -> Callable[[], Table]:
    return lambda: replace(table(name), columns=(*table(name).columns, column))


METADATA: dict[str, Callable[[], SchemaObject]] = {
    "new column": added("dead_letters", Column("team", "LowCardinality(String)", default="'nobody'")),
    "codec": changed("latency_ms", codec="Gorilla, ZSTD(1)"),
    "codec of one without": changed("host", codec="ZSTD(3)"),
    "no codec": changed("customer_id", codec=""),
    "comment": changed("host", comment="It's the host, or \\ the pod"),
    "new default": changed("region", default="'nowhere'"),
    "new index": lambda: replace(
        table("raw_events"), indexes=(*table("raw_events").indexes, "host_index host TYPE set(100) GRANULARITY 4")
    ),
    "other index": lambda: replace(
        table("raw_events"), indexes=("message_index kafka_timestamp TYPE minmax GRANULARITY 2",)
    ),
    "comment of the table": lambda: replace(table("canaries"), comment="Birds"),
    "TTL": lambda: replace(table("replay_plan"), ttl="toDateTime(opened_at) + INTERVAL 60 DAY"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_alone_changes(client: Client, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    insert(client, "2026-11-01", 100)
    want(monkeypatch, METADATA[name]())
    (change,) = schema.plan(client, STORAGE).changes
    assert (change.phase, change.way, change.destroys) == (Phase.EXPAND, Way.METADATA, False)
    schema.apply(client, STORAGE)
    assert schema.plan(client, STORAGE).changes == ()
    # Files of an index that is dropped are taken out of the parts, without writing anything anew.
    assert [command for command in commands(client) if "DROP INDEX" not in command] == []
    assert rows(client, "SELECT count() FROM raw_events") == [(100,)]


def test_a_window_of_tokens_is_a_setting(client: Client) -> None:
    planned = schema.apply(client, Storage(2 * STORAGE.window_blocks))
    assert {change.way for change in planned.changes} == {Way.METADATA}
    assert schema.plan(client, Storage(2 * STORAGE.window_blocks)).changes == ()


def test_a_default_that_is_not_wanted_any_more_goes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.command("ALTER TABLE raw_events MODIFY COLUMN region DEFAULT 'x'")
    assert [c.what for c in schema.apply(client, STORAGE).changes] == [
        "default is 'x', wanted none; values that are written stay"
    ]
    assert schema.plan(client, STORAGE).changes == ()


def test_the_time_to_live_of_events_is_the_business_of_retention(client: Client) -> None:
    RetentionStore(client).set_time_to_live("raw_events", 30)
    assert schema.plan(client, STORAGE).changes == ()


def test_a_promoted_attribute_is_right_at_once_and_then_written(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in ("2026-11-01", "2026-11-02"):
        insert(client, day, 900)
    want(monkeypatch, with_version())
    add, fill = schema.plan(client, STORAGE).changes
    assert (add.phase, add.way) == (Phase.EXPAND, Way.METADATA)
    assert (fill.phase, fill.way, fill.size.partitions, fill.size.rows) == (Phase.MIGRATE, Way.MUTATION, 2, 1_800)
    client.command(add.statements[0])
    insert(client, "2026-11-03", 900)
    by_version = "SELECT version, count() FROM raw_events GROUP BY version ORDER BY version"
    assert rows(client, by_version) == [("0", 900), ("1", 900), ("2", 900)]
    schema.apply(client, STORAGE)
    assert schema.plan(client, STORAGE).changes == ()
    # Those that had the column from the beginning are left alone.
    assert commands(client) == [
        "(MATERIALIZE COLUMN version IN PARTITION ID '20261102')",
        "(MATERIALIZE COLUMN version IN PARTITION ID '20261101')",
    ]
    lacking = "SELECT countIf(column = 'version') FROM system.parts_columns WHERE active AND table = 'raw_events' AND \
        database = currentDatabase() GROUP BY name"
    assert rows(client, lacking) == [(1,)] * 3
    assert rows(client, by_version) == [("0", 900), ("1", 900), ("2", 900)]


@pytest.mark.parametrize(
    ("name", "kind"), [("status", "UInt32"), ("kafka_partition", "UInt64"), ("customer_id", "LowCardinality(String)")]
)
def test_a_type_is_widened_by_a_mutation(client: Client, monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    insert(client, "2026-11-01", 1_000)
    sums = f"SELECT sum(cityHash64(toString({name}))) FROM raw_events"
    before = rows(client, sums)
    want(monkeypatch, with_column(name, lambda column: replace(column, type=kind)))
    (change,) = schema.apply(client, STORAGE).changes
    assert (change.phase, change.way, change.size.rows) == (Phase.MIGRATE, Way.MUTATION, 1_000)
    assert schema.plan(client, STORAGE).changes == ()
    assert rows(client, "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done") == [
        (0,)
    ]
    assert rows(client, sums) == before


def test_what_destroys_data_is_told_and_only_done_when_allowed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(client, "2026-11-01", 1_000)
    client.command("ALTER TABLE raw_events ADD COLUMN team String DEFAULT 'a'")
    client.command("CREATE TABLE somebody_elses (x UInt8) ENGINE = MergeTree ORDER BY x")
    want(monkeypatch, with_column("latency_ms", lambda column: replace(column, type="Float32")))
    want(monkeypatch, replace(table("canaries"), ttl="toDateTime(produced_at) + INTERVAL 400 DAY"))
    want(monkeypatch, replace(table("replay_plan"), ttl="toDateTime(opened_at) + INTERVAL 3 WEEK"))
    planned = schema.plan(client, STORAGE)
    assert {(c.object, c.phase) for c in planned.destructive} == {
        ("raw_events.team", Phase.CONTRACT),
        ("raw_events.latency_ms", Phase.CONTRACT),
        ("canaries", Phase.CONTRACT),
        ("replay_plan", Phase.CONTRACT),
    }
    assert planned.changes == planned.destructive
    schema.apply(client, STORAGE)
    assert schema.plan(client, STORAGE) == planned
    schema.apply(client, STORAGE, allow_destructive=True)
    assert schema.plan(client, STORAGE).changes == ()
    assert rows(client, "EXISTS TABLE somebody_elses") == [(1,)]
    assert rows(client, "SELECT count() FROM raw_events") == [(1_000,)]


def test_a_partition_key_is_refused_with_the_reason(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(client, "2026-11-01", 10)
    want(monkeypatch, replace(table("raw_events"), partition_by="toYYYYMM(timestamp)"))
    planned = schema.apply(client, STORAGE)
    (change,) = planned.refused
    assert change.way is Way.REBUILD
    assert change.size.rows == 10
    assert "inserted twice" in change.refusal
    assert planned.differences == (
        "raw_events: its partition key is toYYYYMMDD(timestamp), wanted toYYYYMM(timestamp)",
    )
    # Drains do without.
    check_schema(client, load_settings())


def test_interrupted_it_goes_on_and_begins_nothing_twice(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("2026-11-01", "2026-11-02", "2026-11-03"):
        insert(client, day, 300)
    want(monkeypatch, with_version())
    client.command("SYSTEM STOP MERGES raw_events")

    class KilledError(Exception):
        pass

    def killed(_seconds: float) -> None:
        raise KilledError

    plan = partial(schema.plan, client, STORAGE)
    with pytest.raises(KilledError):
        Migration(client, plan, {}, sleep=killed).run(plan())
    assert len(commands(client)) == 1
    going_on = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(schema.apply, client, STORAGE, progress=lambda _words: going_on.set())
        client.command("SYSTEM START MERGES raw_events")
        again.result(60)
    assert going_on.is_set()
    assert len(commands(client)) == len(set(commands(client))) == 3
    assert schema.plan(client, STORAGE).changes == ()


def test_two_at_once_do_the_same_as_one(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("2026-11-01", "2026-11-02"):
        insert(client, day, 300)
    client.command("ALTER TABLE raw_events ADD COLUMN old String")
    client.command("ALTER TABLE raw_events MODIFY COLUMN region DEFAULT 'x'")
    client.command("DROP TABLE canaries")
    client.command("DROP VIEW rollup")
    client.command("DROP VIEW rollup_1m_view")
    changed_twice = with_version()
    wider = tuple(replace(c, type="UInt32", codec="") if c.name == "status" else c for c in changed_twice.columns)
    want(monkeypatch, replace(changed_twice, columns=wider))
    start = threading.Barrier(2)

    def apply() -> None:
        with connect(load_settings()) as mine:
            start.wait(10)
            schema.apply(mine, STORAGE, allow_destructive=True)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(apply) for _ in range(2)]:
            done.result(60)
    assert schema.plan(client, STORAGE).changes == ()
    assert rows(client, "SELECT version, count() FROM raw_events GROUP BY version ORDER BY version") == [
        ("0", 200),
        ("1", 200),
        ("2", 200),
    ]


def test_a_change_that_fails_in_the_server_says_how_to_go_on(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.command("ALTER TABLE raw_events ADD COLUMN word String DEFAULT 'word'")
    insert(client, "2026-11-01", 10)
    want(monkeypatch, replace(table("raw_events"), columns=(*table("raw_events").columns, Column("word", "UInt8"))))
    with pytest.raises(ConfigurationError, match="KILL MUTATION") as failed:
        schema.apply(client, STORAGE, allow_destructive=True)
    assert "raw_events" in str(failed.value)
    (id_,) = rows(client, "SELECT mutation_id FROM system.mutations WHERE database = currentDatabase() AND NOT is_done")
    assert id_[0] in str(failed.value)


def test_old_and_new_drains(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    with monkeypatch.context() as version:
        want(version, with_version(), with_column("batch", lambda c: replace(c, codec="ZSTD(3)"), "dead_letters"))
        with pytest.raises(SchemaMismatchError, match=r"raw_events.version for one.*schema apply"):
            check_schema(client, settings)
        schema.apply(client, STORAGE)
        check_schema(client, settings)
    # The version before still runs: a column that it doesn't know has a default.
    check_schema(client, settings)
    with monkeypatch.context() as version:
        want(version, with_column("status", lambda column: replace(column, type="UInt32")))
        with pytest.raises(SchemaMismatchError):
            check_schema(client, settings)
        schema.apply(client, STORAGE)
    check_schema(client, settings)


def test_any_changes_together_end_with_nothing_to_do(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions at random, one after the other, forth and back."""
    random_ = random.Random(7)
    insert(client, "2026-11-01", 100)
    for _ in range(12):
        with monkeypatch.context() as version:
            for name in random_.sample(sorted(METADATA), random_.randrange(1, 5)):
                want(version, METADATA[name]())
            if random_.random() < 0.3:
                want(version, without_column("host", "raw_events"))
            planned = schema.apply(client, STORAGE, allow_destructive=True)
            left = schema.plan(client, STORAGE).changes
            # Feeds and views of this version may still read a column.
            assert left == () or {c.destroys for c in left} == {True}, (planned, left)
    schema.apply(client, STORAGE)
    # A TTL that this version doesn't want stays, for whoever set it.
    assert schema.plan(client, STORAGE).is_empty


def test_the_command_line(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["schema", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    insert(client, "2026-11-01", 1_000)
    assert run("check").strip() == run("plan").strip() == "the schema is up to date"
    client.command("ALTER TABLE raw_events ADD COLUMN team String")
    assert "left for `apply --allow-destructive`: raw_events.team" in run("check")
    run("check", "--strict", code=1)
    want(monkeypatch, with_version())
    said = run("plan")
    assert said.index("expand:") < said.index("migrate:") < said.index("contract:")
    assert "background mutation of 1 partitions, 1,000 rows, " in said
    assert "DESTROYS DATA: raw_events.team" in said
    assert "missing: raw_events.version" in run("check", code=1)
    found = json.loads(run("plan", "--json"))
    assert found["differences"] == []
    assert len(found["statements"]) == 2
    assert found["destructive"] == ["ALTER TABLE raw_events DROP COLUMN IF EXISTS `team`"]
    assert [c["phase"] for c in found["changes"]] == ["expand", "migrate", "contract"]
    run("apply", "--expect", "another", code=1)
    assert "made 2 changes" in run("apply", "--expect", found["hash"])
    assert "made 1 changes" in run("apply", "--allow-destructive")
    assert run("check", "--strict").strip() == "the schema is up to date"


def test_a_rollup_gets_another_dimension(client: Client) -> None:
    """Added at the end of the key by metadata alone; rows from before are remade from raw events."""
    insert_evenly(client, NOON, units=12, each=200)
    today = int(time.time()) // 86_400 * 86_400
    by_region = """SELECT region, sum(requests) FROM rollup(start='2020-01-01 00:00:00', end='2100-01-01 00:00:00',
        step=604800) GROUP BY region ORDER BY region"""
    planned = next_version("dimension", "schema", "plan")
    assert "rollup_1m: add region to the columns and the end of the sorting key" in planned
    assert "rebuild of 1 partitions, 2,400 rows" in planned
    next_version("dimension", "schema", "apply")
    assert rows(client, by_region) == rows(
        client, "SELECT region, count() FROM raw_events GROUP BY region ORDER BY region"
    )
    # Later events are counted by the new feed.
    insert_evenly(client, NOON + 86_400, units=3, each=100)
    assert rows(client, by_region) == rows(
        client, "SELECT region, count() FROM raw_events GROUP BY region ORDER BY region"
    )
    assert_answers_are_raws(client, NOON - 86_400, today + 86_400)
    # The unit in which the feed was changed can't be remade before it is closed: as if that was long ago.
    assert "remake 5 tables" in next_version("dimension", "schema", "plan")
    noted = (
        "SELECT name, comment FROM system.tables WHERE database = currentDatabase() AND comment LIKE '%Remade since%'"
    )
    for name, comment in rows(client, noted):
        long_ago = re.sub(r"since \d+", f"since {(int(time.time()) - 3_600) * 10**9}", comment)
        client.command(f"ALTER TABLE {name} MODIFY COMMENT '{long_ago}'")
    repaired = "SELECT minute, max(repaired).1 FROM rollup_builds WHERE grain = 600 GROUP BY minute ORDER BY minute"
    before = rows(client, repaired)
    next_version("dimension", "schema", "apply")
    assert next_version("dimension", "schema", "plan").strip() == "the schema is up to date"
    # What was remade since is not remade again.
    assert [new for new, old in zip(rows(client, repaired), before, strict=True) if new != old and old[1]] == []
    with rollups(load_settings()) as operated:
        assert operated.check(Span(NOON - 86_400, today + 86_400)).is_exact


def test_a_grain_is_added_and_knows_what_was_before(client: Client) -> None:
    old = 1_700_000_000 // 2_419_200 * 2_419_200
    insert_evenly(client, old, units=50, each=20)
    insert_evenly(client, NOON, units=2, each=20)
    assert "count the events of new buckets" in next_version("grain", "schema", "plan")
    next_version("grain", "schema", "apply")
    assert next_version("grain", "schema", "plan").strip() == "the schema is up to date"
    counted = "SELECT grain, sum(events) FROM rollup_builds GROUP BY grain ORDER BY grain"
    assert {events for _, events in rows(client, counted)} == {1_040}
    next_version("grain", "schema", "apply")
    insert_evenly(client, NOON, units=1, each=20)
    assert rows(client, counted)[-1] == (2_419_200, 1_060)
    next_version("grain", "rollups", "rebuild", "--from", "2023-11-01", "--to", "2024-01-01")
    assert rows(client, "SELECT sum(requests) FROM rollup_28d") == [(1_000,)]
    answered = """SELECT sum(requests) FROM rollup(start='2020-01-01 00:00:00', end='2100-01-01 00:00:00',
        step=2419200)"""
    assert rows(client, answered) == [(1_060,)]


def test_three_statements_of_the_run_book_change_a_partition_key(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.command(
        """INSERT INTO dead_letters (topic, topic_id, kafka_partition, kafka_offset, kafka_timestamp, reason)
        SELECT 't', 'i', number % 3, number, toDateTime('2026-01-01', 'UTC') + toIntervalDay(number % 90), 'empty'
        FROM numbers(900)"""
    )
    letters = "SELECT count(), sum(cityHash64(*)) FROM dead_letters"
    before = rows(client, letters)
    want(monkeypatch, replace(table("dead_letters"), partition_by="toYYYYMMDD(kafka_timestamp)"))
    (change,) = schema.apply(client, STORAGE).refused
    (page,) = re.findall(r"docs/runbooks/\S+\.md", change.refusal)
    (statements,) = re.findall(r"```sql\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    for statement in statements.split(";\n")[:-1]:
        client.command(statement)
    schema.apply(client, STORAGE)
    assert schema.plan(client, STORAGE).changes == ()
    assert rows(client, letters) == before
