from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.drain.relay import ActiveRun, RelayPolicy, ShardState, backoff_seconds, plan_launches

POLICY = RelayPolicy(window_seconds=60, handover_seconds=30, lead_seconds=10)
NEWS = ShardState(shard=0, lag=5, has_open_intent=False, active=(), failures=0, failed_ago_seconds=float("inf"))


def running(*ages_seconds: float) -> tuple[ActiveRun, ...]:
    return tuple(ActiveRun(f"run-{age}", age) for age in ages_seconds)


def test_news_start_a_run_and_silence_does_not() -> None:
    assert [launch.has_predecessor for launch in plan_launches([NEWS], POLICY)] == [False]
    assert plan_launches([replace(NEWS, lag=0)], POLICY) == []


def test_an_open_intent_is_closed_even_when_nothing_new_arrives() -> None:
    assert len(plan_launches([replace(NEWS, lag=0, has_open_intent=True)], POLICY)) == 1


def test_a_successor_starts_shortly_before_the_window_ends_and_only_one() -> None:
    assert plan_launches([replace(NEWS, active=running(49))], POLICY) == []
    assert [launch.has_predecessor for launch in plan_launches([replace(NEWS, active=running(50))], POLICY)] == [True]
    assert plan_launches([replace(NEWS, active=running(55, 2))], POLICY) == []


def test_a_run_far_beyond_its_window_counts_as_dead() -> None:
    assert [launch.has_predecessor for launch in plan_launches([replace(NEWS, active=running(121))], POLICY)] == [False]


@given(st.integers(1, 10_000))
def test_failures_back_off_but_never_stop_the_relay(failures: int) -> None:
    wait_seconds = backoff_seconds(failures, POLICY)
    assert 0 < wait_seconds <= POLICY.longest_backoff_seconds
    failed = replace(NEWS, failures=failures, failed_ago_seconds=wait_seconds - 0.1)
    assert plan_launches([failed], POLICY) == []
    assert len(plan_launches([replace(failed, failed_ago_seconds=wait_seconds)], POLICY)) == 1
