"""The delivery protocol: how one micro-batch lands exactly once. The only owner of the protocol's state.

    INTENT   commit the batch's start with its end and token; the same commit closes the batch before it
    LOOK_UP  drop what other batches have stored already
    EVENTS   insert into raw_events (its view fills rollup_1m), under the token
    SEARCH   only where the server refused rows: commit how far the search for them has come, then insert the next part
    YIELD    only of a backfill: take back what somebody else stored in the same moment
    DEAD     insert the dead letters, under the token
    LEDGER   insert the account, under the token
    CLOSE    commit the end, when no next batch follows

A crash between any two steps leaves an open intent. Whoever takes the shard over rebuilds the batch from its range and
repeats the steps; what had landed is recognised by the token. See docs/architecture.md for why that is exact.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from metrics_pipeline.delivery.accounts import accounts_of
from metrics_pipeline.delivery.batch import MicroBatch
from metrics_pipeline.delivery.chunk import ORIGIN, PLACE
from metrics_pipeline.delivery.landing import Landing, Rows, not_stored
from metrics_pipeline.delivery.ownership import Hold, closing_commits
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.delivery.yielding import Yielding
from metrics_pipeline.event.contract import IDENTITY, NO_DEAD_LETTERS, NO_EVENTS
from metrics_pipeline.event.deduplicate import deduplicate
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OpenBatch, batch_token
from metrics_pipeline.ledger.entry import (
    BACKFILL,
    DEFERRED,
    DRAIN,
    NO_SHARD,
    Freshness,
    LedgerEntry,
    freshness_of,
    minutes_of,
)
from metrics_pipeline.runtime.run import Run

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to land a batch.

    With `is_repeat` an earlier run opened the batch, and may have landed a part of it; with `is_forgotten` the server
    may not recognise that part by the batch's token.
    """

    batch: MicroBatch
    opened: OpenBatch
    started_ms: int
    commit_duration_ms: int = 0
    is_repeat: bool = False
    is_forgotten: bool = False


class Delivery:
    """Delivers batches of one owner, one after the other. Not thread-safe: one thread calls it at a time.

    With `yielding` the batches are a backfill's, which gives way to drains; else they are a drain's.
    """

    def __init__(self, hold: Hold, run: Run, yielding: Yielding | None = None) -> None:
        self._hold = hold
        self._topic_id = hold.log.topic_id
        self._run = run
        self._yielding = yielding
        self._landing = Landing(hold.ownership, run, OpenBatch.commits)
        self._unclosed: dict[int, int] = {}

    @property
    def has_unclosed_batch(self) -> bool:
        return bool(self._unclosed)

    def token(self, batch: MicroBatch) -> str:
        return batch_token(self._hold.group, self._topic_id, batch.ranges, batch.note)

    def claim(self, positions: Mapping[int, int]) -> None:
        """Put on record where reading begins, of partitions that nothing was committed of."""
        self._run.observe(Step.CLAIM)
        self._hold.ownership.commit(closing_commits(positions, self._topic_id))

    def deliver(self, batch: MicroBatch, rules: Rules) -> LedgerEntry:
        """Land a new batch, which `rules` have judged."""
        started_ms = self._run.clock.now_ms()
        opened = OpenBatch(self._topic_id, self.token(batch), batch.ranges, started_ms, rules.encode(), note=batch.note)
        self._run.observe(Step.INTENT)
        commits = closing_commits(self._unclosed, self._topic_id) | opened.commits()
        _, commit_duration_ms = self._timed(lambda: self._hold.ownership.commit(commits))
        self._unclosed = {}
        return self._land(Attempt(batch, opened, started_ms, commit_duration_ms))

    def redeliver(self, batch: MicroBatch, opened: OpenBatch) -> LedgerEntry:
        """Land a batch whose intent an earlier run left open."""
        is_forgotten = self._is_forgotten(opened)
        return self._land(Attempt(batch, opened, self._run.clock.now_ms(), is_repeat=True, is_forgotten=is_forgotten))

    def note_landed(self, ends: Mapping[int, int]) -> None:
        """An earlier run landed everything up to `ends`; only the close is missing."""
        self._unclosed |= {p: end for p, end in ends.items() if self._hold.ownership.owns(p)}

    def close(self) -> None:
        """Commit the end of the last batch, so that no intent stays open."""
        if self._unclosed:
            self._run.observe(Step.CLOSE)
            self._hold.ownership.commit(closing_commits(self._unclosed, self._topic_id))
            self._unclosed = {}

    def _land(self, attempt: Attempt) -> LedgerEntry:
        batch, opened = attempt.batch, attempt.opened
        unique = deduplicate(pl.concat([NO_EVENTS, *batch.events])).with_row_index(PLACE)
        fresh, look_up_duration_ms = self._timed(lambda: self._drop_stored(unique, attempt))
        (landed, refused), insert_duration_ms = self._timed(lambda: self._insert_events(attempt, len(unique), fresh))
        suspects = unique.drop(PLACE) if attempt.is_repeat else landed
        if self._yielding is not None and len(suspects):
            self._run.observe(Step.YIELD)
            landed = self._yielding.give_way(suspects, landed, batch.ranges)
        visible_ms = self._run.clock.now_ms()
        dead_letters = pl.concat([NO_DEAD_LETTERS, *batch.dead_letters, refused])
        self._insert_dead_letters(attempt, dead_letters)
        event_times_ms = landed["timestamp"].cast(pl.Int64).to_list()
        is_live = self._yielding is None and not batch.is_deferred
        entry = LedgerEntry(
            token=opened.token,
            topic_id=self._topic_id,
            shard=self._hold.ownership.owner.shard if is_live else NO_SHARD,
            run_id=self._run.id,
            accounts=accounts_of(batch, landed, dead_letters),
            size_bytes=batch.size_bytes,
            first_event_ms=min(event_times_ms, default=0),
            last_event_ms=max(event_times_ms, default=0),
            first_message_ms=batch.first_message_ms,
            last_message_ms=batch.last_message_ms,
            started_ms=attempt.started_ms,
            visible_ms=visible_ms,
            commit_duration_ms=attempt.commit_duration_ms,
            look_up_duration_ms=look_up_duration_ms,
            insert_duration_ms=insert_duration_ms,
            freshness=freshness_of(landed["kafka_timestamp"], visible_ms) if is_live else Freshness(),
            minutes=minutes_of(landed["timestamp"]),
            source=DEFERRED if batch.is_deferred else DRAIN if self._yielding is None else BACKFILL,
        )
        self._run.observe(Step.LEDGER)
        self._landing.inserting.insert_entry(self._hold.warehouse, entry, is_repeat=attempt.is_repeat)
        self.note_landed(batch.ends)
        return entry

    def _drop_stored(self, events: pl.DataFrame, attempt: Attempt) -> pl.DataFrame:
        if not len(events):
            return events
        self._run.observe(Step.LOOK_UP)
        stored = self._run.retry.call(lambda: self._hold.warehouse.existing(events, attempt.batch.ranges))
        if not len(stored):
            return events
        if attempt.is_repeat:
            # Rows from an earlier attempt at this batch count as ours. If a backfill stored the same event, the
            # backfill deletes its copy.
            found = events.join(stored, on=IDENTITY, how="semi")
            stored = stored.join(self._run.retry.call(lambda: self._hold.warehouse.own(found)), on=IDENTITY, how="anti")
        return events.join(stored, on=IDENTITY, how="anti", maintain_order="left")

    def _insert_events(self, attempt: Attempt, places: int, fresh: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Returns the events that the server took, and dead letters of the others."""
        missing = fresh
        if attempt.is_forgotten:
            missing = self._run.retry.call(lambda: not_stored(self._hold.warehouse, fresh))
        refused = self._landing.insert(self._hold.warehouse, attempt.opened, Rows(missing, places, attempt.is_repeat))
        if not refused.places:
            return fresh.drop(PLACE), NO_DEAD_LETTERS
        dead = refused.dead_letters(attempt.batch.messages, fresh)
        return fresh.join(dead, on=ORIGIN, how="anti", maintain_order="left").drop(PLACE), dead

    def _is_forgotten(self, opened: OpenBatch) -> bool:
        """May the server have forgotten the batch's token?"""
        if self._run.retry.call(lambda: self._hold.warehouse.remembers(opened.opened_ms)):
            return False
        logger.error(
            "batch %s was left open for so long that the server may have forgotten its token: inserting only what "
            "raw_events lacks; if `metrics-pipeline audit` finds a drifting minute, its rollup was cut short",
            opened.token,
        )
        return True

    def _insert_dead_letters(self, attempt: Attempt, dead_letters: pl.DataFrame) -> None:
        if len(dead_letters):
            self._run.observe(Step.DEAD)
            self._landing.inserting.insert(
                dead_letters,
                attempt.opened.token,
                self._hold.warehouse.insert_dead_letters,
                self._hold.warehouse.missing_dead_letters,
                is_repeat=attempt.is_repeat,
            )

    def _timed(self, action: Callable[[], _T]) -> tuple[_T, int]:
        """What it returns, and how long it took, milliseconds."""
        before_seconds = self._run.clock.monotonic_seconds()
        result = action()
        return result, round(1000 * (self._run.clock.monotonic_seconds() - before_seconds))
