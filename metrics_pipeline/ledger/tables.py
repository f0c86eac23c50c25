"""The ledger's tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from metrics_pipeline.ddl.objects import Column, Table
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.entry import BACKFILL, DRAIN

_INSTANT = "DateTime64(3, 'UTC')"
PROCESSED = ("consumed", "inserted", "duplicates", "dead_letters")
"""Counts of the messages of a batch, and of each of its partitions."""

BATCHES = Table(
    name="batches",
    engine="ReplacingMergeTree",
    partition_by="toYYYYMM(last_message)",
    order_by=("topic", "topic_id", "last_message", "batch"),
    columns=(
        Column("batch", "String", comment="Token: hash of group, topic id and ranges"),
        Column(
            "source",
            "LowCardinality(String)",
            default="'drain'",
            comment="drain; backfill: of what was deferred; deferred: skipped, covers no offsets; "
            "dead_letters, replay: without partitions, as these offsets have another row",
        ),
        Column("topic", "LowCardinality(String)"),
        Column("topic_id", "LowCardinality(String)"),
        Column("consumer_group", "LowCardinality(String)"),
        Column("shard", "UInt32"),
        Column("run_id", "String"),
        Column("partitions", "Array(UInt32)", comment="One element per partition, here and in partition_*"),
        Column("partition_start", "Array(UInt64)", comment="First offset of the range"),
        Column("partition_end", "Array(UInt64)", comment="Offset behind the range"),
        *(Column(f"partition_{name}", "Array(UInt64)") for name in PROCESSED),
        Column("partition_skipped", "Array(UInt64)", comment="Offsets that held no message for us"),
        Column("partition_lost", "Array(UInt64)", comment="Offsets that the log dropped before they were read"),
        *(Column(name, "UInt64") for name in (*PROCESSED, "skipped", "lost", "size_bytes")),
        *(Column(name, _INSTANT) for name in ("first_event", "last_event", "first_message", "last_message")),
        Column("started_at", _INSTANT),
        Column("visible_at", _INSTANT, comment="When its events could be queried"),
        *(Column(f"{step}_duration_ms", "UInt32") for step in ("commit", "look_up", "insert")),
        Column("freshness_ms", "Array(UInt64)", comment="Upper bounds of age classes, produced to visible"),
        Column("freshness_events", "Array(UInt32)", comment="Events in each class"),
        Column("minutes", "Array(DateTime('UTC'))", comment="Minutes of the timestamps of the events inserted"),
        Column("minute_inserted", "Array(UInt32)", comment="Events inserted in each of these minutes"),
        Column("minute_removed", "Array(UInt32)", comment="Events removed by a replay, or empty"),
        Column("restored", "UInt64", comment="Events that a replay inserted and an earlier row has accounted for"),
        Column("added_dead_letters", "UInt64", comment="Made by a replay, of messages that have another account"),
    ),
    comment="The ledger: one row per micro-batch, every offset accounted for, and one per replayed chunk.",
    indexes=(
        "batch_index batch TYPE bloom_filter(0.001) GRANULARITY 1",
        "visible_index visible_at TYPE minmax GRANULARITY 1",
    ),
)


OF_INCARNATION = "topic = {topic:String} AND topic_id = {topic_id:String} AND consumer_group = {group:String}"
"""A condition on rows of the ledger: of one incarnation of the topic, and one consumer group."""

IN_RANGES = """arrayExists((p, s, e) -> kafka_partition = p AND kafka_offset >= s AND kafka_offset < e,
    {partitions:Array(UInt32)}, {starts:Array(UInt64)}, {ends:Array(UInt64)})"""
"""A condition on rows with the columns of a position; see `ranges_parameters`."""

IS_BATCH = f"source IN ('{DRAIN}', '{BACKFILL}')"
"""A condition on rows of the ledger: of a micro-batch, the only ones that consume or lose messages."""


REPLAY_PLAN = Table(
    name="replay_plan",
    engine="ReplacingMergeTree",
    partition_by="toYYYYMM(opened_at)",
    order_by=("consumer_group", "step", "opened_at", "batch", "kafka_partition", "kafka_offset", "content"),
    columns=(
        Column("consumer_group", "LowCardinality(String)"),
        Column(
            "step",
            "LowCardinality(String)",
            comment="remove, insert, restore, letter, lost_letter; repaired: rollups count all chunks up to opened_at",
        ),
        Column("opened_at", _INSTANT, comment="When the chunk was opened"),
        Column("batch", "String", comment="Token of the chunk"),
        Column("kafka_partition", "UInt32"),
        Column("kafka_offset", "UInt64", "Delta, ZSTD(1)"),
        Column("kafka_timestamp", _INSTANT, "Delta, ZSTD(1)"),
        Column("timestamp", _INSTANT, "Delta, ZSTD(1)", "Of the event that is removed or inserted"),
        Column("content", "UInt64", comment="Hash of the row that is removed"),
        Column("letter_batch", "String", comment="Micro-batch that has accounted for a lost dead letter"),
    ),
    comment="What replays of hours change: written before it is done, so that it is finished as it was begun.",
    ttl="toDateTime(opened_at) + INTERVAL 30 DAY",
)


class PlanStep(StrEnum):
    """What is done to a message, or to the row that stems from it."""

    REMOVE = "remove"
    INSERT = "insert"
    """Insert an event that no entry of the ledger accounts for, or one for a row that is removed."""
    RESTORE = "restore"
    """Insert an event that the ledger has accounted for, and whose row is gone."""
    LETTER = "letter"
    """Make a dead letter of it."""
    LOST_LETTER = "lost_letter"
    """Make the dead letter again that the ledger has accounted for, and that is gone."""
    REPAIRED = "repaired"
    """No message: rollups count what all chunks up to this one did."""


@dataclass(frozen=True, slots=True)
class LedgerScope:
    """Whose rows of the ledger."""

    topic: str
    group: str


def ranges_parameters(ranges: Sequence[OffsetRange], prefix: str = "") -> dict[str, Any]:
    """What `IN_RANGES` asks for, under names that begin with the prefix."""
    return {
        f"{prefix}partitions": [r.partition for r in ranges],
        f"{prefix}starts": [r.start for r in ranges],
        f"{prefix}ends": [r.end for r in ranges],
    }
