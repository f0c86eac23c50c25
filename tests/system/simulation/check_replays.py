"""What must hold at the end of a schedule with replays: the tables say what today's rules make of the messages."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from metrics_pipeline.dead_letters.judge import verdict_on
from metrics_pipeline.event.contract import Reason
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.intents import decode_commit
from metrics_pipeline.ledger.entry import BACKFILL, DRAIN
from metrics_pipeline.ledger.tables import PlanStep
from metrics_pipeline.replay.plan import SOURCE, Mode
from metrics_pipeline.rollups.grains import UNIT
from tests.models.clickhouse import MINUTE_MS, DeadRow, Identity, Row, rows_of
from tests.system.simulation.plan import BAD_STATUSES, Kind
from tests.system.simulation.replays import Replays
from tests.system.simulation.world import World

Place = tuple[int, int]
"""(partition, offset) of the present topic."""
_UNIT_MINUTES = UNIT.seconds // 60


@dataclass(frozen=True, slots=True)
class Truth:
    """What the present topic was given, by today's rules: `rows` as they should be, all others are no events.

    `changed` are events by the drains' rules alone. `held` are those that the log still holds; `unread` were dropped
    before anybody read them.
    """

    rows: dict[Place, Row]
    bad: frozenset[Place]
    changed: frozenset[Place]
    held: frozenset[Place]
    unread: frozenset[Place]


def problems(world: World, plan: Replays, unread: set[Place]) -> list[str]:
    """A sentence for everything that is wrong; `unread` was dropped by the log."""
    truth = _truth(world, plan, unread)
    return [
        *_of_chunks(world),
        *_of_events(world, plan, truth),
        *_of_ledger(world, plan),
        *_of_rollup(world),
        *_of_letters(world, plan, truth),
    ]


def _of_chunks(world: World) -> Iterator[str]:
    for side in (world.letters_side, world.hours_side):
        for commit in (decode_commit(*found) for found in side.committed.values()):
            if commit.intent is not None:
                yield f"a chunk of the {side.topic_id} is still open: {commit.intent}"
    if torn := {batch for batch, count in world.server.deleting.items() if count}:
        yield f"rows are still to be deleted for {torn}"


def _of_events(world: World, plan: Replays, truth: Truth) -> Iterator[str]:
    raw = {identity: rows for identity, rows in world.server.raw.items() if rows}
    for identity, rows in raw.items():
        origins = {(r.partition, r.offset, r.message_ms) for r in rows}
        if len(rows) != len(origins) or (len(rows) > 1 and not _is_coincidence(world, identity)):
            yield f"{rows} are the same event"
    refused = world.server.refused
    copies: dict[Identity, list[Place]] = {}
    for place, row in truth.rows.items():
        copies.setdefault(row.identity, []).append(place)
    lost = {(r.partition, r.offset) for r in world.server.lost}
    for identity, places in copies.items():
        if identity in raw or truth.unread.issuperset(places):
            continue
        is_refused = truth.rows[places[0]].status in refused
        # Whom a replay of hours can't read any more, it can't restore.
        is_out_of_reach = any(place in lost for place in places) and not truth.held.intersection(places)
        is_taken_for_another = bool(plan.misread) and not truth.held.intersection(places)
        if not (is_refused or is_out_of_reach or is_taken_for_another):
            yield f"{identity} at {places} is missing"
    if len(world.produced) > 1:
        return
    for row in (row for rows in raw.values() for row in rows):
        place = row.partition, row.offset
        is_left = place not in truth.held or plan.final_mode is Mode.FILL
        wanted = truth.rows.get(place)
        is_right = wanted is not None and (row, row.content) == (wanted, wanted.content)
        if not is_right and not (is_left and (plan.misread or plan.today != plan.drains)):
            yield f"{row} is not what its message says: {wanted}"
        if world.plan.kind is Kind.REFUSALS and row.status in refused:
            yield f"{row} is stored, though the server refuses it"


def _of_ledger(world: World, plan: Replays) -> Iterator[str]:
    """Minute by minute it says what raw_events holds, but for rows that were deleted and nobody could bring back."""
    values = world.produced[-1].values
    # Restored, since nobody could judge its minute, while drains have accounted for it in another one: among the limits
    # of docs/reliability.md.
    strayed = Counter(
        p.timestamp_ms // MINUTE_MS * 60
        for p in world.server.plans
        if p.step == PlanStep.RESTORE and (values.get((p.partition, p.offset)) or b"") in plan.misread
    )
    net = Counter[int]()
    for e in world.server.ledger:
        minutes = e.minutes
        if e.source in (DRAIN, BACKFILL) and e.inserted != sum(minutes.inserted):
            yield f"the entry {e.token} counts {e.inserted} events, by minutes {minutes}"
        removed = minutes.removed or (0,) * len(minutes.inserted)
        for minute, n, r in zip(minutes.starts_seconds, minutes.inserted, removed, strict=True):
            net[minute] += n - r
    raw = Counter(r.timestamp_ms // MINUTE_MS * 60 for rows in world.server.raw.values() for r in rows)
    gone = Counter(r.timestamp_ms // MINUTE_MS * 60 for r in _gone(world))
    blind = Counter(identity[2] // MINUTE_MS * 60 for identity in world.server.blind)
    if len(world.produced) > 1 or world.had_open_intent_when_cut:
        return
    for minute in sorted(set(net) | set(raw)):
        if not -blind[minute] - strayed[minute] <= net[minute] - raw[minute] <= gone[minute] + blind[minute]:
            yield (
                f"the ledger says {net[minute]} events of minute {minute // 60}, raw_events has {raw[minute]}, "
                f"and {gone[minute]} were deleted"
            )


def _of_rollup(world: World) -> Iterator[str]:
    if world.may_have_cut_rollup():
        return
    raw = Counter(r.timestamp_ms // MINUTE_MS for rows in world.server.raw.values() for r in rows)
    # What no replay brings back (but nobody, or the batch that was open) is in no plan: the check of drift finds it.
    planned = {(p.partition, p.offset, p.message_ms, p.timestamp_ms) for p in world.server.plans}
    by_others = [r for r in world.server.lost if (r.partition, r.offset, r.message_ms, r.timestamp_ms) not in planned]
    excused = {r.timestamp_ms // MINUTE_MS // _UNIT_MINUTES for r in (*by_others, *_gone(world))}
    for minute in sorted(set(raw) | set(world.server.rollup)):
        if raw[minute] != world.server.rollup[minute] and minute // _UNIT_MINUTES not in excused:
            yield f"minute {minute}: {raw[minute]} in raw_events, {world.server.rollup[minute]} in rollup_1m"


def _of_letters(world: World, plan: Replays, truth: Truth) -> Iterator[str]:
    server, topic_id = world.server, world.broker.topic_id
    if world.plan.kind is not Kind.SHORT_MEMORY:  # There the table's own replacing makes them one.
        for place, count in Counter(d.place for d in server.dead).items():
            if count > 1:
                yield f"the dead letter of {place} is there {count} times"
    for letter in server.letters.values():
        yield from _of_letter(world, plan, letter)
    there = {(d.partition, d.offset): d for d in server.letters.values() if d.topic_id == topic_id}
    for place in sorted(truth.bad - there.keys() - truth.unread):
        stays = any((r.partition, r.offset) == place for rows in server.raw.values() for r in rows)
        was_deleted = place in world.lost_letters and place not in truth.held
        is_left = (stays and plan.final_mode is Mode.FILL) or (place in truth.changed - truth.held)
        lost_its_row = any((r.partition, r.offset) == place for r in server.lost)
        if not (was_deleted or is_left or lost_its_row):
            yield f"{place} is no event, but no dead letter"
    added = Counter(d.batch for d in server.letters.values())
    for e in server.ledger:
        lost = sum(1 for place in world.lost_letters if place not in there)
        if e.source == SOURCE and not 0 <= e.added_dead_letters - added[e.token] <= lost:
            yield f"{e} has {added[e.token]} dead letters"


def _of_letter(world: World, plan: Replays, letter: DeadRow) -> Iterator[str]:
    if letter.topic_id != world.broker.topic_id:
        return
    verdict = verdict_on(letter.payload, letter.reason, letter.timestamp_ms, plan.today)
    if not verdict.is_event:
        # Those that are made or made again after the last look have no outcome yet.
        if letter.outcome not in ("kept", ""):
            yield f"no event, but {letter.outcome}: {letter}"
        return
    e = json.loads(letter.payload)
    identity = (e["service"], e["endpoint"], e["timestamp"], e["event_id"])
    rows = world.server.raw.get(identity, [])
    gone = {r.identity for r in _gone(world)}
    match letter.outcome:
        case "landed":
            if not any((r.partition, r.offset) == (letter.partition, letter.offset) for r in rows):
                yield f"marked as landed, but not in raw_events: {letter}"
        case "duplicate":
            if not rows and identity not in gone:
                yield f"marked as a duplicate, but of nothing: {letter}"
        case _:
            is_refused = letter.outcome == "kept" and letter.replay_reason == Reason.REFUSED
            if not (is_refused and e["status"] in BAD_STATUSES and e["status"] in world.server.refused):
                yield f"an event by today's rules, and left: {letter}"


def _is_coincidence(world: World, identity: Identity) -> bool:
    """A replay and a drain stored it in the same moment, each before it could see the other's row."""
    rows = world.server.raw[identity]
    is_of_replay = any("letters" in world.server.writers[r] or "hours" in world.server.writers[r] for r in rows)
    return identity in world.server.blind and is_of_replay


def _gone(world: World) -> list[Row]:
    """Rows that were deleted behind the pipeline's back and did not come back as they were."""
    there = {row for rows in world.server.raw.values() for row in rows}
    return [row for row in world.server.lost if row not in there]


def _truth(world: World, plan: Replays, unread: set[Place]) -> Truth:
    rows: dict[Place, Row] = {}
    changed = set[Place]()
    produced = world.produced[-1].values
    for (p, o), value in produced.items():
        record = world.broker.partitions[p].records[o]
        assert record is not None
        message = Messages([p], [o], [record.timestamp_ms], [value])
        found = rows_of(plan.today.decode(message).events)
        rows.update(((p, o), row) for row in found)
        if not found and len(plan.drains.decode(message).events):
            changed.add((p, o))
    held = frozenset((p, o) for p, o in produced if o >= world.broker.partitions[p].low)
    return Truth(rows, frozenset(produced.keys() - rows.keys()), frozenset(changed), held, frozenset(unread))
