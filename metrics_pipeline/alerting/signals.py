"""What is known about the pipeline at one moment, as values. None: it could not be read, so nothing is known."""

from collections.abc import Mapping
from dataclasses import dataclass

from metrics_pipeline.alerting.burn import Tallies


@dataclass(frozen=True, slots=True)
class EngineSignal:
    """Whether an engine answers; `problem` is its words if it doesn't."""

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
    """What the ledger says of the last `window_seconds`.

    `reasons` counts dead letters by reason. `lost` counts offsets that went unread in the last `lost_window_seconds`,
    by partition. `landed_ago_seconds` is the age of the newest batch, None where there is none lately.
    """

    window_seconds: float
    landed_ago_seconds: float | None
    consumed: int
    dead_letters: int
    reasons: Mapping[str, int]
    freshness_p99_seconds: float | None
    lost_window_seconds: float
    lost: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class CanarySignal:
    """The canaries of one shard. `seconds` of the last one whose fate is known: from produced to visible, or, where
    it was not seen yet, to now; None without one within the hour."""

    shard: int
    tallies: Tallies
    seconds: float | None


@dataclass(frozen=True, slots=True)
class BurnSignal:
    """How many events, and canaries of each shard that had some, were late in each window."""

    events: Tallies
    canaries: tuple[CanarySignal, ...]


@dataclass(frozen=True, slots=True)
class DiskSignal:
    """A disk of the server, bytes."""

    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class StorageSignal:
    """Disks, the fullest partition of each table in parts, and the growth of the last day."""

    disks: tuple[DiskSignal, ...]
    most_parts: Mapping[str, int]
    bytes_per_day: float


@dataclass(frozen=True, slots=True)
class RunSignal:
    """The last finished runs of one job (and shard, or partition): all that failed since one went well.

    `failures` is 0 where the newest went well; then `run_id` and `error` are empty.
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
    """All of it; a part that is None could not be read."""

    topic: str
    engines: tuple[EngineSignal, ...] = ()
    partitions: tuple[PartitionSignal, ...] | None = None
    flow: FlowSignal | None = None
    burn: BurnSignal | None = None
    storage: StorageSignal | None = None
    runs: tuple[RunSignal, ...] = ()
    checks: tuple[CheckSignal, ...] = ()
