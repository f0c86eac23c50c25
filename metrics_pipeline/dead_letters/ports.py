"""What replays of dead letters read and write."""

from collections.abc import Sequence
from typing import Protocol

import polars as pl

from metrics_pipeline.dead_letters.judge import LetterFilter
from metrics_pipeline.kafka.intents import OffsetRange


class LetterStore(Protocol):
    """Dead letters, in the version that the last replay left. All methods raise ClickHouseUnavailableError."""

    def count(self, wanted: LetterFilter) -> int:
        """How many letters match and have neither landed nor proved duplicates."""

    def page(self, wanted: LetterFilter, after: tuple[str, int, int] | None) -> pl.DataFrame:
        """The next of them (LETTER_SCHEMA), in the order of (topic_id, partition, offset), of one topic_id.

        Bounded in letters and bytes; empty at the end.
        """

    def at(self, topic_id: str, positions: Sequence[tuple[int, int]]) -> pl.DataFrame:
        """The letters (LETTER_SCHEMA) at these (partition, offset), whatever became of them."""

    def within(self, topic_id: str, ranges: Sequence[OffsetRange]) -> pl.DataFrame:
        """Positions and outcomes (LETTERS_SCHEMA) of the letters in these ranges."""

    def add(self, topic_id: str, letters: pl.DataFrame, token: str) -> None:
        """Add letters (DEAD_LETTER_SCHEMA and `batch`), once for each token."""

    def mark(self, topic_id: str, marks: pl.DataFrame, now_ms: int) -> None:
        """Note outcomes (MARK_SCHEMA). Idempotent; one that has landed or is a duplicate stays so."""
