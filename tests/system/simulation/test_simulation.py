"""Schedules, each exact at its end: --schedules says how many. `python -m tests.system.simulation` replays one."""

import pytest

from tests.system.simulation.run import failure_of, run_seed

CHUNK = 300


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Those beyond the first chunk are long."""
    if "first_seed" in metafunc.fixturenames:
        schedules = metafunc.config.getoption("schedules")
        metafunc.parametrize(
            ("first_seed", "count"),
            [
                pytest.param(first, min(CHUNK, schedules - first), marks=[pytest.mark.long] if first else [])
                for first in range(0, schedules, CHUNK)
            ],
        )


def test_every_schedule_is_exact(first_seed: int, count: int) -> None:
    results = [run_seed(seed) for seed in range(first_seed, first_seed + count)]
    failures = [failure_of(result) for result in results if result.problems]
    assert failures == []
    assert sum(result.batches for result in results) > count, "schedules that deliver nothing prove nothing"


def test_a_seed_is_the_same_schedule_every_time() -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        run_seed(7, trace.append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10
