"""Puts the replays together from models: what wiring/dead_letters and wiring/replay do from settings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from metrics_pipeline.dead_letters.replay import Reading, Replay
from metrics_pipeline.delivery.chunk import open_chunk_of
from metrics_pipeline.delivery.ownership import Hold, Ownership
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OpenBatch, decode_commit, open_batches
from metrics_pipeline.ledger.minutes import Scope
from metrics_pipeline.replay.diff import Diff
from metrics_pipeline.replay.ports import Tables
from metrics_pipeline.replay.rollup_repair import RollupRepair
from metrics_pipeline.replay.run import HourReplay
from metrics_pipeline.rollups.drift import units_of
from metrics_pipeline.runtime.run import Run
from metrics_pipeline.wiring.engines import ONE_OWNER
from tests.models.clickhouse import ModelWarehouse, Server
from tests.models.kafka import Broker, ModelLog, ModelOffsets
from tests.models.letters import ModelLetters
from tests.models.network import Network
from tests.models.replays import ModelEvents, ModelMinutes, ModelReplayBooks, ModelRollups
from tests.system.simulation.replays import Replays


@dataclass(frozen=True, slots=True)
class Bench:
    """What one replay works with."""

    group: str
    server: Server
    network: Network
    run: Run
    plan: Replays
    rules: Rules
    zombie_seconds: float
    topic: Broker
    """With what drains have committed."""
    backfills: Broker
    letters: Broker
    hours: Broker


def letters_replay(bench: Bench) -> Replay:
    reading = Reading(
        ModelLetters(bench.server, bench.network, bench.plan.page_letters),
        ModelEvents(bench.server, bench.network),
        bench.rules,
        lambda: frozenset(b.token for b in _under_way(bench, (bench.letters, bench.hours))),
        bench.run.retry,
    )
    return Replay(
        bench.group,
        reading,
        _ownership(bench, bench.letters),
        lambda topic_id: ModelWarehouse(bench.server, bench.network, topic_id),
        bench.run,
    )


def hours_replay(bench: Bench) -> HourReplay:
    log = ModelLog(bench.topic, bench.network)
    minutes = ModelMinutes(bench.server, bench.network)
    tables = Tables(
        ModelEvents(bench.server, bench.network),
        ModelLetters(bench.server, bench.network, bench.plan.page_letters),
        ModelReplayBooks(bench.server, bench.network, log.topic_id),
        minutes,  # type: ignore[arg-type]
    )

    def committed() -> dict[int, tuple[int, str]]:
        return dict(bench.topic.committed)

    diff = Diff(
        log,
        tables,
        bench.run,
        lambda: {p: decode_commit(*c) for p, c in bench.network.kafka("read what is committed", committed).items()},
        lambda: _under_way(bench, (bench.letters,)),
    )

    def in_flight(start_seconds: int, end_seconds: int) -> frozenset[int]:
        ranges = [r for batch in _under_way(bench, (bench.letters, bench.hours)) for r in batch.ranges]
        return units_of(minutes.open_minutes(Scope(start_seconds, end_seconds), ranges)) if ranges else frozenset()

    rollups = ModelRollups(bench.server, bench.network, bench.run.clock, in_flight)
    warehouse = ModelWarehouse(bench.server, bench.network, log.topic_id)
    hold = Hold(bench.group, log, _ownership(bench, bench.hours), warehouse)
    repair = RollupRepair(tables, rollups, bench.run.retry)  # type: ignore[arg-type]
    return HourReplay(hold, bench.run, bench.rules, diff, repair)


@contextmanager
def small_pieces(plan: Replays | None) -> Iterator[None]:
    """Chunks and windows of a few messages, so that a schedule has several of them."""
    if plan is None:
        yield
        return
    with (
        patch("metrics_pipeline.dead_letters.judge.MAX_CHUNK_LETTERS", plan.chunk_letters),
        patch("metrics_pipeline.replay.hours.MAX_WINDOW_MESSAGES", plan.window_messages),
    ):
        yield


def _ownership(bench: Bench, side: Broker) -> Ownership:
    store = ModelOffsets(side, bench.network, ONE_OWNER)
    return Ownership(ONE_OWNER, store, bench.run, zombie_seconds=bench.zombie_seconds)


def _under_way(bench: Bench, replays: Sequence[Broker]) -> Sequence[OpenBatch]:
    """What drains, backfills and these replays have begun, and the ledger does not have."""

    def opened(side: Broker) -> Callable[[], dict[int, tuple[int, str]]]:
        return lambda: dict(side.committed)

    kafka = bench.network.kafka
    drains = {p: decode_commit(*c) for p, c in kafka("read what drains have open", opened(bench.topic)).items()}
    filling = {p: decode_commit(*c) for p, c in kafka("read what backfills have open", opened(bench.backfills)).items()}
    present = {p: c for p, c in filling.items() if c.topic_id == bench.topic.topic_id}
    slots = [kafka("read what a replay has open", opened(side)) for side in replays]
    chunks = [open_chunk_of({p: decode_commit(*c) for p, c in slot.items()}) for slot in slots]
    found = (*open_batches(drains), *open_batches(present), *(c for c in chunks if c is not None))

    def landed() -> frozenset[str]:
        return frozenset(e.token for e in bench.server.ledger)

    done = bench.network.clickhouse("look for their accounts", landed) if found else frozenset()
    return [batch for batch in found if batch.token not in done]
