"""The messages of a run, one take after the other, and the account of what became of them. Pure: no I/O, no clock."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import polars as pl

from metrics_pipeline.lab.loadgen import odd
from metrics_pipeline.lab.loadgen.block import BLOCK_MESSAGES, DUPLICATE, LATE, MALFORMED, Block
from metrics_pipeline.lab.loadgen.malformed import Payload, malform
from metrics_pipeline.lab.loadgen.plan import LoadPlan

RECENT_BLOCKS = 3
"""Blocks before the present one that can be repeated message by message."""

_RECENT_MESSAGES = RECENT_BLOCKS * BLOCK_MESSAGES
_OLD_SHARE = 0.1
_OLD_PER_BLOCK = 8
_MAX_OLD = 4_096
_MAX_STEPS = 256


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Messages to be sent, in this order; all lists have the same length."""

    payloads: list[Payload] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.payloads)


@dataclass(slots=True)
class _Old:
    """An event that may be repeated until the run ends."""

    payload: Payload
    key: str
    partition: int
    copies: int
    row: dict[str, Any] = field(default_factory=dict)


class EventStream:
    """Makes the messages of a plan. The same plan, `start_ms` and takes give the same messages.

    Event ids, latencies and the like don't even depend on the takes; timestamps do.
    A duplicate repeats an earlier message's bytes, key and partition: mostly one of the last 50,000 messages,
    the nearer the likelier; now and then one from any time since the run began.
    """

    def __init__(self, plan: LoadPlan, start_ms: int, partitions: int) -> None:
        self._plan = plan
        self._start_ms = start_ms
        self._partitions = partitions
        self._recent: list[Block] = []
        self._leaving: list[tuple[Block, dict[int, _Old]]] = []
        self._old: list[_Old] = []
        self._failed: Counter[str] = Counter()

    @property
    def unsettled_blocks(self) -> int:
        return len(self._leaving)

    def take(self, count: int, from_ms: int, to_ms: int) -> Outgoing:
        """The next messages, with timestamps spread evenly over the span up to `to_ms` (epoch milliseconds)."""
        stamps_ms, texts = _distributed(count, from_ms, to_ms)
        out = Outgoing()
        while (taken := len(out)) < count:
            block = self._open_block()
            first, end = block.sent, min(block.size, block.sent + count - taken)
            parts = zip(block.ids[first:end], texts[taken:], block.rests[first:end], strict=False)
            block.payloads.extend([f'{{"event_id":"{id_}","timestamp":"{stamp}{rest}' for id_, stamp, rest in parts])
            block.stamps_ms.extend(stamps_ms[taken : taken + end - first])
            for slot in block.special:
                if first <= slot < end:
                    self._make_special(block, slot)
            out.payloads.extend(block.payloads[first:])
            out.keys.extend(block.keys[first:end])
            out.partitions.extend(block.partitions[first:end])
        return out

    def fail(self, failed: Counter[str]) -> None:
        """Messages with these keys did not reach the log; `failed` counts them per key."""
        self._failed.update(failed)

    def settle(self) -> Iterator[pl.DataFrame]:
        """The accounts of the blocks that nothing repeats any more (see `Block.account`), without repetitions.

        To be called when every message taken so far has reached the log or was reported by `fail`.
        """
        for block, old in self._leaving:
            block.count_failed(self._failed)
            account = block.account()
            for slot, event in old.items():
                event.row = account.row(slot, named=True)
            yield account.filter(pl.col("copies") > 0)
        self._leaving.clear()

    def finish(self) -> Iterator[pl.DataFrame]:
        """The accounts of all other blocks; see `settle`."""
        self._leaving.extend((block, {}) for block in self._recent)
        self._recent.clear()
        accounts = list(self.settle())
        yield from accounts
        rows = [event.row | {"copies": event.copies - self._failed.pop(event.key, 0)} for event in self._old]
        if rows:
            yield pl.DataFrame(rows, accounts[-1].schema).filter(pl.col("copies") > 0)

    def _open_block(self) -> Block:
        if self._recent and self._recent[-1].sent < self._recent[-1].size:
            return self._recent[-1]
        number = self._recent[-1].first // BLOCK_MESSAGES + 1 if self._recent else 0
        block = Block(self._plan, self._start_ms, number, self._partitions)
        self._recent.append(block)
        if len(self._recent) > RECENT_BLOCKS + 1:
            self._retire(self._recent.pop(0), block.rng)
        return block

    def _retire(self, block: Block, rng: Random) -> None:
        old: dict[int, _Old] = {}
        wanted = min(_OLD_PER_BLOCK, _MAX_OLD - len(self._old)) if self._plan.duplicates else 0
        for slot in rng.sample(range(block.size), wanted):
            if block.holds_event(slot):
                old[slot] = _Old(block.payloads[slot], block.keys[slot], block.partitions[slot], block.copies[slot])
                block.copies[slot] = 0
        self._old.extend(old.values())
        # What only sending and repeating need.
        block.ids, block.rests, block.payloads = [], [], []
        self._leaving.append((block, old))

    def _make_special(self, block: Block, slot: int) -> None:
        (sort, kind, delay_ms), text = block.special[slot], str(block.payloads[slot])
        if sort == DUPLICATE:
            self._repeat(block, slot)
        elif sort == LATE:
            on_time, late_ms = _timestamp(block.stamps_ms[slot]), block.stamps_ms[slot] - delay_ms
            block.payloads[slot] = text.replace(on_time, _timestamp(late_ms), 1)
            block.stamps_ms[slot] = late_ms
        elif sort == MALFORMED:
            block.payloads[slot] = malform(kind, text, block.stamps_ms[slot])
        else:
            block.payloads[slot] = odd.disguise(kind, text)

    def _repeat(self, block: Block, slot: int) -> None:
        """Put an earlier message in place of this one, unless there is none nearby."""
        if self._old and block.rng.random() < _OLD_SHARE:
            event = block.rng.choice(self._old)
            event.copies += 1
            repeated = event.payload, event.key, event.partition
        elif (found := self._recent_event(block, slot)) is not None:
            source, index = found
            source.copies[index] += 1
            repeated = source.payloads[index], source.keys[index], source.partitions[index]
        else:
            return
        block.payloads[slot], block.keys[slot], block.partitions[slot] = repeated
        block.copies[slot] = 0

    def _recent_event(self, block: Block, slot: int) -> tuple[Block, int] | None:
        oldest = self._recent[0].first
        newest = max(oldest, block.first + slot - int(_RECENT_MESSAGES ** block.rng.random()))
        for candidate in range(newest, max(oldest, newest - _MAX_STEPS) - 1, -1):
            number, index = divmod(candidate - oldest, BLOCK_MESSAGES)
            if self._recent[number].holds_event(index):
                return self._recent[number], index
        return None


def _distributed(count: int, from_ms: int, to_ms: int) -> tuple[list[int], list[str]]:
    """`count` ascending timestamps after `from_ms` up to `to_ms`, as numbers and as texts."""
    span_ms = max(1, to_ms - from_ms)
    stamps_ms: list[int] = []
    texts: list[str] = []
    # No more steps than events: a span may be long.
    steps = min(span_ms, count)
    for step in range(1, steps + 1):
        wanted = count * step // steps - len(stamps_ms)
        stamp_ms = to_ms - span_ms + span_ms * step // steps
        stamps_ms += [stamp_ms] * wanted
        texts += [_timestamp(stamp_ms)] * wanted
    return stamps_ms, texts


def _timestamp(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
