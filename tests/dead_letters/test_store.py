"""Pages of dead letters, and how long their table keeps them."""

import pytest

from metrics_pipeline.dead_letters import store as dead_letters
from metrics_pipeline.dead_letters.store import _last_within, time_to_live_days


@pytest.mark.parametrize(
    ("sizes", "last"),
    [
        ([("a", 0, 1, 60), ("a", 0, 2, 40), ("a", 1, 0, 1)], ("a", 0, 2)),
        ([("a", 0, 1, 500), ("a", 0, 2, 1)], ("a", 0, 1)),
        ([("a", 0, 1, 1), ("b", 0, 0, 1)], ("a", 0, 1)),
        ([("a", 0, 1, 1), ("a", 1, 0, 1)], ("a", 1, 0)),
    ],
    ids=["so many bytes", "one that is larger", "one incarnation of the topic", "all"],
)
def test_a_page_ends_at(monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[object, ...]], last: object) -> None:
    monkeypatch.setattr(dead_letters, "MAX_PAGE_BYTES", 100)
    assert _last_within(sizes) == last


@pytest.mark.parametrize(
    ("ttl", "days"),
    [
        ("", None),
        ("TTL toDateTime(stored_at) + toIntervalDay(90)", 90),
        ("TTL toDateTime(stored_at) + toIntervalMonth(13)", 13 * 28),
        (
            "TTL toDateTime(stored_at) + toIntervalDay(7) TO VOLUME 'cold', toDateTime(stored_at) + toIntervalDay(90)",
            None,
        ),
        ("TTL toDateTime(stored_at) + toIntervalDay(7) WHERE outcome = 'landed'", None),
    ],
)
def test_only_a_ttl_that_deletes_rows_is_a_time_to_live(ttl: str, days: float | None) -> None:
    assert time_to_live_days(f"ReplacingMergeTree PARTITION BY p ORDER BY (topic) {ttl} SETTINGS x = 1") == days
