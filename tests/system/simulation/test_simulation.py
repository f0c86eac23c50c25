"""Thousands of schedules, each exact at its end. `python -m tests.system.simulation` runs more, and replays one."""

import pytest

from tests.system.simulation.plan import FIRST_SEED_WITH_REPLAYS
from tests.system.simulation.run import failure_of, run_seed

SCHEDULES, WITH_REPLAYS = 2_500, 500
CHUNK = 250
CHUNKS = (
    *range(0, SCHEDULES, CHUNK),
    *range(FIRST_SEED_WITH_REPLAYS, FIRST_SEED_WITH_REPLAYS + WITH_REPLAYS, CHUNK),
)


@pytest.mark.parametrize("first_seed", CHUNKS)
def test_every_schedule_is_exact(first_seed: int) -> None:
    results = [run_seed(seed) for seed in range(first_seed, first_seed + CHUNK)]
    failures = [failure_of(result) for result in results if result.problems]
    assert failures == []
    assert sum(result.batches for result in results) > CHUNK, "schedules that deliver nothing prove nothing"


@pytest.mark.parametrize("seed", [7, FIRST_SEED_WITH_REPLAYS + 7])
def test_a_seed_is_the_same_schedule_every_time(seed: int) -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        run_seed(seed, trace.append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10
