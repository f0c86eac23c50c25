"""What replays of hours read and write: rows by what they are and where they come from, plans, minutes, rollups."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import polars as pl

from metrics_pipeline.delivery.chunk import ORIGIN, POSITION
from metrics_pipeline.delivery.stored import CONTENT, ROW_SCHEMA
from metrics_pipeline.event.contract import EVENT_SCHEMA, IDENTITY
from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch
from metrics_pipeline.ledger.deferred import merged
from metrics_pipeline.ledger.entry import DEFERRED, LedgerEntry
from metrics_pipeline.ledger.minutes import COUNTS_SCHEMA, Scope
from metrics_pipeline.ledger.tables import PlanStep
from metrics_pipeline.replay.plan import PLAN_SCHEMA, LostLetters
from metrics_pipeline.rollups.drift import Drift, State
from metrics_pipeline.rollups.grains import SETTLE_SECONDS, UNIT
from metrics_pipeline.rollups.operate import PAUSE_SECONDS, Checked, Rebuilt, Span
from metrics_pipeline.runtime.ports import Clock
from tests.models.clickhouse import (
    DAY_MS,
    MINUTE_MS,
    PlanRow,
    Row,
    Server,
    instants,
    is_within,
    milliseconds,
    rows_of,
    send,
)
from tests.models.network import Network

_NAMED_SCHEMA = pl.Schema({name: EVENT_SCHEMA[name] for name in (*IDENTITY, *ORIGIN)})
_EVENT_STEPS = (PlanStep.REMOVE, PlanStep.INSERT, PlanStep.RESTORE)


class ModelEvents:
    """A `StoredEvents`."""

    def __init__(self, server: Server, network: Network) -> None:
        self._server = server
        self._network = network

    def of(self, events: pl.DataFrame) -> pl.DataFrame:
        wanted = {row.identity for row in rows_of(events)}
        who = self._network.scheduler.who

        def read() -> list[Row]:
            self._server.note_look(who, wanted)
            return [row for identity in sorted(wanted) for row in self._server.raw.get(identity, ())]

        return _frame(self._network.clickhouse(f"look {len(wanted)} events up", read)).select(_NAMED_SCHEMA.names())

    def at(self, ranges: Sequence[OffsetRange], first: datetime, last: datetime, *, with_content: bool) -> pl.DataFrame:
        first_ms, last_ms = (round(moment.timestamp() * 1_000) for moment in (first, last))

        def read() -> list[Row]:
            rows = (row for found in self._server.raw.values() for row in found)
            return [row for row in rows if first_ms <= row.message_ms <= last_ms and is_within(row, ranges)]

        found = _frame(self._network.clickhouse("look for the rows of messages", read))
        return found if with_content else found.with_columns(pl.lit(0, pl.UInt64).alias(CONTENT))

    def contents(self, events: pl.DataFrame) -> pl.DataFrame:
        rows = self._network.clickhouse("hash events", lambda: rows_of(events))
        return _frame(rows).select(*POSITION, CONTENT)

    def remove(self, chunk: OpenBatch) -> bool:
        server, network = self._server, self._network
        if network.clickhouse("look for deletes", lambda: server.deleting[chunk.token]):
            return True
        if not network.clickhouse(
            "look for rows to delete", lambda: server.to_be_removed(chunk.token, chunk.opened_ms)
        ):
            return False
        send(network, "delete rows", lambda: server.begin_delete(chunk.token, chunk.opened_ms))
        return True


class ModelReplayBooks:
    """A `ReplayBooks` of one incarnation of the topic."""

    def __init__(self, server: Server, network: Network, topic_id: str) -> None:
        self._server = server
        self._network = network
        self._topic_id = topic_id

    def accounted(self, ranges: Sequence[OffsetRange]) -> Sequence[OffsetRange]:
        def read() -> tuple[OffsetRange, ...]:
            covering = (a for e in self._entries() for a in e.accounts if a.consumed + a.skipped + a.lost)
            return merged(a.range for a in covering if any(_overlap(a.range, r) for r in ranges))

        return self._network.clickhouse("look for ranges in the ledger", read)

    def dropped(self, lows: Mapping[int, int], start_seconds: int, end_seconds: int) -> Sequence[OffsetRange]:
        def read() -> list[OffsetRange]:
            found: dict[int, OffsetRange] = {}
            for e in self._entries():
                if e.source == DEFERRED or not start_seconds <= e.first_message_ms / 1_000 < end_seconds:
                    continue
                for r in (a.range for a in e.accounts):
                    if r.start < (low := lows.get(r.partition, 0)):
                        known = found.get(r.partition, r)
                        end = max(min(r.end, low), known.end if r.partition in found else 0)
                        found[r.partition] = OffsetRange(r.partition, min(r.start, known.start), end)
            return [found[p] for p in sorted(found)]

        return self._network.clickhouse("look for what the topic dropped", read)

    def lost_letters(self, ranges: Sequence[OffsetRange], first: datetime, last: datetime) -> Sequence[LostLetters]:
        first_ms, last_ms = (round(moment.timestamp() * 1_000) for moment in (first, last))

        def read() -> list[LostLetters]:
            counted = Counter(
                (row.batch, row.partition) for row in self._server.letters.values() if row.topic_id == self._topic_id
            )
            noted = [
                LostLetters(e.token, a.range, a.dead_letters - counted[e.token, a.range.partition])
                for e in self._entries()
                if e.last_message_ms >= first_ms and e.first_message_ms <= last_ms
                for a in e.accounts
                if any(_overlap(a.range, r) for r in ranges)
            ]
            return sorted((lost for lost in noted if lost.count > 0), key=lambda lost: lost.range)

        return self._network.clickhouse("look for lost dead letters", read)

    def write_plan(self, chunk: OpenBatch, plan: pl.DataFrame, token: str) -> None:
        names = ("kafka_partition", "kafka_offset")
        columns = [plan["step"], *(plan[name] for name in names)]
        times = [milliseconds(plan, name) for name in ("kafka_timestamp", "timestamp")]
        rows = [
            PlanRow(chunk.opened_ms, chunk.token, *values)
            for values in zip(
                *(column.to_list() for column in columns),
                *times,
                plan[CONTENT].to_list(),
                plan["letter_batch"].to_list(),
                strict=True,
            )
        ]
        send(self._network, f"note the plan of {token[:4]}", lambda: self._server.insert_plan(rows, token))

    def plan(self, chunk: OpenBatch) -> pl.DataFrame:
        def read() -> list[PlanRow]:
            return [p for p in self._server.plans if (p.opened_ms, p.batch) == (chunk.opened_ms, chunk.token)]

        rows = self._network.clickhouse(f"read the plan of {chunk.token[:4]}", read)
        rows.sort(key=lambda p: (p.partition, p.offset, p.step))
        return pl.DataFrame(
            {
                "step": [p.step for p in rows],
                "kafka_partition": [p.partition for p in rows],
                "kafka_offset": [p.offset for p in rows],
                "kafka_timestamp": instants([p.message_ms for p in rows]),
                "timestamp": instants([p.timestamp_ms for p in rows]),
                CONTENT: [p.content for p in rows],
                "letter_batch": [p.letter_batch for p in rows],
            },
            schema_overrides=dict(PLAN_SCHEMA),
        )

    def unrepaired(self) -> tuple[frozenset[int], int]:
        def read() -> tuple[frozenset[int], int]:
            since_ms = max(self._server.repaired_ms, default=0)
            rows = [p for p in self._server.plans if p.opened_ms > since_ms]
            minutes = frozenset(p.timestamp_ms // MINUTE_MS * 60 for p in rows if p.step in _EVENT_STEPS)
            return minutes, max((p.opened_ms for p in rows), default=0)

        return self._network.clickhouse("look for replays that are not settled", read)

    def note_repaired(self, opened_ms: int) -> None:
        send(self._network, "settle a replay", lambda: self._server.repaired_ms.append(opened_ms))

    def newest_ms(self) -> int:
        def read() -> int:
            return max((*self._server.repaired_ms, *(p.opened_ms for p in self._server.plans)), default=0)

        return self._network.clickhouse("look for the newest replay", read)

    def _entries(self) -> list[LedgerEntry]:
        return [e for e in self._server.ledger if e.topic_id == self._topic_id]


class ModelMinutes:
    """What replays ask of a `BookReader`."""

    def __init__(self, server: Server, network: Network) -> None:
        self._server = server
        self._network = network

    def ledger_minutes(self, scope: Scope) -> pl.DataFrame:
        def read() -> pl.DataFrame:
            counts = Counter[int]()
            for e in self._server.ledger:
                removed = e.minutes.removed or (0,) * len(e.minutes.starts_seconds)
                for minute, n, r in zip(e.minutes.starts_seconds, e.minutes.inserted, removed, strict=True):
                    counts[minute] += n - r
            return _counts(counts, scope)

        return self._network.clickhouse("count the ledger's minutes", read)

    def raw_minutes(self, scope: Scope, *, distinct: bool = False) -> pl.DataFrame:
        def read() -> pl.DataFrame:
            counts = Counter[int]()
            for found in self._server.raw.values():
                for row in found[:1] if distinct else found:
                    counts[row.timestamp_ms // MINUTE_MS * 60] += 1
            return _counts(counts, scope)

        return self._network.clickhouse("count the minutes of raw_events", read)

    def rollup_minutes(self, scope: Scope) -> pl.DataFrame:
        def read() -> pl.DataFrame:
            return _counts({minute * 60: count for minute, count in self._server.rollup.items()}, scope)

        return self._network.clickhouse("count the minutes of rollup_1m", read)

    def open_minutes(self, scope: Scope, ranges: Sequence[OffsetRange]) -> frozenset[int]:
        def read() -> frozenset[int]:
            rows = (row for found in self._server.raw.values() for row in found if is_within(row, ranges))
            minutes = {row.timestamp_ms // MINUTE_MS * 60 for row in rows}
            return frozenset(minute for minute in minutes if _is_in(minute, scope))

        return self._network.clickhouse("look for minutes of open batches", read)


class ModelRollups:
    """What replays ask of `Rollups`: all counts of a unit are read, or made anew, at one instant."""

    def __init__(
        self, server: Server, network: Network, clock: Clock, in_flight: Callable[[int, int], Collection[int]]
    ) -> None:
        self._server = server
        self._network = network
        self._clock = clock
        self._in_flight = in_flight

    def check(self, span: Span, *, repair: bool = False) -> Checked:
        assert repair
        first = self._observe(span)
        suspects = {unit for unit, (raw, rollup, _) in first.items() if raw != rollup}
        gone = {unit for unit in suspects if not first[unit][2]}
        if not suspects - gone:
            return Checked(len(first) - len(gone), gone=len(gone))
        self._clock.sleep(PAUSE_SECONDS)
        under_way = set(self._in_flight(span.start_seconds, span.end_seconds))
        second = self._observe(span)
        moving = {u for u in suspects - gone if second.get(u) != first[u] or u in under_way}
        drifted = sorted(suspects - gone - moving)
        self._make(unit for unit in drifted if second[unit][0])
        drifts = tuple(
            Drift(u, UNIT.name, (), "", State.REPAIRED if second[u][0] else State.REFUSED, bool(second[u][0]))
            for u in drifted
        )
        return Checked(len(first) - len(gone), drifts, in_flux=tuple(sorted(moving)), gone=len(gone))

    def remake(self, span: Span, *, force: bool = False) -> Rebuilt:
        units = sorted(unit for unit, (raw, _, _) in self._observe(span).items() if raw or force)
        self._make(units)
        return Rebuilt(units=len(units))

    def rebuild(self, span: Span) -> Rebuilt:
        """Coarser buckets are no part of the model."""
        del span
        return Rebuilt()

    def _observe(self, span: Span) -> dict[int, tuple[Counter[int], Counter[int], bool]]:
        """Unit -> its minutes by raw_events and by the rollup, and whether raw_events has anything of its day."""

        def read() -> dict[int, tuple[Counter[int], Counter[int], bool]]:
            closed = self._clock.now_ms() // 1_000 - SETTLE_SECONDS
            around = span.around(UNIT)
            units = range(around.start_seconds, min(around.end_seconds, closed // UNIT.seconds * UNIT.seconds), 600)
            figures = {unit: (Counter[int](), Counter[int]()) for unit in units}
            for row in (row for found in self._server.raw.values() for row in found):
                if (unit := UNIT.floor(row.timestamp_ms // 1_000)) in figures:
                    figures[unit][0][row.timestamp_ms // MINUTE_MS] += 1
            for minute, count in self._server.rollup.items():
                if count and (unit := UNIT.floor(minute * 60)) in figures:
                    figures[unit][1][minute] += count
            days = {row.timestamp_ms // DAY_MS for found in self._server.raw.values() for row in found}
            held = {unit: (raw, rollup, unit * 1_000 // DAY_MS in days) for unit, (raw, rollup) in figures.items()}
            return {unit: found for unit, found in held.items() if found[0] or found[1]}

        return self._network.clickhouse("observe units", read)

    def _make(self, units: Iterable[int]) -> None:
        wanted = list(units)
        if wanted:
            send(self._network, f"make {len(wanted)} units anew", lambda: self._server.remake(wanted, UNIT.seconds))


def _frame(rows: Sequence[Row]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "service": [r.identity[0] for r in rows],
            "endpoint": [r.identity[1] for r in rows],
            "timestamp": instants([r.timestamp_ms for r in rows]),
            "event_id": [r.identity[3] for r in rows],
            "kafka_partition": [r.partition for r in rows],
            "kafka_offset": [r.offset for r in rows],
            "kafka_timestamp": instants([r.message_ms for r in rows]),
            CONTENT: [r.content for r in rows],
        },
        schema_overrides=dict(ROW_SCHEMA),
    ).select(ROW_SCHEMA.names())


def _counts(counts: Mapping[int, int], scope: Scope) -> pl.DataFrame:
    held = {minute: count for minute, count in sorted(counts.items()) if _is_in(minute, scope)}
    return pl.DataFrame([list(held), list(held.values())], schema=COUNTS_SCHEMA)


def _is_in(minute: int, scope: Scope) -> bool:
    is_after = scope.start_seconds is None or minute >= scope.start_seconds
    is_before = scope.end_seconds is None or minute < scope.end_seconds
    return is_after and is_before and (not scope.minutes or minute in scope.minutes)


def _overlap(one: OffsetRange, other: OffsetRange) -> bool:
    return one.partition == other.partition and one.start < other.end and other.start < one.end
