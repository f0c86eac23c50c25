"""Every metric that the exporter serves, named once. docs/metrics.md is made of it."""

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "metrics_pipeline_"


class Type(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `name` is as scraped, but for the prefix: counters end in _total. `bounds` are a histogram's `le`."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        return PREFIX + self.name


_MESSAGE_BOUNDS = (1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 200_000)

UP = Metric("up", Type.GAUGE, "1 if the engine answered, 0 if it did not, or not in time.", ("engine",))
LAG = Metric("lag_offsets", Type.GAUGE, "Offsets that have not landed for sure.", ("topic", "partition"))
DEFERRED = Metric(
    "deferred_offsets",
    Type.GAUGE,
    "Offsets that were skipped to be at the head, and that no backfill has landed yet.",
    ("topic",),
)
COMMITTED = Metric("committed_offset", Type.GAUGE, "Offset to be read next; absent if none.", ("topic", "partition"))
LOG_START = Metric("log_start_offset", Type.GAUGE, "First offset that the topic still holds.", ("topic", "partition"))
LOG_END = Metric("log_end_offset", Type.GAUGE, "Offset behind the last one that may be read.", ("topic", "partition"))
BATCHES = Metric("batches_total", Type.COUNTER, "Micro-batches that landed.")
CONSUMED = Metric("consumed_messages_total", Type.COUNTER, "Messages that were read and accounted for.")
INSERTED = Metric("inserted_events_total", Type.COUNTER, "Events that were inserted into raw_events.")
DUPLICATES = Metric("duplicate_events_total", Type.COUNTER, "Events that were known already and dropped.")
DEAD_LETTERS = Metric("dead_letters_total", Type.COUNTER, "Messages that are no valid event.", ("reason",))
SKIPPED = Metric("skipped_offsets_total", Type.COUNTER, "Offsets that held no message for us, such as control records.")
LOST = Metric("lost_offsets_total", Type.COUNTER, "Offsets that the topic dropped before they were read.")
READ_BYTES = Metric("consumed_bytes_total", Type.COUNTER, "Size of the messages that were read.")
FRESHNESS = Metric(
    "freshness_seconds",
    Type.HISTOGRAM,
    "Age of events when they could be queried, since they were produced; exact to 2%.",
    bounds=(0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1_800, 21_600),
)
RECENT_FRESHNESS = Metric(
    "recent_freshness_seconds", Type.GAUGE, "Quantiles of that age over the last 60 seconds.", ("quantile",)
)
BURN = Metric(
    "freshness_burn_rate",
    Type.GAUGE,
    "Share of late events over the share that the objective allows, by the ledger; absent where nothing landed.",
    ("window",),
)
CANARY = Metric(
    "canary_seconds",
    Type.GAUGE,
    "From produced to visible, of a shard's last canary; still growing where it was not seen and is late.",
    ("shard",),
)
CANARY_BURN = Metric(
    "canary_burn_rate", Type.GAUGE, "As freshness_burn_rate, of a shard's canaries.", ("shard", "window")
)
BATCH_MESSAGES = Metric("batch_messages", Type.HISTOGRAM, "Messages of a micro-batch.", bounds=_MESSAGE_BOUNDS)
BATCH_STEP = Metric(
    "batch_step_duration_seconds",
    Type.HISTOGRAM,
    "How long a micro-batch took in one step: commit, look_up, insert.",
    ("step",),
    bounds=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
PARTS = Metric("table_parts", Type.GAUGE, "Active parts.", ("table",))
PARTITION_PARTS = Metric("table_partition_parts", Type.GAUGE, "Active parts of the fullest partition.", ("table",))
ROWS = Metric("table_rows", Type.GAUGE, "Rows in active parts.", ("table",))
BYTES = Metric("table_bytes", Type.GAUGE, "Size of active parts on disk.", ("table",))
DISK_FREE = Metric("disk_free_bytes", Type.GAUGE, "Space that the server may still use.", ("disk",))
DISK_SIZE = Metric("disk_size_bytes", Type.GAUGE, "Size of the disk.", ("disk",))
STALE = Metric(
    "stale_rollup_buckets",
    Type.GAUGE,
    "Closed buckets whose newest build does not count every event; readers take finer rows meanwhile.",
    ("grain",),
)
FIRING = Metric(
    "alerts_firing",
    Type.GAUGE,
    "Problems that the alert sensor knows of; 0 where it found none, absent where it never looked.",
    ("kind", "severity"),
)
EVALUATED = Metric("alerts_evaluated_timestamp_seconds", Type.GAUGE, "When the alert sensor last looked.")
RUNS = Metric("drain_runs", Type.GAUGE, "Dagster's last 100 drain runs.", ("status",))
READ = Metric("read_duration_seconds", Type.GAUGE, "How long reading the engine took.", ("engine",))

METRICS = (
    UP, LAG, DEFERRED, COMMITTED, LOG_START, LOG_END, BATCHES, CONSUMED, READ_BYTES, INSERTED, DUPLICATES, DEAD_LETTERS,
    SKIPPED, LOST, FRESHNESS, RECENT_FRESHNESS, BURN, CANARY, CANARY_BURN, BATCH_MESSAGES, BATCH_STEP, PARTS,
    PARTITION_PARTS, ROWS, BYTES, DISK_FREE, DISK_SIZE, STALE, FIRING, EVALUATED, RUNS, READ,
)  # fmt: skip


def markdown_table() -> str:
    """The table of docs/metrics.md."""
    lines = ["| metric | type | labels | what |", "|---|---|---|---|"]
    lines += [
        f"| `{m.full_name}` | {m.type} | {', '.join(f'`{label}`' for label in m.labels)} | {m.help} |" for m in METRICS
    ]
    return "\n".join(lines)
