"""Which minutes are marked, judged on ledger rows that say just that."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dashboards.incomplete import INCOMPLETE, INCOMPLETE_SPANS
from metrics_pipeline.dashboards.panel import panel_query
from metrics_pipeline.settings import Settings

START = datetime(2026, 11, 3, 10, 0, tzinfo=UTC)
COLUMNS = (
    "batch", "topic", "topic_id", "shard", "consumed", "dead_letters", "lost",
    "first_message", "last_message", "started_at", "visible_at", "source",
)  # fmt: skip


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Client]:
    with connect(settings) as client:
        yield client


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def note(client: Client, *batches: tuple[float, dict[str, object]]) -> None:
    """A ledger row per batch: the minute of its newest message, and what it is besides."""
    rows = []
    for minute, what in batches:
        row = {
            "batch": f"b{minute}{what}", "topic": "t", "topic_id": "i", "shard": 0, "consumed": 1_000,
            "dead_letters": 0, "lost": 0, "first_message": at(minute - 0.2), "last_message": at(minute),
            "started_at": at(minute - 0.1), "visible_at": at(minute) + timedelta(seconds=1), "source": "drain", **what,
        }  # fmt: skip
        rows.append([row[name] for name in COLUMNS])
    client.insert("batches", rows, column_names=COLUMNS)


def marked(client: Client, minutes: int = 10) -> dict[int, set[str]]:
    sql, parameters = panel_query(INCOMPLETE, START, at(minutes))
    found: dict[int, set[str]] = {}
    for row in client.query(sql, parameters=parameters).named_results():
        minute = round((row.pop("time").replace(tzinfo=UTC) - START).total_seconds() / 60)
        found[minute] = {reason for reason, count in row.items() if count}
    assert sorted(found) == list(range(minutes))
    return {minute: reasons for minute, reasons in found.items() if reasons}


def every_minute(until: float) -> list[tuple[float, dict[str, object]]]:
    return [(minute + 0.5, {}) for minute in range(-2, int(until))]


def test_nothing_is_marked_where_all_was_read(ledger: Client) -> None:
    note(ledger, *every_minute(12))
    assert marked(ledger) == {}


def test_minutes_that_nobody_read_yet_are_marked(ledger: Client) -> None:
    note(ledger, *every_minute(8))
    assert marked(ledger) == {7: {"unread"}, 8: {"unread"}, 9: {"unread"}}


def test_without_a_ledger_everything_is_marked(ledger: Client) -> None:
    assert marked(ledger) == {minute: {"unread"} for minute in range(10)}


def test_a_shard_that_lags_holds_back_what_others_read(ledger: Client) -> None:
    late = {"shard": 1, "visible_at": at(12)}
    note(ledger, *every_minute(13), (4.5, late))
    assert marked(ledger) == {minute: {"unread"} for minute in range(4, 10)}


def test_a_shard_that_is_idle_or_gone_holds_nobody_back(ledger: Client) -> None:
    note(ledger, *every_minute(20), (2.5, {"shard": 1}))
    assert marked(ledger) == {}


def test_a_replay_of_dead_letters_does_not_stand_for_a_drain(ledger: Client) -> None:
    note(ledger, *every_minute(8), (9.5, {"source": "dead_letters", "shard": 7}))
    assert marked(ledger) == {7: {"unread"}, 8: {"unread"}, 9: {"unread"}}


def test_lost_offsets_mark_the_minutes_since_the_batch_before(ledger: Client) -> None:
    note(
        ledger, *every_minute(4), (6.5, {"lost": 10, "first_message": at(6.4)}), *[(m + 0.5, {}) for m in range(7, 13)]
    )
    assert marked(ledger) == {minute: {"lost"} for minute in (3, 4, 5, 6)}


def test_many_dead_letters_mark_their_minute_and_few_do_not(ledger: Client) -> None:
    note(ledger, *every_minute(12), (3.6, {"dead_letters": 500}), (5.6, {"dead_letters": 10}))
    assert marked(ledger) == {3: {"dead letters"}}


def test_neighbours_are_one_span(ledger: Client) -> None:
    note(ledger, *every_minute(8), (3.6, {"dead_letters": 500}))
    sql, parameters = panel_query(INCOMPLETE_SPANS, START, at(10))
    rows = [tuple(row) for row in ledger.query(sql, parameters=parameters).result_rows]
    assert [(time.replace(tzinfo=UTC), end.replace(tzinfo=UTC), text) for time, end, text, _ in rows] == [
        (at(3), at(4), "incomplete: dead letters"),
        (at(7), at(10), "incomplete: unread"),
    ]
