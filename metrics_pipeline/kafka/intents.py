"""Offsets, ranges and intents: what the protocol says about the log, as values.

A committed offset carries metadata: the id of the topic that it belongs to (a topic that was deleted and recreated has
the same name and another id), and, while a micro-batch [start, end) is on its way, an *intent*: `start` is committed
with `{"topic": id, "end": end, "batch": token, "at": ms, "rules": rules}`. Whoever reads it must rebuild exactly that
batch, by those rules, before it goes on. Where the server refused rows of the batch, `"search"` says how far the search
for them has come (delivery/bisection.py).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

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


def offsets_in(ranges: Iterable[OffsetRange]) -> int:
    """How many offsets ranges have together; none may overlap another."""
    return sum(r.offsets for r in ranges)


@dataclass(frozen=True, slots=True)
class Intent:
    """The promise to insert everything up to `end` as the batch `token`.

    `opened_ms` is the server's wall clock when it was made, epoch milliseconds. `rules` judge the batch, as
    event/rules.py writes them. `search_bits` is what delivery/bisection.py needs to go on with a batch of which the
    server refused rows. `note` is what else it takes to build the batch again.
    """

    end: int
    token: str
    opened_ms: int = 0
    rules: str = ""
    search_bits: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """The next offset of a partition, and the intent that is open there, if any."""

    offset: int
    intent: Intent | None = None
    topic_id: str = ""
    """Empty where a tool other than this pipeline committed the offset."""


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch whose intent stands in committed offsets; `ranges` lacks partitions that are closed already."""

    topic_id: str
    token: str
    ranges: tuple[OffsetRange, ...]
    opened_ms: int
    rules: str
    search_bits: str = ""
    note: str = ""

    @property
    def ends(self) -> dict[int, int]:
        """Partition -> offset behind the batch."""
        return {r.partition: r.end for r in self.ranges}

    @property
    def offsets(self) -> int:
        """How many messages the batch may hold."""
        return offsets_in(self.ranges)

    def found_until(self, search_bits: str) -> "OpenBatch":
        """The same batch with a search for refused rows that has come that far."""
        return replace(self, search_bits=search_bits)

    def commits(self) -> dict[int, Commit]:
        """Partition -> the commit that puts the batch on record."""
        return {
            r.partition: Commit(
                r.start,
                Intent(r.end, self.token, self.opened_ms, self.rules, self.search_bits, self.note),
                self.topic_id,
            )
            for r in self.ranges
        }


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """Who may commit offsets: `shard` of `shards`. Runs of one owner follow each other."""

    shards: int
    shard: int

    def __post_init__(self) -> None:
        if not 0 <= self.shard < self.shards:
            raise ValueError(f"there is no shard {self.shard} of {self.shards}")

    def __str__(self) -> str:
        return f"{self.shard}-of-{self.shards}"

    def partitions(self, partitions: Iterable[int]) -> tuple[int, ...]:
        """Those that it owns: p mod shards, so that new partitions find an owner."""
        return tuple(sorted(p for p in partitions if p % self.shards == self.shard))


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The offsets [low, high) that the log holds of one partition."""

    low: int
    high: int


def encode_metadata(commit: Commit) -> str:
    """Metadata to store beside `commit.offset`."""
    fields: dict[str, str | int] = {"topic": commit.topic_id}
    if commit.intent is not None:
        intent = commit.intent
        fields |= {"end": intent.end, "batch": intent.token, "at": intent.opened_ms, "rules": intent.rules}
        fields |= {"search": intent.search_bits} if intent.search_bits else {}
        fields |= {"note": intent.note} if intent.note else {}
    return json.dumps(fields, separators=(",", ":"))


def decode_commit(offset: int, metadata: str | None) -> Commit:
    """What was committed; metadata that isn't ours (an operator's tool moved the offset) reads as none."""
    try:
        fields = json.loads(metadata or "{}")
        intent = None
        if "batch" in fields:
            intent = Intent(
                end=int(fields["end"]),
                token=str(fields["batch"]),
                opened_ms=int(fields["at"]),
                rules=str(fields["rules"]),
                search_bits=str(fields.get("search", "")),
                note=str(fields.get("note", "")),
            )
        return Commit(offset, intent, str(fields.get("topic", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Commit(offset)


def batch_token(group: str, topic_id: str, ranges: Iterable[OffsetRange], note: str = "") -> str:
    """Name of a micro-batch: equal for equal ranges of the same topic, whoever builds it (32 hex digits)."""
    lines = [group, topic_id, *(f"{r.partition}:{r.start}-{r.end}" for r in sorted(ranges)), *filter(None, [note])]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def rivals(owner: Owner, partitions: Iterable[int], shard_counts: Iterable[int]) -> tuple[Owner, ...]:
    """The owners under other numbers of shards that could commit any of `partitions`."""
    owned = tuple(partitions)
    return tuple(
        sorted({Owner(count, p % count) for count in shard_counts if count != owner.shards for p in owned} - {owner})
    )


def open_batches(commits: Mapping[int, Commit]) -> tuple[OpenBatch, ...]:
    """Every batch whose intent is open in `commits` (partition -> commit), by its lowest partition."""
    found: dict[str, list[int]] = {}
    for partition, commit in sorted(commits.items()):
        if commit.intent is not None:
            found.setdefault(commit.intent.token, []).append(partition)
    return tuple(_open_batch(token, {p: commits[p] for p in partitions}) for token, partitions in found.items())


def _open_batch(token: str, commits: Mapping[int, Commit]) -> OpenBatch:
    intents = {p: c.intent for p, c in commits.items() if c.intent is not None}
    some = next(iter(intents.values()))
    return OpenBatch(
        next(iter(commits.values())).topic_id,
        token,
        tuple(OffsetRange(p, commits[p].offset, intent.end) for p, intent in intents.items()),
        min(intent.opened_ms for intent in intents.values()),
        some.rules,
        # Owners that share the batch go the same way; who came further knows more.
        max((intent.search_bits for intent in intents.values()), key=len),
        some.note,
    )
