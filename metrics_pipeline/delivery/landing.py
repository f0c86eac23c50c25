"""Inserting the rows of an open batch, whatever opened it: the only search for rows that the server refuses.

The rows are inserted under the batch's token. Where the server refuses some for their content, they are inserted part
by part, each part under a token of its own, and what the server said is committed before the next part is sent. Whoever
finds the batch open repeats all of that; what had landed is recognised by the tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import partial

import polars as pl

from metrics_pipeline.delivery.bisection import Bisection, Slice
from metrics_pipeline.delivery.chunk import ORIGIN, PLACE, POSITION, own_rows, placed, stored_elsewhere
from metrics_pipeline.delivery.inserting import Inserting
from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.ports import Warehouse
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.errors import RejectedError, StopError
from metrics_pipeline.event.contract import DEAD_LETTER_SCHEMA, IDENTITY, MAX_PAYLOAD_BYTES, Reason
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.intents import Commit, OpenBatch
from metrics_pipeline.runtime.run import Run

Record = Callable[[OpenBatch], Mapping[int, Commit]]
"""The commits that put a batch on record."""

UNKNOWN_ERROR = "the server refused the row before the run was interrupted"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to insert, in order, each with its place in the column PLACE: one of [0, places), fixed by the batch.

    With `is_repeat` an earlier run may have inserted them.
    """

    frame: pl.DataFrame
    places: int
    is_repeat: bool

    def of(self, part: Slice) -> pl.DataFrame:
        if part.rows == self.places:
            return self.frame
        return self.frame.filter(pl.col(PLACE).is_between(part.start, part.end, closed="left"))


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows that the server refused one by one: their places, and its words where this run heard them."""

    places: tuple[int, ...] = ()
    errors: dict[int, str] = field(default_factory=dict)

    def dead_letters(self, messages: Iterable[Messages], rows: pl.DataFrame) -> pl.DataFrame:
        """A dead letter for each of `rows` (with PLACE) that was refused, with its message as it was."""
        refused = rows.filter(pl.col(PLACE).is_in(list(self.places)))
        positions = list(refused.select(POSITION).iter_rows())
        payloads = _payloads(messages, set(positions))
        return refused.select(
            *ORIGIN,
            pl.lit(Reason.REFUSED.value).alias("reason"),
            pl.Series("detail", [self.errors.get(place, UNKNOWN_ERROR) for place in refused[PLACE]], pl.String),
            "service",
            pl.Series("payload", [payloads[position][:MAX_PAYLOAD_BYTES] for position in positions], pl.Binary),
        ).cast(DEAD_LETTER_SCHEMA)


def refused_before(opened: OpenBatch, places: int) -> Refused:
    """What the batch's search bits say: of a search that has come to its end, all rows that were refused."""
    return Refused(Bisection(places, opened.search_bits).refused)


@dataclass(frozen=True, slots=True)
class Landing:
    """Inserts the rows of open batches of one owner, one batch after the other. Not thread-safe."""

    ownership: Ownership
    run: Run
    record: Record

    @property
    def inserting(self) -> Inserting:
        return Inserting(self.ownership, self.run.retry)

    def insert(self, warehouse: Warehouse, opened: OpenBatch, rows: Rows) -> Refused:
        """Insert all rows that the server takes."""
        search, errors = Bisection(rows.places, opened.search_bits), dict[int, str]()
        while (part := search.next) is not None:
            try:
                self._insert_part(warehouse, opened, part, rows)
            except RejectedError as error:
                self._assure_nothing_landed(warehouse, rows.of(part), error)
                errors[part.start] = str(error)
                search.note(is_refused=True)
                self._note_search_bits(opened, search, error)
            else:
                search.note(is_refused=False)
        return Refused(search.refused, errors)

    def insert_chunk(
        self,
        warehouse: Warehouse,
        chunk: OpenBatch,
        events: pl.DataFrame,
        stored: pl.DataFrame,
        *,
        only_missing: bool,
        is_repeat: bool,
    ) -> Refused:
        """Insert the events of a replay's chunk that no other message brought; `stored` is what raw_events has of them.

        With `only_missing` without those that an earlier try landed: the server may have forgotten their token.
        """
        unwanted = stored_elsewhere(events, stored)
        if only_missing:
            unwanted = pl.concat([unwanted, own_rows(events, stored)])
        wanted = events.join(unwanted, on=ORIGIN, how="anti")
        return self.insert(warehouse, chunk, Rows(placed(chunk, wanted), chunk.offsets, is_repeat))

    def _insert_part(self, warehouse: Warehouse, opened: OpenBatch, part: Slice, rows: Rows) -> None:
        events = rows.of(part).drop(PLACE)
        if not len(events):
            return
        token = opened.token if part.rows == rows.places else part.token(opened.token)
        missing = partial(not_stored, warehouse)
        self.run.observe(Step.EVENTS)
        self.inserting.insert(events, token, warehouse.insert_events, missing, is_repeat=rows.is_repeat)

    def _assure_nothing_landed(self, warehouse: Warehouse, rows: pl.DataFrame, error: RejectedError) -> None:
        """A part that has landed must not be cut, though the server refuses it now: a rule may have come since."""
        stored = self.run.retry.call(lambda: warehouse.own(rows))
        if len(stored):
            # If a newer run inserted these rows, we were fenced: end quietly instead of reporting an error.
            self.ownership.prove_now()
            raise StopError(
                f"the server refuses rows that are in raw_events already ({len(stored)} of {len(rows)}): {error}; "
                "a constraint came after them: drop it, the next run goes on"
            ) from error

    def _note_search_bits(self, opened: OpenBatch, search: Bisection, error: RejectedError) -> None:
        if search.is_exhausted:
            raise StopError(
                f"the server refuses too many rows of one batch, {len(search.refused)} so far, the last one {error}: "
                "mend the constraint that refuses them, the next run goes on"
            ) from error
        self.run.observe(Step.SEARCH)
        self.ownership.commit(self.record(opened.found_until(search.search_bits)))


def not_stored(warehouse: Warehouse, events: pl.DataFrame) -> pl.DataFrame:
    """Those that no batch has stored, neither this one in an earlier attempt nor another message."""
    return events.join(warehouse.existing(events, ()), on=IDENTITY, how="anti", maintain_order="left")


def _payloads(messages: Iterable[Messages], positions: Set[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """(partition, offset) -> value of the message there."""
    return {
        (partition, offset): value or b""
        for chunk in messages
        for partition, offset, value in zip(chunk.partitions, chunk.offsets, chunk.values, strict=True)
        if (partition, offset) in positions
    }
