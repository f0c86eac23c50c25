"""Puts the replay of hours together from settings. Command line and Dagster both start here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

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
from metrics_pipeline.replay.plan import GROUP_SUFFIX as HOURS_SUFFIX
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
from metrics_pipeline.wiring.engines import Engines, open_engines, slot_owner
from metrics_pipeline.wiring.rollups import rollups as open_rollups

_PREFETCH_BYTES = 4 << 20
"""Little: what is fetched beyond a window is fetched again for the next one."""


def preview_hours(
    settings: Settings, hours: Sequence[int], mode: Mode, on_progress: Progress = lambda _report: None
) -> HourReport:
    """What a replay would do now; writes nothing."""
    run = new_run("preview", SystemClock(), settings.drain.retry_seconds)
    deferred = _deferred_of(settings, hours)
    with _reading(settings, hours, run) as (_, diff):
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
    if deferred := _deferred_of(settings, hours):
        backfill_deferred(settings, deferred, run_id, stop=stop, clock=clock)
    run = new_run(run_id, clock, settings.drain.retry_seconds, stop, observe)
    with ExitStack() as stack:
        engines, diff = stack.enter_context(_reading(settings, hours, run))
        run = engines.run
        ownership = stack.enter_context(slot_owner(settings, HOURS_SUFFIX, run))
        hold = Hold(settings.kafka.group, engines.log, ownership, engines.warehouse)
        repair = RollupRepair(diff.tables, stack.enter_context(open_rollups(settings, run.clock)), run.retry)
        report = HourReplay(hold, run, rules_of(settings), diff, repair).run(hours, mode, on_progress)
    report.deferred = offsets_in(deferred)
    return report


def _deferred_of(settings: Settings, hours: Sequence[int]) -> list[OffsetRange]:
    """What drains have skipped of these hours, and no backfill has landed yet."""
    if len(hours) > MAX_HOURS:
        raise ConfigurationError(f"{len(hours)} hours are more than {MAX_HOURS}: replay a part of them at a time")
    wanted = set(hours)
    return [r for entry in deferred_ranges(settings) if entry.hour_seconds in wanted for r in entry.ranges]


@contextmanager
def _reading(settings: Settings, hours: Sequence[int], run: Run) -> Iterator[tuple[Engines, Diff]]:
    """What a dry run and a replay both need. Raises ConfigurationError for hours that retention has dropped."""
    kafka = settings.kafka
    fetching = kafka.model_copy(update={"prefetch_bytes": min(kafka.prefetch_bytes, _PREFETCH_BYTES)})
    with ExitStack() as stack:
        reading = settings.model_copy(update={"kafka": fetching})
        engines = stack.enter_context(open_engines(reading, run, is_gentle=True))
        client, log = engines.client, engines.log
        _refuse_dropped(settings, client, hours)
        topic = TopicDescription(log.topic_id, log.partitions())
        shards = run.retry.call(lambda: stack.enter_context(connect_shards(settings, max_threads=1)))
        books = ClickHouseBooks(client, kafka.topic, log.topic_id, kafka.group)
        tables = Tables(
            ClickHouseEvents(client, shards, database_name(settings)),
            ClickHouseDeadLetters(client, kafka.topic),
            ClickHouseReplayBooks(client, kafka.topic, log.topic_id, kafka.group),
            books,
        )
        committed = partial(committed_offsets, kafka_address(settings), kafka, log.partitions())
        # Not its own chunk: that is what is asked about.
        under_way = partial(batches_under_way, settings, books, topic, (LETTERS_SUFFIX,))
        yield engines, Diff(log, tables, engines.run, committed, under_way)


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
