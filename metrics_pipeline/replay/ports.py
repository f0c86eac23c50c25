"""What a replay of hours reads and writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import polars as pl

from metrics_pipeline.audit.ports import BookReader
from metrics_pipeline.dead_letters.ports import LetterStore
from metrics_pipeline.delivery.ports import StoredEvents
from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch
from metrics_pipeline.replay.plan import LostLetters


class ReplayBooks(Protocol):
    """What a replay of hours reads of the ledger, and its plans. All methods raise ClickHouseUnavailableError."""

    def accounted(self, ranges: Sequence[OffsetRange]) -> Sequence[OffsetRange]:
        """Ranges of the ledger's rows that overlap these ones, where they account for their offsets."""

    def dropped(self, lows: Mapping[int, int], start_seconds: int, end_seconds: int) -> Sequence[OffsetRange]:
        """What batches of messages from [start, end) hold before `lows` (partition -> the log's first offset)."""

    def lost_letters(self, ranges: Sequence[OffsetRange], first: datetime, last: datetime) -> Sequence[LostLetters]:
        """Batches with messages in these ranges, of times from `first` to `last`, of which dead letters are gone."""

    def write_plan(self, chunk: OpenBatch, plan: pl.DataFrame, token: str) -> None:
        """Note what the chunk changes (PLAN_SCHEMA), under the chunk's token or another one: once, whoever is first."""

    def plan(self, chunk: OpenBatch) -> pl.DataFrame:
        """What is noted; empty if nothing is."""

    def unrepaired(self) -> tuple[frozenset[int], int]:
        """Minutes that the rollups may not count right since a replay, and when its newest chunk was opened (ms)."""

    def note_repaired(self, opened_ms: int) -> None:
        """Rollups count what all chunks up to this one did."""

    def newest_ms(self) -> int:
        """When the newest chunk of all was opened; 0 if none was."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one incarnation of the topic: raw_events, dead_letters, replay_plan, and figures per minute."""

    events: StoredEvents
    letters: LetterStore
    plans: ReplayBooks
    minutes: BookReader
