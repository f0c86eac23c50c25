"""Two rivals, interleaved at every step in every way: never do both commit without the later one having seen it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import pytest
from greenlet import getcurrent, greenlet

from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.errors import FencedError
from metrics_pipeline.kafka.intents import Commit, Owner
from metrics_pipeline.runtime.run import new_run
from tests.models.scheduler import Scheduler, VirtualClock

PARTITIONS = (0, 1)
STEPS = 7
"""As many calls of a store a run makes at most: it registers, fences, reads, fences a rival or two, reads, commits."""


@dataclass
class Group:
    """What all stores of a group share."""

    epochs: dict[Owner, int] = field(default_factory=dict)
    counts: set[int] = field(default_factory=set)
    commits: dict[int, Commit] = field(default_factory=dict)


@dataclass
class Store:
    """An `OffsetStore` that lets somebody else go on before each call."""

    group: Group
    owner: Owner
    epoch: int = 0

    def fence(self, owner: Owner) -> None:
        turn()
        self.group.epochs[owner] = self.group.epochs.get(owner, 0) + 1
        if owner == self.owner:
            self.epoch = self.group.epochs[owner]

    def register(self, shards: int) -> None:
        turn()
        self.group.counts.add(shards)

    def registered(self) -> frozenset[int]:
        turn()
        return frozenset(self.group.counts)

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        turn()
        return {p: c for p, c in self.group.commits.items() if p in partitions}

    def commit(self, commits: Mapping[int, Commit]) -> None:
        turn()
        if self.group.epochs[self.owner] != self.epoch:
            raise FencedError(self.owner)
        self.group.commits |= commits


def turn() -> None:
    parent = getcurrent().parent
    assert parent is not None
    parent.switch()


@dataclass
class Run:
    """Takes over and commits; `saw` is what it read, `committed_as` its place among the commits."""

    owner: Owner
    group: Group
    order: list[Owner]
    saw: Mapping[int, Commit] = field(default_factory=dict)

    def go(self) -> None:
        store = Store(self.group, self.owner)
        run = new_run("run", VirtualClock(Scheduler(0), 0), 1.0)
        own = Ownership(self.owner, store, run, zombie_seconds=1.0)
        self.saw = own.take_over(PARTITIONS)
        try:
            own.commit({p: Commit(10 + self.owner.shards, None, str(self.owner)) for p in PARTITIONS})
        except FencedError:
            return
        self.order.append(self.owner)


def interleavings() -> Iterator[tuple[int, ...]]:
    """Whose step is next, in every order of so many steps of each of two."""
    for firsts in combinations(range(2 * STEPS), STEPS):
        yield tuple(0 if n in firsts else 1 for n in range(2 * STEPS))


def play(owners: tuple[Owner, Owner], turns: tuple[int, ...]) -> tuple[list[Owner], dict[Owner, Run]]:
    group, order = Group(), list[Owner]()
    runs = [Run(owner, group, order) for owner in owners]
    lets: list[Callable[[], object]] = []
    greenlets = [greenlet(run.go) for run in runs]
    lets += [g.switch for g in greenlets]
    for who in (*turns, *[0] * STEPS, *[1] * STEPS):
        if not greenlets[who].dead:
            lets[who]()
    assert all(g.dead for g in greenlets), "STEPS is too small"
    return order, dict(zip(owners, runs, strict=True))


@pytest.mark.parametrize(
    "owners", [(Owner(1, 0), Owner(2, 0)), (Owner(2, 1), Owner(1, 0)), (Owner(3, 1), Owner(2, 1))], ids=str
)
def test_of_two_rivals_the_later_one_has_seen_what_the_earlier_one_committed(owners: tuple[Owner, Owner]) -> None:
    survivors = set()
    shared = set(owners[0].partitions(PARTITIONS)) & set(owners[1].partitions(PARTITIONS))
    for turns in interleavings():
        order, runs = play(owners, turns)
        survivors.add(tuple(order))
        if len(order) == 2:
            earlier, later = order
            assert {p for p, c in runs[later].saw.items() if c.topic_id == str(earlier)} >= shared, turns
    assert {(owners[0],), (owners[1],)} <= survivors, "each of them survives somewhere"
    assert any(len(order) == 2 for order in survivors), "one after the other both may"


def test_owners_that_share_no_partition_leave_each_other_alone() -> None:
    owners = (Owner(2, 0), Owner(2, 1))
    assert all(len(play(owners, turns)[0]) == 2 for turns in interleavings())
