"""Landing the rows of a chunk: what every replay has in common, wherever its messages come from.

A chunk is open from the commit that puts it on record to the one that takes it off. In between its rows are inserted
under its token, part by part where the server refuses some; each verdict is committed before the next part is sent.
Whoever finds a chunk open repeats all of that; what had landed is recognised by the token.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl

from metrics_pipeline.delivery.bisection import Bisection, Slice
from metrics_pipeline.delivery.chunk import PLACE, SLOT, Chunk, closing, encode_chunk, own_rows, placed
from metrics_pipeline.delivery.inserting import Inserting
from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.ports import StoredEvents, Warehouse
from metrics_pipeline.delivery.steps import ReplayStep
from metrics_pipeline.errors import RejectedError, StopError
from metrics_pipeline.event.contract import IDENTITY
from metrics_pipeline.runtime.retry import Retry

DOUBLED = (
    "%d events landed from other messages in the same moment and are stored twice: a sender repeated what is being "
    "replayed; `metrics-pipeline audit --deep` names the minutes"
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows that the server refused one by one: their places, and its words where this run heard them."""

    places: tuple[int, ...] = ()
    errors: dict[int, str] = field(default_factory=dict)


def refused_before(chunk: Chunk) -> Refused:
    """What the chunk's verdicts say: of a search that has come to its end, all rows that were refused."""
    return Refused(Bisection(chunk.positions, chunk.search_bits).refused)


class Landing:
    """Lands chunks of one side group, one after the other. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        ownership: Ownership,
        stored: StoredEvents,
        retry: Retry,
        observe: Callable[[ReplayStep], None],
    ) -> None:
        self._ownership = ownership
        self._stored = stored
        self._retry = retry
        self._observe = observe
        self.inserting = Inserting(ownership, retry)

    def open(self, chunk: Chunk) -> None:
        self._observe(ReplayStep.INTENT)
        self._ownership.commit({SLOT: encode_chunk(chunk)})

    def close(self, chunk: Chunk) -> None:
        self._observe(ReplayStep.CLOSE)
        self._ownership.commit({SLOT: closing(chunk)})

    def insert(self, warehouse: Warehouse, chunk: Chunk, rows: pl.DataFrame, *, is_repeat: bool) -> Refused:
        """Insert `rows` (of messages of the chunk), part by part where the server refuses some.

        `is_repeat`: an earlier run left the chunk open.
        """
        numbered = placed(chunk, rows)
        search, errors = Bisection(chunk.positions, chunk.search_bits), dict[int, str]()
        while (part := search.next) is not None:
            of_part = numbered.filter(pl.col(PLACE).is_between(part.start, part.end, closed="left"))
            try:
                self._insert_part(warehouse, chunk, part, of_part, is_repeat=is_repeat)
            except RejectedError as error:
                self._assure_nothing_landed(of_part, error)
                errors[part.start] = str(error)
                search.note(is_refused=True)
                self._note_search_bits(chunk, search, error)
            else:
                search.note(is_refused=False)
        return Refused(search.refused, errors)

    def _insert_part(
        self, warehouse: Warehouse, chunk: Chunk, part: Slice, rows: pl.DataFrame, *, is_repeat: bool
    ) -> None:
        if not len(rows):
            return
        token = chunk.token if part.rows == chunk.positions else part.token(chunk.token)
        self._observe(ReplayStep.EVENTS)
        self.inserting.insert(rows.drop(PLACE), token, warehouse.insert_events, self._not_stored, is_repeat=is_repeat)

    def _not_stored(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.join(self._stored.of(rows), on=IDENTITY, how="anti", maintain_order="left")

    def _assure_nothing_landed(self, rows: pl.DataFrame, error: RejectedError) -> None:
        """A part that has landed must not be cut, though the server refuses it now: a rule may have come since."""
        stored = self._retry.call(lambda: self._stored.of(rows))
        if landed := len(own_rows(rows, stored)):
            self._ownership.prove_anew()
            raise StopError(
                f"the server refuses rows that are in raw_events already ({landed} of {len(rows)}): {error}; a "
                "constraint came after them: drop it, the next replay goes on"
            ) from error

    def _note_search_bits(self, chunk: Chunk, search: Bisection, error: RejectedError) -> None:
        if search.is_exhausted:
            raise StopError(
                f"the server refuses too many rows at once, {len(search.refused)} so far, the last one {error}: mend "
                "the constraint that refuses them, the next replay goes on"
            ) from error
        self._observe(ReplayStep.SEARCH)
        self._ownership.commit({SLOT: encode_chunk(chunk.with_search_bits(search.search_bits))})
