"""Which rebuilds are launched: everything that is stale, nothing twice, nothing too soon."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.rollups.rebuilds import Rebuild, RebuildPolicy, RecentRun, Stale, plan_rebuilds
from metrics_pipeline.runtime.timerange import DAY_SECONDS

DAY = 20_700 * DAY_SECONDS
"""2026-09-04, a Friday; the week began on the day before."""
NOW = DAY + 5 * 3_600
POLICY = RebuildPolicy()


def no_runs(_: Rebuild) -> Sequence[RecentRun]:
    return []


def named(rebuilds: Sequence[Rebuild]) -> list[tuple[str, tuple[str, ...]]]:
    return [(r.partition.key, r.grains) for r in rebuilds]


def test_one_run_per_partition_builds_all_of_its_grains_oldest_first() -> None:
    stale = [
        Stale(DAY + 3_600, "1h"),
        Stale(DAY, "10m"),
        Stale(DAY + 600, "10m"),
        Stale(DAY - DAY_SECONDS, "1d"),
        Stale(DAY - 8 * DAY_SECONDS, "7d"),
    ]
    assert named(plan_rebuilds(stale, no_runs, NOW)) == [
        ("2026-08-27", ("7d",)),
        ("2026-09-03", ("1d",)),
        ("2026-09-04", ("10m", "1h")),
    ]


def test_a_stale_repair_is_done_by_the_run_of_the_finest_grain() -> None:
    assert named(plan_rebuilds([Stale(DAY, "1m")], no_runs, NOW)) == [("2026-09-04", ("10m",))]


def test_a_run_that_is_active_or_recent_or_failed_holds_the_next_one_back() -> None:
    def launched(day: int, *runs: RecentRun) -> bool:
        return bool(plan_rebuilds([Stale(day, "10m")], lambda _: runs, NOW))

    def done(ago: float, *, failed: bool = False) -> RecentRun:
        return RecentRun(is_active=False, has_failed=failed, created_ago_seconds=ago)

    assert not launched(DAY, RecentRun(is_active=True, has_failed=False, created_ago_seconds=9_999))
    assert not launched(DAY, done(299))
    assert launched(DAY, done(300))
    assert not launched(DAY - 5 * DAY_SECONDS, done(3_599)), "few events come to it: it may wait for more of them"
    assert launched(DAY - 5 * DAY_SECONDS, done(3_600))
    assert not launched(DAY, done(1_199, failed=True), done(1_500, failed=True), done(9_999))
    assert launched(DAY, done(1_200, failed=True), done(1_500, failed=True), done(9_999))
    assert launched(DAY, *[done(POLICY.max_backoff_seconds, failed=True)] * 10)


def test_what_is_older_than_all_partitions_is_left_to_the_command_line() -> None:
    assert plan_rebuilds([Stale(0, "10m"), Stale(0, "7d")], no_runs, NOW) == []


buckets = st.builds(
    lambda day, name: Stale(day * DAY_SECONDS, name),
    st.integers(19_800, 20_700),
    st.sampled_from(["1m", "10m", "1h", "1d"]),
)


@given(st.lists(buckets, max_size=80))
def test_repeated_ticks_launch_all_partitions_once(stale: list[Stale]) -> None:
    policy = RebuildPolicy(max_partitions=10_000)
    launched: dict[str, Rebuild] = {}

    def runs_of(rebuild: Rebuild) -> Sequence[RecentRun]:
        return (
            [RecentRun(is_active=True, has_failed=False, created_ago_seconds=0)]
            if rebuild.partition.key in launched
            else []
        )

    for _ in range(len(stale) + 1):
        launches = plan_rebuilds(stale, runs_of, NOW, policy)
        assert len(launches) <= policy.max_launches
        assert not {launch.partition.key for launch in launches} & launched.keys()
        launched |= {launch.partition.key: launch for launch in launches}
    wanted = {(bucket.start_seconds, bucket.grain.replace("1m", "10m")) for bucket in stale}
    assert {(r.partition.start_seconds, grain) for r in launched.values() for grain in r.grains} == wanted
