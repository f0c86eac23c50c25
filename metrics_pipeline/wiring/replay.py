"""Puts the replay of hours together from settings. Command line and Dagster both start here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.clickhouse.client import connect, database_name
from metrics_pipeline.clickhouse.cluster import connect_shards
from metrics_pipeline.dead_letters.judge import GROUP_SUFFIX as LETTERS_SUFFIX
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters
from metrics_pipeline.delivery.chunk import SLOT
from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.stored import ClickHouseEvents
from metrics_pipeline.drain.owner import event_limits
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.kafka.admin import TopicDescription
from metrics_pipeline.kafka.committed import FencedOffsets, committed_offsets
from metrics_pipeline.kafka.intents import OffsetRange, Owner
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.replay.books import ClickHouseReplayBooks
from metrics_pipeline.replay.diff import Diff
from metrics_pipeline.replay.plan import MAX_HOURS, Mode
from metrics_pipeline.replay.rollup_repair import RollupRepair
from metrics_pipeline.replay.run import HourReplay, HourReport, Progress, preview
from metrics_pipeline.replay.steps import HourStep
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.retry import Retry, say_waiting
from metrics_pipeline.runtime.timerange import DAY_SECONDS, minute_name
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.backfill import backfill_deferred, deferred_ranges
from metrics_pipeline.wiring.drain import batches_under_way, check_schema, hours_group, warehouse_of
from metrics_pipeline.wiring.drain import rollups as open_rollups

REPLAY_OWNER = Owner(1, 0)
"""Of the side group of replays: one at a time."""
_PREFETCH_BYTES = 4 << 20
"""Little: what is fetched beyond a window is fetched again for the next one."""


def preview_hours(
    settings: Settings, hours: Sequence[int], mode: Mode, on_progress: Progress = lambda _report: None
) -> HourReport:
    """What a replay would do now; writes nothing."""
    clock = SystemClock()
    retry = Retry(clock, settings.drain.retry_seconds, lambda: False, say_waiting)
    deferred = deferred_of(settings, _bounded(hours))
    with _tools(settings, clock, retry) as tools:
        _refuse_dropped(settings, tools.client, hours)
        report = preview(tools.diff, hours, mode, event_limits(settings), clock, on_progress)
    report.deferred = _offsets(deferred)
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
    observe: Callable[[HourStep], None] = lambda _step: None,
    clock: Clock | None = None,
) -> HourReport:
    """Replay hours (starts, epoch seconds) in the foreground; see `HourReplay.run` for what is raised."""
    address, clock = kafka_address(settings), clock or SystemClock()
    deferred = deferred_of(settings, _bounded(hours))
    if deferred:
        backfill_deferred(settings, deferred, run_id, stop=stop, clock=clock)
    retry = Retry(clock, settings.drain.retry_seconds, stop, say_waiting)
    with ExitStack() as stack:
        tools = stack.enter_context(_tools(settings, clock, retry))
        _refuse_dropped(settings, tools.client, hours)
        store = stack.enter_context(FencedOffsets(address, hours_group(settings), REPLAY_OWNER, (SLOT,)))
        ownership = Ownership(
            REPLAY_OWNER, store, clock, retry, zombie_seconds=settings.drain.zombie_seconds, observe=lambda _step: None
        )
        rollups = stack.enter_context(open_rollups(settings, clock))
        report = HourReplay(
            tools.diff,
            warehouse_of(settings, tools.client, tools.diff.topic_id),
            tools.events,
            tools.letters,
            tools.replays,
            RollupRepair(tools.replays, tools.books, rollups, retry),
            ownership,
            event_limits(settings),
            clock,
            retry,
            group=settings.kafka.group,
            run_id=run_id,
            stop=stop,
            observe=observe,
        ).run(hours, mode, on_progress)
    report.deferred = _offsets(deferred)
    return report


def deferred_of(settings: Settings, hours: Sequence[int]) -> list[OffsetRange]:
    """What drains have skipped of these hours, and no backfill has landed yet."""
    wanted = set(hours)
    return [r for entry in deferred_ranges(settings) if entry.hour_seconds in wanted for r in entry.ranges]


def _offsets(ranges: Sequence[OffsetRange]) -> int:
    return sum(r.offsets for r in ranges)


@dataclass(frozen=True, slots=True)
class _Tools:
    client: Client
    diff: Diff
    events: ClickHouseEvents
    letters: ClickHouseDeadLetters
    books: ClickHouseBooks
    replays: ClickHouseReplayBooks


@contextmanager
def _tools(settings: Settings, clock: Clock, retry: Retry) -> Iterator[_Tools]:
    """What a dry run and a replay both need."""
    address, kafka = kafka_address(settings), settings.kafka
    with ExitStack() as stack:
        # One thread per query: the drains beside need the others.
        client = retry.call(lambda: stack.enter_context(connect(settings, max_threads=1)))
        retry.call(lambda: check_schema(client, settings))
        gentle = kafka.model_copy(update={"prefetch_bytes": min(kafka.prefetch_bytes, _PREFETCH_BYTES)})
        log = retry.call(lambda: stack.enter_context(KafkaLog(address, gentle)))
        topic = TopicDescription(log.topic_id, log.partitions())
        shards = retry.call(lambda: stack.enter_context(connect_shards(settings, max_threads=1)))
        events = ClickHouseEvents(client, shards, database_name(settings))
        letters = ClickHouseDeadLetters(client, kafka.topic)
        books = ClickHouseBooks(client, kafka.topic, log.topic_id, kafka.group)
        replays = ClickHouseReplayBooks(client, kafka.topic, log.topic_id, kafka.group)
        diff = Diff(
            log,
            events,
            letters,
            replays,
            books,
            lambda: committed_offsets(address, kafka, log.partitions()),
            # Not its own chunk: that is what is asked about.
            lambda: batches_under_way(settings, books, topic, (LETTERS_SUFFIX,)),
            clock,
            retry,
        )
        yield _Tools(client, diff, events, letters, books, replays)


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
