"""The audit beside a pipeline that goes on between any two reads: a model of the protocol, and every interleaving."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_pipeline.audit.run import LOOKS, Audit
from metrics_pipeline.audit.verdict import (
    Books,
    Counts,
    Ledger,
    PartitionKey,
    PartitionTotals,
    Verdict,
    judge,
    unaccounted_tail,
)
from metrics_pipeline.kafka.intents import Commit, Intent, OffsetRange
from metrics_pipeline.ledger.minutes import COUNTS_SCHEMA, EVERYTHING, MinuteDrift, Scope

START = 1_790_000_040
"""A whole minute."""


@dataclass(frozen=True)
class Batch:
    """Minutes of its events, and number of dead letters."""

    minutes: tuple[int, ...]
    dead: int = 0


@dataclass(frozen=True)
class Row:
    minute: int
    partition: int
    offset: int


@dataclass
class LedgerRow:
    token: str
    range: OffsetRange
    minutes: Counter[int]
    dead: int


@dataclass
class Model:
    """Tables, offsets and shards of one partition each; `steps` go on by themselves before each read."""

    shards: Sequence[Sequence[Batch]]
    steps: list[int]
    raw: list[Row] = field(default_factory=list)
    rollup: Counter[int] = field(default_factory=Counter)
    rows: list[LedgerRow] = field(default_factory=list)
    dead: list[tuple[int, int]] = field(default_factory=list)
    commits: dict[int, Commit] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    sleeps: int = 0

    def __post_init__(self) -> None:
        self._running = [self._shard(p, batches) for p, batches in enumerate(self.shards)]

    def _shard(self, partition: int, batches: Sequence[Batch]) -> Iterator[None]:
        """The delivery protocol; the pipeline can stand still at each yield."""
        offset = 0
        for number, batch in enumerate(batches):
            end = offset + len(batch.minutes) + batch.dead
            token = f"{partition}-{number}"
            self.touched |= set(batch.minutes)
            self.commits[partition] = Commit(offset, Intent(end, token), "id")
            yield
            for at, minute in enumerate(batch.minutes):
                # Parts of an insert become visible one by one, and the view's after them.
                self.raw.append(Row(minute, partition, offset + at))
                yield
            self.rollup.update(batch.minutes)
            yield
            self.dead += [(partition, offset + len(batch.minutes) + i) for i in range(batch.dead)]
            yield
            counted = Counter(batch.minutes)
            self.rows.append(LedgerRow(token, OffsetRange(partition, offset, end), counted, batch.dead))
            yield
            offset = end
        self.commits[partition] = Commit(offset, None, "id")

    def finish(self) -> None:
        for shard in self._running:
            for _ in shard:
                pass
        self.touched.clear()

    def go_on(self) -> None:
        for turn in range(self.steps.pop(0) if self.steps else 0):
            next(self._running[turn % len(self._running)], None)

    # Clock

    def monotonic_seconds(self) -> float:
        return 0.0

    def now_ms(self) -> int:
        return 0

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.go_on()

    # BookReader

    def committed(self) -> Mapping[int, Commit]:
        self.go_on()
        return dict(self.commits)

    def ledger(self, scope: Scope) -> Ledger:
        self.go_on()
        totals = []
        for p in range(len(self.shards)):
            rows = [r for r in self.rows if r.range.partition == p]
            inserted, dead = sum(r.minutes.total() for r in rows), sum(r.dead for r in rows)
            end = max((r.range.end for r in rows), default=0)
            offsets = sum(r.range.offsets for r in rows)
            totals += (
                [PartitionTotals(key(p), 0, end, Counts(offsets, inserted + dead, inserted, 0, dead))] if rows else []
            )
        return Ledger(totals=tuple(totals))

    def dead_letters(self, totals: Sequence[PartitionTotals], scope: Scope) -> Mapping[PartitionKey, int]:
        self.go_on()
        ends = {t.key.partition: t.end for t in totals}
        return Counter(key(p) for p, offset in self.dead if offset < ends.get(p, 0))

    def ledger_minutes(self, scope: Scope) -> pl.DataFrame:
        self.go_on()
        noted: Counter[int] = Counter()
        for row in self.rows:
            noted.update(row.minutes)
        return frame(noted, scope)

    def raw_minutes(self, scope: Scope, *, distinct: bool = False) -> pl.DataFrame:
        self.go_on()
        return frame(Counter(r.minute for r in (set(self.raw) if distinct else self.raw)), scope)

    def rollup_minutes(self, scope: Scope) -> pl.DataFrame:
        self.go_on()
        return frame(self.rollup, scope)

    def landed(self, tokens: Sequence[str]) -> frozenset[str]:
        self.go_on()
        return frozenset(r.token for r in self.rows if r.token in tokens)

    def replayed_minutes(self, scope: Scope) -> frozenset[int]:
        return frozenset()

    def open_minutes(self, scope: Scope, ranges: Sequence[OffsetRange]) -> frozenset[int]:
        self.go_on()
        return frozenset(
            at(row.minute)
            for row in self.raw
            if any(row.partition == r.partition and r.start <= row.offset < r.end for r in ranges)
        )


def key(partition: int) -> PartitionKey:
    return PartitionKey("events", "id", partition)


def at(minute: int) -> int:
    return START + 60 * minute


def frame(counts: Mapping[int, int], scope: Scope) -> pl.DataFrame:
    kept = {
        at(m): n
        for m, n in counts.items()
        if n
        and (scope.start_seconds is None or scope.start_seconds <= at(m))
        and (scope.end_seconds is None or at(m) < scope.end_seconds)
        and (not scope.minutes or at(m) in scope.minutes)
    }
    return pl.DataFrame({"minute": list(kept), "events": list(kept.values())}, schema=COUNTS_SCHEMA)


def audited(model: Model, *, deep: bool = False) -> Verdict:
    return Audit(model, model.committed, "id", model, deep=deep).run(EVERYTHING)


minutes = st.integers(0, 4)
batch = st.builds(Batch, st.lists(minutes, max_size=4).map(tuple), st.integers(0, 2))
batches = st.lists(batch, max_size=12)
some_batches = st.lists(batch, min_size=1, max_size=12)
steps = st.lists(st.integers(0, 16), max_size=60)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(batches, min_size=1, max_size=3), steps)
def test_an_exact_pipeline_is_never_accused_wherever_it_stands_or_goes_on(
    shards: list[list[Batch]], steps: list[int]
) -> None:
    assert audited(Model(shards, steps)).problems == ()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(batches, min_size=1, max_size=3), st.booleans())
def test_an_idle_pipeline_is_judged_in_full_by_one_look(shards: list[list[Batch]], deep: bool) -> None:
    model = Model(shards, [])
    model.finish()
    verdict = audited(model, deep=deep)
    assert verdict.is_ok
    assert verdict.books.minutes_in_flight == ()
    assert verdict.books.open_batches == ()
    assert model.sleeps == 0
    books = verdict.books
    assert books.ledger.counts.inserted == books.ledger_events == books.raw_rows == books.rollup_requests


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    before=some_batches,
    beside=st.lists(some_batches, min_size=1, max_size=2),
    steps=steps,
    where=st.sampled_from(["raw lost", "raw doubled", "rollup", "ledger row lost"]),
    data=st.data(),
)
def test_drift_in_a_minute_that_nothing_touches_is_always_found(
    before: list[Batch], beside: list[list[Batch]], steps: list[int], where: str, data: st.DataObject
) -> None:
    """`before` has landed and is tampered with in one minute; `beside` lands during the audit, in any minute."""
    model = Model([before, *([Batch(()), *shard] for shard in beside)], steps)
    for _ in model._running[0]:
        pass
    model.touched.clear()
    if not model.raw:
        return
    wrong = {data.draw(st.sampled_from(model.raw)).minute}
    victim = next(r for r in model.raw if r.minute in wrong)
    if where == "raw lost":
        model.raw.remove(victim)
    elif where == "raw doubled":
        model.raw.append(victim)
        model.rollup[victim.minute] += 1
    elif where == "rollup":
        model.rollup[victim.minute] -= 1
    else:
        row = next(r for r in model.rows if victim.minute in r.minutes)
        model.rows.remove(row)
        wrong = set(row.minutes)
    verdict = audited(model)
    found = {m.minute for m in verdict.books.drifting_minutes}
    assert {at(m) for m in wrong - model.touched} <= found
    assert found <= {at(m) for m in wrong}, "others are exact"
    assert not verdict.is_ok or wrong <= model.touched
    model.finish()
    assert {m.minute for m in audited(model).books.drifting_minutes} == {at(m) for m in wrong}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(some_batches)
def test_a_batch_left_open_is_in_flight_and_hides_nothing_elsewhere(shard: list[Batch]) -> None:
    model = Model([shard, [Batch((0, 0, 1))]], [])
    for _ in model._running[0]:
        pass
    for _ in range(3):
        next(model._running[1])
    model.rollup[2] += 7
    verdict = audited(model)
    assert verdict.books.minutes_in_flight == (at(0),)
    assert [b.token for b in verdict.books.open_batches] == ["1-0"]
    assert [m.minute for m in verdict.books.drifting_minutes] == [at(2)]
    assert verdict.books.rollup_drift == 7
    assert model.sleeps == LOOKS - 1


def test_a_batch_that_landed_and_was_not_closed_is_judged() -> None:
    model = Model([[Batch((0, 0, 1))]], [])
    while not model.rows:
        next(model._running[0])
    model.rollup[0] += 1
    verdict = audited(model)
    assert verdict.books.open_batches == ()
    assert verdict.books.minutes_in_flight == ()
    assert [m.minute for m in verdict.books.drifting_minutes] == [at(0)]


def test_a_double_that_covers_for_a_lost_row_is_found_by_a_deep_audit_alone() -> None:
    model = Model([[Batch((0, 0))]], [])
    model.finish()
    model.raw[1] = model.raw[0]
    assert audited(model).is_ok
    verdict = audited(model, deep=True)
    assert verdict.books.raw_doubles == 1
    assert "1 more than once" in verdict.problems[0]


def test_the_tail_is_what_is_committed_beyond_the_ledger_of_the_present_topic() -> None:
    def totals(topic_id: str, end: int) -> PartitionTotals:
        return PartitionTotals(PartitionKey("events", topic_id, 0), 0, end, Counts(end, end, end))

    ledger = Ledger(totals=(totals("former", 90), totals("id", 10)))
    assert unaccounted_tail(ledger, "id", {0: 12, 1: 5}) == (OffsetRange(0, 10, 12),)
    assert unaccounted_tail(ledger, "id", {0: 10}) == ()


def test_problems_say_what_where_and_what_to_do() -> None:
    wrong = PartitionTotals(key(4), 0, 10, Counts(10, 10, 8, 0, 2))
    books = Books(
        ledger=Ledger(totals=(wrong,), gaps=(OffsetRange(1, 5, 9),), overlaps=(OffsetRange(2, 0, 3),)),
        dead_letter_rows={key(4): 1},
        drifting=3,
        drifting_minutes=(MinuteDrift(START, 8, 9, 9, doubles=1), MinuteDrift(START + 60, 5, 5, 4)),
    )
    gap, overlap, dead, doubled, rollup, more = judge(books).problems
    assert gap.startswith("gap in the ledger: partition 1, offsets 5 to 8")
    assert overlap.startswith("twice in the ledger: partition 2, offsets 0 to 2")
    assert dead.startswith("partition 4: 2 dead letters in the ledger, but dead_letters has 1 rows")
    assert "8 in the ledger, 9 in raw_events (1 more than once), 9 in rollup_1m: " in doubled
    assert "OPTIMIZE TABLE raw_events PARTITION 20260921 FINAL" in doubled
    assert "rebuild the minute in rollup_1m from raw_events: `metrics-pipeline rollups rebuild --from-raw" in rollup
    assert rollup.endswith("--from 2026-09-21T14:10Z --to 2026-09-21T14:20Z`")
    assert more.startswith("1 more minutes contradict")
    assert judge(books).rollup_problems == (rollup,)
