"""Retention: drops what the policy keeps no longer, so that every answer that may still be asked for stays right.

    VERIFY         everything that is to go is counted by longer buckets; what is stale is built first
    RETAINED_FROM  note in the table retained_from how far back tables are whole: audits and repairs look no further
    VIEWS          have readers take longer buckets before that moment
    DROP           whole partitions, oldest first; of others, delete what no override keeps

Nothing can land before retained_from (retention/plan.py leaves whatever an event may still come to), so what was
verified stays right. A run that ends anywhere is resumed by the next one, which drops what lies before retained_from.
Any number may run at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.retention.ledger_cutoff import forget_losses, objection
from metrics_pipeline.retention.plan import (
    FULL_DAYS,
    Costs,
    GrainDrop,
    Partition,
    Plan,
    SelectiveDelete,
    costs,
    cutoff,
    enforced_until,
    plan_retention,
)
from metrics_pipeline.retention.policy import LEDGER_MARGIN_DAYS, Policy
from metrics_pipeline.retention.report import DELETE, DROP, MOVE, Done, Refused, Report, from_to, joined, not_built
from metrics_pipeline.retention.store import RetentionStore
from metrics_pipeline.rollups.cutoffs import refresh_views
from metrics_pipeline.rollups.grains import LIVE, UNIT, Grain, grain_named
from metrics_pipeline.rollups.operate import Progress, Rollups, Span, part_of
from metrics_pipeline.rollups.retained_from import DEAD_LETTERS, LEDGER, NOTHING_DROPPED, RAW, REPLACED_BY, RetainedFrom
from metrics_pipeline.rollups.retained_from_store import note_retained_from, read_retained_from
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.timerange import DAY_SECONDS

MUTATION_SECONDS = 3_600
"""A delete that takes longer goes on in the server."""
GRACE_SECONDS = 2.0
"""Between noting and dropping: a query that began before has opened its parts by then."""
_PAUSE_SECONDS = 1.0


class RetentionStep(StrEnum):
    """In this order, the last three as often as there are partitions; tests end a run there."""

    RETAINED_FROM = "retained from"
    VIEWS = "views"
    DROP = DROP
    DELETE = DELETE
    MOVE = MOVE


@dataclass
class Retention:
    """One run of a policy on one database. Not thread-safe.

    `reach` is how many days back events may still land; `observe` hears of each step before it begins.
    """

    client: Client
    rollups: Rollups
    policy: Policy
    reach: int
    clock: Clock
    observe: Callable[[RetentionStep], None] = lambda _step: None
    _report: Report = field(default_factory=Report, init=False)
    _retained_from: RetainedFrom = field(default=NOTHING_DROPPED, init=False)
    _is_deleted: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self._store = RetentionStore(self.client)

    def run(self, *, dry_run: bool = False, progress: Progress = lambda _share: None) -> Report:
        """Raises ConfigurationError if the policy names an unknown volume, RetryableError if the server is
        away."""
        self._report, self._is_deleted = Report(is_dry=dry_run), True
        now = self.clock.now_ms() // 1_000
        found = self._store.partitions(self.policy.cold.volume)
        self._retained_from = read_retained_from(self.client)
        plan = plan_retention(found, self.policy, now, self.reach, self._retained_from)
        self._say_what_reaches()
        plan = self._verified(plan, found)
        self._set_times_to_live(found, now)
        progress(0.4)
        self._note(plan)
        self._do(plan, lambda share: progress(0.4 + 0.6 * share))
        if not dry_run:
            self._note_enforced(now)
            self._report.alerts_forgotten = self._store.forget_alerts(cutoff(now, self.policy.alerts.days))
        gone = set() if dry_run else {(d.table, d.partition) for d in self._report.done if d.action == DROP}
        self._report.costs = self._costs([p for p in found if (p.table, p.id) not in gone], now)
        progress(1.0)
        return self._report

    def _say_what_reaches(self) -> None:
        for name, days in ((RAW, self.policy.raw.days), (LIVE.name, self.policy.rollups[LIVE.name])):
            if days < self.reach:
                self._report.warnings.append(
                    f"the policy keeps {name} for {days} days, but events may come that are {self.reach} days old "
                    "(METRICS_EVENTS__MAX_AGE_DAYS and the retention of the topic): it is kept for that long"
                )

    def _set_times_to_live(self, found: Sequence[Partition], now_seconds: int) -> None:
        """The net behind the policy. Of rollups there is none: a TTL can't see whether longer buckets are built.

        What is refused must not go by it: a table gets one once all before it is verified, and one that it has recedes.
        """
        if not self.policy.net.days:
            return
        refused = {(refused.table, refused.partition) for refused in self._report.refused}
        longest_days = {RAW: self.policy.raw.longest_days, DEAD_LETTERS: self.policy.dead_letters.days}
        for table, state in self._store.table_states().items():
            starts = [p.start_seconds for p in found if (p.table, p.id) in refused and p.table == table]
            oldest_days = max(((now_seconds - start) // DAY_SECONDS + 1 for start in starts), default=0)
            days = max(longest_days[table], self.reach, oldest_days) + self.policy.net.days
            if state.has_other_ttl:
                self._report.warnings.append(f"{table} has a TTL that does other things as well: it is left alone")
            elif state.time_to_live_days != days and not (starts and state.time_to_live_days is None):
                self._report.times_to_live[table] = days
                if not self._report.is_dry:
                    self._store.set_time_to_live(table, days)

    def _verified(self, plan: Plan, found: Sequence[Partition]) -> Plan:
        """What of the plan may go. The rest is refused, and with it whatever needs it."""
        raw_refused, raw = self._verified_raw(plan)
        rollups = tuple(self._verified_rollups(plan, found, raw_refused))
        return replace(plan, raw=raw, rollups=rollups, ledger=self._verified_ledger(plan, raw, rollups))

    def _verified_raw(self, plan: Plan) -> tuple[int | None, tuple[Partition | SelectiveDelete, ...]]:
        """The start of the first day that is refused, if one is, and all before it."""
        items = [item for item in plan.raw if not isinstance(item, SelectiveDelete) or self._store.ended_rows(item)]
        days = [_partition_of(item) for item in items]
        new = [day for day in days if day.end_seconds > self._retained_from.of(RAW)]
        refused = self._not_built(UNIT, new) or self._not_counted(new)
        if refused is None:
            return None, tuple(items)
        self._report.refused.append(refused)
        first = next(day.start_seconds for day in days if day.id == refused.partition)
        return first, tuple(item for item in items if _partition_of(item).start_seconds < first)

    def _verified_rollups(self, plan: Plan, found: Sequence[Partition], raw_refused: int | None) -> Iterator[GrainDrop]:
        """Per grain, in order of time, until one is refused."""
        staying = {(p.table, p.id): p for p in found if p.grain}
        stopped: set[Grain] = set()
        for drop in plan.rollups:
            if drop.grain in stopped:
                continue
            if refused := self._why_not(drop, staying.values(), raw_refused):
                self._report.refused.append(refused)
                stopped.add(drop.grain)
                continue
            for p in drop.partitions:
                del staying[p.table, p.id]
            yield drop

    def _why_not(self, drop: GrainDrop, staying: Iterable[Partition], raw_refused: int | None) -> Refused | None:
        first = drop.partitions[0]
        if drop.end_seconds <= self._retained_from.of(drop.grain.name):
            return None
        if drop.grain is LIVE and raw_refused is not None and drop.end_seconds > raw_refused:
            return Refused(first.table, first.id, "raw events of that time stay")
        finer = [
            p
            for p in staying
            if grain_named(p.grain).seconds < drop.grain.seconds
            and p.start_seconds < drop.end_seconds
            and p.end_seconds > drop.start_seconds
        ]
        if finer:
            return Refused(first.table, first.id, f"{len(finer)} partitions of finer rows are still there")
        stands = REPLACED_BY.get(drop.grain.name)
        return None if stands is None else self._not_built(stands, drop.partitions[:1])

    def _not_built(self, grain: Grain, partitions: Sequence[Partition]) -> Refused | None:
        """The first of these that has buckets over it without a build that counts every event; after building them."""
        if not partitions:
            return None
        span = Span(partitions[0].start_seconds, partitions[-1].end_seconds)
        stale = self._stale(grain, span)
        if stale and not self._report.is_dry:
            self.rollups.rebuild(Span(stale[0], stale[-1] + grain.seconds))
            stale = self._stale(grain, span)
        for p in partitions:
            if within := [s for s in stale if s < p.end_seconds and s + grain.seconds > p.start_seconds]:
                return not_built(p.table, p.id, grain, within)
        return None

    def _stale(self, grain: Grain, span: Span) -> list[int]:
        return [bucket.start_seconds for bucket in self.rollups.planned(span, (grain,), only_stale=True)[grain]]

    def _not_counted(self, days: Sequence[Partition]) -> Refused | None:
        """The first of these days of which raw_events holds other events than rollup_builds counts."""
        if not days:
            return None
        counted = self._store.counted_events(days[0].start_seconds, days[-1].end_seconds)
        for day in days:
            events = counted.get(day.start_seconds, 0)
            if day.rows != events and (rows := self._store.distinct_events(day.id)) != events:
                advice = f"metrics-pipeline rollups check --repair {from_to(day.start_seconds, day.end_seconds)}"
                reason = f"raw_events has {rows} events of that day, but rollup_builds counts {events}"
                # Another run may have noted and dropped that day since the partitions were read.
                if day.end_seconds > read_retained_from(self.client).of(RAW):
                    return Refused(day.table, day.id, reason, advice)
        return None

    def _verified_ledger(
        self, plan: Plan, raw: Sequence[Partition | SelectiveDelete], rollups: Sequence[GrainDrop]
    ) -> tuple[Partition, ...]:
        """Months up to the newest one where the rest of the ledger still tells everything."""
        ends = [_partition_of(item).end_seconds for item in raw]
        ends += [drop.end_seconds for drop in rollups if drop.grain is LIVE]
        compared = max((self._retained_from.compared_from, *ends))
        refused = None
        for last in range(len(plan.ledger), 0, -1):
            month = plan.ledger[last - 1]
            if month.end_seconds > compared - LEDGER_MARGIN_DAYS * DAY_SECONDS:
                reason: str | None = "raw events and rollups of that time are still compared with it"
            else:
                reason = objection(self.client, month.end_seconds)
            if reason is None:
                break
            refused = refused or Refused(LEDGER, month.id, reason)
        else:
            last = 0
        if refused is not None:
            self._report.refused.append(refused)
        return plan.ledger[:last]

    def _note(self, plan: Plan) -> None:
        """Write all of the plan to retained_from at once, before anything goes."""
        # Each list is oldest first: the newest stands.
        until = {RAW: _partition_of(plan.raw[-1]).end_seconds} if plan.raw else {}
        until |= {drop.grain.name: drop.end_seconds for drop in plan.rollups}
        until |= {p.table: p.end_seconds for p in (*plan.dead_letters, *plan.ledger)}
        if self._report.is_dry:
            return
        if until:
            self.observe(RetentionStep.RETAINED_FROM)
            note_retained_from(self.client, until)
        # Also where nothing is to go: an earlier run may have ended here.
        self.observe(RetentionStep.VIEWS)
        refresh_views(self.client)
        if until:
            self.clock.sleep(GRACE_SECONDS)

    def _note_enforced(self, now_seconds: int) -> None:
        """Only after a run that did all of it."""
        is_refused = any(refused.table == RAW for refused in self._report.refused)
        if self.policy.raw.has_overrides and self._is_deleted and not is_refused:
            note_retained_from(self.client, enforced_until(self.policy.raw, now_seconds, self.reach))

    def _do(self, plan: Plan, progress: Progress) -> None:
        selective_deletes = [item for item in plan.raw if isinstance(item, SelectiveDelete)]
        whole = [item for item in plan.raw if isinstance(item, Partition)]
        for letters in plan.dead_letters:
            self._warn_of_letters(letters)
        drops = [*whole, *(p for d in plan.rollups for p in d.partitions), *plan.dead_letters, *plan.canaries]
        drops += plan.ledger
        todo = len(drops) + len(selective_deletes) + len(plan.moves) or 1
        for at, partition in enumerate(drops):
            self._begin(RetentionStep.DROP, partition, partial(self._store.drop, partition.table, partition.id))
            progress(at / todo)
        if plan.ledger and not self._report.is_dry:
            forget_losses(self.client, plan.ledger[-1].end_seconds)
        for delete in selective_deletes:
            whole_day, ended = delete.partition, self._store.ended_rows(delete)
            size = round(whole_day.bytes * ended / max(1, whole_day.rows))
            going = replace(whole_day, rows=ended, bytes=size)
            self._begin(RetentionStep.DELETE, going, partial(self._store.delete_selectively, delete))
        if selective_deletes and not self._report.is_dry:
            self._await_deletes()
        for at, partition in enumerate(plan.moves, start=len(drops) + len(selective_deletes)):
            self._begin(RetentionStep.MOVE, partition, partial(self._store.move, partition, self.policy.cold.volume))
            progress(at / todo)

    def _warn_of_letters(self, partition: Partition) -> None:
        if count := self._store.never_replayed(partition.id):
            went = "go" if self._report.is_dry else "went"
            self._report.warnings.append(
                f"{count} dead letters of partition {partition.id} {went} that were never replayed: look at "
                "`metrics-pipeline dead-letters list` before dead_letters.days are over"
            )

    def _begin(self, step: RetentionStep, partition: Partition, work: Callable[[], None]) -> None:
        self._report.done.append(Done(step.value, partition.table, partition.id, partition.rows, partition.bytes))
        if not self._report.is_dry:
            self.observe(step)
            work()

    def _await_deletes(self) -> None:
        """Await all deletes together: the server takes seconds to begin with each."""
        end = self.clock.monotonic_seconds() + MUTATION_SECONDS
        while True:
            under_way, problem = self._store.mutations()
            if not under_way:
                return
            if problem or self.clock.monotonic_seconds() >= end:
                self._report.warnings.append(
                    f"{under_way} deletes in {RAW} are still under way in the server"
                    f"{f', one fails: {problem}' if problem else ''}: look at system.mutations"
                )
                self._is_deleted = False
                return
            self.clock.sleep(_PAUSE_SECONDS)

    def _costs(self, partitions: Sequence[Partition], now_seconds: int) -> Costs:
        today, raw = cutoff(now_seconds, 0), self.policy.raw
        raw_days = self._store.raw_days(raw, today, FULL_DAYS) if raw.has_overrides else None
        return costs(partitions, self.policy, now_seconds, raw_days)


@dataclass(frozen=True, slots=True)
class RetentionOfShards:
    """One shard after the other drops its own rows by the one policy, and notes how far back it is whole itself. A
    single server is one shard.

    Views of rollups go by their own shard's retained_from, and audits compare from where all shards are whole.
    """

    shards: Sequence[Retention]

    def run(self, *, dry_run: bool = False, progress: Progress = lambda _share: None) -> Report:
        """Raises what `Retention.run` raises; shards before have done their part then."""
        of = len(self.shards)
        return joined([s.run(dry_run=dry_run, progress=part_of(progress, n, of)) for n, s in enumerate(self.shards)])


def _partition_of(item: Partition | SelectiveDelete) -> Partition:
    return item.partition if isinstance(item, SelectiveDelete) else item
