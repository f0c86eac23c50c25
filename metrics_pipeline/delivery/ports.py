"""What deliveries and replays need of the tables. ClickHouse implements it; so does a model in the tests."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import polars as pl

from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch
from metrics_pipeline.ledger.entry import LedgerEntry


class Warehouse(Protocol):
    """The tables. Every insert of a token happens once, however often it is sent, or, after a failure, not at all.

    All methods raise ClickHouseUnavailableError where a repeat may help: the server may have done what was asked.
    """

    def existing(self, events: pl.DataFrame, batch: Sequence[OffsetRange]) -> pl.DataFrame:
        """The identities (columns event.IDENTITY) among `events` that are stored by other batches than this one.

        With no ranges: by any batch.
        """

    def insert_events(self, events: pl.DataFrame, token: str) -> None:
        """Add to raw_events and, through the view, to rollup_1m.

        Raises RejectedError if the server refuses a row for its content; then nothing was added. Raises
        ForeignViewError if another view throws; then everything was.
        """

    def own(self, events: pl.DataFrame) -> pl.DataFrame:
        """Those of `events` that raw_events holds from their own messages."""

    def remove_events(self, events: pl.DataFrame) -> None:
        """Delete from raw_events, not from rollups, the rows of these events that their own messages brought."""

    def insert_dead_letters(self, dead_letters: pl.DataFrame, token: str) -> None:
        """Add to dead_letters."""

    def missing_dead_letters(self, dead_letters: pl.DataFrame) -> pl.DataFrame:
        """Those of them that dead_letters does not hold."""

    def insert_ledger_entry(self, entry: LedgerEntry, token: str) -> None:
        """Add to batches, under the entry's own token or another one."""

    def has_ledger_entry(self, token: str) -> bool:
        """Did this batch land to its end?"""

    def remembers(self, since_ms: int) -> bool:
        """Are the tokens of all inserts since then (the server's wall clock, epoch milliseconds) still known?"""

    def ledger_ends(self, partitions: Sequence[int]) -> Mapping[str, Mapping[int, int]]:
        """Topic id -> partition -> the offset that the ledger accounts up to, for every id that the topic ever had."""


class StoredEvents(Protocol):
    """Rows of raw_events, by what they are and where they come from. Raises ClickHouseUnavailableError."""

    def of(self, events: pl.DataFrame) -> pl.DataFrame:
        """Identities among `events` that raw_events has, each with the messages that it has them from."""

    def at(self, ranges: Sequence[OffsetRange], first: datetime, last: datetime, *, with_content: bool) -> pl.DataFrame:
        """Rows (ROW_SCHEMA) of messages in these ranges, with times from `first` to `last`; without content it is 0."""

    def contents(self, events: pl.DataFrame) -> pl.DataFrame:
        """The content (columns POSITION, CONTENT) that rows of these events have."""

    def remove(self, chunk: OpenBatch) -> bool:
        """Have the rows removed that the chunk's plan says; False when none of them is left. To be called again."""
