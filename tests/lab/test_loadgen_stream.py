"""The messages of a run and the books on them: what the books say is what a reader of the messages finds."""

import json
from collections import Counter

import polars as pl
import pytest

from metrics_pipeline.event.contract import IDENTITY
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.lab.loadgen.block import BLOCK_MESSAGES
from metrics_pipeline.lab.loadgen.malformed import KINDS
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.sent import LoadSummary
from metrics_pipeline.lab.loadgen.stream import EventStream, Outgoing

START_MS = 1_793_700_930_123
PARTITIONS = 8
LIMITS = EventLimits(max_age_ms=396 * 86_400_000, max_future_ms=3_600_000)
MIXED = LoadPlan(rate=40_000, events=30_000, duplicates=0.1, late=0.05, malformed=0.05, odd=0.05, seed=11)


def run(plan: LoadPlan, take: int = 2_000, partitions: int = PARTITIONS) -> tuple[Outgoing, EventStream]:
    """All messages of a plan, taken in equal steps of 50 ms."""
    stream = EventStream(plan, START_MS, partitions)
    sent = Outgoing()
    left, now_ms = plan.events or 0, START_MS
    while left:
        part = stream.take(min(take, left), now_ms, now_ms + 50)
        now_ms += 50
        left -= len(part)
        sent.payloads.extend(part.payloads)
        sent.keys.extend(part.keys)
        sent.partitions.extend(part.partitions)
    return sent, stream


def closed(stream: EventStream) -> tuple[pl.DataFrame, LoadSummary]:
    summary = LoadSummary("topic", 0)
    parts = [summary.add(account) for account in (*stream.settle(), *stream.finish())]
    return pl.concat(parts), summary


def messages(sent: Outgoing) -> Messages:
    values = [p.encode() if isinstance(p, str) else p for p in sent.payloads]
    n = len(values)
    return Messages(sent.partitions, list(range(n)), [START_MS + 1_000] * n, values)


def test_the_books_are_what_a_reader_finds() -> None:
    sent, stream = run(MIXED)
    rows, summary = closed(stream)
    found = decode(messages(sent), LIMITS)
    unique = (
        found.events.with_columns(pl.col("timestamp").cast(pl.Int64))
        .group_by(IDENTITY)
        .agg(pl.col("tier", "status", "latency_ms").first(), copies=pl.len())
    )
    order = list(IDENTITY)
    columns = [*order, "tier", "status", "latency_ms", "copies"]
    assert rows.select(columns).sort(order).equals(unique.select(columns).sort(order))
    reasons = Counter(found.dead_letters["reason"])
    assert summary.as_dict()["malformed_reasons"] == dict(sorted(reasons.items()))
    assert summary.partitions == Counter(sent.partitions)
    assert summary.messages == len(sent.payloads) == 30_000
    assert summary.unique_events == len(unique)
    assert summary.duplicates == len(found.events) - len(unique)
    assert (summary.first_timestamp_ms, summary.last_timestamp_ms) == (
        rows["timestamp"].min(),
        rows["timestamp"].max(),
    )


def test_fractions_are_exact() -> None:
    _, summary = closed(run(MIXED)[1])
    counts = summary.duplicates, summary.late, summary.malformed, summary.odd
    assert counts == (3_000, 1_500, 1_500, 1_500)
    assert set(summary.malformed_kinds) == set(KINDS)


def test_a_duplicate_repeats_bytes_key_and_partition() -> None:
    sent, _ = run(MIXED)
    places: dict[str, set[tuple[str | bytes | None, int]]] = {}
    for payload, key, partition in zip(sent.payloads, sent.keys, sent.partitions, strict=True):
        places.setdefault(key, set()).add((payload, partition))
    assert {len(p) for p in places.values()} == {1}
    assert len(sent.keys) - len(places) == 3_000
    for payload, key in zip(sent.payloads[:2_000], sent.keys[:2_000], strict=True):
        if isinstance(payload, str) and payload.startswith('{"event_id"') and payload.endswith("}"):
            try:
                event = json.loads(payload)
            except ValueError:
                continue
            assert event["event_id"] == key


def test_some_duplicates_come_much_later() -> None:
    plan = LoadPlan(rate=0, events=8 * BLOCK_MESSAGES, duplicates=0.05)
    sent, _ = run(plan, take=BLOCK_MESSAGES)
    first: dict[str, int] = {}
    distances = [n - first[key] for n, key in enumerate(sent.keys) if first.setdefault(key, n) != n]
    assert sum(d < 2_000 for d in distances) > len(distances) / 2
    assert sum(d > 4 * BLOCK_MESSAGES for d in distances) > 10


def test_books_of_a_long_run_count_late_repetitions_too() -> None:
    plan = LoadPlan(rate=0, events=8 * BLOCK_MESSAGES, duplicates=0.05, malformed=0.01)
    sent, stream = run(plan, take=BLOCK_MESSAGES)
    rows, summary = closed(stream)
    assert summary.messages == len(sent.keys)
    counts = Counter(sent.keys)
    copies = dict(rows.select("event_id", "copies").iter_rows())
    plain = {key: n for key, n in copies.items() if key in counts}
    assert len(plain) > 0.99 * len(copies)
    assert all(counts[key] == n for key, n in plain.items())


def test_settling_while_running_changes_nothing() -> None:
    plan = LoadPlan(rate=0, events=8 * BLOCK_MESSAGES, duplicates=0.05, late=0.01)
    at_once, _ = closed(run(plan, take=BLOCK_MESSAGES)[1])
    stream = EventStream(plan, START_MS, PARTITIONS)
    parts, waiting = [], []
    for step in range(8):
        stream.take(BLOCK_MESSAGES, START_MS + 50 * step, START_MS + 50 * step + 50)
        waiting.append(stream.unsettled_blocks)
        parts.extend(stream.settle())
    assert max(waiting) == 1
    parts.extend(stream.finish())
    order = ["event_id", "copies"]
    assert pl.concat(parts).select(order).sort(order).equals(at_once.select(order).sort(order))


def test_content_does_not_depend_on_the_takes() -> None:
    def ids(take: int) -> list[tuple[str, int]]:
        sent, _ = run(MIXED, take)
        return list(zip(sent.keys, sent.partitions, strict=True))

    assert ids(2_000) == ids(777)


def test_the_same_takes_give_the_same_bytes() -> None:
    assert run(MIXED)[0] == run(MIXED)[0]


def test_late_events_are_seconds_to_days_late() -> None:
    plan = LoadPlan(rate=40_000, events=20_000, late=0.1, odd=0)
    rows, _ = closed(run(plan)[1])
    delays_ms = START_MS - rows["timestamp"]
    late_ms = delays_ms.filter(delays_ms > 0)
    assert len(late_ms) >= 1_990
    assert int(str(late_ms.max())) <= 3 * 86_400_000
    for upper_ms in (60_000, 3_600_000, 86_400_000):
        assert 100 < (late_ms < upper_ms).sum() < 1_900


def test_timestamps_are_spread_over_the_take() -> None:
    stream = EventStream(LoadPlan(odd=0), START_MS, PARTITIONS)
    stream.take(1_000, START_MS, START_MS + 50)
    stream.take(3, START_MS + 50, START_MS + 50)
    stream.take(2, START_MS + 50, START_MS + 86_400_050)
    rows, _ = closed(stream)
    stamps = (rows["timestamp"] - START_MS).to_list()
    assert Counter(stamps[:1_000]) == dict.fromkeys(range(1, 51), 20)
    assert stamps[1_000:] == [50, 50, 50, 43_200_050, 86_400_050]


def test_failed_messages_are_taken_out_of_the_books() -> None:
    sent, stream = run(MIXED)
    before, summary_before = closed(run(MIXED)[1])
    failed = Counter(sent.keys[:20_000:7])
    stream.fail(failed)
    rows, summary = closed(stream)
    assert summary.messages == summary_before.messages - failed.total()
    assert summary.messages == summary.unique_events + summary.duplicates + summary.malformed
    assert summary.partitions.total() == summary.messages
    assert sum(summary.partitions.values()) == int(rows["copies"].sum()) + summary.malformed
    once = before.filter(pl.col("copies") == 1, pl.col("event_id").is_in(list(failed)))
    assert len(once) > 1_000
    assert rows.join(once, on="event_id", how="semi").is_empty()


def test_a_failed_repetition_of_an_old_event_is_taken_out() -> None:
    plan = LoadPlan(rate=0, events=8 * BLOCK_MESSAGES, duplicates=0.2)
    sent, stream = run(plan, take=BLOCK_MESSAGES)
    repeated = Counter(sent.keys)
    key = next(k for k in reversed(sent.keys) if repeated[k] > 1 and k in sent.keys[:BLOCK_MESSAGES])
    stream.fail(Counter([key]))
    rows, summary = closed(stream)
    assert rows.filter(pl.col("event_id") == key)["copies"].to_list() == [repeated[key] - 1]
    assert summary.messages == len(sent.keys) - 1


@pytest.mark.parametrize(
    "plan", [LoadPlan(events=500, duplicates=0.9, odd=0), LoadPlan(events=500, malformed=0.9, odd=0)]
)
def test_extreme_fractions_work(plan: LoadPlan) -> None:
    sent, stream = run(plan)
    _, summary = closed(stream)
    assert summary.messages == len(sent) == 500
    assert summary.duplicates + summary.malformed == 450
