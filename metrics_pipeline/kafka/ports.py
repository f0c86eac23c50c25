"""The log, the committed offsets and the handover, as the pipeline sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.intents import Commit, Owner, Watermarks


@dataclass(frozen=True, slots=True)
class Fetched:
    """Messages in offset order per partition, and the ends that the log reported beyond them.

    `ends` holds partitions read to their end: partition -> next offset, which lies beyond the last message where
    control records or compaction left a hole.
    """

    messages: Messages
    ends: Mapping[int, int] = field(default_factory=dict)


class Log(Protocol):
    """The topic, read at exact offsets. No group membership, so nothing rebalances."""

    @property
    def topic_id(self) -> str:
        """The topic's unique id; another one after it was deleted and recreated."""
        ...

    def partitions(self) -> tuple[int, ...]:
        """All partitions of the topic. Raises KafkaUnavailableError, ConfigurationError if there is no topic."""
        ...

    def watermarks(self, partitions: Sequence[int]) -> Mapping[int, Watermarks]:
        """The offsets that the log holds, committed records only. Raises KafkaUnavailableError."""
        ...

    def offsets_at(self, partitions: Sequence[int], time_ms: int) -> Mapping[int, int]:
        """The first offset of each whose message has that time or a later one; partitions without one have none.

        Grows with the time, in whatever order the times of messages are. Raises KafkaUnavailableError.
        """
        ...

    def assign(self, positions: Mapping[int, int]) -> None:
        """Read from exactly these offsets on; drops what was fetched ahead."""
        ...

    def poll(self, max_events: int, max_bytes: int, timeout_seconds: float) -> Fetched:
        """At most `max_events` messages and `max_bytes` (but at least one message), waiting up to the timeout.

        Raises OffsetOutOfRangeError if a position no longer exists, KafkaUnavailableError.
        """
        ...

    def pause(self) -> None:
        """Fetch no more, and hold nothing that was fetched ahead."""
        ...

    def resume(self) -> None:
        """Fetch again from where `poll` stopped."""
        ...


class OffsetStore(Protocol):
    """Committed offsets, writable by the newest run of an owner that nobody fenced since."""

    def fence(self, owner: Owner) -> None:
        """Make commits of every earlier run of `owner` fail. Fencing its own owner allows a run to commit.

        Raises KafkaUnavailableError.
        """
        ...

    def register(self, shards: int) -> None:
        """Record, for good, that owners of this number of shards are in use. Raises KafkaUnavailableError."""
        ...

    def registered(self) -> frozenset[int]:
        """All numbers of shards that were recorded. Raises KafkaUnavailableError."""
        ...

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        """What is committed, whoever did it; partitions without an entry have none. Raises KafkaUnavailableError."""
        ...

    def commit(self, commits: Mapping[int, Commit]) -> None:
        """Commit all or none. Raises FencedError if another run fenced this one, KafkaUnavailableError."""
        ...


class Handover(Protocol):
    """How a run and its successor agree on when one ends and the other begins. Advisory: exactness is the fence's."""

    def announce(self) -> None:
        """Tell the present owner that this run is ready."""
        ...

    def successor(self) -> str | None:
        """The run that announced itself, if another than this one did."""
        ...

    def release(self, successor: str) -> None:
        """Tell the successor that this run has committed its last batch."""
        ...

    def is_released(self) -> bool:
        """Has the predecessor committed its last batch, and released the shard to this run?"""
        ...
