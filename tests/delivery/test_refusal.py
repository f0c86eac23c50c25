"""Rows that the server refuses for their content become dead letters, all others land, whatever dies meanwhile."""

import json
import random
from contextlib import suppress

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.errors import ForeignViewError, PipelineError, StopError
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.audit import audit
from tests.worlds.events import encode, event, events
from tests.worlds.pipeline import CrashError, assert_exact, crash_at, drain_once, send

DAY_MS = 86_400_000
CONSTRAINT = "ALTER TABLE raw_events ADD CONSTRAINT no_teapots CHECK status != 418"
VIEW_TABLE = "CREATE TABLE teapots (status UInt16) ENGINE = MergeTree ORDER BY status"
THROWING_VIEW = (
    "CREATE MATERIALIZED VIEW teapots_view TO teapots AS "
    "SELECT status + throwIf(status = 418, 'a teapot') AS status FROM raw_events"
)


def run_sql(settings: Settings, *statements: str) -> None:
    with connect(settings) as client:
        for statement in statements:
            client.command(statement)


def refused(settings: Settings) -> list[tuple[str, str]]:
    """Details and payloads of the dead letters of refused rows."""
    with connect(settings) as client:
        return [
            (str(detail), payload)
            for detail, payload in client.query(
                "SELECT detail, payload FROM dead_letters WHERE reason = 'refused' ORDER BY kafka_offset"
            ).result_rows
        ]


def teapots(count: int, seed: int = 418) -> list[bytes]:
    random_ = random.Random(seed)
    return [encode(event(random_, status=418)) for _ in range(count)]


def mixed(good: int, bad: int) -> list[bytes]:
    """Events of today and yesterday, with refused ones among them."""
    random_ = random.Random(good + bad)
    yesterday = [encode(event(random_, timestamp=event(random_)["timestamp"] - DAY_MS)) for _ in range(good // 3)]
    values = [*events(good - len(yesterday), seed=good), *yesterday, *teapots(bad)]
    random_.shuffle(values)
    return values


def test_refused_rows_become_dead_letters_and_all_others_land(settings: Settings) -> None:
    run_sql(settings, CONSTRAINT)
    values = mixed(500, 7)
    send(settings, [*values, b"not json"], partition=0)
    report = drain_once(settings)
    assert (report.inserted, report.duplicates, report.dead_letters) == (500, 0, 8)
    assert_exact(settings, events=500, dead=8)
    details, payloads = zip(*refused(settings), strict=True)
    assert [json.loads(payload)["status"] for payload in payloads] == [418] * 7
    assert {bytes(payload, "utf-8") for payload in payloads} <= set(values)
    assert all("no_teapots" in detail for detail in details)


def test_a_view_of_somebody_else_that_fails_stops_the_drain_until_it_is_mended(settings: Settings) -> None:
    """The server stores the rows all the same: they are no dead letters, and the repeat doubles nothing."""
    run_sql(settings, VIEW_TABLE, THROWING_VIEW)
    send(settings, mixed(90, 3), partition=0)
    for _ in range(2):
        with pytest.raises(ForeignViewError, match="teapots_view"):
            drain_once(settings)
    run_sql(settings, "DROP VIEW teapots_view")
    drain_once(settings)
    assert_exact(settings, events=93)


def test_one_refused_row_of_100_000_is_found_within_26_inserts(settings: Settings) -> None:
    run_sql(settings, CONSTRAINT)
    whole = settings.model_copy(
        update={"drain": settings.drain.model_copy(update={"flush_events": 200_000, "flush_seconds": 30.0})}
    )
    inserts = []
    send(settings, [*events(60_000), *teapots(1), *events(39_999, seed=1)], partition=0)
    report = drain_once(whole, lambda step: inserts.append(step) if step is Step.EVENTS else None)
    assert (report.batches, report.inserted, report.dead_letters) == (1, 99_999, 1)
    assert len(inserts) <= 26
    assert_exact(settings, events=99_999, dead=1)


@pytest.mark.parametrize("step", [Step.EVENTS, Step.SEARCH, Step.DEAD, Step.LEDGER, Step.CLOSE])
@pytest.mark.parametrize("occurrence", [2, 5, 9])
def test_a_search_that_is_interrupted_goes_on(settings: Settings, step: Step, occurrence: int) -> None:
    run_sql(settings, CONSTRAINT)
    send(settings, mixed(90, 3), partition=0)
    with suppress(CrashError):
        drain_once(settings, crash_at(step, occurrence))
    drain_once(settings)
    assert_exact(settings, events=90, dead=3)


@pytest.mark.parametrize("occurrence", [2, 4, 7])
def test_a_rule_that_is_dropped_in_the_middle_of_the_search_doubles_nothing(
    settings: Settings, occurrence: int
) -> None:
    run_sql(settings, CONSTRAINT)
    send(settings, mixed(90, 3), partition=0)
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(Step.EVENTS, occurrence))
    run_sql(settings, "ALTER TABLE raw_events DROP CONSTRAINT no_teapots")
    report = drain_once(settings)
    assert report.inserted + report.dead_letters == 93
    assert_exact(settings, events=report.inserted, dead=report.dead_letters)


def test_rows_that_landed_before_the_server_began_to_refuse_them_stop_the_drain(settings: Settings) -> None:
    send(settings, mixed(90, 3), partition=0)
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(Step.LEDGER))
    run_sql(settings, CONSTRAINT)
    with pytest.raises(StopError, match="are in raw_events already"):
        drain_once(settings)
    run_sql(settings, "ALTER TABLE raw_events DROP CONSTRAINT no_teapots")
    drain_once(settings)
    assert_exact(settings, events=93)


def test_a_table_that_refuses_nearly_everything_stops_the_drain_until_it_is_mended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.delivery.bisection.LARGEST_SEARCH_BITS", 20)
    run_sql(settings, CONSTRAINT)
    send(settings, mixed(10, 40), partition=0)
    for _ in range(2):
        with pytest.raises(StopError, match="refuses too many rows"):
            drain_once(settings)
    monkeypatch.undo()


def test_transient_errors_never_make_dead_letters(settings: Settings) -> None:
    """The server has too many parts, for real: the run gives up in time, and nothing is dead-lettered."""
    send(settings, events(300), partition=0)
    run_sql(settings, "ALTER TABLE raw_events MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 1")
    run_sql(settings, "SYSTEM STOP MERGES raw_events", "INSERT INTO raw_events (service) VALUES ('one'), ('part')")
    impatient = settings.model_copy(update={"drain": settings.drain.model_copy(update={"retry_seconds": 1.0})})
    with pytest.raises(PipelineError, match="parts"):
        drain_once(impatient)
    run_sql(
        settings,
        "TRUNCATE TABLE raw_events",
        "TRUNCATE TABLE rollup_1m",
        "ALTER TABLE raw_events RESET SETTING parts_to_throw_insert, parts_to_delay_insert",
        "SYSTEM START MERGES raw_events",
    )
    drain_once(settings)
    assert_exact(settings, events=300)
    assert audit(settings).is_ok
