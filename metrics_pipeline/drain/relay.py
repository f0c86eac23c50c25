"""Which drain runs to start next. Pure: what is known about a shard in, launches out.

A shard is drained by one run after the other, like a relay: shortly before a run's window ends its successor starts,
warms up, and takes over. A wrong decision here costs a moment of freshness, never an event: exactness is the fence's.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """All in seconds. `lead` is how long before the end of a window the successor is launched."""

    window_seconds: float
    handover_seconds: float
    lead_seconds: float
    first_backoff_seconds: float = 5
    longest_backoff_seconds: float = 300
    overdue_seconds: float = 30

    @property
    def longest_run_seconds(self) -> float:
        """A run that is older is stuck or dead, whatever its status says."""
        return self.window_seconds + self.handover_seconds + self.overdue_seconds


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """A run that is queued, starting or started; `age_seconds` counts from its launch."""

    run_id: str
    age_seconds: float


@dataclass(frozen=True, slots=True)
class ShardState:
    """`lag` counts offsets behind; `failures` counts the last runs if they all failed, newest `failed_ago_seconds`."""

    shard: int
    lag: int
    has_open_intent: bool
    active: tuple[ActiveRun, ...]
    failures: int
    failed_ago_seconds: float


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a run; with a predecessor it announces itself and waits to be given the shard."""

    shard: int
    has_predecessor: bool
    reason: str


def backoff_seconds(failures: int, policy: RelayPolicy) -> float:
    """Wait after this many failures in a row: it doubles up to a limit, so a failing shard is tried for ever."""
    if failures == 0:
        return 0
    doublings = min(failures - 1, 30)
    return min(policy.first_backoff_seconds * (1 << doublings), policy.longest_backoff_seconds)


def plan_launches(states: Iterable[ShardState], policy: RelayPolicy) -> list[Launch]:
    """At most one launch per shard."""
    return [launch for state in states if (launch := _plan_one(state, policy)) is not None]


def _plan_one(state: ShardState, policy: RelayPolicy) -> Launch | None:
    alive = [run for run in state.active if run.age_seconds <= policy.longest_run_seconds]
    if state.lag == 0 and not state.has_open_intent:
        return None
    if not alive:
        if state.failed_ago_seconds < backoff_seconds(state.failures, policy):
            return None
        why = "after a failure" if state.failures else "a stuck run" if state.active else "there is news"
        return Launch(state.shard, has_predecessor=False, reason=why)
    oldest = max(run.age_seconds for run in alive)
    if len(alive) == 1 and oldest >= policy.window_seconds - policy.lead_seconds:
        return Launch(state.shard, has_predecessor=True, reason="the window ends")
    return None
