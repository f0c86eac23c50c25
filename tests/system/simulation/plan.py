"""What happens in a schedule, all drawn from its seed: messages, runs, incidents, faults."""

import random
import uuid
from dataclasses import dataclass, field, replace
from enum import StrEnum

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.kafka.intents import Owner
from tests.models.network import Faults
from tests.models.scheduler import Incident
from tests.system.simulation.replays import SECOND_ACT_SECONDS, Replays, aged, draw_replays

EPOCH_MS = 1_793_491_198_000
"""2026-10-31T23:59:58Z: batches span two days, which are in two months."""
BAD_STATUSES = (555, 556)
_MALFORMED: tuple[bytes | None, ...] = (b"{", None, b"[]", b'{"service":"s"}')
_TEMPLATE = (
    '{"event_id":"%s","timestamp":%d,"service":"s%d","endpoint":"/","status":%d,"latency_ms":1.5,'
    '"customer":{"id":"c","tier":"pro"}}'
)


class Kind(StrEnum):
    """Schedules of a kind share what they stress; what they must hold differs a little."""

    PLAIN = "plain"
    """Everything but the below."""
    REFUSALS = "refusals"
    """A rule on the server refuses some rows from the beginning."""
    CHANGING_RULES = "changing rules"
    """Rules come and go; no insert is on its way for long."""
    RETENTION = "retention"
    """The log drops records, read or not."""
    SHORT_MEMORY = "short memory"
    """The server remembers few tokens; no insert is on its way for long."""
    RECREATED = "recreated"
    """The topic is deleted and recreated while runs are at it."""


FIRST_SEED_WITH_REPLAYS = 1_000_000
"""Schedules from that seed on have replays of dead letters and of hours, beside all else that their seed says."""
FIRST_SEED_ON_OTHER_MACHINES = 2_000_000
"""Schedules from that seed on have late answers, processes that stand still or die between effect and
answer, and hosts whose wall clocks are hours apart."""
JUMPING_KINDS = (Kind.PLAIN, Kind.REFUSALS, Kind.RETENTION)
"""Schedules in which runs may skip what is waiting, and backfills land it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One offset to be written; `at_seconds` virtual. A hole where `is_hole`."""

    at_seconds: float
    partition: int
    value: bytes | None = None
    is_hole: bool = False


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One drain run."""

    name: str
    owner: Owner
    at_seconds: float
    has_predecessor: bool
    ends_caught_up: bool
    incidents: dict[int | tuple[str, int], Incident]
    is_skipping_to_head: bool = False
    """It begins at the head, however little it is behind."""


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """One run of a backfill."""

    name: str
    at_seconds: float
    incidents: dict[int | tuple[str, int], Incident]


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule before it runs."""

    seed: int
    kind: Kind
    partitions: int
    shards_at_end: int
    flush_events: int
    window: int
    messages: tuple[Message, ...]
    runs: tuple[RunPlan, ...]
    faults: Faults
    kills_at_seconds: tuple[float, ...]
    """ClickHouse is killed then."""
    retention: tuple[tuple[float, int, int], ...] = ()
    """(when, partition, first offset that stays)."""
    rules: tuple[tuple[float, frozenset[int]], ...] = ()
    """From when on which statuses are refused."""
    are_views: bool = False
    """The rules are views that throw, not constraints."""
    recreated_at_seconds: float | None = None
    new_partition_at_seconds: float | None = None
    forgets_offsets: bool = field(default=False)
    backfills: tuple[BackfillPlan, ...] = ()
    replays: Replays | None = None
    hosts_ahead_ms: tuple[int, ...] = (0,)
    """The wall clocks of hosts, against the server's."""


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    plan = _draw(seed)
    # These words are part of the seed: other words make other schedules.
    random_ = random.Random(f"fresh first {seed}")
    if plan.kind in JUMPING_KINDS and random_.random() < 0.5:
        plan = _with_jumps(plan, random_)
    if seed >= FIRST_SEED_ON_OTHER_MACHINES:
        random_ = random.Random(f"machines {seed}")
        if random_.random() < 0.2:
            plan = _with_replays(plan, random_)
        return _on_other_machines(plan, random_)
    return plan if seed < FIRST_SEED_WITH_REPLAYS else _with_replays(plan, random.Random(f"replays {seed}"))


def _on_other_machines(plan: Plan, random_: random.Random) -> Plan:
    runs = (replace(run, incidents=_after_effects(random_, run.incidents)) for run in plan.runs)
    backfills = (replace(run, incidents=_after_effects(random_, run.incidents)) for run in plan.backfills)
    faults = replace(
        plan.faults,
        kafka_answers_late=random_.choice([0.0, 0.05, 0.15]),
        clickhouse_answers_late=random_.choice([0.0, 0.0, 0.05]),
    )
    hosts_ahead_ms = (0, -6 * 3_600_000, 30_000, 6 * 3_600_000)
    return replace(plan, runs=tuple(runs), backfills=tuple(backfills), faults=faults, hosts_ahead_ms=hosts_ahead_ms)


def _after_effects(
    random_: random.Random, incidents: dict[int | tuple[str, int], Incident]
) -> dict[int | tuple[str, int], Incident]:
    """Those at a numbered step; the others are named for what they come before."""
    return {
        at: replace(incident, is_after=isinstance(at, int) and random_.random() < 0.5)
        for at, incident in incidents.items()
    }


def _with_replays(plan: Plan, random_: random.Random) -> Plan:
    """Older events, since replays of hours leave those of open units alone; what `Replays` says; and a second act, in
    which some of the messages are sent again, to other drains, beside other replays."""
    older = aged(random_, [m.value for m in plan.messages])
    messages = [replace(m, value=older.get(m.value or b"", m.value)) for m in plan.messages]
    refuses_from_the_beginning = plan.kind is Kind.REFUSALS
    replays = draw_replays(
        random_, plan.seed, [m.value for m in messages], refuses_from_the_beginning=refuses_from_the_beginning
    )
    again = [
        replace(m, at_seconds=SECOND_ACT_SECONDS + 5 * random_.random())
        for m in messages
        if not m.is_hole and random_.random() < 0.4
    ]
    shards = plan.shards_at_end
    runs = [
        RunPlan(
            name=f"again{n}",
            owner=Owner(shards, random_.randrange(shards)),
            at_seconds=SECOND_ACT_SECONDS + 4 * random_.random(),
            has_predecessor=False,
            ends_caught_up=random_.random() < 0.5,
            incidents=_incidents(random_, 60),
        )
        for n in range(random_.randint(1, 3))
    ]
    retention = _retention(random_, plan.partitions) if plan.kind is Kind.RETENTION else ()
    plan = replace(
        plan,
        messages=(*messages, *again),
        runs=(*plan.runs, *runs),
        retention=(*plan.retention, *((SECOND_ACT_SECONDS + at, p, 2 * offset) for at, p, offset in retention)),
        kills_at_seconds=(
            *plan.kills_at_seconds,
            *(SECOND_ACT_SECONDS + 7 * random_.random() for _ in plan.kills_at_seconds),
        ),
        replays=replays,
    )
    if replays.lifted_at_seconds is None:
        return plan
    return replace(plan, rules=(*plan.rules, (replays.lifted_at_seconds, frozenset[int]())))


def _with_jumps(plan: Plan, random_: random.Random) -> Plan:
    """A backlog that the first run skips, backfills beside live runs, and the same events sent once more meanwhile."""
    backfills = tuple(
        BackfillPlan(f"fill{number}", 2.5 + random_.random() * 4, _incidents(random_, 60))
        for number in range(random_.randint(1, 3))
    )
    backlog = tuple(replace(m, at_seconds=0.0) if random_.random() < 0.7 else m for m in plan.messages)
    again = tuple(
        replace(message, at_seconds=random_.choice(backfills).at_seconds + random_.random())
        for message in backlog
        if not message.is_hole and random_.random() < 0.5
    )
    # To find the hours takes it some 60 calls: by number, most incidents would befall those.
    step = random_.choice([Step.INTENT, Step.LEDGER, Step.EVENTS, Step.CLOSE])
    crash = {(f"[{step}]", random_.randint(1, 2)): Incident()} if random_.random() < 0.4 else {}
    first = replace(
        plan.runs[0],
        at_seconds=0.1 * random_.random(),
        is_skipping_to_head=True,
        has_predecessor=False,
        incidents=crash,
    )
    others = (
        replace(r, at_seconds=r.at_seconds + 2, is_skipping_to_head=random_.random() < 0.3) for r in plan.runs[1:]
    )
    live = replace(first, name="live", at_seconds=3 + random_.random(), is_skipping_to_head=False, incidents={})
    return replace(
        plan,
        runs=(first, live, *others),
        backfills=backfills,
        faults=replace(plan.faults, insert_hangs=0.0, delays_inserts=False),
        messages=(*backlog, *again),
    )


def _draw(seed: int) -> Plan:
    random_ = random.Random(seed)
    kind = random_.choices(list(Kind), weights=[50, 14, 8, 10, 12, 6])[0]
    partitions = random_.choice([1, 2, 2, 3, 4])
    counts = [1] if random_.random() < 0.5 else sorted({random_.randint(1, partitions) for _ in range(2)})
    if kind is Kind.SHORT_MEMORY:
        counts = [random_.randint(1, min(2, partitions))]
    at_once = kind is Kind.SHORT_MEMORY or random_.random() < 0.4
    messages = _messages(random_, kind, partitions, shares_keys=counts == [1], at_once=at_once)
    rules = _rules(random_, kind)
    if kind is Kind.SHORT_MEMORY:
        incident, step = random_.choice([(Incident(), Step.LEDGER), (Incident(30.0), Step.EVENTS)])
        runs = _victim_and_fillers(random_, counts[0], incident, step)
    elif kind is Kind.CHANGING_RULES and at_once:
        # Rows land while nothing refuses them; a rule comes before their batch is in the ledger.
        runs = _victim_and_fillers(random_, 1, Incident(), Step.LEDGER)
        rules = ((0.9, frozenset(BAD_STATUSES)), *rules)
    elif len(counts) == 2 and random_.random() < 0.3:
        runs = _rivals(random_, partitions, counts)
    else:
        runs = tuple(_run(random_, number, counts) for number in range(random_.randint(1, 4)))
    kills = tuple(random_.random() * 6 for _ in range(random_.choice([0, 0, 1, 3])))
    return Plan(
        seed=seed,
        kind=kind,
        partitions=partitions,
        shards_at_end=random_.choice(counts),
        flush_events=random_.choice([1, 2] if kind is Kind.SHORT_MEMORY else [2, 3, 5, 8]),
        window=random_.choice([4, 6]) if kind is Kind.SHORT_MEMORY else 10_000,
        messages=messages,
        runs=runs,
        faults=_faults(random_, kind),
        kills_at_seconds=kills,
        retention=_retention(random_, partitions) if kind is Kind.RETENTION else (),
        rules=rules,
        are_views=kind is Kind.CHANGING_RULES and random_.random() < 0.3,
        recreated_at_seconds=1 + random_.random() * 4 if kind is Kind.RECREATED else None,
        new_partition_at_seconds=random_.random() * 4 if random_.random() < 0.1 else None,
        forgets_offsets=random_.random() < 0.5,
    )


def _messages(
    random_: random.Random, kind: Kind, partitions: int, *, shares_keys: bool, at_once: bool
) -> tuple[Message, ...]:
    sent: list[tuple[int, bytes]] = []
    messages = []
    for _ in range(random_.randint(16, 30) if kind is Kind.SHORT_MEMORY else random_.randint(4, 22)):
        at_seconds = 0.0 if at_once else random_.random() * 5
        partition = random_.randrange(partitions)
        drawn = random_.random()
        if drawn < 0.1:
            messages.append(Message(at_seconds, partition, is_hole=True))
        elif drawn < 0.18:
            messages.append(Message(at_seconds, partition, random_.choice(_MALFORMED)))
        elif drawn < 0.34 and sent:
            home, value = random_.choice(sent)
            messages.append(Message(at_seconds, partition if shares_keys else home, value))
        else:
            is_bad = kind in (Kind.REFUSALS, Kind.CHANGING_RULES) and random_.random() < 0.25
            value = _event(random_, random_.choice(BAD_STATUSES) if is_bad else 200)
            sent.append((partition, value))
            messages.append(Message(at_seconds, partition, value))
    return tuple(messages)


def _event(random_: random.Random, status: int) -> bytes:
    timestamp_ms = EPOCH_MS + random_.choice([-70_000, -5_000, 0, 1_000, 2_500, 60_000])
    event_id = uuid.UUID(int=random_.getrandbits(128), version=4)
    return (_TEMPLATE % (event_id, timestamp_ms, random_.randrange(2), status)).encode()


def _rivals(random_: random.Random, partitions: int, counts: list[int]) -> tuple[RunPlan, ...]:
    """Owners of one partition under different numbers of shards that begin at the same moment."""
    shared = random_.randrange(partitions)
    owners = (Owner(shards, shared % shards) for shards in counts)
    return tuple(
        RunPlan(f"rival{o}", o, 0.02 * random_.random(), has_predecessor=False, ends_caught_up=False, incidents={})
        for o in owners
    )


def _victim_and_fillers(random_: random.Random, shards: int, incident: Incident, step: Step) -> tuple[RunPlan, ...]:
    """A run that is killed or stands still, and others that meanwhile insert more than the server remembers."""
    caught_up: dict[str, bool] = {"has_predecessor": False, "ends_caught_up": True}
    victim = RunPlan(
        "victim", Owner(shards, 0), 0.0, **caught_up, incidents={(f"[{step}]", random_.randint(1, 3)): incident}
    )
    fillers = (
        RunPlan(f"filler{shard}", Owner(shards, shard), 1 + 4 * random_.random(), **caught_up, incidents={})
        for shard in range(min(1, shards - 1), shards)
    )
    return victim, *fillers


def _run(random_: random.Random, number: int, counts: list[int]) -> RunPlan:
    shards = random_.choice(counts)
    incidents = _incidents(random_, 60)
    return RunPlan(
        name=f"run{number}",
        owner=Owner(shards, random_.randrange(shards)),
        at_seconds=random_.random() * random_.choice([0.1, 3, 8]),
        has_predecessor=random_.random() < 0.3,
        ends_caught_up=random_.random() < 0.5,
        incidents=incidents,
    )


def _incidents(random_: random.Random, last_step: int) -> dict[int | tuple[str, int], Incident]:
    incidents: dict[int | tuple[str, int], Incident] = {}
    if random_.random() < 0.45:
        incidents[random_.randint(1, last_step)] = Incident()
    if random_.random() < 0.35:
        incidents[random_.randint(1, last_step)] = Incident(random_.choice([1.0, 4.0, 30.0]))
    return incidents


def _faults(random_: random.Random, kind: Kind) -> Faults:
    level = random_.choice([0.0, 0.02, 0.1])
    faults = Faults(
        kafka_fails=level * random_.random(),
        kafka_answer_lost=level * random_.random(),
        kafka_hangs=level * random_.random() / 2,
        clickhouse_fails=level * random_.random(),
        clickhouse_answer_lost=2 * level * random_.random(),
        insert_hangs=2 * level * random_.random(),
    )
    if kind in (Kind.CHANGING_RULES, Kind.SHORT_MEMORY, Kind.RETENTION):
        # Inserts that arrive too late are among the limits that docs/reliability.md names: after a rule was dropped,
        # after their token was forgotten, after the log dropped the batch that they account for.
        faults.insert_hangs = 0.0
        faults.delays_inserts = False
    return faults


def _retention(random_: random.Random, partitions: int) -> tuple[tuple[float, int, int], ...]:
    times = range(random_.randint(1, 3))
    return tuple((random_.random() * 6, random_.randrange(partitions), random_.randint(1, 6)) for _ in times)


def _rules(random_: random.Random, kind: Kind) -> tuple[tuple[float, frozenset[int]], ...]:
    if kind is Kind.REFUSALS:
        return ((0.0, frozenset(BAD_STATUSES)),)
    if kind is Kind.CHANGING_RULES:
        choices = [frozenset[int](), frozenset(BAD_STATUSES), *(frozenset({status}) for status in BAD_STATUSES)]
        return tuple((random_.random() * 6, random_.choice(choices)) for _ in range(random_.randint(1, 3)))
    return ()
