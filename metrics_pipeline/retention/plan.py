"""What retention does today: partitions in, a plan out. Pure.

A partition goes when all of its time lies before the cut-off of its table: midnight (UTC) of today less the policy's
days; of raw events and live rows also less the days in which an event may still come to it, whatever the policy says.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import groupby
from math import fsum

from metrics_pipeline.retention.policy import Policy, RawPolicy
from metrics_pipeline.rollups.grains import GRAINS, LIVE, Grain
from metrics_pipeline.rollups.retained_from import DEAD_LETTERS, LEDGER, NOTHING_DROPPED, RAW, RetainedFrom
from metrics_pipeline.runtime.timerange import DAY_SECONDS, HOUR_SECONDS

CANARIES = "canaries"
_MONTHS = 13
FULL_DAYS = 7
"""The present rate is the average of this many whole days."""
_TELLING_SECONDS = 6 * HOUR_SECONDS
MARGIN_DAYS = 1
"""A run that slept this long in the middle of a batch is fenced."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition that a table has, with the time that it may hold, [start, end).

    `grain` is that of a table of rollups. `is_cold`: all of it lies on the cold volume.
    """

    table: str
    id: str
    start_seconds: int
    end_seconds: int
    rows: int
    bytes: int
    grain: str = ""
    is_cold: bool = False


@dataclass(frozen=True, slots=True)
class SelectiveDelete:
    """Deletes events of a partition that have reached their time, while an override keeps others.

    An event goes if nothing that keeps it names it, and, where the time of all others isn't over, if something that is
    over names it.
    """

    partition: Partition
    kept_services: tuple[str, ...]
    kept_tiers: tuple[str, ...]
    ended_services: tuple[str, ...]
    ended_tiers: tuple[str, ...]
    is_default_over: bool


@dataclass(frozen=True, slots=True)
class GrainDrop:
    """Partitions of a grain of the same time: of all cubes at once, since they are built and published together."""

    grain: Grain
    partitions: tuple[Partition, ...]

    @property
    def start_seconds(self) -> int:
        return self.partitions[0].start_seconds

    @property
    def end_seconds(self) -> int:
        return self.partitions[0].end_seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """In the order in which it is done, each list oldest first."""

    raw: tuple[Partition | SelectiveDelete, ...] = ()
    rollups: tuple[GrainDrop, ...] = ()
    dead_letters: tuple[Partition, ...] = ()
    canaries: tuple[Partition, ...] = ()
    ledger: tuple[Partition, ...] = ()
    """Months that may go, if what is left of the ledger still tells everything."""
    moves: tuple[Partition, ...] = ()


def cutoff(now_seconds: int, days: int) -> int:
    """Epoch seconds: rows of times before it have been kept for `days`."""
    return (now_seconds // DAY_SECONDS - days) * DAY_SECONDS


def reach_days(max_age_days: int, topic_retention_ms: int | None) -> int:
    """How many days back events may still land: the limit of age, beside a message that is as old as the topic keeps
    any.

    A topic may keep messages for ever. Then only new ones count, as replays refuse events of times before
    retained_from.
    """
    return max_age_days + -(-(topic_retention_ms or 0) // (DAY_SECONDS * 1_000)) + MARGIN_DAYS


def plan_retention(
    partitions: Sequence[Partition],
    policy: Policy,
    now_seconds: int,
    reach: int,
    retained_from: RetainedFrom = NOTHING_DROPPED,
) -> Plan:
    """Whatever the policy keeps no longer, and what is to move. `reach` is in days, see `reach_days`."""
    raw = tuple(_raw(_of(partitions, RAW), policy.raw, now_seconds, reach, retained_from))
    rollups = tuple(_rollups(partitions, policy, now_seconds, reach))
    going = {(p.table, p.id) for p in raw if isinstance(p, Partition)}
    going |= {(p.table, p.id) for drop in rollups for p in drop.partitions}
    return Plan(
        raw,
        rollups,
        _ended(_of(partitions, DEAD_LETTERS), cutoff(now_seconds, policy.dead_letters.days)),
        _ended(_of(partitions, CANARIES), cutoff(now_seconds, policy.canaries.days)),
        _ended(_of(partitions, LEDGER), cutoff(now_seconds, policy.ledger.days)),
        tuple(_moves(partitions, going, policy, now_seconds)),
    )


def days_of(policy: Policy, table: str, grain: str) -> int | None:
    """How long the policy keeps what most of a table is; None for tables that it doesn't name."""
    if grain:
        return policy.rollups[grain]
    kept = {
        RAW: policy.raw.days,
        DEAD_LETTERS: policy.dead_letters.days,
        LEDGER: policy.ledger.days,
        CANARIES: policy.canaries.days,
    }
    return kept.get(table)


def _of(partitions: Iterable[Partition], table: str) -> list[Partition]:
    return sorted((p for p in partitions if p.table == table), key=lambda p: p.start_seconds)


def _ended(partitions: Iterable[Partition], cutoff_seconds: int) -> tuple[Partition, ...]:
    return tuple(p for p in partitions if p.end_seconds <= cutoff_seconds)


def _raw(
    partitions: Iterable[Partition], policy: RawPolicy, now_seconds: int, reach: int, retained_from: RetainedFrom
) -> Iterator[Partition | SelectiveDelete]:
    for partition in partitions:
        if partition.end_seconds > cutoff(now_seconds, reach):
            continue
        if partition.end_seconds <= cutoff(now_seconds, policy.longest_days):
            yield partition
        elif found := _selective_delete(partition, policy, now_seconds, retained_from):
            yield found


def enforced_until(policy: RawPolicy, now_seconds: int, reach: int) -> dict[str, int]:
    """What to note in retained_from when all selective deletes of a plan are done: until when each time was enforced.

    A day is looked at again only when another time is over or the policy changed, since finding what is over reads the
    day.
    """
    return {_name(policy, days): cutoff(now_seconds, max(days, reach)) for days in _times(policy)}


def _times(policy: RawPolicy) -> set[int]:
    return {policy.days, *policy.services.values(), *policy.tiers.values()}


def _name(policy: RawPolicy, days: int) -> str:
    return f"{RAW} {sha256(policy.model_dump_json().encode()).hexdigest()[:8]} {days} days"


def _selective_delete(
    partition: Partition, policy: RawPolicy, now_seconds: int, retained_from: RetainedFrom
) -> SelectiveDelete | None:
    def over(days: int) -> bool:
        return partition.end_seconds <= cutoff(now_seconds, days)

    def names(overrides: Mapping[str, int], *, ended: bool) -> tuple[str, ...]:
        return tuple(sorted(name for name, days in overrides.items() if over(days) is ended))

    if not any(over(days) and retained_from.of(_name(policy, days)) < partition.end_seconds for days in _times(policy)):
        return None
    return SelectiveDelete(
        partition,
        names(policy.services, ended=False),
        names(policy.tiers, ended=False),
        names(policy.services, ended=True),
        names(policy.tiers, ended=True),
        over(policy.days),
    )


def _rollups(partitions: Sequence[Partition], policy: Policy, now_seconds: int, reach: int) -> Iterator[GrainDrop]:
    """Finest first, and oldest first within a grain: coarser rows may go only after the finer ones that they
    replace."""
    for grain in GRAINS:
        days = policy.rollups[grain.name]
        last = cutoff(now_seconds, max(days, reach) if grain is LIVE else days)
        over = sorted(
            _ended((p for p in partitions if p.grain == grain.name), last), key=lambda p: (p.start_seconds, p.table)
        )
        for _, of_time in groupby(over, key=lambda p: p.start_seconds):
            yield GrainDrop(grain, tuple(of_time))


def _moves(
    partitions: Iterable[Partition], going: set[tuple[str, str]], policy: Policy, now_seconds: int
) -> Iterator[Partition]:
    if not policy.cold.volume:
        return
    for p in sorted(partitions, key=lambda p: (p.start_seconds, p.table)):
        is_old = p.end_seconds <= cutoff(now_seconds, policy.cold.after_days)
        if is_old and not p.is_cold and (p.table, p.id) not in going and (p.table == RAW or p.grain):
            yield p


@dataclass(frozen=True, slots=True)
class TableCost:
    """What a table takes: now, per day at the present rate, and when the policy's time is full of such days."""

    table: str
    bytes: int
    bytes_per_day: float
    days: float
    steady_bytes: float
    price_per_month: float

    def __add__(self, other: "TableCost") -> "TableCost":
        return TableCost(
            self.table,
            self.bytes + other.bytes,
            self.bytes_per_day + other.bytes_per_day,
            max(self.days, other.days),
            self.steady_bytes + other.steady_bytes,
            self.price_per_month + other.price_per_month,
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """`months` of the steady state cost `price`."""

    tables: tuple[TableCost, ...] = ()
    months: int = _MONTHS
    price: float = 0.0
    price_per_gb_month: float = 0.0


def costs(partitions: Sequence[Partition], policy: Policy, now_seconds: int, raw_days: float | None = None) -> Costs:
    """`raw_days` is how long an event is kept on average, where overrides say otherwise than for most."""
    found = []
    for table, grain in sorted({(p.table, p.grain) for p in partitions}):
        days = days_of(policy, table, grain)
        if days is None:
            continue
        of_table = _of(partitions, table)
        # Rows wait for the last one of their partition: half of it on average.
        waiting_days = max(p.end_seconds - p.start_seconds for p in of_table) / DAY_SECONDS / 2
        kept = (raw_days if table == RAW and raw_days is not None else days) + waiting_days
        per_day = bytes_per_day(of_table, now_seconds)
        steady = per_day * kept
        price = steady / 1e9 * policy.cost.price_per_gb_month
        found.append(TableCost(table, sum(p.bytes for p in of_table), per_day, kept, steady, price))
    price = fsum(table.price_per_month for table in found) * _MONTHS
    return Costs(tuple(found), price=price, price_per_gb_month=policy.cost.price_per_gb_month)


def sum_of_costs(of_shards: Sequence[Costs]) -> Costs:
    """Of shards that keep to the same policy."""
    tables: dict[str, TableCost] = {}
    for cost in (table for costs in of_shards for table in costs.tables):
        other = tables.get(cost.table)
        tables[cost.table] = cost if other is None else other + cost
    return replace(of_shards[0], tables=tuple(tables.values()), price=fsum(costs.price for costs in of_shards))


def bytes_per_day(partitions: Sequence[Partition], now_seconds: int) -> float:
    """Of the newest partitions that are over and span FULL_DAYS, or of the one that is filling, if that has more: on
    the first day of a service, the days before hold nothing but late events.
    """
    today = cutoff(now_seconds, 0)
    newest = sorted((p for p in partitions if p.start_seconds < now_seconds), key=lambda p: -p.start_seconds)
    over = [p for p in newest if p.end_seconds <= today]
    if not over:
        oldest = min((p.start_seconds for p in newest), default=now_seconds)
        return sum(p.bytes for p in newest) / max(1.0, (now_seconds - oldest) / DAY_SECONDS)
    since = over[0].end_seconds - FULL_DAYS * DAY_SECONDS
    counted = [p for p in over if p.end_seconds > since]
    span = over[0].end_seconds - min(p.start_seconds for p in counted)
    return max(sum(p.bytes for p in counted) * DAY_SECONDS / span, _filling_rate(newest, today, now_seconds))


def _filling_rate(newest_first: Sequence[Partition], today: int, now_seconds: int) -> float:
    """Bytes per day; 0 in the first hours, which say little of a day."""
    filling = [p for p in newest_first if p.end_seconds > today]
    elapsed = now_seconds - min((p.start_seconds for p in filling), default=now_seconds)
    return sum(p.bytes for p in filling) * DAY_SECONDS / elapsed if elapsed >= _TELLING_SECONDS else 0.0
