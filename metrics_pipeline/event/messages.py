"""Messages as they come from the log, column by column: four lists are cheaper than an object per message."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages in the order in which they were read; all lists have the same length.

    `timestamps_ms` is the time that the log holds for each (epoch milliseconds; 0 or less where it has none);
    a value of None is a tombstone.
    """

    partitions: list[int]
    offsets: list[int]
    timestamps_ms: list[int]
    values: list[bytes | None]

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self._columns}
        if len(lengths) != 1:
            raise ValueError(f"columns of messages differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(*(column[rows] for column in self._columns))

    @property
    def size_bytes(self) -> int:
        """Bytes of all values."""
        return sum(len(value) for value in self.values if value is not None)

    @classmethod
    def concat(cls, parts: Iterable["Messages"]) -> Self:
        """All messages of `parts`, in order."""
        joined = cls([], [], [], [])
        for part in parts:
            for column, more in zip(joined._columns, part._columns, strict=True):
                column.extend(more)
        return joined

    def before(self, ends: Mapping[int, int]) -> Self:
        """The messages that lie before `ends` (partition -> offset); none of partitions that aren't in it."""
        kept = [offset < ends.get(p, 0) for p, offset in zip(self.partitions, self.offsets, strict=True)]
        return type(self)(*(list(compress(column, kept)) for column in self._columns))

    def next_offsets(self) -> dict[int, int]:
        """partition -> offset behind its last message."""
        return {p: offset + 1 for p, offset in zip(self.partitions, self.offsets, strict=True)}

    @property
    def _columns(self) -> tuple[list[Any], ...]:
        return self.partitions, self.offsets, self.timestamps_ms, self.values
