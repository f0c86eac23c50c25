"""Which rows of a batch does the server refuse? A search that lands everything else, and that can be interrupted.

A block that the server refuses for its content is cut in two, and each part is inserted by itself, until the refused
rows are single. Parts are slices of the batch's rows in their fixed order, so they depend on the batch's range and on
the search bits before, and on nothing else. Whoever continues the search sends the same parts under the same tokens.

The cut is at the golden ratio, the smaller part first: where the smaller part lands, the larger one must hold the
refused row and is cut without being tried. One refused row among 100,000 is found within 26 inserts; halves would need
up to 35.
Source: the Fibonacci search (Kiefer 1953), for a bad outcome that costs one try more than a good one.
"""

from dataclasses import dataclass, replace

SMALLER_SHARE = 0.381966
LARGEST_SEARCH_BITS = 12_000
"""As many fit into the metadata of an offset: 4 bits a character, 4,096 characters less the other fields."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows [start, end) of the batch."""

    start: int
    end: int

    @property
    def rows(self) -> int:
        return self.end - self.start

    def token(self, batch_token: str) -> str:
        """The batch's token with the rows: another block than any other slice's."""
        return f"{batch_token}:{self.start}-{self.end}"


@dataclass(frozen=True, slots=True)
class _Part:
    """A slice that waits. `is_first`: the next one that waits is the other part of the same cut."""

    slice: Slice
    is_first: bool = False
    holds_refused: bool = False


class Bisection:
    """The search, from its beginning or from the bits of an earlier one. Pure: the caller inserts.

    A bit is 1 where the server refused a slice. Raises ValueError for bits that a search of `rows` rows can't make.
    """

    def __init__(self, rows: int, search_bits: str = "") -> None:
        self._search_bits = ""
        self._refused: list[int] = []
        self._waiting = [_Part(Slice(0, rows))] if rows else []
        for bit in f"{int(search_bits, 16):b}"[1:] if search_bits else "":
            if self.next is None:
                raise ValueError(f"there are more search bits than {rows} rows can have")
            self.note(is_refused=bit == "1")

    @property
    def next(self) -> Slice | None:
        """The slice to insert now; None when every row has landed or is refused."""
        return self._waiting[-1].slice if self._waiting else None

    @property
    def refused(self) -> tuple[int, ...]:
        """Rows that the server refused one by one, ascending."""
        return tuple(self._refused)

    @property
    def is_exhausted(self) -> bool:
        """There are more bits than the metadata of an offset has room for."""
        return len(self._search_bits) > LARGEST_SEARCH_BITS

    @property
    def search_bits(self) -> str:
        """All bits so far, packed, for `Bisection(rows, search_bits)` to go on from; empty before the first."""
        return f"{int('1' + self._search_bits, 2):x}" if self._search_bits else ""

    def note(self, *, is_refused: bool) -> None:
        """What became of `next`."""
        tried = self._waiting.pop()
        self._search_bits += "1" if is_refused else "0"
        if is_refused and tried.slice.rows == 1:
            self._refused.append(tried.slice.start)
        elif is_refused:
            self._cut(tried.slice)
        elif tried.is_first:
            self._waiting[-1] = replace(self._waiting[-1], holds_refused=True)
        # A single row is tried even so: only what the server says of it alone makes it a dead letter.
        while self._waiting and self._waiting[-1].holds_refused and self._waiting[-1].slice.rows > 1:
            self._cut(self._waiting.pop().slice)

    def _cut(self, whole: Slice) -> None:
        middle = whole.start + max(1, round(whole.rows * SMALLER_SHARE))
        self._waiting += [_Part(Slice(middle, whole.end)), _Part(Slice(whole.start, middle), is_first=True)]
