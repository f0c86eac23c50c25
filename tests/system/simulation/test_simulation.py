"""Schedules, each exact at its end: --schedules says how many. `python -m tests.system.simulation` replays one."""

import pytest

from tests.system.simulation.plan import FIRST_SEED_ON_OTHER_MACHINES, FIRST_SEED_WITH_REPLAYS
from tests.system.simulation.run import failure_of, run_seed

CHUNK = 300
MORE_KINDS = 5
"""Of so many schedules one more has replays beside drains, which takes some times as long, and one other machines."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Those beyond the first chunk are long."""
    if "first_seed" in metafunc.fixturenames:
        schedules = metafunc.config.getoption("schedules")
        chunks = [(first, min(CHUNK, schedules - first)) for first in range(0, schedules, CHUNK)]
        more = [
            (kind + first, count // MORE_KINDS)
            for kind in (FIRST_SEED_WITH_REPLAYS, FIRST_SEED_ON_OTHER_MACHINES)
            for first, count in chunks
        ]
        metafunc.parametrize(
            ("first_seed", "count"),
            [
                pytest.param(*chunk, marks=[pytest.mark.long] if number % len(chunks) else [])
                for number, chunk in enumerate((*chunks, *more))
            ],
        )


def test_every_schedule_is_exact(first_seed: int, count: int) -> None:
    results = [run_seed(seed) for seed in range(first_seed, first_seed + count)]
    failures = [failure_of(result) for result in results if result.problems]
    assert failures == []
    assert sum(result.batches for result in results) > count, "schedules that deliver nothing prove nothing"


@pytest.mark.parametrize("seed", [7, FIRST_SEED_WITH_REPLAYS + 7, FIRST_SEED_ON_OTHER_MACHINES + 7])
def test_a_seed_is_the_same_schedule_every_time(seed: int) -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        run_seed(seed, trace.append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10
