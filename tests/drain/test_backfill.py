"""Live events first, the backlog later, on a real broker and a real server: fresh at once, exact in the end."""

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from metrics_pipeline.alerting.reading import read_flow, read_landed
from metrics_pipeline.cli import app
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.drain.backfill import BackfillReport
from metrics_pipeline.drain.drain import DrainReport
from metrics_pipeline.errors import FencedError, RetryableError
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.deferred import deferred_hours
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.metrics.collector import PipelineCollector
from metrics_pipeline.metrics.observe import look
from metrics_pipeline.questions.completeness import incomplete_minutes
from metrics_pipeline.runtime.timerange import TimeRange
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.backfill import backfill_deferred, deferred_ranges, skip_to_head
from metrics_pipeline.wiring.drain import DrainRun, at_once, run_drain, until_caught_up, until_window_ends
from tests.worlds.events import events
from tests.worlds.pipeline import CrashError, assert_exact, counts, crash_at, drain_once, send

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def drain_from_head(settings: Settings, **named: object) -> DrainReport:
    run = DrainRun("skip to head", is_skipping_to_head=True)
    return run_drain(settings, run, at_once, stop=lambda: False, **named)  # type: ignore[arg-type]


def send_at(settings: Settings, count: int, time_ms: int, *, seed: int, partition: int = 0) -> list[bytes]:
    """Events of that time, which is their messages' time, too."""
    producer = Producer({"bootstrap.servers": kafka_address(settings), "linger.ms": 5})
    values = events(count, seed=seed, timestamp=time_ms)
    for value in values:
        producer.produce(settings.kafka.topic, value, partition=partition, timestamp=time_ms)
    assert producer.flush(30) == 0
    return values


def test_a_skip_to_head_goes_by_hours_and_the_audit_names_it(settings: Settings) -> None:
    now_ms = time.time_ns() // 1_000_000
    hour_ms = now_ms // HOUR_MS * HOUR_MS
    send_at(settings, 10, hour_ms - 3 * HOUR_MS, seed=1)
    drain_once(settings)
    send_at(settings, 20, hour_ms - 3 * HOUR_MS + 90_000, seed=2)
    send_at(settings, 30, hour_ms - HOUR_MS, seed=3, partition=1)
    send_at(settings, 5, hour_ms - 2 * HOUR_MS, seed=4)
    report = drain_from_head(settings)
    assert (report.deferred, report.consumed, report.batches) == (55, 0, 0)
    send(settings, events(7, seed=5))
    assert drain_once(settings).inserted == 7
    found = [(e.hour_seconds, e.offsets, e.first_ms, e.last_ms) for e in deferred_ranges(settings)]
    assert found == [
        ((hour_ms - 3 * HOUR_MS) // 1_000, 20, hour_ms - 3 * HOUR_MS + 60_000, hour_ms - 2 * HOUR_MS - 1),
        ((hour_ms - 2 * HOUR_MS) // 1_000, 5, hour_ms - 2 * HOUR_MS, hour_ms - HOUR_MS - 1),
        ((hour_ms - HOUR_MS) // 1_000, 30, hour_ms - HOUR_MS, hour_ms - HOUR_MS + 59_999),
    ]
    verdict = audit(settings)
    assert verdict.problems == ()
    assert verdict.deferred_offsets == 55
    assert counts(settings).raw == 17


@pytest.mark.usefixtures("undisturbed")
def test_a_crash_before_any_step_of_a_skip_is_finished_by_the_next_run(settings: Settings) -> None:
    hour_ms = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    for hour in (3, 2, 1):
        send_at(settings, 20, hour_ms - hour * HOUR_MS, seed=hour)
    crashes = ((Step.INTENT, 1), (Step.LEDGER, 1), (Step.INTENT, 2), (Step.LEDGER, 2), (Step.CLOSE, 1))
    for number, (step, occurrence) in enumerate(crashes):
        with pytest.raises(CrashError):
            drain_from_head(settings, observe=crash_at(step, occurrence))
        verdict = audit(settings)
        assert verdict.problems == ()
        send_at(settings, 20, hour_ms, seed=10 + number)
    drain_from_head(settings)
    assert sum(entry.offsets for entry in deferred_ranges(settings)) == 160
    assert counts(settings).raw == 0
    backfill_deferred(settings, None, "backfill")
    assert_exact(settings, events=160)
    assert deferred_ranges(settings) == ()


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("occurrence", [1, 2])
def test_a_backfill_that_crashes_before_any_step_loses_and_doubles_nothing(
    settings: Settings, step: Step, occurrence: int
) -> None:
    small = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_events": 100})})
    sent = events(300)
    send(settings, [*sent, b"{", *sent[:20], None], partition=0)
    drain_from_head(settings)
    send(settings, [*sent[:10], *events(50, seed=1)], partition=0)
    assert drain_once(settings).inserted == 60
    if step is Step.RECOVER:
        with pytest.raises(CrashError):
            backfill_deferred(small, None, "first", observe=crash_at(Step.EVENTS))
    with suppress(CrashError):
        backfill_deferred(small, None, "second", observe=crash_at(step, occurrence))
    verdict = audit(settings)
    assert verdict.problems == ()
    backfill_deferred(small, None, "third")
    assert_exact(settings, events=350, dead=2)
    assert deferred_ranges(settings) == ()


def test_live_events_are_fresh_while_a_long_backlog_is_deferred_and_all_of_it_lands_once(settings: Settings) -> None:
    """The backlog has duplicates, of itself and of live events; the backfill is stopped midway and killed midway."""
    small = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_events": 20_000})})
    backlog, live = events(300_000, seed=1), events(20_000, seed=2)
    waiting = [*backlog, *backlog[:500], *live[:100]]
    for part in range(0, len(waiting), 50_000):
        send(settings, waiting[part : part + 50_000])
    drain_from_head(settings)
    stop = threading.Event()
    reports = []
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(run_drain, settings, DrainRun("live"), until_window_ends(settings), stop=stop.is_set)
        try:
            for part in range(0, 20_000, 4_000):
                send(settings, live[part : part + 4_000])
            while counts(settings).raw < 20_000:
                assert not draining.done(), draining.result()
            verdict = audit(settings)
            assert verdict.problems == ()
            assert verdict.deferred_offsets == 300_600
            with pytest.raises(CrashError):
                backfill_deferred(settings, None, "killed", observe=crash_at(Step.EVENTS, 2))
            send(settings, backlog[-1_000:])
            stopped = threading.Event()
            reports.append(
                backfill_deferred(
                    small, None, "stopped", stop=stopped.is_set, on_progress=lambda _report: stopped.set()
                )
            )
            assert 0 < reports[0].left < reports[0].total
            assert audit(settings).deferred_offsets == reports[0].left
            reports.append(backfill_deferred(settings, None, "last"))
        finally:
            stop.set()
    drained = draining.result()
    assert drained.freshness_seconds(0.5) < 5
    assert reports[1].left == 0
    drain_once(settings)
    assert_exact(settings, events=320_000)
    assert audit(settings).deferred_offsets == 0


def test_a_skip_that_a_new_drain_fences_tries_again(settings: Settings) -> None:
    small = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_events": 100})})
    hour_ms = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    for hour in (3, 2, 1):
        send_at(settings, 1_000, hour_ms - hour * HOUR_MS, seed=hour)
    fencing: list[DrainReport] = []

    def drain_a_little(_entry: object) -> None:
        """After the first hour was skipped, a new drain takes over for two batches."""
        if not fencing:
            seen: list[object] = []
            run = DrainRun("relayed")
            fencing.append(run_drain(small, run, until_caught_up, stop=lambda: len(seen) > 1, on_entry=seen.append))

    deferred = skip_to_head(settings, (0,), "skip to head", on_entry=drain_a_little)
    drained = fencing[0].consumed
    assert 0 < drained < 2_000
    assert deferred == 3_000 - drained
    assert sum(entry.offsets for entry in deferred_ranges(settings)) == deferred
    backfill_deferred(settings, None, "backfill")
    assert_exact(settings, events=3_000)


def test_only_what_is_deferred_within_the_asked_ranges_is_backfilled(settings: Settings) -> None:
    hour_ms = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    send_at(settings, 10, hour_ms - 3 * HOUR_MS, seed=1)
    drain_once(settings)
    send_at(settings, 10, hour_ms - 2 * HOUR_MS, seed=2)
    send_at(settings, 10, hour_ms - HOUR_MS, seed=3, partition=1)
    drain_from_head(settings)
    assert deferred_hours(deferred_ranges(settings)) == ((hour_ms - 2 * HOUR_MS) // 1_000, (hour_ms - HOUR_MS) // 1_000)
    report = backfill_deferred(settings, [OffsetRange(0, 0, 14), OffsetRange(1, 8, 100), OffsetRange(2, 0, 9)], "part")
    assert (report.total, report.backfilled, report.inserted, report.left) == (6, 6, 6, 0)
    assert [e.ranges for e in deferred_ranges(settings)] == [(OffsetRange(0, 14, 20),), (OffsetRange(1, 0, 8),)]
    assert audit(settings).problems == ()
    assert backfill_deferred(settings, [OffsetRange(0, 0, 14)], "again").total == 0
    backfill_deferred(settings, None, "rest")
    assert_exact(settings, events=30)


def test_the_commands_say_what_they_would_do_and_do_it(settings: Settings) -> None:
    send(settings, [*events(200), b"{"], partition=3)

    def call(*arguments: str, answer: str | None = None, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments), input=answer)
        assert done.exit_code == code, done.output
        return done.stdout

    plan = json.loads(call("skip-to-head", "--dry-run", "--json"))
    assert plan["offsets"] == 201
    assert [hour["ranges"] for hour in plan["hours"]] == [[{"partition": 3, "start": 0, "end": 201}]]
    assert "201 offsets of 1 partitions would be skipped" in call("skip-to-head", answer="n\n", code=1)
    assert deferred_ranges(settings) == ()
    assert "201 offsets are deferred" in call("skip-to-head", "--yes")
    assert "no offsets would be skipped" in call("skip-to-head", "--yes")
    audited = json.loads(call("audit", "--json"))
    assert audited["ok"]
    assert audited["deferred"] == {"offsets": 201, "ranges": [{"partition": 3, "start": 0, "end": 201}]}
    assert "but for the 201 that are deferred" in call("audit")
    assert json.loads(call("status", "--json"))["deferred_offsets"] == 201
    assert "201 offsets of 1 partitions are deferred" in call("backfill", "--dry-run")
    backfilled = json.loads(call("backfill", "--json"))
    assert (backfilled["deferred"], backfilled["backfilled"], backfilled["inserted"], backfilled["dead_letters"]) == (
        201,
        201,
        200,
        1,
    )
    assert "no offsets are deferred" in call("backfill", "--dry-run")
    assert json.loads(call("audit", "--json"))["deferred"] == {"offsets": 0, "ranges": []}
    assert_exact(settings, events=200, dead=1)


def test_of_two_backfills_the_newer_fences_the_older(settings: Settings) -> None:
    small = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_events": 100})})
    send(settings, events(1_000))
    drain_from_head(settings)
    overtaken = []

    def overtake(step: Step) -> None:
        if step is Step.LEDGER and not overtaken:
            overtaken.append(backfill_deferred(settings, None, "newer"))

    with pytest.raises(FencedError):
        backfill_deferred(small, None, "older", observe=overtake)
    assert overtaken[0].left == 0
    assert_exact(settings, events=1_000)


def test_what_retention_ate_of_deferred_ranges_is_on_record_as_lost(settings: Settings) -> None:
    send(settings, events(500), partition=0)
    drain_from_head(settings)
    send(settings, events(50, seed=1), partition=0)
    drain_once(settings)
    admin = AdminClient({"bootstrap.servers": kafka_address(settings)})
    deleted = admin.delete_records([TopicPartition(settings.kafka.topic, 0, 200)])
    assert all(f.result().low_watermark == 200 for f in deleted.values())
    report = backfill_deferred(settings, None, "backfill")
    assert (report.inserted, report.lost, report.left) == (300, 200, 0)
    verdict = audit(settings)
    assert verdict.books.ledger.lost == (OffsetRange(0, 0, 200),)
    assert len(verdict.problems) == 1
    assert verdict.deferred_offsets == 0


@pytest.mark.parametrize("first", ["drain", "backfill"])
@pytest.mark.usefixtures("undisturbed")
def test_an_event_that_a_drain_and_a_backfill_store_in_the_same_moment_counts_once(
    settings: Settings, first: str
) -> None:
    """Both look up before they see the other's rows, and each is the first to insert once."""
    noon_ms = (time.time_ns() // 1_000_000 // DAY_MS - 1) * DAY_MS + DAY_MS // 2
    repeated = events(200, seed=1, timestamp=noon_ms)
    send(settings, [*repeated, *events(300, seed=2)], partition=0)
    drain_from_head(settings)
    send(settings, [*repeated, *events(100, seed=3)], partition=0)
    inner: list[DrainReport] = []

    def drain_between(step: Step) -> None:
        """The backfill has looked up, and the drain delivers all of its batch, before the backfill inserts."""
        if step is Step.EVENTS and not inner:
            inner.append(drain_once(settings))

    def backfill_between(step: Step) -> None:
        """The drain has looked up; the backfill inserts, and waits for it."""
        if step is Step.EVENTS and not backfilling:
            backfilling.append(pool.submit(backfill_deferred, settings, None, "backfill", observe=note))
            assert inserted.wait(60)

    def note(step: Step) -> None:
        if step is Step.YIELD:
            inserted.set()

    backfilling: list[Future[BackfillReport]] = []
    inserted = threading.Event()
    if first == "drain":
        report = backfill_deferred(settings, None, "backfill", observe=drain_between)
    else:
        with ThreadPoolExecutor(1) as pool:
            drain_once(settings, backfill_between)
            report = backfilling[0].result()
    assert (report.taken_back, report.inserted, report.duplicates) == (200, 300, 200)
    assert_exact(settings, events=600)


@pytest.mark.usefixtures("undisturbed")
def test_a_crash_while_events_are_taken_back_is_made_good(settings: Settings) -> None:
    noon_ms = (time.time_ns() // 1_000_000 // DAY_MS - 1) * DAY_MS + DAY_MS // 2
    repeated = events(200, seed=1, timestamp=noon_ms)
    send(settings, [*repeated, *events(300, seed=2)], partition=0)
    drain_from_head(settings)
    send(settings, repeated, partition=0)
    inner: list[DrainReport] = []

    def drain_between(step: Step) -> None:
        if step is Step.EVENTS and not inner:
            inner.append(drain_once(settings))
        if step is Step.YIELD:
            raise CrashError(step)

    with pytest.raises(CrashError):
        backfill_deferred(settings, None, "first", observe=drain_between)
    report = backfill_deferred(settings, None, "second")
    assert (report.taken_back, report.inserted) == (200, 300)
    assert_exact(settings, events=500)


@pytest.mark.usefixtures("undisturbed")
def test_a_drain_that_dies_in_that_moment_keeps_what_it_stored(settings: Settings) -> None:
    """Its successor finds the backfill's rows of the same events, too; the backfill takes these back: they are the
    drain's."""
    noon_ms = (time.time_ns() // 1_000_000 // DAY_MS - 1) * DAY_MS + DAY_MS // 2
    repeated = events(200, seed=1, timestamp=noon_ms)
    send(settings, [*repeated, *events(300, seed=2)], partition=0)
    drain_from_head(settings)
    send(settings, repeated, partition=0)
    inserted = threading.Event()
    backfilling: list[Future[BackfillReport]] = []

    def note(step: Step) -> None:
        if step is Step.YIELD:
            inserted.set()

    def die(step: Step) -> None:
        if step is Step.EVENTS:
            backfilling.append(pool.submit(backfill_deferred, settings, None, "backfill", observe=note))
            assert inserted.wait(60)
        if step is Step.LEDGER:
            raise CrashError(step)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(CrashError):
            drain_once(settings, die)
        assert drain_once(settings).inserted == 200
        report = backfilling[0].result()
    assert (report.taken_back, report.inserted) == (200, 300)
    assert_exact(settings, events=500)


def test_a_backfill_waits_for_a_batch_that_a_dead_drain_left_open_and_says_so(settings: Settings) -> None:
    impatient = settings.model_copy(update={"drain": settings.drain.model_copy(update={"retry_seconds": 0.5})})
    send(settings, events(100), partition=0)
    drain_from_head(settings)
    send(settings, events(100, seed=1), partition=0)
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(Step.EVENTS))
    with pytest.raises(RetryableError, match="let a drain"):
        backfill_deferred(impatient, None, "first")
    drain_once(settings)
    backfill_deferred(settings, None, "second")
    assert_exact(settings, events=200)


def test_a_run_with_more_lag_than_the_policy_allows_skips_to_head_by_itself(settings: Settings) -> None:
    patient, impatient = (
        settings.model_copy(update={"drain": settings.drain.model_copy(update={"skip_to_head_lag_offsets": lag})})
        for lag in (100, 99)
    )
    send(settings, events(100))
    assert drain_once(patient).deferred == 0
    send(settings, events(100, seed=1))
    assert drain_once(impatient).deferred == 100
    backfill_deferred(settings, None, "backfill")
    assert_exact(settings, events=200)


def test_figures_tell_backfills_from_drains(settings: Settings) -> None:
    """Old messages that a backfill lands are no late ones; they count in totals; what is deferred is told until
    then."""
    hour_ms = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    scope = LedgerScope(settings.kafka.topic, settings.kafka.group)
    send_at(settings, 100, hour_ms - 2 * HOUR_MS, seed=1, partition=1)
    drain_from_head(settings)
    send(settings, [*events(50, seed=2), b"{"], partition=0)
    drain_once(settings)
    with connect(settings) as client:
        assert look(settings, client).deferred == 100
        assert deferred_metric(settings) == 100
        minutes = TimeRange(
            datetime.fromtimestamp(hour_ms / 1_000 - 7_200, UTC), datetime.fromtimestamp(hour_ms / 1_000 - 7_140, UTC)
        )
        assert [i.reason for i in incomplete_minutes(client, minutes)] == ["deferred"]
        backfill_deferred(settings, None, "backfill")
        overview = look(settings, client)
        assert (overview.deferred, overview.lag, deferred_metric(settings)) == (0, 0, 0)
        assert incomplete_minutes(client, minutes) == ()
        statistics = overview.statistics
        assert (statistics.batches, statistics.consumed, statistics.inserted) == (2, 151, 150)
        assert statistics.freshness is not None
        assert statistics.freshness.max < 3_600
        landed = read_landed(client, scope)
        assert set(landed) == {0}, "a backfill says nothing of whether drains stand still"
        flow = read_flow(client, scope, landed)
        assert flow.freshness_p99_seconds is not None
        assert flow.freshness_p99_seconds < 3_600


def deferred_metric(settings: Settings) -> float:
    collector, registry = PipelineCollector(settings, limit_seconds=60), CollectorRegistry()
    registry.register(collector)
    try:
        found = registry.get_sample_value("metrics_pipeline_deferred_offsets", {"topic": settings.kafka.topic})
    finally:
        collector.close()
    assert found is not None
    return found
