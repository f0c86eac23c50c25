"""Puts the replay of hours together from settings. Command line and Dagster both start here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from clickhouse_connect.driver.client import Client

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.clickhouse.client import database_name
from metrics_pipeline.clickhouse.cluster import connect_shards
from metrics_pipeline.dead_letters.judge import GROUP_SUFFIX as LETTERS_SUFFIX
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters
from metrics_pipeline.delivery.ownership import Hold
from metrics_pipeline.delivery.stored import ClickHouseEvents
from metrics_pipeline.drain.shards import rules_of
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.kafka.admin import TopicDescription
from metrics_pipeline.kafka.committed import committed_offsets
from metrics_pipeline.kafka.intents import OffsetRange, offsets_in
from metrics_pipeline.replay.books import ClickHouseReplayBooks
from metrics_pipeline.replay.diff import Diff
from metrics_pipeline.replay.hours import MAX_HOURS
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.replay.ports import Tables
from metrics_pipeline.replay.report import HourReport, Progress
from metrics_pipeline.replay.rollup_repair import RollupRepair
from metrics_pipeline.replay.run import HourReplay, preview
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.run import Run, new_run
from metrics_pipeline.runtime.timerange import DAY_SECONDS, minute_name
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import batches_under_way
from metrics_pipeline.wiring.backfill import backfill_deferred, deferred_ranges
from metrics_pipeline.wiring.engines import Engines, hours_group, open_engines, slot_owner
from metrics_pipeline.wiring.rollups import rollups as open_rollups

_PREFETCH_BYTES = 4 << 20
"""Little: what is fetched beyond a window is fetched again for the next one."""


def preview_hours(
    settings: Settings, hours: Sequence[int], mode: Mode, on_progress: Progress = lambda _report: None
) -> HourReport:
    """What a replay would do now; writes nothing."""
    run = new_run("preview", SystemClock(), settings.drain.retry_seconds)
    deferred = deferred_of(settings, _bounded(hours))
    with _reading(settings, run) as (engines, diff):
        _refuse_dropped(settings, engines.client, hours)
        report = preview(diff, hours, mode, rules_of(settings), on_progress)
    report.deferred = offsets_in(deferred)
    # Nor does the ledger account for them: they are told apart from a gap.
    report.unaccounted -= min(report.deferred, report.unaccounted)
    return report


def replay_hours(
    settings: Settings,
    hours: Sequence[int],
    mode: Mode,
    run_id: str,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Progress = lambda _report: None,
    observe: Callable[[str], None] = lambda _step: None,
    clock: Clock | None = None,
) -> HourReport:
    """Replay hours (starts, epoch seconds) in the foreground; see `HourReplay.run` for what is raised."""
    clock = clock or SystemClock()
    deferred = deferred_of(settings, _bounded(hours))
    if deferred:
        backfill_deferred(settings, deferred, run_id, stop=stop, clock=clock)
    run = new_run(run_id, clock, settings.drain.retry_seconds, stop, observe)
    with ExitStack() as stack:
        engines, diff = stack.enter_context(_reading(settings, run))
        _refuse_dropped(settings, engines.client, hours)
        ownership = stack.enter_context(slot_owner(settings, hours_group(settings), run))
        hold = Hold(settings.kafka.group, engines.log, ownership, engines.warehouse)
        repair = RollupRepair(diff.tables, stack.enter_context(open_rollups(settings, clock)), run.retry)
        report = HourReplay(hold, run, rules_of(settings), diff, repair).run(hours, mode, on_progress)
    report.deferred = offsets_in(deferred)
    return report


def deferred_of(settings: Settings, hours: Sequence[int]) -> list[OffsetRange]:
    """What drains have skipped of these hours, and no backfill has landed yet."""
    wanted = set(hours)
    return [r for entry in deferred_ranges(settings) if entry.hour_seconds in wanted for r in entry.ranges]


@contextmanager
def _reading(settings: Settings, run: Run) -> Iterator[tuple[Engines, Diff]]:
    """What a dry run and a replay both need."""
    kafka, address = settings.kafka, kafka_address(settings)
    fetching = kafka.model_copy(update={"prefetch_bytes": min(kafka.prefetch_bytes, _PREFETCH_BYTES)})
    with ExitStack() as stack:
        reading = settings.model_copy(update={"kafka": fetching})
        engines = stack.enter_context(open_engines(reading, run, is_gentle=True))
        client, log = engines.client, engines.log
        topic = TopicDescription(log.topic_id, log.partitions())
        shards = run.retry.call(lambda: stack.enter_context(connect_shards(settings, max_threads=1)))
        books = ClickHouseBooks(client, kafka.topic, log.topic_id, kafka.group)
        tables = Tables(
            ClickHouseEvents(client, shards, database_name(settings)),
            ClickHouseDeadLetters(client, kafka.topic),
            ClickHouseReplayBooks(client, kafka.topic, log.topic_id, kafka.group),
            books,
        )
        diff = Diff(
            log,
            tables,
            run,
            lambda: committed_offsets(address, kafka, log.partitions()),
            # Not its own chunk: that is what is asked about.
            lambda: batches_under_way(settings, books, topic, (LETTERS_SUFFIX,)),
        )
        yield engines, diff


def _refuse_dropped(settings: Settings, client: Client, hours: Sequence[int]) -> None:
    """What retention dropped would look as if it had been lost, and would be counted a second time."""
    retained_from = read_retained_from(client).compared_from
    first = retained_from + settings.events.max_age_days * DAY_SECONDS
    if retained_from and hours and min(hours) < first:
        raise ConfigurationError(
            f"hours before {minute_name(first)} can't be replayed: their events may be of times before "
            f"{minute_name(retained_from)} (METRICS_EVENTS__MAX_AGE_DAYS), which retention dropped: give --from "
            f"{minute_name(first)}"
        )


def _bounded(hours: Sequence[int]) -> Sequence[int]:
    if len(hours) > MAX_HOURS:
        raise ConfigurationError(f"{len(hours)} hours are more than {MAX_HOURS}: replay a part of them at a time")
    return hours
