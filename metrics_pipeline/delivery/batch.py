"""A micro-batch: how it grows, when it is due, and what it holds. No clock, no I/O.

What a batch holds depends on its ranges of offsets alone, never on the chunks that they were fetched in, nor on when:
recovery after a crash must rebuild the identical block.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from metrics_pipeline.event.decode import Decoded
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.deferred import DeferredEntry

_DEFERRED = "deferred"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """A batch is due at whichever comes first."""

    events: int
    size_bytes: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Everything that the log holds in `ranges`, decoded.

    `events` may still hold duplicates; `lost` counts the offsets of a partition that the log no longer had. The
    messages stay at hand for the rows that the server may refuse. A `note` goes on record with the intent of a batch
    that is not to be fetched: its ranges are skipped, and deferred.
    """

    ranges: tuple[OffsetRange, ...]
    messages: tuple[Messages, ...] = ()
    events: tuple[pl.DataFrame, ...] = ()
    dead_letters: tuple[pl.DataFrame, ...] = ()
    consumed: Mapping[int, int] = field(default_factory=dict)
    lost: Mapping[int, int] = field(default_factory=dict)
    size_bytes: int = 0
    first_message_ms: int = 0
    last_message_ms: int = 0
    note: str = ""

    @property
    def is_deferred(self) -> bool:
        return bool(self.note)

    @property
    def ends(self) -> dict[int, int]:
        """The next offset of every partition that the batch covers."""
        return {r.partition: r.end for r in self.ranges}


def lost_batch(ranges: tuple[OffsetRange, ...]) -> MicroBatch:
    """The account of offsets that the log dropped before they were read."""
    return MicroBatch(ranges, lost={r.partition: r.offsets for r in ranges})


@dataclass(slots=True)
class BatchBuilder:
    """Grows one micro-batch from `positions` (partition -> next offset)."""

    positions: dict[int, int]
    limits: BatchLimits
    lost: dict[int, int] = field(default_factory=dict)
    _starts: dict[int, int] = field(init=False)
    _messages: list[Messages] = field(default_factory=list, init=False)
    _chunks: list[Decoded] = field(default_factory=list, init=False)
    _consumed: Counter[int] = field(default_factory=Counter, init=False)
    _size_bytes: int = field(default=0, init=False)
    _opened_at_seconds: float | None = field(default=None, init=False)
    _message_times_ms: tuple[int, int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._starts = dict(self.positions)

    def add(self, messages: Messages, decoded: Decoded, now_seconds: float) -> None:
        """Take a fetched chunk in; `decoded` is what `messages` say."""
        if not len(messages):
            return
        self._messages.append(messages)
        self._chunks.append(decoded)
        self._consumed.update(messages.partitions)
        self._size_bytes += messages.size_bytes
        for partition, offset in zip(messages.partitions, messages.offsets, strict=True):
            self.positions[partition] = offset + 1
        first, last = min(messages.timestamps_ms), max(messages.timestamps_ms)
        if self._message_times_ms is not None:
            first, last = min(first, self._message_times_ms[0]), max(last, self._message_times_ms[1])
        self._message_times_ms = (first, last)
        self._open(now_seconds)

    def advance(self, ends: Mapping[int, int], now_seconds: float) -> None:
        """Account for offsets without messages (control records, compaction) up to `ends`."""
        for partition, end in ends.items():
            if end > self.positions[partition]:
                self.positions[partition] = end
                self._open(now_seconds)

    @property
    def is_empty(self) -> bool:
        return self._opened_at_seconds is None

    @property
    def room_events(self) -> int:
        return max(0, self.limits.events - self._consumed.total())

    @property
    def room_bytes(self) -> int:
        return max(0, self.limits.size_bytes - self._size_bytes)

    @property
    def is_full(self) -> bool:
        return self.room_events == 0 or self.room_bytes == 0

    def is_due(self, now_seconds: float) -> bool:
        """Is it time to flush, by size or by age?"""
        if self._opened_at_seconds is None:
            return False
        return self.is_full or now_seconds - self._opened_at_seconds >= self.limits.age_seconds

    def build(self) -> MicroBatch:
        """The batch so far; go on with a new builder at `positions`."""
        first, last = self._message_times_ms or (0, 0)
        return MicroBatch(
            ranges=tuple(
                OffsetRange(p, start, self.positions[p])
                for p, start in sorted(self._starts.items())
                if self.positions[p] > start
            ),
            messages=tuple(self._messages),
            events=tuple(c.events for c in self._chunks),
            dead_letters=tuple(c.dead_letters for c in self._chunks),
            consumed=dict(self._consumed),
            lost=dict(self.lost),
            size_bytes=self._size_bytes,
            first_message_ms=first,
            last_message_ms=last,
        )

    def _open(self, now_seconds: float) -> None:
        if self._opened_at_seconds is None:
            self._opened_at_seconds = now_seconds


def deferred_batch(entry: DeferredEntry) -> MicroBatch:
    """The account of offsets that are skipped for now."""
    return MicroBatch(
        entry.ranges,
        first_message_ms=entry.first_ms,
        last_message_ms=entry.last_ms,
        note=f"{_DEFERRED} {entry.first_ms} {entry.last_ms}",
    )


def noted_entry(ranges: tuple[OffsetRange, ...], note: str) -> DeferredEntry | None:
    """The entry that an open batch with this note is to put on record; None: it is to be fetched."""
    name, _, times = note.partition(" ")
    if name != _DEFERRED:
        return None
    first_ms, last_ms = map(int, times.split())
    return DeferredEntry(ranges, first_ms, last_ms)
