"""Which minutes count as incomplete, by ledgers that a real server holds."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.ledger.entry import NO_SHARD
from metrics_pipeline.questions.completeness import (
    DEAD_LETTERS,
    DEFERRED,
    INCOMPLETE_MINUTES,
    LAG,
    LOST,
    NOT_OVER,
    incomplete_minutes,
    newest_landing,
)
from metrics_pipeline.questions.question import bounds
from metrics_pipeline.runtime.timerange import TimeRange
from metrics_pipeline.settings import Settings
from tests.worlds.events import encode, event
from tests.worlds.pipeline import drain_once, send

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = TimeRange(NOON, NOON + timedelta(hours=1))
NUMBERS = count()


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with connect(settings) as made:
        yield made


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def note(client: Client, first: datetime, last: datetime, **figures: Any) -> None:
    """A row of the ledger: messages from `first` to `last`."""
    started_at = figures.get("started_at", last)
    row = {
        "batch": f"b{next(NUMBERS)}",
        "topic_id": "t",
        "shard": 0,
        "consumed": 1_000,
        "first_message": first,
        "last_message": last,
        "started_at": started_at,
        "visible_at": started_at + timedelta(seconds=1),
        **figures,
    }
    client.insert("batches", [list(row.values())], column_names=list(row))


def marked(client: Client, span: TimeRange = HOUR) -> list[tuple[int, str]]:
    """(minute after NOON, reason), in order."""
    sql = f"SELECT toUnixTimestamp(minute), reason FROM ({INCOMPLETE_MINUTES}) ORDER BY minute, reason"
    rows = client.query(sql, parameters=bounds(span)).result_rows
    return [((seconds - int(NOON.timestamp())) // 60, reason) for seconds, reason in rows]


def test_an_empty_ledger_knows_nothing(client: Client) -> None:
    assert marked(client) == []
    assert newest_landing(client) is None


def test_a_share_of_dead_letters_up_to_the_limit_is_complete(client: Client) -> None:
    note(client, at(5), at(5.5), dead_letters=10)
    assert marked(client) == []
    note(client, at(7), at(7.5), dead_letters=11)
    assert marked(client) == [(7, DEAD_LETTERS)]


def test_it_is_the_share_of_the_whole_minute_that_counts(client: Client) -> None:
    note(client, at(5.1), at(5.2), dead_letters=15)
    assert marked(client) == [(5, DEAD_LETTERS)]
    note(client, at(5.3), at(5.4), dead_letters=0)
    assert marked(client) == []


def test_a_batch_of_many_minutes_marks_them_all_within_the_span(client: Client) -> None:
    note(client, at(57.5), at(63), dead_letters=100)
    assert marked(client) == [(57, DEAD_LETTERS), (58, DEAD_LETTERS), (59, DEAD_LETTERS)]
    assert marked(client, TimeRange(at(60), at(62))) == [(60, DEAD_LETTERS), (61, DEAD_LETTERS)]
    assert marked(client, TimeRange(at(64), at(70))) == []
    assert marked(client, TimeRange(at(50), at(57))) == []


def lose(client: Client, noted: datetime, **figures: Any) -> None:
    note(client, EPOCH, EPOCH, consumed=0, lost=50, started_at=noted, visible_at=noted, **figures)


def test_lost_offsets_mark_what_lies_between_the_batches_around_them(client: Client) -> None:
    note(client, at(1), at(3.5))
    lose(client, at(500))
    note(client, at(6.2), at(8), started_at=at(501))
    assert marked(client) == [(minute, LOST) for minute in (3, 4, 5, 6)]
    assert marked(client, TimeRange(at(7), at(600))) == []


def skip(client: Client, hour: datetime, *ranges: tuple[int, int, int]) -> None:
    """A skip to head skipped these (partition, start, end) of messages of that hour, but its first ten minutes."""
    partitions, starts, ends = (list(column) for column in zip(*ranges, strict=True))
    note(
        client,
        hour + timedelta(minutes=10),
        hour + timedelta(minutes=59.9),
        consumed=0,
        source="deferred",
        partitions=partitions,
        partition_start=starts,
        partition_end=ends,
    )


def backfill(client: Client, partition: int, start: int, end: int, lost: int = 0) -> None:
    note(
        client, at(11), at(12), shard=NO_SHARD, source="backfill", lost=lost, partitions=[partition],
        partition_start=[start], partition_end=[end], partition_lost=[lost],
    )  # fmt: skip


def test_what_is_deferred_marks_its_hour_until_all_of_it_is_filled(client: Client) -> None:
    deferred, hour_before = [(minute, DEFERRED) for minute in range(10, 60)], NOON - timedelta(hours=1)
    skip(client, hour_before, (0, 0, 50))
    skip(client, NOON, (0, 50, 100), (1, 0, 30))
    assert marked(client) == deferred
    backfill(client, 0, 50, 80)
    backfill(client, 1, 0, 30)
    assert marked(client) == deferred
    backfill(client, 0, 80, 100)
    assert marked(client) == []
    assert len(marked(client, TimeRange(hour_before, NOON))) == 50
    backfill(client, 0, 0, 50)
    assert marked(client, TimeRange(hour_before, NOON)) == []


def test_what_was_lost_while_it_was_deferred_marks_its_hour_as_lost(client: Client) -> None:
    skip(client, NOON, (0, 50, 100))
    backfill(client, 0, 50, 60, lost=10)
    backfill(client, 0, 60, 100)
    assert marked(client) == [(minute, LOST) for minute in range(10, 60)]


def test_losses_of_other_shards_and_other_times_stay_apart(client: Client) -> None:
    for shard, minutes in ((0, 2), (1, 20)):
        note(client, at(minutes), at(minutes), shard=shard)
        lose(client, at(minutes + 10), shard=shard)
        note(client, at(minutes + 1), at(minutes + 9), shard=shard, started_at=at(minutes + 11))
    assert marked(client) == [(minute, LOST) for minute in (2, 3, 20, 21)]


def test_a_loss_before_any_batch_marks_all_that_came_before(client: Client) -> None:
    lose(client, at(500))
    note(client, at(2), at(8), started_at=at(501))
    assert marked(client) == [(minute, LOST) for minute in (0, 1, 2)]


def test_a_loss_that_nothing_followed_reaches_up_to_when_it_was_noted(client: Client) -> None:
    note(client, at(56), at(57))
    lose(client, at(59.5))
    assert marked(client) == [(minute, LOST) for minute in (57, 58, 59)]


def test_a_drain_that_is_behind_and_the_minute_that_is_now_are_marked(client: Client) -> None:
    now = datetime.now(UTC)
    minute = now.replace(second=0, microsecond=0)
    span = TimeRange(minute - timedelta(minutes=10), minute + timedelta(minutes=10))
    note(client, now - timedelta(minutes=6), now - timedelta(minutes=5), visible_at=now, shard=0)
    note(client, now - timedelta(seconds=2), now - timedelta(seconds=1), visible_at=now, shard=1)
    found = {part.reason: part for part in incomplete_minutes(client, span)}
    assert set(found) == {LAG, NOT_OVER}
    assert found[LAG].minutes in (6, 7)
    assert found[LAG].first == minute - timedelta(minutes=5)
    assert found[NOT_OVER].minutes == 1
    assert newest_landing(client) == now.replace(microsecond=now.microsecond // 1_000 * 1_000)
    note(client, now - timedelta(seconds=2), now - timedelta(seconds=1), visible_at=now + timedelta(seconds=1))
    assert [part.reason for part in incomplete_minutes(client, span)] == [NOT_OVER]


def test_a_span_that_ended_has_no_lag(client: Client) -> None:
    now = datetime.now(UTC)
    minute = now.replace(second=0, microsecond=0)
    note(client, now - timedelta(minutes=6), now - timedelta(minutes=5), visible_at=now)
    ended = TimeRange(minute - timedelta(minutes=20), minute - timedelta(minutes=10))
    assert incomplete_minutes(client, ended) == ()


def test_the_drain_notes_what_is_judged(settings: Settings, client: Client) -> None:
    random_ = random.Random(1)
    send(settings, [*(encode(event(random_)) for _ in range(50)), b"{", b"["], partition=0)
    drain_once(settings)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    span = TimeRange(now - timedelta(minutes=5), now + timedelta(minutes=5))
    (dead,) = [part for part in incomplete_minutes(client, span) if part.reason == DEAD_LETTERS]
    assert dead.minutes in (1, 2)
    assert newest_landing(client) is not None
