"""The plan of a chaos run: reproducible, every kind before any repeats, all within the time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.lab.chaos.catalogue import faults
from metrics_pipeline.lab.chaos.plan import FIRST_SECONDS, INTERVAL_SECONDS, make_plan

weights_ = st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0.1, 10), min_size=1, max_size=50)
seconds_ = st.floats(10, 3_600)


@given(weights_, st.integers(0, 2**32), seconds_)
def test_the_same_seed_gives_the_same_plan(weights: dict[str, float], seed: int, seconds: float) -> None:
    assert make_plan(weights, seed, seconds) == make_plan(dict(reversed(weights.items())), seed, seconds)


@given(weights_, st.integers(0, 2**32), seconds_)
def test_every_kind_comes_before_any_comes_again(weights: dict[str, float], seed: int, seconds: float) -> None:
    kinds = [injection.kind for injection in make_plan(weights, seed, seconds)]
    first = kinds[: len(weights)]
    assert len(set(first)) == len(first)
    assert set(kinds) <= set(weights)


@given(weights_, st.integers(0, 2**32), seconds_)
def test_times_ascend_within_the_run(weights: dict[str, float], seed: int, seconds: float) -> None:
    plan = make_plan(weights, seed, seconds)
    times = [injection.at_seconds for injection in plan]
    assert times == sorted(times)
    assert all(FIRST_SECONDS <= at_seconds <= seconds for at_seconds in times)
    assert [injection.number for injection in plan] == list(range(1, len(plan) + 1))


@given(st.integers(0, 2**32))
def test_ten_minutes_have_room_for_every_kind_and_more_than_a_hundred_faults(seed: int) -> None:
    weights = {kind: fault.weight for kind, fault in faults(with_own_engines=True).items()}
    plan = make_plan(weights, seed, 600)
    assert {injection.kind for injection in plan} == set(weights)
    assert len(plan) == int((600 - FIRST_SECONDS) / INTERVAL_SECONDS)


def test_seeds_differ() -> None:
    weights = dict.fromkeys("abcdefgh", 1.0)
    assert make_plan(weights, 1, 600) != make_plan(weights, 2, 600)


def test_a_heavier_kind_comes_more_often() -> None:
    plan = make_plan({"light": 1.0, "heavy": 10.0}, 1, 3_600)
    kinds = [injection.kind for injection in plan]
    assert kinds.count("heavy") > 4 * kinds.count("light")


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": 1.0, "b": -1.0}])
def test_a_plan_needs_kinds_with_weights(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weight above 0"):
        make_plan(weights, 1, 60)


def test_on_a_cluster_of_the_users_no_fault_takes_hold_of_engines() -> None:
    on_cluster = faults(with_own_engines=False)
    assert not any(fault.needs_engines for fault in on_cluster.values())
    assert len(on_cluster) >= 25
    assert all(fault.sentence.endswith(".") and fault.targets for fault in faults(with_own_engines=True).values())
