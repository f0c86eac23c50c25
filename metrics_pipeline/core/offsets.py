"""Offsets, ranges and intents: what the protocol says about the log, as values.

A committed offset carries metadata: the id of the topic that it belongs to (a topic that was deleted and recreated has
the same name and another id), and, while a micro-batch [start, end) is on its way, an *intent*: `start` is committed
with `{"topic": id, "end": end, "batch": token}`; whoever reads it must rebuild exactly that batch before going on.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

METADATA_LIMIT_BYTES = 4096
"""Kafka's default `offset.metadata.max.bytes`."""


@dataclass(frozen=True, slots=True, order=True)
class OffsetRange:
    """The offsets [start, end) of one partition."""

    partition: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not a range of offsets: {self}")

    @property
    def offsets(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Intent:
    """The promise to insert everything up to `end` as the batch `token`."""

    end: int
    token: str


@dataclass(frozen=True, slots=True)
class Commit:
    """The next offset of a partition, and the intent that is open there, if any."""

    offset: int
    intent: Intent | None = None
    topic_id: str = ""
    """Empty where a tool other than this pipeline committed the offset."""


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The offsets [low, high) that the log holds of one partition."""

    low: int
    high: int


def encode_metadata(commit: Commit) -> str:
    """Metadata to store beside `commit.offset`."""
    fields: dict[str, str | int] = {"topic": commit.topic_id}
    if commit.intent is not None:
        fields |= {"end": commit.intent.end, "batch": commit.intent.token}
    return json.dumps(fields, separators=(",", ":"))


def decode_commit(offset: int, metadata: str | None) -> Commit:
    """What was committed; metadata that isn't ours (an operator's tool moved the offset) reads as none."""
    try:
        fields = json.loads(metadata or "{}")
        intent = Intent(end=int(fields["end"]), token=str(fields["batch"])) if "batch" in fields else None
        return Commit(offset, intent, str(fields.get("topic", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Commit(offset)


def batch_token(group: str, topic_id: str, ranges: Iterable[OffsetRange]) -> str:
    """Name of a micro-batch: equal for equal ranges of the same topic, whoever builds it (32 hex digits)."""
    lines = [group, topic_id, *(f"{r.partition}:{r.start}-{r.end}" for r in sorted(ranges))]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def shard_partitions(partitions: Iterable[int], shards: int, shard: int) -> tuple[int, ...]:
    """The partitions that `shard` of `shards` owns: p mod shards, so that new partitions find an owner."""
    if not 0 <= shard < shards:
        raise ValueError(f"there is no shard {shard} of {shards}")
    return tuple(sorted(p for p in partitions if p % shards == shard))


def open_batches(commits: Mapping[int, Commit]) -> dict[str, tuple[OffsetRange, ...]]:
    """Token -> ranges of every batch whose intent is open in `commits` (partition -> commit)."""
    found: dict[str, list[OffsetRange]] = {}
    for partition, commit in sorted(commits.items()):
        if commit.intent is not None:
            found.setdefault(commit.intent.token, []).append(OffsetRange(partition, commit.offset, commit.intent.end))
    return {token: tuple(ranges) for token, ranges in found.items()}
