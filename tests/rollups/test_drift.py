"""When a difference is drift, and how units are cut into chunks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.rollups.drift import (
    Build,
    BuiltFigures,
    Count,
    CubeRows,
    Observation,
    UnitFigures,
    chunks,
    judge,
)
from metrics_pipeline.rollups.grains import UNIT

START = 20_700 * 86_400
NAMES = ("rollup_1m", "rollup_totals_1m")


def rows(requests: int, *, errors: int = 0, build: int = 0) -> tuple[CubeRows, ...]:
    return tuple(CubeRows(name, (Build(build, Count(requests, errors)),)) for name in NAMES)


EXACT = UnitFigures(START, Count(5, 0), rows(5), 5)


def test_a_unit_that_says_the_same_everywhere_is_exact() -> None:
    assert EXACT.is_exact
    assert Observation((EXACT,)).suspects == ()


@pytest.mark.parametrize(
    ("changed", "tables"),
    [
        (replace(EXACT, cubes=(rows(5)[0], rows(4)[1])), ("rollup_totals_1m",)),
        (replace(EXACT, cubes=(rows(5, errors=1)[0], rows(5)[1])), ("rollup_1m",)),
        (replace(EXACT, events=6), ("rollup_builds",)),
        (replace(EXACT, mismatched=(("1h", START, 2),)), ("rollup_builds",)),
        (replace(EXACT, cubes=()), ()),
        (replace(EXACT, raw=Count(6, 0)), (*NAMES, "rollup_builds")),
    ],
)
def test_what_differs_in_both_observations_is_drift_and_named(changed: UnitFigures, tables: tuple[str, ...]) -> None:
    seen = Observation((changed,))
    judged = judge(seen, seen)
    assert [drift.tables for drift in judged.drifts] == ([tables] if tables else [])
    assert judge(seen, Observation((EXACT,))).in_flux == ((START,) if tables else ())
    assert judge(seen, seen, frozenset({START})).in_flux == ((START,) if tables else ())


def test_only_the_rows_of_the_newest_repair_count() -> None:
    both = tuple(CubeRows(name, (Build(0, Count(9)), Build(7, Count(5)))) for name in NAMES)
    assert UnitFigures(START, Count(5), both, 5, repair=7, repair_requests=5).is_exact


def test_events_after_a_repair_are_late_not_drift() -> None:
    late = UnitFigures(START, Count(6), rows(5, build=7), 6, repair=7, repair_requests=5)
    judged = judge(Observation((late,)), Observation((late,)))
    assert (judged.late, judged.drifts) == ((START,), ())
    assert late.is_stale


def test_rows_that_no_reader_takes_are_left_over() -> None:
    def left(number: int, *, repair: int, requests: int = 5, before: int = 100) -> bool:
        cubes = (CubeRows("rollup_1m", (Build(number, Count(5)),)),)
        return UnitFigures(START, Count(5), cubes, 5, repair, requests).left_over(before)

    assert not left(0, repair=0)
    assert left(0, repair=7)
    assert not left(0, repair=7, requests=4), "late rows wait for the next repair"
    assert not left(7, repair=7)
    assert left(6, repair=7)
    assert left(8, repair=7), "a repair that ended before it published"
    assert not left(8, repair=7, before=8), "one that may be at work"


def test_a_day_that_retention_dropped_is_no_drift_while_the_rollups_agree() -> None:
    gone = UnitFigures(START, Count(), rows(5), 5, is_day_in_raw=False)
    assert Observation((gone,)).gone == (START,)
    assert Observation((gone,)).suspects == ()
    torn = Observation((replace(gone, events=6),))
    (drift,) = judge(torn, torn).drifts
    assert not drift.has_raw


def test_a_build_that_counts_other_than_its_rows_is_drift() -> None:
    right = BuiltFigures("1h", START, 9, 5, rows(5, build=9))
    assert right.wrong_tables == ()
    wrong = Observation(builds=(replace(right, cubes=(rows(4, build=9)[0], rows(5, build=9)[1])),))
    ((_, drift),) = judge(wrong, wrong).builds
    assert drift.tables == ("rollup_1m",)
    assert judge(wrong, Observation(builds=(right,))).builds == ()
    mismatched = replace(right, cubes=(rows(5, errors=1, build=9)[0], rows(5, build=9)[1]))
    assert mismatched.wrong_tables == NAMES


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 50)), max_size=60, unique_by=lambda u: u[0]))
def test_chunks_hold_all_units_in_order_within_limits_and_days(found: list[tuple[int, int]]) -> None:
    units = [UnitFigures(START + at * UNIT.seconds, Count(events)) for at, events in sorted(found)]
    cut = list(chunks(units, 7, 100))
    assert [unit for chunk in cut for unit in chunk] == units
    for chunk in cut:
        assert 0 < len(chunk) <= 7
        assert len(chunk) == 1 or sum(u.raw.requests for u in chunk) <= 100
        assert len({u.start_seconds // 86_400 for u in chunk}) == 1
