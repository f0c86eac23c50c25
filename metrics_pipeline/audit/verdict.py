"""The verdict of an audit: figures in, contradictions out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch
from metrics_pipeline.ledger.entry import PartitionAccount
from metrics_pipeline.ledger.minutes import MinuteDrift
from metrics_pipeline.rollups.grains import UNIT
from metrics_pipeline.runtime.timerange import HOUR_SECONDS, minute_name

LONGEST_LIST = 1_000
"""Most contradictions of a kind that an audit lists."""


@dataclass(frozen=True, slots=True, order=True)
class PartitionKey:
    """A partition of one incarnation of a topic: a topic that is recreated has the same name and another id."""

    topic: str
    topic_id: str
    partition: int


class Counts(NamedTuple):
    """What became of offsets, summed over ledger rows."""

    offsets: int = 0
    consumed: int = 0
    inserted: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    skipped: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class PartitionTotals:
    """What the ledger says of one partition: [start, end) of all of its rows, `counts` of those in scope.

    `deferred` is what it skipped and no row covers, at the same instant; `letters_gone` are dead letters among them
    that retention may have dropped.
    """

    key: PartitionKey
    start: int
    end: int
    counts: Counts
    deferred: tuple[OffsetRange, ...] = ()
    letters_gone: int = 0

    @property
    def letters_kept(self) -> int:
        return self.counts.dead_letters - self.letters_gone


@dataclass(frozen=True, slots=True)
class BrokenAccount:
    """A partition's account in a ledger row that doesn't balance, with the number of offsets not explained."""

    batch: str
    account: PartitionAccount
    skipped: int


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A ledger row whose sums contradict: per row, per partition and per minute."""

    batch: str
    inserted: int
    partition_inserted: int
    minute_inserted: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger at one instant: sums per partition, and what contradicts within it (bounded lists).

    `replayed` dead letters landed later; they are `dead_letters` here, and not `inserted`.
    """

    totals: tuple[PartitionTotals, ...] = ()
    gaps: tuple[OffsetRange, ...] = ()
    overlaps: tuple[OffsetRange, ...] = ()
    lost: tuple[OffsetRange, ...] = ()
    broken_accounts: tuple[BrokenAccount, ...] = ()
    broken_rows: tuple[BrokenRow, ...] = ()
    replayed: int = 0
    added_dead_letters: tuple[int, int] = (0, 0)
    """Dead letters that replays made of other messages: by the ledger, and rows of dead_letters."""

    @property
    def counts(self) -> Counts:
        """Of all partitions."""
        return Counts(*map(sum, zip(*(t.counts for t in self.totals), strict=True)))

    def deferred(self, topic_id: str) -> tuple[OffsetRange, ...]:
        """What was skipped of this incarnation of the topic, and no backfill has landed yet."""
        return tuple(r for t in self.totals if t.key.topic_id == topic_id for r in t.deferred)


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger, the topic and the tables say, each by itself.

    `drifting_minutes` is a bounded list of the `drifting` minutes that are settled and contradict; `rollup_drift` sums
    over all of them the requests that rollup_1m counts too many or too few. Minutes in flight were touched by batches
    that landed during every look. What is `deferred` was skipped on purpose, and a backfill will land it: no
    contradiction. Minutes before `compared_from` are not compared: retention dropped events.
    """

    ledger: Ledger
    tail: tuple[OffsetRange, ...] = ()
    deferred: tuple[OffsetRange, ...] = ()
    dead_letter_rows: Mapping[PartitionKey, int] = field(default_factory=dict)
    ledger_events: int = 0
    raw_rows: int = 0
    rollup_requests: int = 0
    drifting: int = 0
    drifting_minutes: tuple[MinuteDrift, ...] = ()
    rollup_drift: int = 0
    raw_doubles: int = 0
    minutes_in_flight: tuple[int, ...] = ()
    open_batches: tuple[OpenBatch, ...] = ()
    compared_from: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit's answer: a sentence for each contradiction, none if the books are exact.

    `rollup_problems` are those of rollup_1m alone.
    """

    books: Books
    problems: tuple[str, ...]
    rollup_problems: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        return not self.problems

    @property
    def deferred_offsets(self) -> int:
        return sum(r.offsets for r in self.books.deferred)


def unaccounted_tail(ledger: Ledger, topic_id: str, committed: Mapping[int, int]) -> tuple[OffsetRange, ...]:
    """Offsets that are committed as done, but lie behind the last row of the ledger.

    `committed` must have been read before the ledger: an offset is committed only after its row has landed.
    """
    ends = {t.key.partition: t.end for t in ledger.totals if t.key.topic_id == topic_id}
    return tuple(
        OffsetRange(p, ends[p], offset) for p, offset in sorted(committed.items()) if p in ends and offset > ends[p]
    )


def judge(books: Books) -> Verdict:
    """Compare every figure with every other that must equal it."""
    ledger = books.ledger
    problems = [
        f"lost to retention: {_named(r)}: raise the topic's retention or drain sooner; the events are gone"
        for r in ledger.lost
    ]
    problems += [
        f"gap in the ledger: {_named(r)} are committed as done but in no row: re-read them if the topic still has them"
        for r in (*ledger.gaps, *books.tail)
    ]
    problems += [
        f"twice in the ledger: {_named(r)}: offsets were moved back by hand, or a row was written by something else"
        for r in ledger.overlaps
    ]
    problems += [_broken_account(b) for b in ledger.broken_accounts]
    problems += [_broken_row(b) for b in ledger.broken_rows]
    problems += [
        f"partition {t.key.partition}: {t.letters_kept} dead letters in the ledger, but dead_letters has {found} rows: "
        "look for deletes in system.mutations; `metrics-pipeline replay` restores them"
        for t in ledger.totals
        if (found := books.dead_letter_rows.get(t.key, 0)) != t.letters_kept
    ]
    added, rows = ledger.added_dead_letters
    if added != rows:
        problems.append(
            f"replays made {added} dead letters by the ledger, but dead_letters has {rows} of them: look for deletes "
            "in system.mutations"
        )
    rollup_problems = tuple(_drift(m) for m in books.drifting_minutes if m.raw != m.rollup)
    problems += [_drift(m) for m in books.drifting_minutes]
    if books.drifting > len(books.drifting_minutes):
        problems.append(
            f"{books.drifting - len(books.drifting_minutes)} more minutes contradict: audit parts of them with --range"
        )
    return Verdict(books, tuple(problems), rollup_problems)


def _broken_account(broken: BrokenAccount) -> str:
    a = broken.account
    where = f"batch {broken.batch}, {_named(a.range)}"
    landed = a.inserted + a.duplicates + a.dead_letters
    if landed != a.consumed:
        return f"{where}: {a.consumed} consumed, but {landed} inserted, duplicate or dead: the ledger row was changed"
    accounted = a.consumed + broken.skipped + a.lost
    return f"{where}: {a.range.offsets} offsets, but {accounted} consumed, skipped or lost: the ledger row was changed"


def _broken_row(broken: BrokenRow) -> str:
    return (
        f"batch {broken.batch}: {broken.inserted} inserted, but {broken.partition_inserted} by its partitions, "
        f"{broken.minute_inserted} by its minutes: the ledger row was changed"
    )


def _drift(m: MinuteDrift) -> str:
    doubled = f" ({m.doubles} more than once)" if m.doubles else ""
    said = f"minute {minute_name(m.minute)}: {m.ledger} in the ledger, {m.raw} in raw_events{doubled}, {m.rollup} in "
    return f"{said}rollup_1m: {_advice(m)}"


def _advice(m: MinuteDrift) -> str:
    day = f"{datetime.fromtimestamp(m.minute, UTC):%Y%m%d}"
    if m.doubles:
        return (
            f"something else inserted into raw_events; OPTIMIZE TABLE raw_events PARTITION {day} FINAL drops the "
            f"doubles, then {_rebuilding(m.minute)}"
        )
    if m.raw == m.ledger:
        return _rebuilding(m.minute)
    if m.raw == m.rollup:
        return (
            "both tables against the ledger: a ledger row was lost or changed, or something else inserts"
            f"{f', or both lost rows: {_replaying(m.minute)}' if m.raw < m.ledger else ''}"
        )
    if m.raw < m.ledger:
        return (
            "rows are missing in raw_events: look for deletes in system.mutations, restore them from the topic: "
            f"{_replaying(m.minute)}"
        )
    return "rows in raw_events that no batch inserted: look for other writers in system.query_log"


def _replaying(minute: int) -> str:
    hour = minute // HOUR_SECONDS * HOUR_SECONDS
    return (
        f"`metrics-pipeline replay --from {minute_name(hour)} --to {minute_name(hour + HOUR_SECONDS)}` (in "
        "which the messages came, if they came late)"
    )


def _rebuilding(minute: int) -> str:
    unit = UNIT.floor(minute)
    return (
        "rebuild the minute in rollup_1m from raw_events: `metrics-pipeline rollups rebuild --from-raw "
        f"--from {minute_name(unit)} --to {minute_name(unit + UNIT.seconds)}`"
    )


def _named(r: OffsetRange) -> str:
    return f"partition {r.partition}, offsets {r.start} to {r.end - 1}"
