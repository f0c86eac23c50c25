"""The search for refused rows: everything else lands, once, and whoever goes on with it sends the same parts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.delivery.bisection import Bisection, Slice

SEARCHES = st.integers(1, 300).flatmap(
    lambda rows: st.tuples(st.just(rows), st.sets(st.integers(0, rows - 1), max_size=12))
)


def search_through(search: Bisection, refused: set[int]) -> list[Slice]:
    """Answer as a server would that refuses these rows; returns the parts that landed."""
    landed = []
    while (part := search.next) is not None:
        is_refused = any(part.start <= row < part.end for row in refused)
        if not is_refused:
            landed.append(part)
        search.note(is_refused=is_refused)
    return landed


def rows_of(parts: list[Slice]) -> list[int]:
    return [row for part in parts for row in range(part.start, part.end)]


@given(SEARCHES)
def test_all_but_the_refused_rows_land_once(case: tuple[int, set[int]]) -> None:
    rows, refused = case
    search = Bisection(rows)
    landed = search_through(search, refused)
    assert sorted(rows_of(landed)) == [row for row in range(rows) if row not in refused]
    assert search.refused == tuple(sorted(refused))


@given(SEARCHES, st.data())
def test_a_search_goes_on_from_its_verdicts(case: tuple[int, set[int]], data: st.DataObject) -> None:
    rows, refused = case
    whole = Bisection(rows)
    seen = [("", whole.next)]
    while (part := whole.next) is not None:
        whole.note(is_refused=any(part.start <= row < part.end for row in refused))
        seen.append((whole.search_bits, whole.next))
    search_bits, next_part = data.draw(st.sampled_from(seen))
    resumed = Bisection(rows, search_bits)
    assert resumed.next == next_part
    search_through(resumed, refused)
    assert resumed.refused == whole.refused
    assert resumed.search_bits == whole.search_bits


def test_one_refused_row_of_100_000_is_found_within_34_inserts() -> None:
    random_ = random.Random(4)
    rows = [0, 1, 38_196, 38_197, 99_998, 99_999, *(random_.randrange(100_000) for _ in range(200))]
    inserts = []
    for row in rows:
        search = Bisection(100_000)
        landed = search_through(search, {row})
        assert search.refused == (row,)
        assert sum(part.rows for part in landed) == 99_999
        inserts.append(len(f"{int(search.search_bits, 16):b}") - 1)
    assert max(inserts) == 26


def test_an_empty_batch_needs_no_insert() -> None:
    assert Bisection(0).next is None


def test_search_bits_of_a_larger_batch_are_none_of_this_one() -> None:
    large = Bisection(100)
    search_through(large, set(range(0, 100, 7)))
    with pytest.raises(ValueError, match="more search bits than 3 rows"):
        Bisection(3, large.search_bits)
