"""Who may commit the offsets of a shard: how a run becomes the owner, and how it knows that it still is one.

Runs of one owner fence each other: the newest one wins. Owners under different numbers of shards share partitions, so
each fences the others, too, in an order that lets at most one survive:

    REGISTER      make our number of shards known
    FENCE         fence earlier runs of our own name, which makes us able to commit
    FENCE_RIVALS  read the known numbers of shards; fence every owner of our partitions under another number
    (then)        read what is committed

Of two rivals at most one survives. Each survives only if its own fence came after the other's fencing of it; but each
fences itself before it fences the other, so both can't be. And if one doesn't see the other's number, the other
registered later than that look, hence looks later still, sees the first one's number, and fences it.
Source: the doorway of Lamport's bakery algorithm (1974).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metrics_pipeline.delivery.ports import Warehouse
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.errors import KafkaUnavailableError
from metrics_pipeline.kafka.intents import Commit, Owner, rivals
from metrics_pipeline.kafka.ports import Log, OffsetStore
from metrics_pipeline.runtime.run import Run

MOST_PROOFS = 3
"""Asked for in a row; brokers that are late with all of them are overloaded."""


@dataclass(slots=True)
class Ownership:
    """One run's hold on the partitions of its shard. Not thread-safe: one thread calls it at a time."""

    owner: Owner
    store: OffsetStore
    run: Run
    zombie_seconds: float
    _last_commit: Mapping[int, Commit] = field(default_factory=dict, init=False)
    _proved_at_seconds: float = field(default=float("-inf"), init=False)
    _fenced_at_seconds: float = field(default=float("-inf"), init=False)

    def owns(self, partition: int) -> bool:
        return bool(self.owner.partitions((partition,)))

    def take_over(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        """Fence whoever could commit our share of `partitions`; returns what is committed of all of them."""
        self.run.observe(Step.REGISTER)
        self.run.retry.call(lambda: self.store.register(self.owner.shards))
        self.run.observe(Step.FENCE)
        # A run that stands still before it has read what is committed may have been fenced meanwhile.
        fenced_at_seconds = self.run.clock.monotonic_seconds()
        self._fence(self.owner)
        self.run.observe(Step.FENCE_RIVALS)
        counts = self.run.retry.call(self.store.registered)
        for rival in rivals(self.owner, self.owner.partitions(partitions), counts):
            self._fence(rival)
        commits = self.committed(partitions)
        self._last_commit = {p: commit for p, commit in commits.items() if self.owns(p)}
        self._proved_at_seconds = fenced_at_seconds
        self._fenced_at_seconds = self.run.clock.monotonic_seconds()
        return commits

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        """What is committed now; an owner that isn't fenced yet may change it."""
        return self.run.retry.call(lambda: self.store.committed(partitions))

    def commit(self, commits: Mapping[int, Commit]) -> None:
        """Commit all of ours or none. Raises FencedError if another run took over."""
        ours = {p: commit for p, commit in commits.items() if self.owns(p)}

        def attempt() -> float:
            # Dated before the answer: it may come late, and another run may have taken over meanwhile.
            asked_at_seconds = self.run.clock.monotonic_seconds()
            self.store.commit(ours)
            return asked_at_seconds

        self._proved_at_seconds = self.run.retry.call(attempt)
        self._last_commit = ours

    def prove(self) -> None:
        """Raise FencedError if we are an owner no more; asks only if the last proof is older than the limit.

        A run that was paused for hours could otherwise insert a batch whose token the server has forgotten. The proof
        is to commit once more what was committed last. One whose answer took longer than the limit proves nothing.
        Raises KafkaUnavailableError if all take that long.
        """
        for _ in range(MOST_PROOFS):
            if self._is_proved():
                return
            self.prove_now()
        if not self._is_proved():
            raise KafkaUnavailableError(
                f"the brokers take longer than {self.zombie_seconds:g} s for a commit, so this run can't tell whether "
                "it owns its shard: look at their load, or raise METRICS_DRAIN__ZOMBIE_SECONDS"
            )

    def _is_proved(self) -> bool:
        return self.run.clock.monotonic_seconds() - self._proved_at_seconds <= self.zombie_seconds

    def prove_now(self) -> None:
        """Raise FencedError if we are an owner no more."""
        self.commit(self._last_commit)

    def await_predecessors(self) -> None:
        """Wait until whoever was fenced writes no more: its last proof is older than our fence."""
        rest_seconds = self._fenced_at_seconds + self.zombie_seconds - self.run.clock.monotonic_seconds()
        if rest_seconds > 0:
            self.run.clock.sleep(rest_seconds)

    def _fence(self, owner: Owner) -> None:
        self.run.retry.call(lambda: self.store.fence(owner))


def closing_commits(positions: Mapping[int, int], topic_id: str) -> dict[int, Commit]:
    """Commits that set every partition to a position with no intent open."""
    return {p: Commit(offset, None, topic_id) for p, offset in positions.items()}


@dataclass(frozen=True, slots=True)
class Hold:
    """What one run works on: partitions of `log`, whose offsets in the consumer group `group` are its own, and the
    tables."""

    group: str
    log: Log
    ownership: Ownership
    warehouse: Warehouse
