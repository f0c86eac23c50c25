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
from typing import Generic, TypeVar

import polars as pl

from metrics_pipeline.delivery.accounts import accounts_of
from metrics_pipeline.delivery.batch import MicroBatch
from metrics_pipeline.delivery.bisection import Bisection, Slice
from metrics_pipeline.delivery.inserting import Inserting
from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.ports import Warehouse
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.delivery.yielding import Yielding
from metrics_pipeline.errors import RejectedError, StopError
from metrics_pipeline.event.contract import IDENTITY, NO_DEAD_LETTERS, NO_EVENTS
from metrics_pipeline.event.deduplicate import deduplicate
from metrics_pipeline.event.refusal import refused_dead_letters
from metrics_pipeline.kafka.intents import Commit, Intent, OpenBatch, batch_token
from metrics_pipeline.ledger.entry import DEFERRED, DRAIN, NO_SHARD, Freshness, LedgerEntry, freshness_of, minutes_of
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.retry import Retry

_T = TypeVar("_T")

logger = logging.getLogger("metrics_pipeline.delivery")

_ROW = "row"
"""Name of the column with an event's place among the batch's unique events, while it is under way."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where batches come from and who delivers them: names that go into tokens and the ledger."""

    group: str
    topic_id: str
    run_id: str
    entries: str = DRAIN
    """Source of the ledger entries: DRAIN or FILL."""


@dataclass(frozen=True, slots=True)
class _Landed:
    """What became of a batch's fresh events."""

    events: pl.DataFrame
    refused: pl.DataFrame


@dataclass(frozen=True, slots=True)
class _Timed(Generic[_T]):
    result: _T
    duration_ms: int


class Delivery:
    """Delivers batches of one shard, one after the other. Not thread-safe: one thread calls it at a time."""

    def __init__(
        self,
        source: Source,
        ownership: Ownership,
        warehouse: Warehouse,
        clock: Clock,
        retry: Retry,
        *,
        observe: Callable[[Step], None],
        yielding: Yielding | None = None,
    ) -> None:
        self._source = source
        self._ownership = ownership
        self._warehouse = warehouse
        self._clock = clock
        self._retry = retry
        self._observe = observe
        self._yielding = yielding
        self._inserting = Inserting(ownership, retry)
        self._unclosed: dict[int, int] = {}

    @property
    def has_unclosed_batch(self) -> bool:
        return bool(self._unclosed)

    def token(self, batch: MicroBatch) -> str:
        return batch_token(self._source.group, self._source.topic_id, batch.ranges, batch.note)

    def claim(self, positions: Mapping[int, int]) -> None:
        """Put on record where reading begins, of partitions that nothing was committed of."""
        self._observe(Step.CLAIM)
        self._ownership.commit({p: self._commit_at(offset) for p, offset in positions.items()})

    def deliver(self, batch: MicroBatch) -> LedgerEntry:
        """Land a new batch."""
        started_ms = self._clock.now_ms()
        opened = OpenBatch(self.token(batch), batch.ranges, opened_ms=started_ms, search_bits="", note=batch.note)
        self._observe(Step.INTENT)
        commit = self._timed(lambda: self._ownership.commit(self._closing() | self._opening(opened)))
        self._unclosed = {}
        return self._land(batch, opened, _whole, started_ms, commit.duration_ms, is_repeat=False)

    def redeliver(self, batch: MicroBatch, opened: OpenBatch) -> LedgerEntry:
        """Land a batch whose intent an earlier run left open."""
        if self._retry.call(lambda: self._warehouse.remembers(opened.opened_ms)):
            still_missing = _whole
        else:
            logger.error(
                "batch %s was left open for so long that the server may have forgotten its token: inserting only "
                "what raw_events lacks; if `metrics-pipeline audit` finds a drifting minute, its rollup was cut short",
                opened.token,
            )
            still_missing = self._missing
        return self._land(batch, opened, still_missing, self._clock.now_ms(), 0, is_repeat=True)

    def note_landed(self, ends: Mapping[int, int]) -> None:
        """An earlier run landed everything up to `ends`; only the close is missing."""
        self._unclosed |= {p: end for p, end in ends.items() if self._ownership.owns(p)}

    def close(self) -> None:
        """Commit the end of the last batch, so that no intent stays open."""
        if self._unclosed:
            self._observe(Step.CLOSE)
            self._ownership.commit(self._closing())
            self._unclosed = {}

    def _land(
        self,
        batch: MicroBatch,
        opened: OpenBatch,
        missing: Callable[[pl.DataFrame], pl.DataFrame],
        started_ms: int,
        commit_duration_ms: int,
        *,
        is_repeat: bool,
    ) -> LedgerEntry:
        unique = deduplicate(pl.concat([NO_EVENTS, *batch.events])).events.with_row_index(_ROW)
        look_up = self._timed(lambda: self._drop_stored(unique, batch, is_repeat=is_repeat))
        insert = self._timed(
            lambda: self._insert_events(
                batch, opened, len(unique), look_up.result, missing(look_up.result), is_repeat=is_repeat
            )
        )
        landed = self._settled(batch, unique if is_repeat else insert.result.events, insert.result)
        visible_ms = self._clock.now_ms()
        dead_letters = pl.concat([NO_DEAD_LETTERS, *batch.dead_letters, landed.refused])
        if len(dead_letters):
            self._observe(Step.DEAD)
            self._inserting.insert(
                dead_letters,
                opened.token,
                self._warehouse.insert_dead_letters,
                self._warehouse.missing_dead_letters,
                is_repeat=is_repeat,
            )
        event_times_ms = landed.events["timestamp"].cast(pl.Int64).to_list()
        is_live = self._source.entries == DRAIN and not batch.is_deferred
        entry = LedgerEntry(
            token=opened.token,
            topic_id=self._source.topic_id,
            shard=self._ownership.owner.shard if is_live else NO_SHARD,
            run_id=self._source.run_id,
            accounts=accounts_of(batch, landed.events, dead_letters),
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
            freshness=freshness_of(landed.events["kafka_timestamp"], visible_ms) if is_live else Freshness((), ()),
            minutes=minutes_of(landed.events["timestamp"]),
            source=DEFERRED if batch.is_deferred else self._source.entries,
        )
        self._observe(Step.LEDGER)
        self._inserting.insert_entry(self._warehouse, entry, is_repeat=is_repeat)
        self.note_landed(batch.ends)
        return entry

    def _drop_stored(self, events: pl.DataFrame, batch: MicroBatch, *, is_repeat: bool) -> pl.DataFrame:
        if not len(events):
            return events
        self._observe(Step.LOOK_UP)
        stored = self._retry.call(lambda: self._warehouse.existing(events, batch.ranges))
        if not len(stored):
            return events
        if is_repeat:
            # What the earlier try stored is this batch's, even if a backfill has stored it, too: that takes it back.
            found = events.join(stored, on=IDENTITY, how="semi")
            stored = stored.join(self._retry.call(lambda: self._warehouse.own(found)), on=IDENTITY, how="anti")
        return events.join(stored, on=IDENTITY, how="anti", maintain_order="left")

    def _missing(self, events: pl.DataFrame) -> pl.DataFrame:
        return self._retry.call(lambda: self._not_stored(events))

    def _not_stored(self, events: pl.DataFrame) -> pl.DataFrame:
        """Those that no batch has stored, not even this one in an earlier attempt, or from another message."""
        return events.join(self._warehouse.existing(events, ()), on=IDENTITY, how="anti", maintain_order="left")

    def _insert_events(
        self,
        batch: MicroBatch,
        opened: OpenBatch,
        rows: int,
        fresh: pl.DataFrame,
        missing: pl.DataFrame,
        *,
        is_repeat: bool,
    ) -> _Landed:
        """Insert `missing`, part by part where the server refuses rows for their content; `rows` counts all numbers."""
        search = Bisection(rows, opened.search_bits)
        errors: dict[int, str] = {}
        while (part := search.next) is not None:
            try:
                self._insert_part(opened.token, part, rows, missing, is_repeat=is_repeat)
            except RejectedError as error:
                self._assure_nothing_landed(part, rows, missing, error)
                errors[part.start] = str(error)
                search.note(is_refused=True)
                self._note_search_bits(opened, search, error)
            else:
                search.note(is_refused=False)
        if not search.refused:
            return _Landed(fresh.drop(_ROW), NO_DEAD_LETTERS)
        is_refused = pl.col(_ROW).is_in(search.refused)
        return _Landed(
            fresh.filter(~is_refused).drop(_ROW),
            refused_dead_letters(batch.messages, fresh.filter(is_refused), errors, _ROW),
        )

    def _insert_part(self, batch_token: str, part: Slice, rows: int, missing: pl.DataFrame, *, is_repeat: bool) -> None:
        events = _rows_of(part, rows, missing).drop(_ROW)
        if not len(events):
            return
        token = batch_token if part.rows == rows else part.token(batch_token)
        self._observe(Step.EVENTS)
        self._inserting.insert(events, token, self._warehouse.insert_events, self._not_stored, is_repeat=is_repeat)

    def _settled(self, batch: MicroBatch, suspects: pl.DataFrame, landed: _Landed) -> _Landed:
        if self._yielding is None or not len(suspects):
            return landed
        self._observe(Step.YIELD)
        return _Landed(self._yielding.give_way(suspects, landed.events, batch.ranges), landed.refused)

    def _assure_nothing_landed(self, part: Slice, rows: int, missing: pl.DataFrame, error: RejectedError) -> None:
        """A part that has landed must not be cut, though the server refuses it now: a rule may have come since."""
        refused = _rows_of(part, rows, missing)
        stored = self._retry.call(lambda: self._warehouse.own(refused))
        if len(stored):
            # Had a newer run stored them, this one would have nothing to complain of.
            self._ownership.prove_anew()
            raise StopError(
                f"the server refuses rows that are in raw_events already ({len(stored)} of {len(refused)}): {error}; "
                "a constraint came after them: drop it, the next run goes on"
            ) from error

    def _note_search_bits(self, opened: OpenBatch, search: Bisection, error: RejectedError) -> None:
        if search.is_exhausted:
            raise StopError(
                f"the server refuses too many rows of one batch, {len(search.refused)} so far, the last one {error}: "
                "mend the constraint that refuses them, the next run goes on"
            ) from error
        self._observe(Step.SEARCH)
        self._ownership.commit(self._opening(opened, search.search_bits))

    def _closing(self) -> dict[int, Commit]:
        return {p: self._commit_at(end) for p, end in self._unclosed.items()}

    def _opening(self, opened: OpenBatch, search_bits: str = "") -> dict[int, Commit]:
        return {
            r.partition: self._commit_at(
                r.start, Intent(r.end, opened.token, opened.opened_ms, search_bits, opened.note)
            )
            for r in opened.ranges
        }

    def _commit_at(self, offset: int, intent: Intent | None = None) -> Commit:
        return Commit(offset, intent, self._source.topic_id)

    def _timed(self, action: Callable[[], _T]) -> _Timed[_T]:
        before_seconds = self._clock.monotonic_seconds()
        result = action()
        return _Timed(result, round(1000 * (self._clock.monotonic_seconds() - before_seconds)))


def _whole(events: pl.DataFrame) -> pl.DataFrame:
    return events


def _rows_of(part: Slice, rows: int, events: pl.DataFrame) -> pl.DataFrame:
    if part.rows == rows:
        return events
    return events.filter(pl.col(_ROW).is_between(part.start, part.end, closed="left"))
