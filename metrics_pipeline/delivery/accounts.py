"""What a batch says of itself in the ledger. Pure."""

from collections import Counter

import polars as pl

from metrics_pipeline.delivery.batch import MicroBatch
from metrics_pipeline.kafka.intents import OpenBatch
from metrics_pipeline.ledger.entry import NO_SHARD, EventMinutes, LedgerEntry, PartitionAccount


def entry_of_chunk(
    chunk: OpenBatch,
    source: str,
    run_id: str,
    visible_ms: int,
    minutes: EventMinutes,
    *,
    restored: int = 0,
    added_dead_letters: int = 0,
) -> LedgerEntry:
    """The account of a replay's chunk: no offsets, as a drain has accounted for them, but what changes per minute."""
    starts = minutes.starts_seconds
    return LedgerEntry(
        token=chunk.token,
        topic_id=chunk.topic_id,
        shard=NO_SHARD,
        run_id=run_id,
        first_event_ms=starts[0] * 1_000 if starts else 0,
        last_event_ms=starts[-1] * 1_000 + 59_999 if starts else 0,
        # Not the time of the messages, which their drain has accounted for: old ones would look like a lag.
        first_message_ms=chunk.opened_ms,
        last_message_ms=chunk.opened_ms,
        started_ms=chunk.opened_ms,
        visible_ms=visible_ms,
        minutes=minutes,
        source=source,
        restored=restored,
        added_dead_letters=added_dead_letters,
    )


def accounts_of(batch: MicroBatch, inserted: pl.DataFrame, dead_letters: pl.DataFrame) -> tuple[PartitionAccount, ...]:
    """Balance the batch: what was consumed and neither inserted nor dead-lettered was a duplicate."""
    frames = (inserted, dead_letters)
    landed, dead = (Counter(dict(f["kafka_partition"].value_counts().iter_rows())) for f in frames)
    return tuple(
        PartitionAccount(
            range=r,
            consumed=(consumed := batch.consumed.get(r.partition, 0)),
            inserted=landed[r.partition],
            dead_letters=dead[r.partition],
            duplicates=consumed - landed[r.partition] - dead[r.partition],
            lost=batch.lost.get(r.partition, 0),
            is_deferred=batch.is_deferred,
        )
        for r in batch.ranges
    )
