"""The delivery protocol: how one micro-batch lands exactly once. The only owner of the protocol's state.

    INTENT   commit the batch's start with its end and token; the same commit closes the batch before it
    LOOK_UP  drop what other batches have stored already
    EVENTS   insert into raw_events (its view fills rollup_1m), under the token
    DEAD     insert the dead letters, under the token
    LEDGER   insert the account, under the token
    CLOSE    commit the end, when no next batch follows

A crash between any two steps leaves an open intent. Whoever takes the shard over rebuilds the batch from its range and
repeats the steps; what had landed is recognised by the token. See docs/architecture.md for why that is exact.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import polars as pl

from metrics_pipeline.core.batch import MicroBatch
from metrics_pipeline.core.deduplicate import deduplicate
from metrics_pipeline.core.ledger import LedgerEntry, accounts_of, freshness_of, minutes_of
from metrics_pipeline.core.offsets import Commit, Intent, OffsetRange, batch_token
from metrics_pipeline.event import IDENTITY, NO_DEAD_LETTERS, NO_EVENTS
from metrics_pipeline.ports import Clock, OffsetStore, Warehouse
from metrics_pipeline.retry import Retry

_T = TypeVar("_T")


class Step(StrEnum):
    """The named steps of a drain run; `observe` hears of each before it begins."""

    FENCE = "fence"
    RECOVER = "recover"
    FETCH = "fetch"
    INTENT = "intent"
    LOOK_UP = "look-up"
    EVENTS = "events"
    DEAD = "dead letters"
    LEDGER = "ledger"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Shard:
    """Whose batches these are: names that go into tokens and the ledger."""

    group: str
    topic_id: str
    shard: int
    run_id: str


@dataclass(frozen=True, slots=True)
class _Timed(Generic[_T]):
    result: _T
    duration_ms: int


class Delivery:
    """Delivers batches of one shard, one after the other. Not thread-safe: one thread calls it at a time."""

    def __init__(
        self,
        shard: Shard,
        store: OffsetStore,
        warehouse: Warehouse,
        clock: Clock,
        retry: Retry,
        *,
        zombie_seconds: float,
        observe: Callable[[Step], None],
    ) -> None:
        self._shard = shard
        self._store = store
        self._warehouse = warehouse
        self._clock = clock
        self._retry = retry
        self._zombie_seconds = zombie_seconds
        self._observe = observe
        self._unclosed: dict[int, int] = {}
        self._last_commit: Mapping[int, Commit] = {}
        self._proved_at_seconds = float("-inf")

    @property
    def has_unclosed_batch(self) -> bool:
        return bool(self._unclosed)

    def take_over(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        """Fence every earlier run of the shard, then read what is committed."""
        self._observe(Step.FENCE)
        self._retry.call(self._store.fence)
        commits = self._retry.call(lambda: self._store.committed(partitions))
        self._last_commit = dict(commits)
        self._proved_at_seconds = self._clock.monotonic_seconds()
        return commits

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        """What is committed now; an owner that isn't fenced yet may change it."""
        return self._store.committed(partitions)

    def token(self, batch: MicroBatch) -> str:
        return batch_token(self._shard.group, self._shard.topic_id, batch.ranges)

    def deliver(self, batch: MicroBatch) -> LedgerEntry:
        """Land a new batch."""
        started_ms = self._clock.now_ms()
        token = self.token(batch)
        self._observe(Step.INTENT)
        opening = {p: self._commit_at(end) for p, end in self._unclosed.items()}
        opening |= {r.partition: self._commit_at(r.start, Intent(r.end, token)) for r in batch.ranges}
        commit = self._timed(lambda: self._commit(opening))
        return self._land(batch, token, started_ms, commit.duration_ms)

    def redeliver(self, batch: MicroBatch) -> LedgerEntry:
        """Land a batch whose intent an earlier run left open."""
        return self._land(batch, self.token(batch), self._clock.now_ms(), 0)

    def note_landed(self, ends: Mapping[int, int]) -> None:
        """An earlier run landed everything up to `ends`; only the close is missing."""
        self._unclosed |= ends

    def close(self) -> None:
        """Commit the end of the last batch, so that no intent stays open."""
        if self._unclosed:
            self._observe(Step.CLOSE)
            self._commit({p: self._commit_at(end) for p, end in self._unclosed.items()})
            self._unclosed = {}

    def _land(self, batch: MicroBatch, token: str, started_ms: int, commit_duration_ms: int) -> LedgerEntry:
        unique = deduplicate(pl.concat([NO_EVENTS, *batch.events])).events
        dead_letters = pl.concat([NO_DEAD_LETTERS, *batch.dead_letters])
        look_up = self._timed(lambda: self._drop_stored(unique, batch.ranges))
        fresh = look_up.result
        insert = self._timed(lambda: self._insert(Step.EVENTS, self._warehouse.insert_events, fresh, token))
        visible_ms = self._clock.now_ms()
        self._insert(Step.DEAD, self._warehouse.insert_dead_letters, dead_letters, token)
        event_times_ms = fresh["timestamp"].cast(pl.Int64).to_list()
        entry = LedgerEntry(
            token=token,
            topic_id=self._shard.topic_id,
            shard=self._shard.shard,
            run_id=self._shard.run_id,
            accounts=accounts_of(batch, fresh, dead_letters),
            size_bytes=batch.size_bytes,
            first_event_ms=min(event_times_ms, default=0),
            last_event_ms=max(event_times_ms, default=0),
            first_message_ms=batch.first_message_ms,
            last_message_ms=batch.last_message_ms,
            started_ms=started_ms,
            visible_ms=visible_ms,
            commit_duration_ms=commit_duration_ms,
            look_up_duration_ms=look_up.duration_ms,
            insert_duration_ms=insert.duration_ms,
            freshness=freshness_of(fresh["kafka_timestamp"], visible_ms),
            minutes=minutes_of(fresh["timestamp"]),
        )
        self._observe(Step.LEDGER)
        self._as_owner(lambda: self._warehouse.insert_ledger_entry(entry))
        self._unclosed = batch.ends
        return entry

    def _drop_stored(self, events: pl.DataFrame, ranges: Sequence[OffsetRange]) -> pl.DataFrame:
        if not len(events):
            return events
        self._observe(Step.LOOK_UP)
        stored = self._retry.call(lambda: self._warehouse.existing(events, ranges))
        return events.join(stored, on=IDENTITY, how="anti", maintain_order="left")

    def _insert(self, step: Step, insert: Callable[[pl.DataFrame, str], None], rows: pl.DataFrame, token: str) -> None:
        if len(rows):
            self._observe(step)
            self._as_owner(lambda: insert(rows, token))

    def _as_owner(self, write: Callable[[], None]) -> None:
        """Write, retrying, but only while the proof that the shard is ours is young.

        A run that was paused for hours could otherwise insert a batch whose token the server has forgotten. Proving
        anew is one commit, which fails if the shard has another owner.
        """

        def attempt() -> None:
            if self._clock.monotonic_seconds() - self._proved_at_seconds > self._zombie_seconds:
                self._commit(self._last_commit)
            write()

        self._retry.call(attempt)

    def _commit(self, commits: Mapping[int, Commit]) -> None:
        self._retry.call(lambda: self._store.commit(commits))
        self._last_commit = commits
        self._proved_at_seconds = self._clock.monotonic_seconds()

    def _commit_at(self, offset: int, intent: Intent | None = None) -> Commit:
        return Commit(offset, intent, self._shard.topic_id)

    def _timed(self, action: Callable[[], _T]) -> _Timed[_T]:
        before_seconds = self._clock.monotonic_seconds()
        result = action()
        return _Timed(result, round(1000 * (self._clock.monotonic_seconds() - before_seconds)))
