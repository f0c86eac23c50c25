"""What an audit reads."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import polars as pl

from metrics_pipeline.audit.verdict import Ledger, PartitionKey, PartitionTotals
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.minutes import Scope


class BookReader(Protocol):
    """What an audit reads of the tables. Each call reads its table at one instant."""

    def ledger(self, scope: Scope) -> Ledger:
        """Sums and contradictions of the ledger: of the rows that touch `scope`; gaps and overlaps of all rows."""
        ...

    def dead_letters(self, totals: Sequence[PartitionTotals], scope: Scope) -> Mapping[PartitionKey, int]:
        """Rows of dead_letters within the ledger's [start, end) per partition, of the batches that touch `scope`."""
        ...

    def ledger_minutes(self, scope: Scope) -> pl.DataFrame:
        """Events inserted per minute, by the ledger (minutes.COUNTS_SCHEMA)."""
        ...

    def raw_minutes(self, scope: Scope, *, distinct: bool = False) -> pl.DataFrame:
        """Rows of raw_events per minute (minutes.COUNTS_SCHEMA), or events, each counted once."""
        ...

    def rollup_minutes(self, scope: Scope) -> pl.DataFrame:
        """Requests that rollup_1m counts per minute (minutes.COUNTS_SCHEMA)."""
        ...

    def landed(self, tokens: Sequence[str]) -> frozenset[str]:
        """Those of these batches that the ledger has."""
        ...

    def open_minutes(self, scope: Scope, ranges: Sequence[OffsetRange]) -> frozenset[int]:
        """Minutes in `scope` in which raw_events has rows of these ranges of offsets."""
        ...

    def replayed_minutes(self, scope: Scope) -> frozenset[int]:
        """Minutes in `scope` that a replay of hours is changing, or has changed without repairing the rollups yet."""
        ...
