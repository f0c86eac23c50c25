"""What a replay of hours finds: reads the topic and the tables, changes nothing. Common to a dry run and a replay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import polars as pl

from metrics_pipeline.delivery.chunk import ORIGIN
from metrics_pipeline.delivery.stored import ROW_SCHEMA
from metrics_pipeline.drain.ranges import UNLIMITED, RangeReader
from metrics_pipeline.event.contract import IDENTITY, NO_DEAD_LETTERS, NO_EVENTS
from metrics_pipeline.event.decode import Decoded
from metrics_pipeline.event.decode.frame import lineage_frame
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import Commit, OffsetRange, OpenBatch
from metrics_pipeline.kafka.ports import Log
from metrics_pipeline.ledger.minutes import Look, Scope
from metrics_pipeline.replay.hours import HourPlan, plan_hour, with_accounts
from metrics_pipeline.replay.plan import (
    Found,
    LostLetters,
    Mode,
    Window,
    closed_until,
    deficits,
    examine,
    make_plan,
    minutes_of_events,
    rows_of_events,
    rows_of_messages,
    still_to_land,
    without_letters,
    without_right_row,
    wrong_rows,
)
from metrics_pipeline.replay.ports import Tables
from metrics_pipeline.runtime.run import Run
from metrics_pipeline.runtime.timerange import HOUR_SECONDS

LOOKS = 5
PAUSE_SECONDS = 0.5
"""Between looks at a minute that batches land in: longer than one usually takes."""
NAMED_MINUTES = 200

NO_ROWS = pl.DataFrame(schema=ROW_SCHEMA)


@dataclass(frozen=True, slots=True)
class Read:
    """Messages, and what the rules say of each."""

    messages: Messages
    decoded: Decoded


@dataclass(frozen=True, slots=True)
class Diff:
    """Reads for one replay. Not thread-safe: one thread calls it."""

    log: Log
    tables: Tables
    run: Run
    committed: Callable[[], Mapping[int, Commit]]
    on_their_way: Callable[[], Sequence[OpenBatch]]

    def hour(self, start_seconds: int) -> HourPlan:
        """Which offsets an hour is, and whose they are."""
        log, end_seconds = self.log, start_seconds + HOUR_SECONDS
        partitions = log.partitions()
        starts = self.run.retry.call(lambda: log.offsets_at(partitions, start_seconds * 1_000))
        ends = self.run.retry.call(lambda: log.offsets_at(partitions, end_seconds * 1_000))
        marks = self.run.retry.call(lambda: log.watermarks(partitions))
        commits = self.run.retry.call(self.committed)
        whole = plan_hour(start_seconds, starts, ends, marks, commits, self.log.topic_id)
        accounted = self.run.retry.call(lambda: self.tables.plans.accounted(whole.ranges)) if whole.ranges else ()
        lows = {p: m.low for p, m in marks.items()}
        dropped = self.run.retry.call(lambda: self.tables.plans.dropped(lows, start_seconds, end_seconds))
        return with_accounts(whole, accounted, dropped)

    def held(self, ranges: Sequence[OffsetRange]) -> tuple[OffsetRange, ...]:
        """What the log still holds of these ranges."""
        marks = self.run.retry.call(lambda: self.log.watermarks(sorted({r.partition for r in ranges})))
        clipped = (OffsetRange(r.partition, min(max(r.start, marks[r.partition].low), r.end), r.end) for r in ranges)
        return tuple(r for r in clipped if r.offsets)

    def read(self, ranges: Sequence[OffsetRange], rules: Rules) -> Read:
        """All messages of ranges that the log holds, one per partition."""
        if not ranges:
            return Read(Messages.concat(()), Decoded(NO_EVENTS, NO_DEAD_LETTERS))
        batch = RangeReader(self.log, self.run, rules, ranges).next(UNLIMITED)
        return Read(
            Messages.concat(batch.messages),
            Decoded(pl.concat([NO_EVENTS, *batch.events]), pl.concat([NO_DEAD_LETTERS, *batch.dead_letters])),
        )

    def examine(self, read: Read, ranges: Sequence[OffsetRange], mode: Mode, now_ms: int) -> tuple[Found, int]:
        """What has to change for messages of these ranges; and how many dead letters among them are good today."""
        origins = lineage_frame(read.messages)
        letters = self.run.retry.call(lambda: self.tables.letters.within(self.log.topic_id, ranges))
        decoded = without_letters(read.decoded, letters)
        if mode is Mode.FILL:
            stored = self.stored(decoded.events)
            window = Window(origins, self._rows_of(decoded, stored, ranges), letters, decoded)
            wrong = NO_ROWS
        else:
            window = Window(origins, self._rows_at(origins, ranges, with_content=True), letters, decoded)
            wrong = wrong_rows(window, self.run.retry.call(lambda: self.tables.events.contents(decoded.events)))
            stored = self.stored(without_right_row(window, wrong))
        found = examine(window, wrong, stored, mode, closed_until(now_ms))
        return found, len(read.decoded.events.join(still_to_land(window), on=ORIGIN, how="semi"))

    def plan(self, found: Found, ranges: Sequence[OffsetRange], mode: Mode) -> pl.DataFrame:
        """The changes, with the accounts that they change."""
        lost: Sequence[LostLetters] = ()
        if len(found.bad):
            first, last = times_of(found.bad)
            lost = self.run.retry.call(lambda: self.tables.plans.lost_letters(ranges, first, last))
        return make_plan(found, lost, self._deficits(found), mode)

    def _rows_of(self, decoded: Decoded, stored: pl.DataFrame, ranges: Sequence[OffsetRange]) -> pl.DataFrame:
        """Rows by what they are; by where they come from, which costs more, only for messages without such a row."""
        missing = decoded.events.join(stored, on=IDENTITY, how="anti")
        doubtful = pl.concat([frame.select(ORIGIN) for frame in (missing, decoded.dead_letters)])
        by_origin = self._rows_at(doubtful, ranges, with_content=False)
        return pl.concat([rows_of_events(decoded.events, stored), by_origin])

    def _rows_at(self, origins: pl.DataFrame, ranges: Sequence[OffsetRange], *, with_content: bool) -> pl.DataFrame:
        if not len(origins):
            return NO_ROWS
        first, last = times_of(origins)
        found = self.run.retry.call(lambda: self.tables.events.at(ranges, first, last, with_content=with_content))
        return rows_of_messages(found, origins)

    def stored(self, events: pl.DataFrame) -> pl.DataFrame:
        """What raw_events has of these identities, each with its message."""
        return self.run.retry.call(lambda: self.tables.events.of(events))

    def _deficits(self, found: Found) -> Mapping[int, int]:
        """Minute -> events that the ledger has accounted for and raw_events lacks; only minutes that can be judged."""
        pending = minutes_of_events(found.insert)
        judged: dict[int, int] = {}
        for at in range(LOOKS):
            if not pending:
                break
            if at:
                self.run.clock.sleep(PAUSE_SECONDS)
            known, pending = self._look(pending)
            judged |= known
        return judged

    def _look(self, minutes: frozenset[int]) -> tuple[dict[int, int], frozenset[int]]:
        """The deficits of the minutes that nothing lands in right now, and the others."""
        scope = Scope.around(minutes, NAMED_MINUTES)
        books, retry = self.tables.minutes, self.run.retry
        before = retry.call(lambda: books.ledger_minutes(scope))
        distinct = retry.call(lambda: books.raw_minutes(scope, distinct=True))
        ranges = [r for batch in retry.call(self.on_their_way) for r in batch.ranges]
        in_flux = retry.call(lambda: books.open_minutes(scope, ranges)) if ranges else frozenset()
        after = retry.call(lambda: books.ledger_minutes(scope))
        return deficits(Look(before, distinct, distinct, after), minutes, in_flux)


def times_of(messages: pl.DataFrame) -> tuple[datetime, datetime]:
    """The first and the last time of messages, of which there is at least one."""
    times = messages["kafka_timestamp"]
    return cast("datetime", times.min()), cast("datetime", times.max())
