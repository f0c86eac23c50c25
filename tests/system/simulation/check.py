"""What must hold at the end of every schedule."""

import json
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.errors import (
    FencedError,
    ForeignViewError,
    PipelineError,
    RetryableError,
    StopError,
    StuckClientError,
    TopicMismatchError,
)
from metrics_pipeline.event.contract import Reason as DeadReason
from metrics_pipeline.kafka.intents import decode_commit
from metrics_pipeline.ledger.entry import DEFERRED, PartitionAccount
from tests.models.clickhouse import MINUTE_MS, Identity
from tests.system.simulation import check_replays
from tests.system.simulation.plan import BAD_STATUSES, Kind
from tests.system.simulation.world import World

Place = tuple[int, int]
"""(partition, offset)."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the present topic was given."""

    events: dict[Place, tuple[Identity, int]]
    """Place -> identity and status."""
    malformed: set[Place]


def problems(world: World) -> list[str]:
    """A sentence for everything that is wrong; empty if the schedule was exact."""
    common = [*_of_endings(world), *_of_commits(world), *_of_ledger(world)]
    if world.plan.replays is not None:
        return [*common, *check_replays.problems(world, world.plan.replays, _lost(world))]
    return [
        *common,
        *_of_events(world),
        *_of_rollup(world),
        *_of_dead_letters(world),
    ]


def _of_endings(world: World) -> list[str]:
    wrong = [
        f"{o.run} ended with {o.error!r}" for o in world.outcomes if o.error and not _is_legitimate(world, o.error)
    ]
    return wrong + [
        f"{o.run}, without any fault, ended with {o.reason or repr(o.error)}"
        for o in world.final_outcomes
        if o.reason is not Reason.CAUGHT_UP
    ]


def _is_legitimate(world: World, error: BaseException) -> bool:
    """Which errors may end a run, by what was done to it."""
    kind = world.plan.kind
    match error:
        case RetryableError() | StuckClientError():
            return True
        case FencedError():
            return False  # It is to be the reason of a quiet end.
        case TopicMismatchError():
            return kind is Kind.RECREATED
        case StopError():
            is_said = isinstance(error, ForeignViewError) or "are in raw_events already" in str(error)
            return kind is Kind.CHANGING_RULES and is_said
        case PipelineError():
            return False
    return False


def _of_commits(world: World) -> list[str]:
    wrong = [
        f"the intent of a backfill is still open at partition {p}"
        for p, found in world.side.committed.items()
        if decode_commit(*found).intent is not None
    ]
    for p, partition in world.broker.partitions.items():
        commit = decode_commit(*world.broker.committed.get(p, (-1, None)))
        if commit.intent is not None:
            wrong.append(f"the intent {commit.intent} is still open at partition {p}")
        if commit.offset != partition.high or commit.topic_id != world.broker.topic_id:
            wrong.append(f"partition {p} ends at {partition.high} of {world.broker.topic_id}, but has {commit}")
    return wrong


def _of_ledger(world: World) -> list[str]:
    wrong = [
        f"{token} is {count} times in the ledger" for token, count in _doubles(e.token for e in world.server.ledger)
    ]
    for p, partition in world.broker.partitions.items():
        accounts = _accounts(world, p)
        ends = [accounts[0].range.start if accounts else partition.high, *(a.range.end for a in accounts)]
        starts = [*(a.range.start for a in accounts), partition.high]
        if ends != starts or (ends[0] > 0 and not partition.low):
            wrong.append(
                f"the ledger of partition {p} does not tile: {[(a.range.start, a.range.end) for a in accounts]}"
            )
        for a in accounts:
            lost_end = a.range.start + a.lost
            if a.consumed != a.inserted + a.duplicates + a.dead_letters or min(a.duplicates, a.skipped, a.lost) < 0:
                wrong.append(f"an account does not balance: {a}")
            if a.lost and lost_end > partition.low:
                wrong.append(f"an account calls lost what the log holds from {partition.low} on: {a}")
            held = sum(1 for o in range(lost_end, a.range.end) if (p, o) in world.produced[-1].values)
            if held != a.consumed:
                wrong.append(f"{held} messages are in the range, but: {a}")
    return wrong


def _of_events(world: World) -> list[str]:
    raw = {identity: rows for identity, rows in world.server.raw.items() if rows}
    wrong = [f"{rows} are the same event" for rows in raw.values() if len(rows) != 1]
    sent = _sent(world)
    dead = {(d.partition, d.offset) for d in world.server.dead if d.topic_id == world.broker.topic_id}
    copies: dict[Identity, list[Place]] = {}
    for place, (identity, _) in sent.events.items():
        copies.setdefault(identity, []).append(place)
    status = dict(sent.events.values())
    lost = _lost(world)
    for identity, places in copies.items():
        is_refusable = status[identity] in BAD_STATUSES
        is_dead = any(place in dead for place in places)
        if world.plan.kind is Kind.REFUSALS and is_refusable and identity in raw:
            wrong.append(f"{identity} at {places} is stored, though the server refuses it")
        if identity not in raw and not (is_refusable and is_dead) and not lost.issuperset(places):
            wrong.append(f"{identity} at {places} is missing")
    if len(world.produced) == 1:
        wrong += [f"{identity} was never sent" for identity in raw if identity not in copies]
        inserted = sum(e.inserted for e in world.server.ledger)
        if inserted != len(raw) and world.plan.kind is not Kind.RETENTION:
            wrong.append(f"the ledger says {inserted} inserted, raw_events has {len(raw)} rows")
    return wrong


def _of_rollup(world: World) -> list[str]:
    if world.may_have_cut_rollup():
        return []
    raw = Counter(row.timestamp_ms // MINUTE_MS for rows in world.server.raw.values() for row in rows)
    minutes = sorted(set(raw) | set(world.server.rollup))
    return [
        f"minute {m}: {raw[m]} in raw_events, {world.server.rollup[m]} in rollup_1m"
        for m in minutes
        if raw[m] != world.server.rollup[m]
    ]


def _of_dead_letters(world: World) -> list[str]:
    topic_id = world.broker.topic_id
    rows = [((d.partition, d.offset), d.reason) for d in world.server.dead if d.topic_id == topic_id]
    wrong = []
    if world.plan.kind is not Kind.SHORT_MEMORY:  # There the table's own replacing makes them one.
        wrong += [f"the dead letter of {place} is there {n} times" for place, n in _doubles(p for p, _ in rows)]
    sent, lost = _sent(world), _lost(world)
    malformed = {place for place, reason in rows if reason != DeadReason.REFUSED}
    wrong += [f"{place} is malformed, but no dead letter" for place in sent.malformed - malformed - lost]
    wrong += [f"{place} is a dead letter, but not malformed" for place in malformed - sent.malformed]
    refused = {place for place, reason in rows if reason == DeadReason.REFUSED}
    wrong += [
        f"{place} is a refused event, but nothing refuses it"
        for place in refused
        if sent.events.get(place, ("", 0))[1] not in BAD_STATUSES
    ]
    return wrong


def _sent(world: World) -> Sent:
    events, malformed = {}, set()
    for place, value in world.produced[-1].values.items():
        identity = _identity(value)
        if identity is None:
            malformed.add(place)
        else:
            events[place] = identity
    return Sent(events, malformed)


def _identity(value: bytes | None) -> tuple[Identity, int] | None:
    try:
        e = json.loads(value or b"")
        return (e["service"], e["endpoint"], e["timestamp"], e["event_id"]), e["status"]
    except (ValueError, KeyError, TypeError):
        return None


def _lost(world: World) -> set[Place]:
    return {
        (p, offset)
        for p in world.broker.partitions
        for a in _accounts(world, p)
        for offset in range(a.range.start, a.range.start + a.lost)
    } | {(p, o) for p in world.broker.partitions for o in range(_first(world, p))}


def _first(world: World, partition: int) -> int:
    """Where the ledger begins: what the log dropped before a first run looked is in no account."""
    accounts = _accounts(world, partition)
    return accounts[0].range.start if accounts else world.broker.partitions[partition].low


def _accounts(world: World, partition: int) -> list[PartitionAccount]:
    covering = (e for e in world.server.ledger if e.topic_id == world.broker.topic_id and e.source != DEFERRED)
    accounts = (a for e in covering for a in e.accounts)
    return sorted((a for a in accounts if a.range.partition == partition), key=lambda a: (a.range.start, a.range.end))


def _doubles(values: Iterable[Hashable]) -> list[tuple[Hashable, int]]:
    return [(value, count) for value, count in Counter(values).items() if count > 1]
