"""Which fault is injected when. Pure: the same seed gives the same plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

FIRST_SECONDS = 2.0
"""Before that nothing has landed that a fault could harm."""
INTERVAL_SECONDS = 4.0
"""Between faults on average where there is time enough; less where every kind would not get its turn."""
SHORTEST_INTERVAL_SECONDS = 1.0
_JITTER = 0.5


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault of a plan. `seed` decides all that the fault leaves open: which shard, how long, which error."""

    number: int
    at_seconds: float
    kind: str
    seed: int


def make_plan(weights: Mapping[str, float], seed: int, seconds: float) -> tuple[Injection, ...]:
    """Faults in the order of their times, all within `seconds`.

    Every kind in `weights` comes once, in random order, before any comes again; after that the heavier the likelier.
    Raises ValueError without kinds, or with a weight that is not above 0.
    """
    if not weights or min(weights.values()) <= 0:
        raise ValueError("a plan needs kinds of faults, each with a weight above 0")
    rng = Random(f"chaos {seed}")  # noqa: S311 - reproducible on purpose
    names = sorted(weights)
    for_each_seconds = max(0.0, seconds - FIRST_SECONDS) / len(names)
    interval_seconds = max(SHORTEST_INTERVAL_SECONDS, min(INTERVAL_SECONDS, for_each_seconds))
    count = int((seconds - FIRST_SECONDS) / interval_seconds)
    kinds = rng.sample(names, len(names))[:count]
    kinds += rng.choices(names, [weights[name] for name in names], k=max(0, count - len(kinds)))
    times = (FIRST_SECONDS + interval_seconds * (position + _JITTER * rng.random()) for position in range(len(kinds)))
    return tuple(
        Injection(number, round(at_seconds, 3), kind, rng.getrandbits(32))
        for number, (at_seconds, kind) in enumerate(zip(times, kinds, strict=True), start=1)
    )
