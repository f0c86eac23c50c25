"""Replays of hours on real engines: whatever was lost or is wrong, they bring it to what the topic says, once."""

import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest

from metrics_pipeline.delivery.steps import HourStep, Step
from metrics_pipeline.delivery.warehouse import ClickHouseWarehouse
from metrics_pipeline.errors import FencedError
from metrics_pipeline.event.contract import IDENTITY
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.replay.report import HourReport
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.backfill import skip_to_head
from metrics_pipeline.wiring.drain import DrainRun, run_drain, until_window_ends
from tests.worlds.events import encode, event, events
from tests.worlds.hours import (
    HOUR_MS,
    assert_exact,
    assert_values,
    command,
    crash,
    delete_records,
    fingerprint,
    past_events,
    query,
    replay,
    shown,
    with_rules,
    with_wrong_rules,
)
from tests.worlds.pipeline import CrashError, crash_at, drain_once, send

BAD = (b"{", b"[]", None, b'{"service": "checkout"}')


def with_limits(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"events": settings.events.model_copy(update=changes)})


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics_pipeline.replay.hours.MAX_WINDOW_MESSAGES", 400)


def test_nothing_changes_where_nothing_is_missing(settings: Settings) -> None:
    sent = past_events(500)
    send(settings, [*sent, *sent[:20], *BAD])
    drain_once(settings)
    before = fingerprint(settings)
    for mode in Mode:
        for report in (shown(settings, mode), replay(settings, mode)):
            assert (report.messages, report.right, report.duplicates, report.letters) == (524, 500, 20, 4)
            assert (report.good_letters, report.changed, report.unaccounted, report.left_to_drains) == (0, 0, 0, 0)
    assert fingerprint(settings) == before
    assert query(settings, "SELECT count() FROM replay_plan") == [(0,)]
    assert_exact(settings, events=500, dead=4)


@pytest.mark.parametrize("mode", Mode)
def test_lost_rows_are_restored_once(settings: Settings, small_windows: None, mode: Mode) -> None:
    sent = past_events(2_000)
    send(settings, [*sent, *sent[:100], *BAD])
    drain_once(settings)
    before = fingerprint(settings)
    command(settings, "DELETE FROM raw_events WHERE service = 'service-1'")
    ((left,),) = query(settings, "SELECT count() FROM raw_events")
    would = shown(settings, mode)
    assert fingerprint(settings)[1:] == before[1:], "a dry run writes nothing"
    report = replay(settings, mode)
    assert report.restored == 2_000 - left
    assert report.restored <= would.restored <= report.restored + 100, "copies may count once per window"
    assert (report.changed, report.duplicates) == (report.restored, 100)
    assert (report.units_repaired > 0, report.units_left) == (True, 0)
    assert_exact(settings, events=2_000, dead=4)
    assert fingerprint(settings)[:3] == before[:3]
    after, again = fingerprint(settings), replay(settings, mode)
    assert again.changed == again.units_repaired == 0
    assert fingerprint(settings) == after


def test_a_dropped_day_comes_back_also_without_its_rollups(settings: Settings) -> None:
    send(settings, past_events(1_000, hours=(3, 40)))
    drain_once(settings)
    before = fingerprint(settings)
    ((day,),) = query(settings, "SELECT min(toYYYYMMDD(timestamp)) FROM raw_events")
    command(settings, f"ALTER TABLE raw_events DROP PARTITION {day}")
    command(settings, f"DELETE FROM rollup_totals_1m WHERE toYYYYMMDD(minute) = {day}")
    assert replay(settings).restored > 0
    assert_exact(settings, events=1_000)
    assert fingerprint(settings)[:3] == before[:3]


def test_rows_that_a_wrong_rule_made_are_replaced(settings: Settings, small_windows: None) -> None:
    sent = past_events(1_000)
    send(settings, [*sent, *sent[:50]])
    wrong = with_wrong_rules(settings)
    assert wrong > 0
    assert_exact(settings, events=1_000)
    filled = replay(settings)
    assert (filled.changed, filled.other) == (0, 10), "rows are not touched, nor is anything inserted beside them"
    would = shown(settings, Mode.REPLACE)
    report = replay(settings, Mode.REPLACE)
    assert would.replaced == report.replaced == wrong
    assert report.changed == report.replaced
    assert_exact(settings, events=1_000)
    assert_values(settings, sent)
    after = fingerprint(settings)
    assert replay(settings, Mode.REPLACE).changed == replay(settings).changed == 0
    assert fingerprint(settings) == after


def test_what_today_is_no_event_becomes_a_dead_letter(settings: Settings) -> None:
    ahead = [encode(event(random.Random(n), timestamp=int(time.time() * 1_000) - 9 * HOUR_MS)) for n in range(30)]
    send(settings, [*past_events(300), *ahead, *BAD], partition=0)
    drain_once(settings)
    today = with_limits(settings, max_age_days=1)
    aged = [encode(event(random.Random(n), timestamp=int(time.time() * 1_000) - 48 * HOUR_MS)) for n in range(30, 50)]
    send(settings, aged, partition=1)
    drain_once(settings)
    assert_exact(settings, events=350, dead=4)
    assert replay(today).changed == 0
    report = replay(today, Mode.REPLACE)
    assert (report.removed, report.dead_letters, report.replaced, report.restored) == (20, 20, 0, 0)
    assert_exact(settings, events=330, dead=24, added=20)
    assert replay(today, Mode.REPLACE).changed == 0
    # Back to the rules of before: the letters are the other replay's now.
    again = replay(settings, Mode.REPLACE)
    assert (again.changed, again.letters, again.good_letters) == (0, 24, 20)
    assert_exact(settings, events=330, dead=24, added=20)


@pytest.mark.parametrize("mode", Mode)
def test_lost_dead_letters_are_made_again(settings: Settings, mode: Mode) -> None:
    send(settings, [*past_events(100), *BAD * 5])
    drain_once(settings)
    before = query(settings, "SELECT count(), sum(sipHash64(* EXCEPT stored_at)) FROM dead_letters FINAL")
    command(settings, "DELETE FROM dead_letters WHERE reason = 'truncated' OR kafka_offset % 2 = 0")
    assert not audit(settings).is_ok
    report = replay(settings, mode)
    assert report.restored_letters > 5
    assert report.changed == report.restored_letters
    assert query(settings, "SELECT count(), sum(sipHash64(* EXCEPT stored_at)) FROM dead_letters FINAL") == before
    assert_exact(settings, events=100, dead=20)
    assert replay(settings, mode).changed == 0


_DEATHS = [
    (HourStep.FENCE, HourStep.INTENT, HourStep.PLAN, HourStep.REMOVE, HourStep.DEAD, HourStep.CLOSE),
    (HourStep.READ, HourStep.REMOVE, HourStep.EVENTS, HourStep.LEDGER, HourStep.INTENT, HourStep.REPAIR_ROLLUPS),
    (HourStep.EVENTS, HourStep.RECOVER, HourStep.LEDGER, HourStep.PLAN, HourStep.DEAD, HourStep.REPAIR_ROLLUPS),
]


@pytest.mark.parametrize("deaths", _DEATHS, ids="-".join)
def test_replays_that_die_at_any_step_one_after_the_other_are_finished_by_the_last_one(
    settings: Settings, small_windows: None, deaths: tuple[HourStep, ...]
) -> None:
    """Rows are wrong, lost, and no events any more, and dead letters are lost, all at once."""
    sent = past_events(600)
    send(settings, [*sent, *sent[:40], *BAD * 3])
    send(settings, past_events(60, seed=7, hours=(30, 31)))
    with_wrong_rules(settings)
    command(
        settings,
        "DELETE FROM raw_events WHERE service = 'service-1' AND kafka_offset % 3 = 0 AND timestamp > now64(3) - 36000",
        "DELETE FROM dead_letters WHERE reason = 'truncated'",
    )
    today = with_limits(settings, max_age_days=1)
    for step in deaths:
        with pytest.raises(CrashError):
            replay(today, Mode.REPLACE, crash(step))
    report = replay(today, Mode.REPLACE)
    assert report.units_left == 0
    assert_exact(settings, events=600, dead=72, added=60)
    assert_values(settings, sent)
    after = fingerprint(settings)
    assert replay(today, Mode.REPLACE).changed == 0
    assert fingerprint(settings) == after


@pytest.mark.parametrize("step", [HourStep.REMOVE, HourStep.EVENTS, HourStep.DEAD, HourStep.LEDGER])
def test_what_it_had_made_of_messages_that_are_gone_when_it_goes_on_is_accounted_for(
    settings: Settings, step: HourStep
) -> None:
    """It dies between its plan and its account, and the topic drops all that it was at."""
    send(settings, past_events(60), partition=0)
    send(settings, past_events(20, seed=7, hours=(30, 31)), partition=0)
    with_wrong_rules(settings)
    today = with_limits(settings, max_age_days=1)
    with pytest.raises(CrashError):
        replay(today, Mode.REPLACE, crash(step))
    delete_records(settings, 80)
    assert replay(today, Mode.REPLACE).recovered == 1
    ((rows,),) = query(settings, "SELECT count() FROM raw_events")
    ((letters,),) = query(settings, "SELECT count() FROM dead_letters FINAL")
    assert_exact(settings, events=rows, dead=letters, added=letters)
    assert letters == (20 if step is HourStep.LEDGER else 0)


def overtake_one_that_sleeps(settings: Settings, at: HourStep) -> HourReport:
    """One replay has proved that it may write, and falls asleep before a step; another one does everything."""
    is_paused, may_go_on = threading.Event(), threading.Event()

    def pause(step: HourStep) -> None:
        if step == at and not is_paused.is_set():
            is_paused.set()
            assert may_go_on.wait(200)

    with ThreadPoolExecutor(1) as pool:
        older = pool.submit(replay, settings, Mode.REPLACE, pause)
        assert is_paused.wait(60)
        newer = replay(settings, Mode.REPLACE)
        assert newer.recovered == 1
        may_go_on.set()
        with pytest.raises(FencedError):
            older.result(120)
    return newer


@pytest.mark.parametrize("step", [HourStep.PLAN, HourStep.REMOVE, HourStep.EVENTS, HourStep.LEDGER])
def test_an_older_replay_that_wakes_up_changes_nothing(settings: Settings, step: HourStep) -> None:
    send(settings, past_events(500))
    with_wrong_rules(settings)
    command(settings, "DELETE FROM raw_events WHERE service = 'service-1'")
    overtake_one_that_sleeps(settings, step)
    assert_exact(settings, events=500)
    assert replay(settings, Mode.REPLACE).changed == 0


def test_without_its_token_it_would_double(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    insert = ClickHouseWarehouse.insert_events
    send(settings, past_events(500))
    drain_once(settings)
    command(settings, "DELETE FROM raw_events WHERE service = 'service-1'")
    numbers = iter(range(1_000))
    monkeypatch.setattr(
        ClickHouseWarehouse, "insert_events", lambda self, rows, token: insert(self, rows, f"{token}-{next(numbers)}")
    )
    overtake_one_that_sleeps(settings, HourStep.EVENTS)
    assert not audit(settings, deep=True).is_ok


def test_a_replay_whose_token_is_forgotten_inserts_only_what_is_missing(settings: Settings) -> None:
    settings = with_limits(settings, max_age_days=100)
    short = settings.model_copy(
        update={"clickhouse": settings.clickhouse.model_copy(update={"deduplication_window_blocks": 100})}
    )
    send(settings, past_events(300))
    drain_once(settings)
    command(settings, "DELETE FROM raw_events WHERE service = 'service-1'")
    with pytest.raises(CrashError):
        replay(short, observe=crash(HourStep.LEDGER))
    command(settings, "ALTER TABLE raw_events MODIFY SETTING non_replicated_deduplication_window = 1")
    now_ms = time.time_ns() // 1_000_000
    send(settings, [encode(event(random.Random(d), timestamp=now_ms - d * 24 * HOUR_MS)) for d in range(1, 71)])
    drain_once(settings)
    replay(short)
    assert_exact(settings, events=370)
    command(settings, "DELETE FROM raw_events WHERE service = 'service-2' AND timestamp > now64(3) - 36000")
    replay(short)
    assert_exact(settings, events=370)


def test_offsets_that_drains_have_yet_to_land_are_left_to_them(settings: Settings) -> None:
    send(settings, past_events(100), partition=0)
    drain_once(settings)
    send(settings, past_events(50, seed=1), partition=0)
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(Step.LEDGER))
    send(settings, past_events(30, seed=2), partition=1)
    command(
        settings, "DELETE FROM raw_events WHERE service = 'service-1' AND (kafka_partition, kafka_offset) < (0, 100)"
    )
    report = replay(settings)
    assert (report.messages, report.left_to_drains) == (100, 80)
    drain_once(settings)
    replay(settings)
    assert_exact(settings, events=180)


def test_what_the_ledger_does_not_account_for_is_left_and_named(settings: Settings) -> None:
    for seed in range(3):
        send(settings, past_events(50, seed=seed), partition=0)
        drain_once(settings)
    command(settings, "DELETE FROM batches WHERE has(partition_start, 50)")
    report = replay(settings)
    assert (report.messages, report.unaccounted, report.changed) == (100, 50, 0)


def test_what_the_topic_no_longer_holds_is_named(settings: Settings) -> None:
    send(settings, past_events(100), partition=0)
    drain_once(settings)
    send(settings, past_events(100, seed=1), partition=0)
    drain_once(settings)
    delete_records(settings, 120)
    command(settings, "TRUNCATE TABLE raw_events")
    report = replay(settings)
    assert (report.messages, report.restored, report.dropped) == (80, 80, 120)
    # In units of which the topic still held the most, the rollups miss them, too.
    assert any("rows are missing in raw_events" in problem for problem in audit(settings).problems)


def test_the_rollups_of_a_day_that_is_gone_are_not_made_to_forget_it(settings: Settings) -> None:
    """A late message of a day that was dropped on purpose comes back; all others are no longer in the topic."""
    send(settings, past_events(200, hours=(3, 3.1)), partition=0)
    drain_once(settings)
    delete_records(settings, 190)
    command(settings, "TRUNCATE TABLE raw_events")
    report = replay(settings)
    assert (report.restored, report.units_repaired) == (10, 0)
    assert report.units_left > 0
    ((requests,),) = query(settings, "SELECT sum(requests) FROM rollup_1m")
    assert requests == 210, "counted twice, rather than forgotten"


def test_events_whose_rollups_are_not_closed_yet_are_left(settings: Settings) -> None:
    send(settings, [*past_events(100), *events(30)])
    with_wrong_rules(settings)
    command(settings, "DELETE FROM raw_events WHERE kafka_offset % 5 = 0 AND service != 'service-3'")
    report = replay(settings, Mode.REPLACE)
    assert 0 < report.unrepaired <= 30
    assert report.changed > 0
    problems = audit(settings).problems
    assert all("rows are missing in raw_events" in problem for problem in problems), problems


def test_a_message_that_counted_as_a_duplicate_of_a_wrong_row_comes_into_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the wrong rules the first event was the second one; and the second one's window comes first."""
    monkeypatch.setattr("metrics_pipeline.replay.hours.MAX_WINDOW_PARTITIONS", 1)
    first, second = past_events(2)
    (truth,) = decode(Messages([1], [0], [0], [second]), EventLimits(1 << 60, 1 << 60)).events.rows(named=True)

    def as_second(decoded: pl.DataFrame) -> pl.DataFrame:
        return decoded.with_columns(pl.lit(truth[name]).cast(decoded.schema[name]).alias(name) for name in IDENTITY)

    send(settings, [first], partition=1)
    with_rules(as_second, lambda: drain_once(settings))
    send(settings, [second], partition=0)
    drain_once(settings)
    assert query(settings, "SELECT count() FROM raw_events") == [(1,)]
    report = replay(settings, Mode.REPLACE)
    assert (report.replaced, report.added, report.duplicates) == (1, 1, 1)
    assert_exact(settings, events=2)
    assert replay(settings, Mode.REPLACE).changed == 0


@pytest.mark.parametrize("mode", Mode)
def test_rows_that_the_server_refuses_become_dead_letters(settings: Settings, mode: Mode) -> None:
    send(settings, past_events(200))
    with_wrong_rules(settings)
    command(
        settings,
        "DELETE FROM raw_events WHERE service = 'service-1' AND kafka_offset % 2 = 0",
        "ALTER TABLE raw_events ADD CONSTRAINT no_free CHECK tier != 'free'",
    )
    with pytest.raises(CrashError):
        replay(settings, mode, crash(HourStep.SEARCH, 2))
    replay(settings, mode)
    ((refused,),) = query(settings, "SELECT count() FROM dead_letters FINAL WHERE reason = 'refused'")
    assert refused > 0
    assert_exact(settings, events=200 - refused, dead=refused, added=refused)
    assert replay(settings, mode).changed == 0
    command(settings, "ALTER TABLE raw_events DROP CONSTRAINT no_free")
    report = replay(settings, mode)
    assert (report.letters, report.good_letters, report.changed) == (refused, refused, 0)


def test_beside_live_drains_of_the_same_hour_the_books_stay_exact(settings: Settings, small_windows: None) -> None:
    """Rows are lost and restored while batches land, late events among them; audits never accuse."""
    quick = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_seconds": 0.05})})
    sent = past_events(3_000)
    send(settings, sent)
    drain_once(settings)
    command(settings, "DELETE FROM raw_events WHERE service IN ('service-1', 'service-4')")
    plan = LoadPlan(rate=2_000, events=16_000, duplicates=0.02, late=0.05, malformed=0.02, seed=5)
    with ThreadPoolExecutor(2) as pool:
        producing = pool.submit(produce, plan, settings)
        run = DrainRun(str(uuid.uuid4()))
        draining = pool.submit(run_drain, quick, run, until_window_ends(quick), stop=producing.done)
        reports = [replay(settings, clock=SystemClock())]
        while not draining.done():
            reports.append(replay(settings, Mode.REPLACE, clock=SystemClock()))
        summary = producing.result()
        draining.result()
    drain_once(settings)
    assert reports[0].restored > 1_000
    assert sum(report.changed for report in reports[1:]) == 0
    last = replay(settings)
    assert last.changed == 0
    assert_exact(settings, events=3_000 + summary.unique_events, dead=summary.malformed)


def test_what_drains_have_skipped_of_an_hour_is_filled_first(settings: Settings) -> None:
    send(settings, past_events(300))
    drain_once(settings)
    send(settings, past_events(400, seed=1))
    assert skip_to_head(settings, (0,), "skip to head") == 400
    command(settings, "DELETE FROM raw_events WHERE service = 'service-1'")
    would = shown(settings)
    assert (would.deferred, would.unaccounted) == (400, 0)
    report = replay(settings)
    assert (report.deferred, report.messages, report.unaccounted) == (400, 700, 0)
    assert report.restored == would.restored
    assert_exact(settings, events=700)
