"""The ledger: one entry per micro-batch, in which every offset is accounted for, and one per chunk of a replay."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from metrics_pipeline.kafka.intents import OffsetRange

DRAIN = "drain"
"""Source of the entries of micro-batches."""
BACKFILL = "backfill"
"""Source of entries of a backfill: they cover offsets as a drain's do, but say nothing of how fresh events are."""
DEFERRED = "deferred"
"""Source of entries that cover nothing: their ranges are skipped, and deferred until a backfill has landed them."""

NO_SHARD = 2**32 - 1
"""Shard number of entries that no drain wrote, so that progress per shard skips them."""

FRESHNESS_STEP_RATIO = 1.02
"""Freshness is kept in classes whose bounds grow by this ratio: 2% resolution at any age."""


@dataclass(frozen=True, slots=True)
class PartitionAccount:
    """What became of the offsets of one partition.

    consumed = inserted + duplicates + dead_letters, and range.offsets = consumed + skipped + lost unless
    they are deferred.
    """

    range: OffsetRange
    consumed: int
    inserted: int
    duplicates: int
    dead_letters: int
    lost: int
    is_deferred: bool = False

    @property
    def skipped(self) -> int:
        """Offsets that never held a message for us: control records, aborted transactions, compaction."""
        return 0 if self.is_deferred else self.range.offsets - self.consumed - self.lost


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old events were when they became visible: `events[i]` of them at most `upper_ms[i]` (2% steps)."""

    upper_ms: tuple[int, ...] = ()
    events: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EventMinutes:
    """Events inserted per minute of their timestamps: `inserted[i]` in the minute that starts at `starts_seconds[i]`.

    Starts are epoch seconds, in order. `removed` is as long, or empty: only a replay removes.
    """

    starts_seconds: tuple[int, ...]
    inserted: tuple[int, ...]
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One row of the ledger. Times are epoch milliseconds, durations milliseconds."""

    token: str
    topic_id: str
    shard: int
    run_id: str
    first_event_ms: int
    last_event_ms: int
    first_message_ms: int
    last_message_ms: int
    started_ms: int
    visible_ms: int
    minutes: EventMinutes
    source: str = DRAIN
    accounts: tuple[PartitionAccount, ...] = ()
    size_bytes: int = 0
    commit_duration_ms: int = 0
    look_up_duration_ms: int = 0
    insert_duration_ms: int = 0
    freshness: Freshness = Freshness()
    restored: int = 0
    """Events inserted that an earlier entry has accounted for: they are in no minute of this one."""
    added_dead_letters: int = 0
    """Made by a replay, of messages that an earlier entry has accounted for as something else."""

    @property
    def consumed(self) -> int:
        return sum(a.consumed for a in self.accounts)

    @property
    def inserted(self) -> int:
        if self.source not in (DRAIN, BACKFILL):
            return sum(self.minutes.inserted)
        return sum(a.inserted for a in self.accounts)

    @property
    def duplicates(self) -> int:
        return sum(a.duplicates for a in self.accounts)

    @property
    def dead_letters(self) -> int:
        return sum(a.dead_letters for a in self.accounts)

    @property
    def lost(self) -> int:
        return sum(a.lost for a in self.accounts)

    @property
    def deferred(self) -> int:
        return sum(a.range.offsets for a in self.accounts if a.is_deferred)


@dataclass(slots=True)
class MessageCounts:
    """What entries of the ledger say became of messages, summed."""

    batches: int = 0
    consumed: int = 0
    inserted: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    lost: int = 0

    def count(self, entry: LedgerEntry) -> None:
        """Add what the entry accounts for."""
        self.batches += entry.source != DEFERRED
        self.consumed += entry.consumed
        self.inserted += entry.inserted
        self.duplicates += entry.duplicates
        self.dead_letters += entry.dead_letters
        self.lost += entry.lost


def minutes_of(timestamps: pl.Series) -> EventMinutes:
    """`timestamps` (Datetime, ms) counted per minute."""
    minutes = (timestamps.cast(pl.Int64) // 60_000).alias("minute")
    counted = minutes.value_counts(sort=False, name="events").sort("minute")
    return EventMinutes(tuple((counted["minute"] * 60).to_list()), tuple(counted["events"].to_list()))


def freshness_of(message_times: pl.Series, visible_ms: int) -> Freshness:
    """Ages of `message_times` (Datetime, ms) at `visible_ms`, counted in classes of 2%."""
    ages = (visible_ms - message_times.cast(pl.Int64)).clip(lower_bound=1)
    classes = ages.log(FRESHNESS_STEP_RATIO).ceil().value_counts(sort=False, name="events")
    ordered = classes.sort(classes.columns[0])
    upper = (FRESHNESS_STEP_RATIO ** ordered.to_series(0)).ceil().cast(pl.Int64)
    return Freshness(tuple(upper.to_list()), tuple(ordered["events"].to_list()))


def weighted_quantile(counts: Mapping[int, int], quantile: float) -> int:
    """The smallest value with at least this share of the weight at or below it; raises ValueError without any."""
    needed = quantile * sum(counts.values())
    below = 0
    for value in sorted(counts):
        below += counts[value]
        if below >= needed:
            return value
    raise ValueError("no values, so no quantile")
