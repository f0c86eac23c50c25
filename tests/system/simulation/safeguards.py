"""Each safeguard of the protocol, switched off: what the simulation would miss if it did not look for it."""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import polars as pl

from metrics_pipeline.delivery import ownership
from metrics_pipeline.delivery.batch import MicroBatch
from metrics_pipeline.delivery.inserting import Inserting
from metrics_pipeline.delivery.landing import Landing
from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.yielding import Yielding
from metrics_pipeline.drain import takeover
from metrics_pipeline.drain.backfill import Backfill
from metrics_pipeline.drain.takeover import Takeover
from metrics_pipeline.kafka.intents import Commit, OffsetRange, Owner
from tests.models.clickhouse import ModelWarehouse
from tests.models.kafka import Broker, ModelOffsets
from tests.system.simulation.plan import FIRST_SEED_ON_OTHER_MACHINES, Kind, Plan
from tests.system.simulation.world import World

Off = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Safeguard:
    """`off` switches it off for as long as the context lasts; `kinds` of schedules are the ones that need it.

    `has_jumps`: those that hold skips to head and backfills. From FIRST_SEED_WITH_REPLAYS on all hold replays.
    """

    name: str
    off: Off
    kinds: Collection[Kind] = frozenset(Kind)
    has_jumps: bool = False
    first_seed: int = 0
    """None before it needs the safeguard."""

    def is_needed_by(self, plan: Plan) -> bool:
        return plan.kind in self.kinds and (bool(plan.backfills) or not self.has_jumps)


def replaced(target: object, name: str, value: object) -> Off:
    return lambda: patch.object(target, name, value)


def _fence_nothing(self: Broker, owner: Owner) -> int:
    return self.epochs.setdefault(owner, 1)


def _commit_unchecked(self: Broker, owner: Owner, epoch: int, commits: Mapping[int, tuple[int, str]]) -> None:
    self.committed |= commits


_take_over = Ownership.take_over


def _read_before_fencing(self: Ownership, partitions: Sequence[int]) -> Mapping[int, Commit]:
    before = self.committed(partitions)
    _take_over(self, partitions)
    return before


def _fence_rivals_first(self: Ownership, partitions: Sequence[int]) -> Mapping[int, Commit]:
    """`take_over` with its steps in another order."""
    for rival in ownership.rivals(self.owner, self.owner.partitions(partitions), self.store.registered()):
        self._fence(rival)
    self.run.retry.call(lambda: self.store.register(self.owner.shards))
    self.run.retry.call(lambda: self.store.fence(self.owner))
    commits = self.committed(partitions)
    self._last_commit = {p: commit for p, commit in commits.items() if self.owns(p)}
    self._proved_at_seconds = self.run.clock.monotonic_seconds()
    return commits


def _commit_dated_by_its_answer(self: Ownership, commits: Mapping[int, Commit]) -> None:
    ours = {p: commit for p, commit in commits.items() if self.owns(p)}
    self.run.retry.call(lambda: self.store.commit(ours))
    self._last_commit = ours
    self._proved_at_seconds = self.run.clock.monotonic_seconds()


_insert_events = ModelWarehouse.insert_events


def _insert_without_token(self: ModelWarehouse, events: pl.DataFrame, token: str) -> None:
    _insert_events(self, events, uuid.UUID(int=self._network.scheduler.random.getrandbits(128)).hex)


def _insert_and_believe(
    self: Inserting, rows: Any, token: str, write: Callable[[Any, str], None], missing: object, *, is_repeat: bool
) -> None:
    del missing, is_repeat
    self.as_owner(lambda: write(rows, token))


def _find_nothing(self: ModelWarehouse, events: pl.DataFrame, batch: Sequence[OffsetRange]) -> pl.DataFrame:
    return _existing(self, events, batch).clear()


_existing = ModelWarehouse.existing


def _find_own_rows_too(self: ModelWarehouse, events: pl.DataFrame, batch: Sequence[OffsetRange]) -> pl.DataFrame:
    return _existing(self, events, ())


_committed = ModelOffsets.committed


def _forget_topic_ids(self: ModelOffsets, partitions: Sequence[int]) -> Mapping[int, Commit]:
    found = _committed(self, partitions)
    return {p: Commit(c.offset, c.intent, self._broker.topic_id) for p, c in found.items()}


_run_fill = Backfill.run


def _read_deferred_before_fencing(self: Backfill, ranges: Sequence[OffsetRange] | None) -> None:
    found = [self._deferred(), ()]
    self._deferred = lambda: found.pop(0) if found else ()
    _run_fill(self, ranges)


SAFEGUARDS = (
    Safeguard("fencing earlier runs", replaced(Broker, "fence", _fence_nothing)),
    Safeguard("commits are checked for the epoch", replaced(Broker, "commit", _commit_unchecked)),
    Safeguard("rivals under other numbers of shards are fenced", replaced(ownership, "rivals", lambda *_: ())),
    Safeguard("numbers of shards are registered", replaced(ModelOffsets, "register", lambda *_: None)),
    Safeguard("own fence first, rivals second", replaced(Ownership, "take_over", _fence_rivals_first)),
    Safeguard("fence first, read second", replaced(Ownership, "take_over", _read_before_fencing)),
    Safeguard("open batches are recovered", replaced(takeover, "open_batches", lambda _: ())),
    Safeguard("inserts carry the batch's token", replaced(ModelWarehouse, "insert_events", _insert_without_token)),
    Safeguard("rows are looked for after a repeat", replaced(Inserting, "insert", _insert_and_believe)),
    Safeguard(
        "an account that lacks messages waits for whoever was fenced",
        replaced(Ownership, "await_predecessors", lambda _: None),
        {Kind.RETENTION},
        first_seed=19_000,
    ),
    Safeguard("the look-up", replaced(ModelWarehouse, "existing", _find_nothing)),
    Safeguard("the look-up leaves own rows out", replaced(ModelWarehouse, "existing", _find_own_rows_too)),
    Safeguard("a batch in the ledger is not repeated", replaced(Takeover, "_has_landed", lambda *_: False)),
    Safeguard("a batch not in the ledger is repeated", replaced(Takeover, "_has_landed", lambda *_: True)),
    Safeguard("a run proves that it is no zombie", replaced(Ownership, "prove", lambda _: None)),
    Safeguard(
        "a proof is dated when it is asked for",
        replaced(Ownership, "commit", _commit_dated_by_its_answer),
        {Kind.SHORT_MEMORY, Kind.RETENTION},
        first_seed=FIRST_SEED_ON_OTHER_MACHINES + 1_000,
    ),
    Safeguard(
        "runs date by the server's clock",
        replaced(World, "_clock_of", World._host_of),
        {Kind.SHORT_MEMORY},
        first_seed=FIRST_SEED_ON_OTHER_MACHINES,
    ),
    Safeguard("tokens are checked for being remembered", replaced(ModelWarehouse, "remembers", lambda *_: True)),
    Safeguard("search bits are written down", replaced(Landing, "_note_search_bits", lambda *_: None)),
    Safeguard("what landed is not cut", replaced(Landing, "_assure_nothing_landed", lambda *_: None)),
    Safeguard("the topic's id is checked", replaced(ModelOffsets, "committed", _forget_topic_ids)),
    Safeguard(
        "an open skip to head is not fetched", replaced(takeover, "noted_entry", lambda *_: None), has_jumps=True
    ),
    Safeguard("a skip to head's ranges cover nothing", replaced(MicroBatch, "is_deferred", False), has_jumps=True),
    Safeguard(
        "what is deferred is read when earlier backfills are done",
        replaced(Backfill, "run", _read_deferred_before_fencing),
        has_jumps=True,
    ),
    Safeguard(
        "a backfill settles what others store",
        replaced(Yielding, "give_way", lambda _self, _suspects, landed, _ranges: landed),
        has_jumps=True,
    ),
    Safeguard("... when those are done", replaced(Yielding, "_await_landed", lambda _: None), has_jumps=True),
)
