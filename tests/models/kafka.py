"""A broker as the protocol sees it: offsets with holes, watermarks, retention, owners with epochs, offset metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metrics_pipeline.errors import FencedError, KafkaUnavailableError, OffsetOutOfRangeError, StuckClientError
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.intents import (
    METADATA_LIMIT_BYTES,
    Commit,
    Owner,
    Watermarks,
    decode_commit,
    encode_metadata,
)
from metrics_pipeline.kafka.ports import Fetched
from tests.models.network import Network


@dataclass(frozen=True, slots=True)
class Record:
    """A committed message."""

    timestamp_ms: int
    value: bytes | None


@dataclass(slots=True)
class Partition:
    """`records[offset]` is None for what no reader sees: control records, aborted transactions, compaction."""

    records: list[Record | None] = field(default_factory=list)
    low: int = 0

    @property
    def high(self) -> int:
        return len(self.records)

    def first_at(self, time_ms: int) -> int | None:
        """The first offset of a message of that time or later."""
        held = range(self.low, self.high)
        return next((o for o in held if (r := self.records[o]) is not None and r.timestamp_ms >= time_ms), None)


@dataclass(slots=True)
class Broker:
    """One topic and what groups committed of it."""

    topic_id: str
    partitions: dict[int, Partition]
    committed: dict[int, tuple[int, str]] = field(default_factory=dict)
    epochs: dict[Owner, int] = field(default_factory=dict)
    shard_counts: set[int] = field(default_factory=set)
    handovers: dict[int, tuple[str, bool]] = field(default_factory=dict)

    def fence(self, owner: Owner) -> int:
        self.epochs[owner] = self.epochs.get(owner, 0) + 1
        return self.epochs[owner]

    def commit(self, owner: Owner, epoch: int, commits: Mapping[int, tuple[int, str]]) -> None:
        if self.epochs.get(owner) != epoch:
            raise FencedError(f"{owner} has a newer epoch than {epoch}")
        self.committed |= commits

    def delete_records(self, partition: int, before: int) -> None:
        found = self.partitions[partition]
        found.low = min(max(found.low, before), found.high)

    def recreate_topic(self, topic_id: str, *, forgets_offsets: bool) -> None:
        """The partitions begin anew. A broker forgets the offsets of a deleted topic, but not at once."""
        self.topic_id = topic_id
        self.partitions = {p: Partition() for p in self.partitions}
        if forgets_offsets:
            self.committed.clear()
            self.shard_counts.clear()
            self.handovers.clear()


class ModelLog:
    """A `Log`. `misread` is value -> what its reader takes it for."""

    def __init__(self, broker: Broker, network: Network, misread: Mapping[bytes, bytes] | None = None) -> None:
        self._broker = broker
        self._network = network
        self._misread = misread or {}
        self._topic_id = broker.topic_id
        self._partitions = tuple(sorted(broker.partitions))
        self._positions: dict[int, int] = {}
        self._told_ends: dict[int, int] = {}
        self._is_paused = False

    @property
    def topic_id(self) -> str:
        return self._topic_id

    def partitions(self) -> tuple[int, ...]:
        return self._partitions

    def watermarks(self, partitions: Sequence[int]) -> Mapping[int, Watermarks]:
        def read() -> dict[int, Watermarks]:
            found = self._broker.partitions
            return {p: Watermarks(found[p].low, found[p].high) for p in partitions}

        return self._network.kafka(f"watermarks of {list(partitions)}", read)

    def offsets_at(self, partitions: Sequence[int], time_ms: int) -> Mapping[int, int]:
        def read() -> dict[int, int]:
            firsts = {p: self._broker.partitions[p].first_at(time_ms) for p in partitions}
            return {p: offset for p, offset in firsts.items() if offset is not None}

        return self._network.kafka(f"offsets of {list(partitions)} at {time_ms}", read)

    def assign(self, positions: Mapping[int, int]) -> None:
        self._network.scheduler.step(f"assign {dict(positions)}")
        self._positions = dict(positions)
        self._told_ends = {}
        self._is_paused = False

    def poll(self, max_events: int, max_bytes: int, timeout_seconds: float) -> Fetched:
        self._network.scheduler.step(f"poll {max_events} at {self._positions}")
        if self._is_paused or not self._has_news():
            self._network.scheduler.pause(timeout_seconds)
        else:
            self._network.travel()
        if self._network.happens(self._network.faults.kafka_fails) or self._is_paused:
            return Fetched(Messages([], [], [], []))
        return self._take(max(1, max_events), max_bytes)

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False

    def _has_news(self) -> bool:
        found = self._broker.partitions
        return any(found[p].high > at or self._told_ends.get(p) != at for p, at in self._positions.items())

    def _take(self, max_events: int, max_bytes: int) -> Fetched:
        """Chunks of partitions in any order, as fetches of a real client are: each within the limits, ends last."""
        random_ = self._network.scheduler.random
        taken, ends = Messages([], [], [], []), dict[int, int]()
        order = sorted(self._positions)
        random_.shuffle(order)
        size_bytes = 0
        for partition in order:
            found, at = self._broker.partitions[partition], self._positions[partition]
            if at < found.low or at > found.high or self._topic_id != self._broker.topic_id:
                raise OffsetOutOfRangeError(f"offset {at} of partition {partition} is not in the log")
            wanted = random_.randint(0, max_events)
            while at < found.high:
                record = found.records[at]
                if record is not None:
                    size_bytes += len(record.value or b"")
                    if len(taken) >= max_events or wanted == 0 or (size_bytes > max_bytes and len(taken)):
                        break
                    wanted -= 1
                    for column, value in (
                        (taken.partitions, partition),
                        (taken.offsets, at),
                        (taken.timestamps_ms, record.timestamp_ms),
                        (taken.values, self._misread.get(record.value or b"", record.value)),
                    ):
                        column.append(value)  # type: ignore[attr-defined]
                at += 1
            else:
                if self._told_ends.get(partition) != at:
                    ends[partition] = self._told_ends[partition] = at
            self._positions[partition] = at
        return Fetched(taken, ends)


class ModelOffsets:
    """An `OffsetStore` of `owner`."""

    def __init__(self, broker: Broker, network: Network, owner: Owner) -> None:
        self._broker = broker
        self._network = network
        self._owner = owner
        self._epoch = -1
        self._stuck: StuckClientError | None = None

    def fence(self, owner: Owner) -> None:
        self._assure_not_stuck()
        epoch = self._network.kafka(f"fence {owner}", lambda: self._broker.fence(owner))
        if owner == self._owner:
            self._epoch = epoch

    def register(self, shards: int) -> None:
        self._network.kafka(f"register {shards} shards", lambda: self._broker.shard_counts.add(shards))

    def registered(self) -> frozenset[int]:
        return self._network.kafka("read the registry", lambda: frozenset(self._broker.shard_counts))

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        def read() -> dict[int, Commit]:
            found = self._broker.committed
            return {p: decode_commit(*found[p]) for p in partitions if p in found}

        return self._network.kafka("read committed offsets", read)

    def commit(self, commits: Mapping[int, Commit]) -> None:
        self._assure_not_stuck()
        encoded = {p: (c.offset, encode_metadata(c)) for p, c in commits.items()}
        if any(len(metadata.encode()) > METADATA_LIMIT_BYTES for _, metadata in encoded.values()):
            raise KafkaUnavailableError("the metadata are larger than the broker takes")
        epoch = self._epoch
        what = f"commit {' '.join(f'{p}:{c.offset}{_suffix(c)}' for p, c in commits.items())}"
        if self._network.happens(self._network.faults.kafka_hangs):
            self._hang(what, epoch, encoded)
        self._network.kafka(what, lambda: self._broker.commit(self._owner, epoch, encoded))

    def _hang(self, what: str, epoch: int, encoded: Mapping[int, tuple[int, str]]) -> None:
        """The call is left behind: the commit arrives some time, unless its owner is fenced before."""
        network = self._network
        network.scheduler.step(f"{what}: hangs")

        def arrive() -> None:
            network.scheduler.say("broker", f"late {what}")
            if self._broker.epochs.get(self._owner) == epoch:
                self._broker.commit(self._owner, epoch, encoded)

        seconds = network.scheduler.random.random() * network.faults.hang_seconds
        network.scheduler.spawn("late commit", arrive, after_seconds=seconds)
        network.scheduler.pause(5.0)
        self._stuck = StuckClientError(f"{what}: the client did not return")
        raise self._stuck

    def _assure_not_stuck(self) -> None:
        if self._stuck is not None:
            raise self._stuck


class ModelHandover:
    """A `Handover`."""

    def __init__(self, broker: Broker, network: Network, shard: int, run_id: str) -> None:
        self._broker = broker
        self._network = network
        self._shard = shard
        self._run_id = run_id
        self._seen_at_start = self._read()[0]

    def announce(self) -> None:
        self._write(self._run_id, released=False)

    def successor(self) -> str | None:
        announced = self._network.kafka("look for a successor", self._read)[0]
        return None if announced in ("", self._run_id, self._seen_at_start) else announced

    def release(self, successor: str) -> None:
        self._write(successor, released=True)

    def is_released(self) -> bool:
        return self._network.kafka("look for a release", self._read) == (self._run_id, True)

    def _read(self) -> tuple[str, bool]:
        return self._broker.handovers.get(self._shard, ("", False))

    def _write(self, run_id: str, *, released: bool) -> None:
        def write() -> None:
            self._broker.handovers[self._shard] = (run_id, released)

        self._network.kafka(f"hand over to {run_id}, released: {released}", write)


def _suffix(commit: Commit) -> str:
    intent = commit.intent
    if intent is None:
        return ""
    return f"-{intent.end}({intent.token[:4]}{'?' + intent.search_bits if intent.search_bits else ''})"
