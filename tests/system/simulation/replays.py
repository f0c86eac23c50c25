"""What replays there are in a schedule, and what there is for them to do, drawn from its seed, apart from the rest."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metrics_pipeline.delivery.steps import HourStep, ReplayStep
from metrics_pipeline.event.decode import EventLimits
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.replay.plan import Mode
from tests.models.scheduler import Incident

MINUTE_MS = 60_000
DAY_MS = 86_400_000
RULES = Rules(EventLimits(max_age_ms=10 * DAY_MS, max_future_ms=3_600_000))
NARROW = Rules(EventLimits(max_age_ms=2 * 3_600_000, max_future_ms=3_600_000))
"""By these rules, events of the day before are none."""
_AGES_MS = (0, 20 * MINUTE_MS, 31 * MINUTE_MS, DAY_MS + 20 * MINUTE_MS)
"""A replay of hours changes nothing whose unit of rollups is open: so most events are older than that."""
SECOND_ACT_SECONDS = 1_500.0
"""By then every unit of rollups is closed, and whatever was on its way has arrived."""

Incidents = Mapping[int | tuple[str, int], Incident]


@dataclass(frozen=True, slots=True)
class LettersPlan:
    """One replay of dead letters."""

    name: str
    at_seconds: float
    incidents: Incidents
    has_old_rules: bool = False
    """It judges as drains do."""


@dataclass(frozen=True, slots=True)
class HoursPlan:
    """One replay of all hours."""

    name: str
    at_seconds: float
    mode: Mode
    incidents: Incidents


@dataclass(frozen=True, slots=True)
class Loss:
    """Rows, or malformed letters, that somebody deletes behind the pipeline's back: `seed` decides which ones."""

    at_seconds: float
    seed: str
    is_of_letters: bool


@dataclass(frozen=True, slots=True)
class Replays:
    """Drains judge by `drains`, replays by `today`.

    `misread` is value -> what drains take it for. Pages, chunks and windows have so many messages at most.
    """

    letters: tuple[LettersPlan, ...]
    hours: tuple[HoursPlan, ...]
    losses: tuple[Loss, ...]
    final_mode: Mode
    drains: Rules
    today: Rules
    misread: Mapping[bytes, bytes]
    page_letters: int
    chunk_letters: int
    window_messages: int
    lifted_at_seconds: float | None
    """When the rule is dropped that refused rows from the beginning."""


def aged(random_: random.Random, values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    """Value -> the same event, happened earlier."""
    return {
        value: _changed(value, timestamp=json.loads(value)["timestamp"] - random_.choices(_AGES_MS, [2, 4, 3, 3])[0])
        for value in dict.fromkeys(values)
        if value is not None and b"event_id" in value
    }


def draw_replays(
    random_: random.Random, seed: int, values: Sequence[bytes | None], *, refuses_from_the_beginning: bool
) -> Replays:
    """Replays of a schedule whose topic is given these values."""
    rules = random_.choice(["as today", "stricter", "laxer", "misread"])
    modes = [Mode.REPLACE, random_.choice(list(Mode))]
    letters: list[LettersPlan] = []
    hours: list[HoursPlan] = []
    losses: list[Loss] = []
    for act_seconds in (0.0, SECOND_ACT_SECONDS):
        begin = act_seconds + random_.random() * 4
        within_seconds = 0.02 if random_.random() < 0.3 else 5.0
        for _ in range(random_.randint(0, 2)):
            at_seconds = begin + within_seconds * random_.random()
            incidents = _incidents(random_, list(ReplayStep))
            # What is no event any more would land by laxer rules of before, and nobody would take it back.
            has_old_rules = rules == "stricter" and random_.random() < 0.3
            letters.append(LettersPlan(f"letters{len(letters)}", at_seconds, incidents, has_old_rules))
        for _ in range(random_.randint(0, 2)):
            at_seconds = begin + within_seconds * random_.random()
            incidents = _incidents(random_, list(HourStep))
            hours.append(HoursPlan(f"hours{len(hours)}", at_seconds, random_.choice(modes), incidents))
        for _ in range(random_.randint(0, 2)):
            at_seconds = act_seconds - 1 + random_.random() * 7
            losses.append(Loss(max(1.0, at_seconds), f"loss {seed} {len(losses)}", random_.random() < 0.3))
    misread = _misread(random_, values) if rules == "misread" else {}
    return Replays(
        letters=tuple(letters),
        hours=tuple(hours),
        losses=tuple(losses),
        final_mode=Mode.REPLACE if rules in ("laxer", "misread") else random_.choice(list(Mode)),
        drains=NARROW if rules == "stricter" else RULES,
        today=NARROW if rules == "laxer" else RULES,
        misread=misread,
        page_letters=random_.choice([1, 2, 4, 100]),
        chunk_letters=random_.choice([1, 2, 3, 100]),
        window_messages=random_.choice([2, 3, 6, 1_000]),
        # While nobody is at it: an insert that is on its way then is among the limits of docs/reliability.md.
        lifted_at_seconds=SECOND_ACT_SECONDS - 1 if refuses_from_the_beginning and random_.random() < 0.7 else None,
    )


def _misread(random_: random.Random, values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    """Drains take latencies for others, clocks for late ones, and some events for others."""
    # No letter's payload is misread: the table holds what the message was.
    fit = [v for v in dict.fromkeys(values) if v is not None and b"event_id" in v and json.loads(v)["status"] == 200]
    found = {}
    for value in fit:
        match random_.choice(["", "", "latency", "clock", "identity"]):
            case "latency":
                found[value] = _changed(value, latency_ms=1_500)
            case "clock":
                found[value] = _changed(value, timestamp=json.loads(value)["timestamp"] - 10 * MINUTE_MS)
            case "identity":
                other = json.loads(random_.choice(fit))
                names = ("event_id", "timestamp", "service", "endpoint")
                found[value] = _changed(value, **{name: other[name] for name in names})
    return found


def _changed(value: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(value) | changes).encode()


def _incidents(random_: random.Random, steps: Sequence[str]) -> Incidents:
    incidents: dict[int | tuple[str, int], Incident] = {}
    if random_.random() < 0.5:
        # Between the intent and the end a chunk is half done: most deaths are there.
        half_done = steps[steps.index("intent") + 1 :]
        step = random_.choice(half_done if random_.random() < 0.7 else steps)
        incidents[f"[{step}]", random_.randint(1, 2)] = Incident()
    if random_.random() < 0.25:
        incidents[random_.randint(1, 90)] = Incident()
    if random_.random() < 0.3:
        pause = Incident(random_.choice([1.0, 4.0, 30.0]))
        at = random_.randint(1, 90) if random_.random() < 0.5 else (f"[{random_.choice(steps)}]", 1)
        incidents.setdefault(at, pause)
    return incidents
