"""Grains: buckets tile time and nest in each other."""

from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.rollups.grains import BUILT, GRAINS, LIVE, UNIT, Grain, grain_named

moments = st.integers(min_value=0, max_value=4_291_747_199)
grains = st.sampled_from(GRAINS)


@given(moments, grains)
def test_each_moment_is_in_the_bucket_that_floor_names(moment: int, grain: Grain) -> None:
    start = grain.floor(moment)
    assert start <= moment < start + grain.seconds
    assert grain.floor(start) == grain.ceil(start) == start


@given(moments, grains)
def test_ceil_is_the_first_start_at_or_after(moment: int, grain: Grain) -> None:
    assert grain.ceil(moment) - grain.seconds < moment <= grain.ceil(moment)


@given(moments, grains, grains)
def test_buckets_nest(moment: int, one: Grain, other: Grain) -> None:
    fine, coarse = sorted((one, other), key=lambda grain: grain.seconds)
    assert coarse.floor(moment) <= fine.floor(moment)
    assert fine.floor(moment) + fine.seconds <= coarse.floor(moment) + coarse.seconds


@given(st.integers(min_value=1, max_value=100_000), grains)
def test_buckets_lie_whole_within_a_partition_of_their_tables(number: int, grain: Grain) -> None:
    partition_seconds = grain.partition_days * 86_400
    start = number * grain.seconds
    assert start // partition_seconds == (start + grain.seconds - 1) // partition_seconds


def test_the_finest_grain_is_live_and_the_unit_is_built() -> None:
    assert (LIVE, *BUILT) == GRAINS
    assert UNIT in BUILT
    assert [grain_named(g.name) for g in GRAINS] == list(GRAINS)
