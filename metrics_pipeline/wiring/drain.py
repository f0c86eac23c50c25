"""Puts adapters and drain together from settings. The command line and Dagster both start here."""

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.batch import BatchLimits
from metrics_pipeline.delivery.ownership import closing_commits
from metrics_pipeline.drain.drain import Drain, DrainPolicy, DrainReport
from metrics_pipeline.drain.ending import AtOffsets, AtWindowEnd, Ending
from metrics_pipeline.drain.shards import rules_of, shard_owner
from metrics_pipeline.drain.takeover import reset_positions
from metrics_pipeline.kafka.admin import ensure_topic
from metrics_pipeline.kafka.handover import KafkaHandover
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.kafka.ports import Log
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.run import new_run
from metrics_pipeline.runtime.worker import ThreadWorker
from metrics_pipeline.schema.targets import apply_everywhere
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.engines import hold_of, open_engines, ownership_of, warehouse_of

EndingOf = Callable[[Log, Sequence[int]], Ending]
"""Makes the ending of a run from the log and the shard's partitions."""


@dataclass(frozen=True, slots=True)
class DrainRun:
    """Which shard is drained, by whom, and whether another run may be at it right now.

    `is_skipping_to_head`: it begins at the head, however little it is behind.
    """

    run_id: str
    shard: int = 0
    has_predecessor: bool = False
    is_skipping_to_head: bool = False


def prepare(settings: Settings) -> None:
    """Create the topic and the schema where they are missing."""
    ensure_topic(kafka_address(settings), settings.kafka)
    apply_everywhere(settings)


def until_caught_up(log: Log, partitions: Sequence[int]) -> Ending:
    """Ends at what is the high watermark now."""
    return AtOffsets({p: marks.high for p, marks in log.watermarks(partitions).items()})


def at_once(_log: Log, _partitions: Sequence[int]) -> Ending:
    """Ends before anything is fetched: the run takes over, recovers, skips to head if it is to, and closes."""
    return AtOffsets({})


def until_window_ends(settings: Settings) -> EndingOf:
    """Ends when the successor is ready, or the window is over, or nothing arrives."""
    drain = settings.drain
    ending = AtWindowEnd(drain.window_seconds, drain.idle_seconds, drain.handover_seconds)
    return lambda _log, _partitions: ending


def run_drain(
    settings: Settings,
    run: DrainRun,
    ending_of: EndingOf,
    *,
    stop: Callable[[], bool],
    on_entry: Callable[[LedgerEntry], None] = lambda _entry: None,
    observe: Callable[[str], None] = lambda _step: None,
    clock: Clock | None = None,
) -> DrainReport:
    """Drain one shard in the foreground; see `Drain.run` for what is raised. `clock` is the machine's by default."""
    report = DrainReport()

    def land(entry: LedgerEntry) -> None:
        report.add(entry)
        on_entry(entry)

    limits = settings.drain
    by = new_run(run.run_id, clock or SystemClock(), limits.retry_seconds, stop, observe)
    policy = DrainPolicy(
        BatchLimits(limits.flush_events, limits.flush_bytes, limits.flush_seconds),
        stall_seconds=limits.retry_seconds,
        skip_lag_offsets=0 if run.is_skipping_to_head else limits.skip_to_head_lag_offsets,
    )
    _calm_garbage_collector()
    with ExitStack() as stack:
        engines = stack.enter_context(open_engines(settings, by))
        by, log = engines.run, engines.log
        owner = shard_owner(settings, run.shard, log.partitions())
        hold = stack.enter_context(hold_of(engines, settings.kafka, owner))
        handover = by.retry.call(
            lambda: stack.enter_context(KafkaHandover(kafka_address(settings), settings.kafka, run.shard, run.run_id))
        )
        worker = stack.enter_context(ThreadWorker("delivery"))
        drain = Drain(hold, by, rules_of(settings), policy, handover, worker, land)
        partitions = owner.partitions(log.partitions())
        ending = by.retry.call(lambda: ending_of(log, partitions))
        report.reason = drain.run(partitions, ending, has_predecessor=run.has_predecessor)
    return report


def _calm_garbage_collector() -> None:
    """Collect rarely, and never what the imports made: a drain makes millions of objects, but no cycles.

    With the default thresholds a third of a drain's time goes into looking for cycles.
    """
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)


def reset_offsets(settings: Settings, *, to_latest: bool) -> dict[int, int]:
    """Commit an end of the present topic for all partitions, fencing running drains. Returns the new offsets.

    Never before the ledger's end, nor across a batch that is open: what the present topic held there has landed, and
    would land again under other ranges.
    """
    run = new_run("reset-offsets", SystemClock(), settings.drain.retry_seconds)
    positions: dict[int, int] = {}
    with KafkaLog(kafka_address(settings), settings.kafka) as log, connect(settings) as client:
        warehouse = warehouse_of(settings, client, log.topic_id)
        for shard in range(settings.drain.shards):
            owner = shard_owner(settings, shard, log.partitions())
            with ownership_of(settings, settings.kafka, owner, log.partitions(), run) as ownership:
                commits = ownership.take_over(log.partitions())
                partitions = owner.partitions(log.partitions())
                landed = warehouse.ledger_ends(partitions).get(log.topic_id, {})
                starts = reset_positions(log.watermarks(partitions), commits, landed, log.topic_id, to_latest=to_latest)
                ownership.commit(closing_commits(starts, log.topic_id))
            positions |= starts
    return positions
