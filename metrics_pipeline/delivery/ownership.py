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

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.errors import KafkaUnavailableError
from metrics_pipeline.kafka.intents import Commit, Owner, rivals
from metrics_pipeline.kafka.ports import OffsetStore
from metrics_pipeline.runtime.run import Run

MOST_PROOFS = 3


class Ownership:
    """One run's hold on the partitions of its shard. Not thread-safe: one thread calls it at a time."""

    def __init__(
        self,
        owner: Owner,
        store: OffsetStore,
        run: Run,
        *,
        zombie_seconds: float,
    ) -> None:
        self.owner = owner
        self._store = store
        self._clock = run.clock
        self._retry = run.retry
        self._zombie_seconds = zombie_seconds
        self._observe = run.observe
        self._last_commit: Mapping[int, Commit] = {}
        self._proved_at_seconds = float("-inf")
        self._fenced_at_seconds = float("-inf")

    def owns(self, partition: int) -> bool:
        return bool(self.owner.partitions((partition,)))

    def take_over(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        """Fence whoever could commit our share of `partitions`; returns what is committed of all of them."""
        self._observe(Step.REGISTER)
        self._retry.call(lambda: self._store.register(self.owner.shards))
        self._observe(Step.FENCE)
        # A run that stands still before it has read what is committed may have been fenced meanwhile.
        fenced_at_seconds = self._clock.monotonic_seconds()
        self._retry.call(lambda: self._store.fence(self.owner))
        self._observe(Step.FENCE_RIVALS)
        counts = self._retry.call(self._store.registered)
        for rival in rivals(self.owner, self.owner.partitions(partitions), counts):
            self._fence(rival)
        commits = self._retry.call(lambda: self._store.committed(partitions))
        self._last_commit = {p: commit for p, commit in commits.items() if self.owns(p)}
        self._proved_at_seconds = fenced_at_seconds
        self._fenced_at_seconds = self._clock.monotonic_seconds()
        return commits

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Commit]:
        """What is committed now; an owner that isn't fenced yet may change it."""
        return self._retry.call(lambda: self._store.committed(partitions))

    def commit(self, commits: Mapping[int, Commit]) -> None:
        """Commit all of ours or none. Raises FencedError if another run took over."""
        ours = {p: commit for p, commit in commits.items() if self.owns(p)}

        def attempt() -> float:
            # Dated before the answer: it may come late, and another run may have taken over meanwhile.
            asked_at_seconds = self._clock.monotonic_seconds()
            self._store.commit(ours)
            return asked_at_seconds

        self._proved_at_seconds = self._retry.call(attempt)
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
                f"the brokers take longer than {self._zombie_seconds:g} s for a commit, so this run can't tell whether "
                "it owns its shard: look at their load, or raise METRICS_DRAIN__ZOMBIE_SECONDS"
            )

    def _is_proved(self) -> bool:
        return self._clock.monotonic_seconds() - self._proved_at_seconds <= self._zombie_seconds

    def prove_now(self) -> None:
        """Raise FencedError if we are an owner no more."""
        self.commit(self._last_commit)

    def await_predecessors(self) -> None:
        """Wait until whoever was fenced writes no more: its last proof is older than our fence."""
        rest_seconds = self._fenced_at_seconds + self._zombie_seconds - self._clock.monotonic_seconds()
        if rest_seconds > 0:
            self._clock.sleep(rest_seconds)

    def _fence(self, rival: Owner) -> None:
        self._retry.call(lambda: self._store.fence(rival))
