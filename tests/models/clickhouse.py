"""A server as the protocol sees it: parts, tokens, a view, refusals, kills in the middle of an insert.

An insert is a chain of parts: one per partition of each table that it reaches. Each lands or not by itself, and each
remembers the insert's token by itself. A server that is killed in between leaves any of them
undone, and may know the token of one that is not there.
"""

import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from metrics_pipeline.delivery.warehouse import CLOCKS_DIFFER_SECONDS
from metrics_pipeline.errors import ClickHouseUnavailableError, ForeignViewError, RejectedError
from metrics_pipeline.event.contract import IDENTITY
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.entry import LedgerEntry
from tests.models.network import Network
from tests.models.scheduler import Scheduler, Task

DAY_MS = 86_400_000
MONTH_MS = 31 * DAY_MS
MINUTE_MS = 60_000
REQUEST_TIMEOUT_SECONDS = 5.0
LONGEST_DELETE_SECONDS = 0.5
TOKEN_OUTLIVES_PART = 0.5
"""How often a kill hits the moment between a token and its part, which nobody else sees: the parts are locked."""

Identity = tuple[str, str, int, str]
Place = tuple[str, int, int]
"""Topic id, partition, offset."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of raw_events, as far as the protocol cares: named by what it is and where it comes from."""

    identity: Identity
    partition: int
    offset: int
    status: int = field(compare=False)
    message_ms: int
    content: int = field(default=0, compare=False)
    """A hash of the event."""

    @property
    def timestamp_ms(self) -> int:
        return self.identity[2]


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row of dead_letters: a letter, or with an `outcome` a replay's version of it."""

    topic_id: str
    partition: int
    offset: int
    reason: str
    timestamp_ms: int
    detail: str = ""
    service: str = ""
    payload: bytes = b""
    batch: str = ""
    outcome: str = ""
    replay_reason: str = ""
    replay_detail: str = ""

    @property
    def place(self) -> Place:
        return self.topic_id, self.partition, self.offset


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A row of replay_plan: what a replay of hours does about a message."""

    opened_ms: int
    batch: str
    step: str
    partition: int
    offset: int
    message_ms: int
    timestamp_ms: int
    content: int
    letter_batch: str


@dataclass(frozen=True, slots=True)
class Part:
    """What one partition of one table gets of an insert."""

    table: str
    partition: int
    apply: Callable[[], None]
    minutes: Collection[int] = ()
    """Of events that it counts."""


@dataclass(slots=True)
class Server:
    """The tables. `window` is how many tokens each table remembers; a rule refuses rows of the `refused` statuses."""

    scheduler: Scheduler
    window: int
    epoch_ms: int = 0
    """Its wall clock at the start."""
    refused: set[int] = field(default_factory=set)
    failing_in_view: set[int] = field(default_factory=set)
    """A view that throws on rows of these statuses: the insert lands, and fails all the same."""
    raw: dict[Identity, list[Row]] = field(default_factory=dict)
    rollup: Counter[int] = field(default_factory=Counter)
    dead: list[DeadRow] = field(default_factory=list)
    ledger: list[LedgerEntry] = field(default_factory=list)
    repaired_minutes: set[int] = field(default_factory=set)
    """Of events that were taken back, or that a killed server forgot: the check of drift makes their rollup anew."""
    incarnation: int = 0
    """Grows by one when the server is killed; what was under way then ends as it is."""
    letters: dict[Place, DeadRow] = field(default_factory=dict)
    """What FINAL reads of dead_letters: the version that came last."""
    plans: list[PlanRow] = field(default_factory=list)
    repaired_ms: list[int] = field(default_factory=list)
    """Rows of replay_plan that say up to which chunk the rollups count right."""
    deleting: Counter[str] = field(default_factory=Counter)
    """Chunk -> mutations that delete its rows and are not done."""
    torn: dict[str, Collection[int]] = field(default_factory=dict)
    """Token -> minutes of an insert that has landed in part, or is about to."""
    blind: set[Identity] = field(default_factory=set)
    """Stored from two messages by writers of whom the second one looked before the first one's row was there."""
    lost: list[Row] = field(default_factory=list)
    """Rows that somebody deleted behind the pipeline's back."""
    writers: dict[Row, str] = field(default_factory=dict)
    _moment: int = 0
    _arrived: dict[Row, int] = field(default_factory=dict)
    _looked: dict[tuple[str, Identity], int] = field(default_factory=dict)
    _tokens: dict[str, OrderedDict[tuple[int, str], None]] = field(default_factory=dict)

    def kill(self) -> None:
        self.scheduler.say("clickhouse", "is killed")
        self.incarnation += 1

    def note_look(self, who: str, identities: Iterable[Identity]) -> None:
        """`who` looks whether these are stored."""
        self._moment += 1
        self._looked.update(((who, identity), self._moment) for identity in identities)

    def insert_raw(self, rows: Sequence[Row], token: str, who: str = "") -> None:
        bad = [row for row in rows if row.status in self.refused]
        if bad:
            raise RejectedError(f"status {bad[0].status} violates a constraint")
        days: dict[int, list[Row]] = {}
        months: dict[int, list[Row]] = {}
        for row in rows:
            days.setdefault(row.timestamp_ms // DAY_MS, []).append(row)
            months.setdefault(row.timestamp_ms // MONTH_MS, []).append(row)
        parts = [
            Part("raw_events", day, lambda rows=found: self._add_raw(rows, who), _minutes(found))  # type: ignore[misc]
            for day, found in days.items()
        ]
        parts += [
            Part("rollup_1m", month, lambda rows=found: self._add_rollup(rows), _minutes(found))  # type: ignore[misc]
            for month, found in months.items()
        ]
        self.torn[token] = _minutes(rows)
        self._land(parts, token)
        self.torn.pop(token, None)
        if any(row.status in self.failing_in_view for row in rows):
            raise ForeignViewError("a view throws")

    def remove(self, rows: Collection[Row]) -> None:
        for row in rows:
            self.raw[row.identity].remove(row)
            self.repaired_minutes.add(row.timestamp_ms // MINUTE_MS)

    def repair(self) -> None:
        """What the check of drift does in the end, when nothing is on its way."""
        self._recount(self.repaired_minutes)

    def remake(self, starts_seconds: Collection[int], seconds: int) -> None:
        """Units of rollups made anew from raw_events. What lands in part around it counts wrong until a later one."""
        units_ms = [range(start * 1_000, (start + seconds) * 1_000) for start in starts_seconds]
        minutes = {minute for unit in units_ms for minute in range(unit.start // MINUTE_MS, unit.stop // MINUTE_MS)}
        self._recount(minutes)
        torn = (minute for found in self.torn.values() for minute in found)
        self.repaired_minutes.update(minute for minute in torn if minute in minutes)

    def insert_dead(self, rows: Sequence[DeadRow], token: str) -> None:
        months: dict[int, list[DeadRow]] = {}
        for row in rows:
            months.setdefault(row.timestamp_ms // MONTH_MS, []).append(row)
        parts = [
            Part("dead_letters", m, lambda rows=found: self._add_dead(rows))  # type: ignore[misc]
            for m, found in months.items()
        ]
        self._land(parts, token)

    def insert_ledger(self, entry: LedgerEntry, token: str) -> None:
        part = Part("batches", entry.last_message_ms // MONTH_MS, lambda: self.ledger.append(entry))
        self._land([part], token)

    def insert_plan(self, rows: Sequence[PlanRow], token: str) -> None:
        def add() -> None:
            # Equal rows replace each other.
            self.plans.extend(row for row in rows if row not in self.plans)

        self._land([Part("replay_plan", rows[0].opened_ms // MONTH_MS, add)], token)

    def lose(self, rows: Collection[Row]) -> None:
        """Somebody deletes rows, and tells nobody."""
        for row in rows:
            self.raw[row.identity].remove(row)
        self.lost.extend(rows)

    def lose_letters(self, places: Collection[Place]) -> None:
        self.dead = [row for row in self.dead if row.place not in places]
        for place in places:
            del self.letters[place]

    def to_be_removed(self, batch: str, opened_ms: int) -> list[Row]:
        """Rows that the plan of a chunk names, by what they hold."""
        named = {
            (p.partition, p.offset, p.message_ms, p.timestamp_ms, p.content)
            for p in self.plans
            if (p.step, p.batch, p.opened_ms) == ("remove", batch, opened_ms)
        }
        rows = (row for found in self.raw.values() for row in found)
        return [r for r in rows if (r.partition, r.offset, r.message_ms, r.timestamp_ms, r.content) in named]

    def begin_delete(self, batch: str, opened_ms: int) -> None:
        """Mutations, one a day: of rows that are there now, on and on until they are done, also by a server that is
        killed and started again."""
        days: dict[int, list[Row]] = {}
        for row in self.to_be_removed(batch, opened_ms):
            days.setdefault(row.timestamp_ms // DAY_MS, []).append(row)
        for day, rows in days.items():
            self.deleting[batch] += 1
            self.scheduler.spawn(
                "mutation",
                lambda day=day, rows=rows: self._delete(batch, day, rows),  # type: ignore[misc]
                after_seconds=self.scheduler.random.random() * LONGEST_DELETE_SECONDS,
            )

    def _delete(self, batch: str, day: int, rows: Sequence[Row]) -> None:
        self.scheduler.say("clickhouse", f"deletes {len(rows)} rows of day {day} for {batch[:4]}")
        for row in rows:
            of_identity = self.raw.get(row.identity, [])
            # Another mutation of the chunk may have deleted it; and rows of its name that came since stay.
            for number, found in enumerate(of_identity):
                if found is row:
                    del of_identity[number]
                    break
        self.deleting[batch] -= 1

    def _recount(self, minutes: Collection[int]) -> None:
        counts = Counter(row.timestamp_ms // MINUTE_MS for rows in self.raw.values() for row in rows)
        for minute in minutes:
            self.rollup[minute] = counts[minute]

    def _add_dead(self, rows: Sequence[DeadRow]) -> None:
        self.dead.extend(rows)
        self.letters.update((row.place, row) for row in rows)

    def _add_raw(self, rows: Sequence[Row], who: str) -> None:
        self._moment += 1
        for row in rows:
            others = [r for r in self.raw.get(row.identity, ()) if r != row]
            if any(self._looked.get((who, row.identity), 0) < self._arrived[r] for r in others):
                self.blind.add(row.identity)
            self._arrived[row] = self._moment
            self.writers[row] = who
            self.raw.setdefault(row.identity, []).append(row)

    def _add_rollup(self, rows: Sequence[Row]) -> None:
        self.rollup.update(row.timestamp_ms // MINUTE_MS for row in rows)

    def _land(self, parts: list[Part], token: str) -> None:
        """In any order, with time in between; a kill ends it."""
        incarnation = self.incarnation
        if len(parts) > 1:
            self.scheduler.random.shuffle(parts)
        for part in parts:
            self.scheduler.pause(self.scheduler.random.random() * 0.02)
            if self.incarnation != incarnation:
                self._die_at(part, token)
                raise ClickHouseUnavailableError("the server was killed in the middle of an insert")
            place = f"{part.table}/{part.partition}"
            if (part.partition, token) in self._tokens.get(part.table, ()):
                self.scheduler.say("clickhouse", f"{place} knows {token[:4]}{token[32:]}")
            else:
                self.scheduler.say("clickhouse", f"{place} gets {token[:4]}{token[32:]}")
                self._note(part, token)
                part.apply()

    def _die_at(self, part: Part, token: str) -> None:
        is_known = (part.partition, token) in self._tokens.get(part.table, ())
        if is_known or self.scheduler.random.random() > TOKEN_OUTLIVES_PART:
            return
        self.scheduler.say("clickhouse", f"{part.table}/{part.partition} lacks what it knows")
        self._note(part, token)
        self.repaired_minutes.update(part.minutes)

    def _note(self, part: Part, token: str) -> None:
        known = self._tokens.setdefault(part.table, OrderedDict())
        known[part.partition, token] = None
        if len(known) > self.window:
            known.popitem(last=False)


class ModelWarehouse:
    """A `Warehouse`."""

    def __init__(self, server: Server, network: Network, topic_id: str) -> None:
        self._server = server
        self._network = network
        self._topic_id = topic_id

    def existing(self, events: pl.DataFrame, batch: Sequence[OffsetRange]) -> pl.DataFrame:
        rows = list(
            zip(*(events[name].to_list() for name in _IDENTITY_TEXT), milliseconds(events, "timestamp"), strict=True)
        )
        messages_ms = milliseconds(events, "kafka_timestamp")
        first_ms, last_ms = min(messages_ms, default=0), max(messages_ms, default=0)

        def is_own(row: Row) -> bool:
            return first_ms <= row.message_ms <= last_ms and is_within(row, batch)

        def look_up() -> list[bool]:
            self._server.note_look(self._who, ((s, e, t, i) for s, e, i, t in rows))
            return [
                any(not is_own(row) for row in self._server.raw.get((service, endpoint, time_ms, event_id), ()))
                for service, endpoint, event_id, time_ms in rows
            ]

        found = self._network.clickhouse(f"look {len(rows)} events up, without {_said(batch)}", look_up)
        return events.select(IDENTITY).filter(pl.Series(found, dtype=pl.Boolean))

    def own(self, events: pl.DataFrame) -> pl.DataFrame:
        rows = rows_of(events)

        def look_up() -> list[bool]:
            return [row in self._server.raw.get(row.identity, ()) for row in rows]

        found = self._network.clickhouse(f"look {len(rows)} own events up", look_up)
        return events.filter(pl.Series(found, dtype=pl.Boolean))

    def remove_events(self, events: pl.DataFrame) -> None:
        rows = rows_of(events)

        def remove() -> None:
            self._server.remove([row for row in rows if row in self._server.raw.get(row.identity, ())])

        self._send(f"remove {len(rows)} events", remove)

    @property
    def _who(self) -> str:
        return self._network.scheduler.who

    def insert_events(self, events: pl.DataFrame, token: str) -> None:
        rows, who = rows_of(events), self._who
        self._send(
            f"insert {len(rows)} events as {token[:4]}{token[32:]}", lambda: self._server.insert_raw(rows, token, who)
        )

    def insert_dead_letters(self, dead_letters: pl.DataFrame, token: str) -> None:
        rows = dead_rows(self._topic_id, dead_letters.with_columns(batch=pl.lit(token)))
        self._send(f"insert {len(rows)} dead letters", lambda: self._server.insert_dead(rows, token))

    def missing_dead_letters(self, dead_letters: pl.DataFrame) -> pl.DataFrame:
        def look_up() -> set[tuple[int, int]]:
            return {(d.partition, d.offset) for d in self._server.dead if d.topic_id == self._topic_id}

        stored = self._network.clickhouse(f"look for {len(dead_letters)} dead letters", look_up)
        places = dead_letters.select("kafka_partition", "kafka_offset").iter_rows()
        return dead_letters.filter(pl.Series([place not in stored for place in places], dtype=pl.Boolean))

    def insert_ledger_entry(self, entry: LedgerEntry, token: str) -> None:
        self._send(f"insert the account of {entry.token[:4]}", lambda: self._server.insert_ledger(entry, token))

    def has_ledger_entry(self, token: str) -> bool:
        return self._network.clickhouse(
            f"look for the account of {token[:4]}", lambda: any(e.token == token for e in self._server.ledger)
        )

    def remembers(self, since_ms: int) -> bool:
        now_ms = self._server.epoch_ms + int(self._server.scheduler.now * 1_000)

        def count() -> int:
            return sum(
                e.last_event_ms // DAY_MS - e.first_event_ms // DAY_MS + 1
                for e in self._server.ledger
                if e.inserted + e.restored and e.visible_ms >= since_ms
            )

        blocks = self._network.clickhouse("count the blocks since", count)
        return blocks < self._server.window / 2 and since_ms <= now_ms + CLOCKS_DIFFER_SECONDS * 1_000

    def ledger_ends(self, partitions: Sequence[int]) -> Mapping[str, Mapping[int, int]]:
        def read() -> dict[str, dict[int, int]]:
            ends: dict[str, dict[int, int]] = {}
            for entry in self._server.ledger:
                for account in entry.accounts:
                    p, end = account.range.partition, account.range.end
                    if p in partitions:
                        known = ends.setdefault(entry.topic_id, {})
                        known[p] = max(end, known.get(p, 0))
            return ends

        return self._network.clickhouse("read the ends of the ledger", read)

    def _send(self, what: str, insert: Callable[[], None]) -> None:
        send(self._network, what, insert)


def send(network: Network, what: str, insert: Callable[[], None]) -> None:
    """The server does it beside its sender, and to its end, whatever becomes of that one."""
    scheduler = network.scheduler
    scheduler.step(what, may_pause=network.faults.delays_inserts)
    if network.happens(network.faults.clickhouse_fails):
        network.travel()
        raise ClickHouseUnavailableError(f"{what}: did not arrive")
    delay_seconds = network.latency_seconds()
    if network.happens(network.faults.insert_hangs):
        delay_seconds = scheduler.random.random() * network.faults.hang_seconds
    request: Task = scheduler.spawn(what, insert, after_seconds=delay_seconds)
    scheduler.wait(request, REQUEST_TIMEOUT_SECONDS)
    if not request.is_done:
        raise ClickHouseUnavailableError(f"{what}: no answer in {REQUEST_TIMEOUT_SECONDS:.0f} s")
    request.result()
    network.answer(network.faults.clickhouse_answers_late)
    if network.happens(network.faults.clickhouse_answer_lost):
        raise ClickHouseUnavailableError(f"{what}: the answer is lost")


_IDENTITY_TEXT = ("service", "endpoint", "event_id")


def rows_of(events: pl.DataFrame) -> list[Row]:
    columns = ("service", "endpoint", "event_id", "kafka_partition", "kafka_offset", "status", "latency_ms")
    lists = [events[name].to_list() for name in columns]
    return [
        Row(
            (service, endpoint, time_ms, event_id),
            partition,
            offset,
            status,
            message_ms,
            zlib.crc32(f"{service} {endpoint} {time_ms} {event_id} {status} {latency_ms}".encode()),
        )
        for service, endpoint, event_id, partition, offset, status, latency_ms, time_ms, message_ms in zip(
            *lists, milliseconds(events, "timestamp"), milliseconds(events, "kafka_timestamp"), strict=True
        )
    ]


def dead_rows(topic_id: str, letters: pl.DataFrame) -> list[DeadRow]:
    """Of frames with DEAD_LETTER_SCHEMA and `batch`."""
    columns = ("kafka_partition", "kafka_offset", "reason")
    lists = [letters[name].to_list() for name in columns]
    more = [letters[name].to_list() for name in ("detail", "service", "payload", "batch")]
    return [
        DeadRow(topic_id, *values)
        for values in zip(*lists, milliseconds(letters, "kafka_timestamp"), *more, strict=True)
    ]


def _minutes(rows: Sequence[Row]) -> set[int]:
    return {row.timestamp_ms // MINUTE_MS for row in rows}


def milliseconds(frame: pl.DataFrame, column: str) -> list[int]:
    return frame[column].cast(pl.Int64).to_list()


def instants(times_ms: Sequence[int]) -> pl.Series:
    return pl.Series(times_ms, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))


def is_within(row: Row | DeadRow, batch: Sequence[OffsetRange]) -> bool:
    return any(r.partition == row.partition and r.start <= row.offset < r.end for r in batch)


def _said(batch: Sequence[OffsetRange]) -> str:
    return " ".join(f"{r.partition}:{r.start}-{r.end}" for r in batch) or "exceptions"
