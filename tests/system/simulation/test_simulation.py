"""Thousands of schedules, each exact at its end. `python -m tests.system.simulation` runs more, and replays one."""

import pytest

from tests.system.simulation.run import failure_of, run_seed

SCHEDULES = 2_500
CHUNK = 250


@pytest.mark.parametrize("first_seed", range(0, SCHEDULES, CHUNK))
def test_every_schedule_is_exact(first_seed: int) -> None:
    results = [run_seed(seed) for seed in range(first_seed, first_seed + CHUNK)]
    failures = [failure_of(result) for result in results if result.problems]
    assert failures == []
    assert sum(result.batches for result in results) > CHUNK, "schedules that deliver nothing prove nothing"


def test_a_seed_is_the_same_schedule_every_time() -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        run_seed(7, trace.append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10
