"""How old a proof of ownership is: as old as its question, whenever the answer comes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from metrics_pipeline.delivery.ownership import MOST_PROOFS, Ownership
from metrics_pipeline.errors import KafkaUnavailableError
from metrics_pipeline.kafka.intents import Commit, Owner
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.run import new_run

ZOMBIE_SECONDS = 20


@dataclass
class HandClock:
    seconds: float = 0.0

    def monotonic_seconds(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return int(self.seconds * 1_000)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class SlowStore:
    """An `OffsetStore` whose commits take effect at once and are answered later, each after the next of `delays`."""

    clock: HandClock
    delays: list[float] = field(default_factory=list)
    commits: int = 0

    def register(self, shards: int) -> None: ...

    def fence(self, owner: Owner) -> None: ...

    def registered(self) -> frozenset[int]:
        return frozenset({1})

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        return {p: Commit(0) for p in partitions}

    def commit(self, commits: Mapping[int, Commit]) -> None:
        self.commits += 1
        self.clock.seconds += self.delays.pop(0) if self.delays else 0.0


def owner_with(*delays: float) -> tuple[Ownership, SlowStore]:
    clock = HandClock()
    store = SlowStore(clock)
    owner = Ownership(Owner(1, 0), store, new_run("run", clock, 120), ZOMBIE_SECONDS)
    owner.take_over((0,))
    store.delays = list(delays)
    return owner, store


@pytest.mark.parametrize(("delay", "asks_again"), [(0.0, False), (ZOMBIE_SECONDS - 1, False), (3_600.0, True)])
def test_a_late_answer_to_a_commit_is_no_fresh_proof(delay: float, asks_again: bool) -> None:
    owner, store = owner_with(delay)
    owner.commit({0: Commit(7)})
    assert store.commits == 1
    owner.prove()
    assert store.commits == 1 + asks_again


def test_a_proof_is_asked_for_until_one_is_fresh() -> None:
    owner, store = owner_with(3_600.0, 30.0, 30.0)
    owner.commit({0: Commit(7)})
    owner.prove()
    assert store.commits == 4


def test_brokers_that_are_always_late_prove_nothing() -> None:
    owner, store = owner_with(*[30.0] * 10)
    owner.commit({0: Commit(7)})
    with pytest.raises(KafkaUnavailableError, match="METRICS_DRAIN__ZOMBIE_SECONDS"):
        owner.prove()
    assert store.commits == 1 + MOST_PROOFS


def test_time_in_which_the_machine_was_suspended_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SlowStore(HandClock())
    owner = Ownership(Owner(1, 0), store, new_run("run", SystemClock(), 120), ZOMBIE_SECONDS)
    owner.take_over((0,))
    owner.prove()
    assert store.commits == 0
    # Linux' CLOCK_MONOTONIC stands still meanwhile, CLOCK_BOOTTIME does not.
    read = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda kind: read(kind) + 3_600 * (kind == time.CLOCK_BOOTTIME))
    owner.prove()
    assert store.commits == 1
