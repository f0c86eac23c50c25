"""Which messages of a block are out of the ordinary, and how: drawn from the seed, in exact numbers."""

from dataclasses import dataclass
from math import floor
from random import Random

from metrics_pipeline.lab.loadgen import malformed, odd
from metrics_pipeline.lab.loadgen.plan import LoadPlan

_EARLIEST_MS, _LATEST_MS = 1_000, 3 * 86_400_000
"""How late a late event is: as often seconds as minutes, hours or days."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Indices in a block -> what is special there; no index is in two of them.

    `late` holds milliseconds, the others the name of the kind.
    """

    duplicates: frozenset[int]
    late: dict[int, int]
    malformed: dict[int, str]
    odd: dict[int, str]

    @property
    def special(self) -> list[int]:
        """All indices, ascending."""
        return sorted({*self.duplicates, *self.late, *self.malformed, *self.odd})


def draw_slots(plan: LoadPlan, rng: Random, first: int, size: int) -> Slots:
    """The special ones among the messages number `first` to `first + size - 1` of a run.

    Their numbers add up to the plan's fractions of all messages, over any number of blocks. The very first
    message of a run is an ordinary one, so that a duplicate has something to repeat.
    """
    ordinary = 1 if first == 0 else 0
    ranges = [
        _quota(fraction, first, first + size) for fraction in (plan.duplicates, plan.late, plan.malformed, plan.odd)
    ]
    wanted = [len(r) for r in ranges]
    picked = rng.sample(range(ordinary, size), min(sum(wanted), size - ordinary))
    duplicates, late, malformed_slots, odd_slots = _cut(picked, wanted)
    return Slots(
        frozenset(duplicates),
        {slot: _delay_ms(rng) for slot in late},
        {s: malformed.kind_at(n) for s, n in zip(sorted(malformed_slots), ranges[2], strict=False)},
        {s: odd.kind_at(n) for s, n in zip(sorted(odd_slots), ranges[3], strict=False)},
    )


def _quota(fraction: float, begin: int, end: int) -> range:
    """The ordinals, among all of their sort, of those that fall between two messages of the run."""
    return range(floor(fraction * begin + 0.5), floor(fraction * end + 0.5))


def _cut(picked: list[int], sizes: list[int]) -> list[list[int]]:
    parts, begin = [], 0
    for size in sizes:
        parts.append(picked[begin : begin + size])
        begin += size
    return parts


def _delay_ms(rng: Random) -> int:
    return int(_EARLIEST_MS * (_LATEST_MS / _EARLIEST_MS) ** rng.random())
