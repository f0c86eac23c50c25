"""What is known about the pipeline at one moment, as values. A part that could not be read is None: unknown."""

from collections.abc import Mapping
from dataclasses import dataclass

from metrics_pipeline.alerting.burn import Tallies

WINDOW_SECONDS = 300
"""Freshness and dead letters are judged over it: long enough for some batches, short enough to end soon afterwards."""


@dataclass(frozen=True, slots=True)
class EngineSignal:
    """Whether an engine answers; `problem` is its words where it does not."""

    name: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PartitionSignal:
    """One partition of the topic; `landed_ago_seconds` is None where no batch of it landed lately."""

    partition: int
    lag: int
    landed_ago_seconds: float | None


@dataclass(frozen=True, slots=True)
class FlowSignal:
    """What the ledger says of the last WINDOW_SECONDS.

    `reasons` counts dead letters by reason. `lost` counts offsets that went unread, by partition: of a day, so that who
    looks in the morning sees those of the night. `landed_ago_seconds` is the age of the newest batch, None where there
    is none lately.
    """

    landed_ago_seconds: float | None
    consumed: int
    dead_letters: int
    reasons: Mapping[str, int]
    freshness_p99_seconds: float | None
    lost: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class CanarySignal:
    """The canaries of one shard.

    `seconds` is of the last canary whose fate is known: from produced to visible, or to now where it is late and was
    not seen. It is None where the last hour has no such canary.
    """

    shard: int
    tallies: Tallies
    seconds: float | None


@dataclass(frozen=True, slots=True)
class BurnSignal:
    """How many events were late in each window, and how many canaries of each shard that had any."""

    events: Tallies
    canaries: tuple[CanarySignal, ...]


@dataclass(frozen=True, slots=True)
class DiskSignal:
    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class StorageSignal:
    """Disks, the active parts of each table's fullest partition, and the growth of the last day."""

    disks: tuple[DiskSignal, ...]
    most_parts: Mapping[str, int]
    bytes_per_day: float


@dataclass(frozen=True, slots=True)
class RunSignal:
    """The newest finished runs of one job (and shard, or partition).

    `failures` counts those that failed since the last success. `run_id` and `error` are the newest failure's, and empty
    where `failures` is 0.
    """

    job: str
    part: str
    failures: int
    run_id: str = ""
    error: str = ""

    @property
    def subject(self) -> str:
        return f"{self.job} {self.part}".strip()


@dataclass(frozen=True, slots=True)
class CheckSignal:
    """The newest result of an asset check."""

    name: str
    passed: bool
    is_error: bool = True
    description: str = ""
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class Signals:
    """All that the alert sensor judges from."""

    topic: str
    engines: tuple[EngineSignal, ...] = ()
    partitions: tuple[PartitionSignal, ...] | None = None
    flow: FlowSignal | None = None
    burn: BurnSignal | None = None
    storage: StorageSignal | None = None
    runs: tuple[RunSignal, ...] = ()
    checks: tuple[CheckSignal, ...] = ()
