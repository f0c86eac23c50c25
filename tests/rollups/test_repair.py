"""Drift of every kind on a real server: found, named, repaired, and answers equal raw_events afterwards."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.rollups.building import Built, RollupBuilder
from metrics_pipeline.rollups.cubes import CUBES, ENDPOINTS
from metrics_pipeline.rollups.drift import State
from metrics_pipeline.rollups.grains import BUILT, GRAINS
from metrics_pipeline.rollups.grains import UNIT as UNIT_GRAIN
from metrics_pipeline.rollups.operate import Checked, Span
from metrics_pipeline.rollups.repair import RollupRepairer
from metrics_pipeline.rollups.shards import RollupsOfShards
from metrics_pipeline.rollups.state import read_stale, read_state
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.drain import prepare
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.worlds.rollups import DAY, HOUR, NOON, UNIT, assert_answers_are_raws, insert, insert_evenly, number

LIVE_TABLES = ("rollup_1m", "rollup_regions_1m", "rollup_services_1m", "rollup_totals_1m")
SPAN = Span(NOON, NOON + 2 * HOUR)


class Hasty(SystemClock):
    """Stands still, so that no bucket closes within a test, and does not wait; `meanwhile` happens instead."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self._now_ms = super().now_ms()

    def now_ms(self) -> int:
        return self._now_ms

    def sleep(self, seconds: float) -> None:
        self.meanwhile()


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with connect(settings, mutations_sync=1) as made:
        yield made


@pytest.fixture
def clock() -> Hasty:
    return Hasty()


@pytest.fixture
def rollups(settings: Settings, clock: Hasty) -> Iterator[RollupsOfShards]:
    with open_rollups(settings, clock) as made:
        yield made


@pytest.fixture
def filled(client: Client) -> Client:
    """Two hours of events."""
    insert_evenly(client, NOON, units=12, each=100)
    return client


def assert_right(client: Client, rollups: RollupsOfShards, span: Span = SPAN) -> None:
    checked = rollups.check(span)
    assert checked == Checked(units=checked.units), checked
    assert_answers_are_raws(client, span.start_seconds, span.end_seconds)
    raw = number(client, "SELECT count() FROM raw_events FINAL")
    for table in LIVE_TABLES:
        assert number(client, f"SELECT sum(requests) FROM {table}") == raw, "naive readers are right, too"


def test_what_is_exact_has_no_drift_built_or_not(filled: Client, rollups: RollupsOfShards) -> None:
    assert_right(filled, rollups)
    week = BUILT[-1]
    is_week_over = week.floor(NOON) + week.seconds <= rollups.closed_until()
    assert rollups.rebuild(SPAN).published == 12 + 2 + 1 + is_week_over
    assert_right(filled, rollups)


def test_a_build_is_idempotent(filled: Client, rollups: RollupsOfShards) -> None:
    first = rollups.rebuild(SPAN, only_stale=False)
    again = rollups.rebuild(SPAN, only_stale=False)
    assert first == again
    assert rollups.rebuild(SPAN).published == 0
    assert_right(filled, rollups)


def test_rows_that_no_reader_takes_are_deleted_once_they_are_old(filled: Client, rollups: RollupsOfShards) -> None:
    def builds() -> int:
        return number(filled, "SELECT uniqExact(build) FROM rollup_10m")

    def builder(hours: int) -> RollupBuilder:
        return RollupBuilder(filled, lambda: time.time_ns() + hours * HOUR * 1_000_000_000)

    buckets = builder(0).buckets(UNIT_GRAIN, SPAN.start_seconds, SPAN.end_seconds, only_stale=False)
    assert sum(builder(-4).build(UNIT_GRAIN, buckets), Built()).published == len(buckets)
    for cube in CUBES:
        builder(0)._insert(cube, UNIT_GRAIN, buckets, time.time_ns() - 3 * HOUR * 1_000_000_000)
    assert builds() == 2, "one is read, one broke off"
    rollups.rebuild(SPAN, only_stale=False)
    assert builds() == 3, "a query may still read what was replaced just now"
    builder(2).prune(UNIT_GRAIN, SPAN.start_seconds, SPAN.end_seconds)
    assert builds() == 1
    assert_right(filled, rollups)
    builder(2)._insert(ENDPOINTS, UNIT_GRAIN, buckets, time.time_ns() - 3 * HOUR * 1_000_000_000)
    rollups.shards[0].builder = builder(2)
    rollups.rebuild(Span(SPAN.start_seconds - DAY, SPAN.end_seconds - DAY))
    assert builds() == 2, "of other spans nothing is deleted"
    rollups.rebuild(SPAN)
    assert builds() == 1, "a rebuild cleans up"
    assert_right(filled, rollups)


def test_open_buckets_are_left_alone(client: Client, rollups: RollupsOfShards) -> None:
    until = rollups.closed_until() // 60 * 60
    insert(client, until - 3 * HOUR, 1_000, 3 * HOUR + 60)
    rollups.rebuild(Span(until - 3 * HOUR, until + HOUR), only_stale=False)
    ends = client.query("SELECT max(toUnixTimestamp(minute) + grain) FROM rollup_builds WHERE built.1 > 0").result_rows
    assert until - UNIT < ends[0][0] <= until
    assert_answers_are_raws(client, until - 3 * HOUR, until + HOUR)


KINDS = {
    "rows deleted": ("ALTER TABLE rollup_1m DELETE WHERE {unit} AND service = 'service-1'", {"rollup_1m"}),
    "rows doubled": (
        "INSERT INTO rollup_regions_1m SELECT * FROM rollup_regions_1m WHERE {unit}",
        {"rollup_regions_1m"},
    ),
    "errors changed": (
        "ALTER TABLE rollup_services_1m UPDATE errors = errors + 1 WHERE {unit}",
        {"rollup_services_1m"},
    ),
    "a cube truncated": ("TRUNCATE TABLE rollup_totals_1m", {"rollup_totals_1m"}),
    "books too high": (
        "INSERT INTO rollup_builds (grain, minute, events) VALUES (600, {start}, 7)",
        {"rollup_builds"},
    ),
    "books too low everywhere": (
        """INSERT INTO rollup_builds (grain, minute, events) SELECT DISTINCT grain, minute, -7 FROM rollup_builds
        WHERE minute <= {start} AND minute + grain > {start}""",
        {"rollup_builds"},
    ),
    "books of an hour": (
        "INSERT INTO rollup_builds (grain, minute, events) VALUES (3600, {start}, 3)",
        {"rollup_builds"},
    ),
    "books lost": ("TRUNCATE TABLE rollup_builds", {"rollup_builds"}),
    "raw doubled": (
        "INSERT INTO raw_events SELECT * FROM raw_events WHERE timestamp >= {start} AND timestamp < {start} + 600",
        {*LIVE_TABLES, "rollup_builds"},
    ),
    "raw lost": (
        """ALTER TABLE raw_events DELETE WHERE timestamp >= {start} AND timestamp < {start} + 600
        AND service = 'service-1'""",
        {*LIVE_TABLES, "rollup_builds"},
    ),
    "a built table truncated": ("TRUNCATE TABLE rollup_regions_1h", {"rollup_regions_1h"}),
    "errors of a build changed": (
        "ALTER TABLE rollup_10m UPDATE errors = errors + 1 WHERE {unit}",
        {table.replace("1m", "10m") for table in LIVE_TABLES},
    ),
}


OF_BUILDS = {"a built table truncated", "errors of a build changed"}


@pytest.mark.parametrize(
    ("kind", "is_built"),
    [(kind, is_built) for kind in KINDS for is_built in (False, True) if is_built or kind not in OF_BUILDS],
)
def test_drift_of_each_kind_is_found_named_and_repaired(
    filled: Client, rollups: RollupsOfShards, kind: str, is_built: bool
) -> None:
    start = f"toDateTime({NOON + HOUR}, 'UTC')"
    tamper, tables = KINDS[kind]
    if is_built:
        rollups.rebuild(SPAN)
    filled.command(tamper.format(start=start, unit=f"minute >= {start} AND minute < {start} + {UNIT}"))
    found = rollups.check(SPAN)
    named = {table for drift in found.drifts for table in drift.tables}
    assert named == tables, found.drifts
    assert {d.state for d in found.drifts} == {State.FOUND}
    repaired = rollups.check(SPAN, repair=True)
    assert {d.state for d in repaired.drifts} == {State.REPAIRED}
    assert [replace(d, state=State.FOUND) for d in repaired.drifts] == list(found.drifts)
    assert_right(filled, rollups)
    rollups.rebuild(SPAN)
    assert_right(filled, rollups)
    assert all(b.in_flux == 0 for b in rollups.rebuild(SPAN, only_stale=False).built.values())
    assert_right(filled, rollups)


def test_granules_within_the_last_second_of_a_unit_are_counted(client: Client, rollups: RollupsOfShards) -> None:
    """The index must not skip them: then a repair would lose their events, and no comparison would notice."""
    client.command(
        f"""INSERT INTO raw_events (event_id, timestamp, service, endpoint, status, latency_ms, tier)
        SELECT generateUUIDv4(), fromUnixTimestamp64Milli(toInt64({(NOON + UNIT) * 1_000}) - 1 - number % 999),
            'service', '/', 200, 1, 'pro' FROM numbers(20000)"""
    )
    assert rollups.check(SPAN).is_exact
    assert rollups.remake(SPAN).units == 1
    assert number(client, "SELECT sum(requests) FROM rollup_1m") == 20_000
    assert_right(client, rollups)


def test_a_drift_is_said_with_its_figures(filled: Client, rollups: RollupsOfShards) -> None:
    filled.command(f"ALTER TABLE rollup_1m DELETE WHERE minute >= toDateTime({NOON}, 'UTC') AND minute < {NOON} + 600")
    (drift,) = rollups.check(SPAN).drifts
    assert drift.said.startswith("raw_events has 100 (")
    assert "rollup_1m counts 0 (0 errors)" in drift.said
    assert str(drift).startswith("10m from ")


def test_figures_that_move_between_the_observations_are_no_drift(
    filled: Client, rollups: RollupsOfShards, clock: Hasty
) -> None:
    filled.command(f"ALTER TABLE rollup_1m DELETE WHERE minute >= toDateTime({NOON}, 'UTC') AND minute < {NOON} + 600")
    clock.meanwhile = lambda: insert(filled, NOON, 1)
    checked = rollups.check(SPAN)
    assert (checked.drifts, checked.in_flux) == ((), (NOON,))


def test_a_unit_that_an_unfinished_batch_is_in_is_no_drift(filled: Client, rollups: RollupsOfShards) -> None:
    filled.command("TRUNCATE TABLE rollup_1m")
    rollups.shards[0].in_flight = lambda start, end: frozenset({NOON}) if start <= NOON < end else frozenset()
    checked = rollups.check(SPAN)
    assert checked.in_flux == (NOON,)
    assert len(checked.drifts) == 11


@pytest.mark.parametrize("step", ["_insert", "_count", "_publish", "forget"])
def test_a_late_row_during_a_repair_is_not_lost(
    filled: Client, rollups: RollupsOfShards, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It lands before that step, for the first time that it is done: the unit is repaired again, at once or later."""
    rollups.rebuild(SPAN)
    once = iter([True])
    method = getattr(RollupRepairer, step)

    def late(self: RollupRepairer, *arguments: Any, **named: Any) -> Any:
        if next(once, False):
            insert(filled, NOON, 5)
        return method(self, *arguments, **named)

    filled.command(f"ALTER TABLE rollup_1m DELETE WHERE minute >= toDateTime({NOON}, 'UTC') AND minute < {NOON} + 600")
    with monkeypatch.context() as patch:
        patch.setattr(RollupRepairer, step, late)
        assert [d.state for d in rollups.check(SPAN, repair=True).drifts] == [State.REPAIRED]
    assert_right(filled, rollups)
    assert number(filled, "SELECT count() FROM raw_events FINAL") == 1_205


def test_a_late_row_between_the_cubes_is_not_lost(
    filled: Client, rollups: RollupsOfShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.command("TRUNCATE TABLE rollup_1m")
    made = iter(range(100))
    method = RollupRepairer._insert

    def late(self: RollupRepairer, *arguments: Any) -> None:
        if next(made) == 2:
            insert(filled, NOON, 5)
        method(self, *arguments)

    monkeypatch.setattr(RollupRepairer, "_insert", late)
    assert {d.state for d in rollups.check(SPAN, repair=True).drifts} == {State.REPAIRED}
    monkeypatch.undo()
    assert_right(filled, rollups)


def test_events_after_a_repair_make_it_stale_and_the_next_rebuild_takes_them_in(
    filled: Client, rollups: RollupsOfShards
) -> None:
    filled.command("TRUNCATE TABLE rollup_1m")
    rollups.check(SPAN, repair=True)
    insert(filled, NOON + UNIT, 5)
    closed = rollups.closed_until()
    assert [s for s in read_stale(filled, closed, 100) if s.grain == "1m"] == [
        s for s in read_stale(filled, closed, 100) if s.start_seconds == NOON + UNIT and s.grain == "1m"
    ]
    assert rollups.stale_units(SPAN) == [NOON + UNIT]
    checked = rollups.check(SPAN)
    assert (checked.drifts, checked.late) == ((), (NOON + UNIT,))
    rebuilt = rollups.rebuild(SPAN)
    assert (rebuilt.units, rebuilt.in_flux) == (1, 0)
    assert rollups.stale_units(SPAN) == []
    assert_right(filled, rollups)


def test_a_repair_that_dies_changes_no_answer_and_its_rows_are_swept(
    filled: Client, rollups: RollupsOfShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(Exception):
        pass

    def die(*_: Any) -> None:
        raise DiedError

    for step in ("_count", "_publish", "forget"):
        filled.command(f"ALTER TABLE rollup_1m DELETE WHERE minute = toDateTime({NOON}, 'UTC')")
        before = rollups.check(SPAN)
        with monkeypatch.context() as patch:
            patch.setattr(RollupRepairer, step, die)
            with pytest.raises(DiedError):
                rollups.check(SPAN, repair=True)
        if step == "forget":
            assert rollups.check(SPAN).is_exact
        else:
            assert rollups.check(SPAN) == before
        rollups.check(SPAN, repair=True)
        assert_right(filled, rollups)


def test_an_interrupted_build_changes_no_answer(
    filled: Client, rollups: RollupsOfShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(Exception):
        pass

    method = RollupBuilder._insert
    made = iter(range(100))

    def die(self: RollupBuilder, *arguments: Any) -> None:
        if next(made) == 2:
            raise DiedError
        method(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RollupBuilder, "_insert", die)
        with pytest.raises(DiedError):
            rollups.rebuild(SPAN)
    assert_right(filled, rollups)
    rollups.rebuild(SPAN)
    assert_right(filled, rollups)


def test_a_late_row_during_a_build_leaves_the_bucket_unpublished(
    filled: Client, rollups: RollupsOfShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = RollupBuilder._count
    once = iter([True])

    def late(self: RollupBuilder, *arguments: Any) -> Any:
        if next(once, False):
            insert(filled, NOON, 5)
        return method(self, *arguments)

    monkeypatch.setattr(RollupBuilder, "_count", late)
    rollups.rebuild(SPAN)
    assert_right(filled, rollups)
    rollups.rebuild(SPAN)
    assert_right(filled, rollups)
    assert [state.not_built + state.stale for state in read_state(filled, rollups.closed_until())][:3] == [0, 0, 0]


@pytest.mark.parametrize("table", LIVE_TABLES)
def test_a_build_of_a_cube_without_rows_is_not_published(filled: Client, rollups: RollupsOfShards, table: str) -> None:
    filled.command(f"TRUNCATE TABLE {table}")
    rebuilt = rollups.rebuild(SPAN, BUILT[:1])
    assert (rebuilt.published, rebuilt.in_flux, len(rebuilt.unpublished)) == (0, 12, 12)


def test_two_repairs_at_once_end_right(
    filled: Client, rollups: RollupsOfShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins and ends between two steps of the first, so the books are corrected twice."""
    filled.command(f"INSERT INTO rollup_builds (grain, minute, events) VALUES (600, {NOON}, 7)")
    method = RollupRepairer._publish
    calls = iter(range(100))

    def beside(self: RollupRepairer, *arguments: Any) -> None:
        if next(calls) == 0:
            rollups.check(SPAN, repair=True)
            insert(filled, NOON, 7)
        method(self, *arguments)

    monkeypatch.setattr(RollupRepairer, "_publish", beside)
    rollups.check(SPAN, repair=True)
    monkeypatch.undo()
    assert_right(filled, rollups)


def test_events_that_raw_no_longer_holds_are_kept_unless_forced(filled: Client, rollups: RollupsOfShards) -> None:
    insert(filled, NOON + DAY, 100)
    rollups.rebuild(Span(NOON, NOON + DAY))
    day = number(filled, f"SELECT toYYYYMMDD(toDateTime({NOON}, 'UTC'))")
    filled.command(f"ALTER TABLE raw_events DROP PARTITION {day}")
    checked = rollups.check(Span(NOON, NOON + DAY + HOUR))
    assert (checked.drifts, checked.gone, checked.units) == ((), 12, 1), "dropped on purpose, as retention does"
    refused = rollups.remake(SPAN)
    assert (refused.units, len(refused.refused)) == (0, 12)
    assert number(filled, "SELECT sum(requests) FROM rollup_1m") == 1_300
    filled.command(f"ALTER TABLE rollup_1m DELETE WHERE minute < toDateTime({NOON + UNIT}, 'UTC')")
    (drift,) = rollups.check(SPAN, repair=True).drifts
    assert drift.state is State.REFUSED
    assert "--force" in str(drift)
    forced = rollups.remake(SPAN, force=True)
    assert forced.units == 12
    assert_right(filled, rollups)


def test_a_database_whose_events_are_older_than_its_rollups_is_filled(
    settings: Settings, client: Client, rollups: RollupsOfShards
) -> None:
    names = [
        f"{cube}_{grain.name}"
        for cube in ("rollup", "rollup_regions", "rollup_services", "rollup_totals")
        for grain in GRAINS
    ]
    for name in [f"{n}_view" for n in names if n.endswith("_1m")] + ["rollup_builds_view", *names, "rollup_builds"]:
        client.command(f"DROP TABLE {name}")
    insert(client, NOON, 3_000, 26 * HOUR)
    prepare(settings)
    insert(client, NOON + HOUR, 100)
    span = Span(NOON, NOON + 27 * HOUR)
    shares: list[float] = []
    remade = rollups.remake(span, progress=shares.append)
    assert remade.units > 100
    assert remade.units_in_flux == 0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert_right(client, rollups, span)
    rebuilt = rollups.rebuild(span)
    assert rebuilt.published > 100
    assert rebuilt.in_flux == 0
    assert_right(client, rollups, span)


def test_a_span_has_a_limit() -> None:
    with pytest.raises(ConfigurationError, match="4000 days"):
        Span(0, NOON)


def test_the_books_tell_what_is_built(filled: Client, rollups: RollupsOfShards) -> None:
    closed = rollups.closed_until()
    state = {s.grain: s for s in read_state(filled, closed)}
    assert (state["10m"].not_built, state["1h"].not_built, state["10m"].rows) == (12, 2, 0)
    rollups.rebuild(SPAN)
    insert(filled, NOON + HOUR, 1)
    state = {s.grain: s for s in read_state(filled, closed)}
    assert (state["10m"].built, state["10m"].stale, state["10m"].oldest_stale_seconds) == (11, 1, NOON + HOUR)
    assert state["10m"].rows > 0
    assert [(s.start_seconds, s.grain) for s in read_stale(filled, closed, 100) if s.grain in ("10m", "1h")] == [
        (NOON + HOUR, "10m"),
        (NOON + HOUR, "1h"),
    ]
    assert len(BUILT) + 1 == len(state)
