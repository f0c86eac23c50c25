"""What a run sent, in numbers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from metrics_pipeline.lab.loadgen.block import LATE, ODD
from metrics_pipeline.lab.loadgen.malformed import KINDS


@dataclass(slots=True)
class LoadSummary:
    """Messages that the log acknowledged: `messages` = unique_events + duplicates + malformed.

    `late` and `odd` are counts of unique events; first and last are timestamps of events, epoch milliseconds,
    None without events; `failed` messages are in no other count, `failures` has their reasons.
    """

    topic: str
    seed: int
    messages: int = 0
    unique_events: int = 0
    duplicates: int = 0
    late: int = 0
    odd: int = 0
    malformed_kinds: Counter[str] = field(default_factory=Counter)
    partitions: Counter[int] = field(default_factory=Counter)
    first_timestamp_ms: int | None = None
    last_timestamp_ms: int | None = None
    elapsed_seconds: float = 0.0
    failed: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def malformed(self) -> int:
        """Messages that are no events."""
        return self.malformed_kinds.total()

    @property
    def rate(self) -> float:
        """Messages per second, the wait for the last acknowledgement included."""
        return self.messages / self.elapsed_seconds if self.elapsed_seconds else 0.0

    def add(self, account: pl.DataFrame) -> pl.DataFrame:
        """Count the rows of an account (see `Block.account`); returns those of valid events."""
        for partition, copies in account.group_by("partition").agg(pl.col("copies").sum()).iter_rows():
            self.partitions[partition] += copies
        for kind, events, copies in account.group_by("kind").agg(pl.len(), pl.col("copies").sum()).iter_rows():
            self._count(kind, events, copies)
        valid = account.filter(~pl.col("kind").is_in(list(KINDS)).fill_null(value=False))
        self._note_times(valid)
        return valid

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        reasons = Counter[str]()
        for kind, count in self.malformed_kinds.items():
            reasons[KINDS[kind][0].value] += count
        return {
            "topic": self.topic,
            "seed": self.seed,
            "messages": self.messages,
            "unique_events": self.unique_events,
            "duplicates": self.duplicates,
            "late": self.late,
            "odd": self.odd,
            "malformed": self.malformed,
            "malformed_kinds": dict(sorted(self.malformed_kinds.items())),
            "malformed_reasons": dict(sorted(reasons.items())),
            "first_timestamp_ms": self.first_timestamp_ms,
            "last_timestamp_ms": self.last_timestamp_ms,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "rate": round(self.rate, 1),
            "partitions": {str(p): n for p, n in sorted(self.partitions.items())},
            "failed": self.failed,
            "failures": dict(self.failures),
        }

    def _count(self, kind: str | None, events: int, copies: int) -> None:
        self.messages += copies
        if kind is not None and kind in KINDS:
            self.malformed_kinds[kind] += copies
            return
        self.unique_events += events
        self.duplicates += copies - events
        self.late += events if kind == LATE else 0
        self.odd += events if kind == ODD else 0

    def _note_times(self, valid: pl.DataFrame) -> None:
        if valid.is_empty():
            return
        first, last = valid.select(first=pl.col("timestamp").min(), last=pl.col("timestamp").max()).row(0)
        self.first_timestamp_ms = min(first, self.first_timestamp_ms or first)
        self.last_timestamp_ms = max(last, self.last_timestamp_ms or last)
