"""A ledger as a shard writes it, for the panels of pipeline health: a batch every half second, some 173,000 a day."""

from clickhouse_connect.driver.client import Client

from benchmarks.questions.series import EVENTS_PER_SECOND

_BATCH_MS = 500
_PARTITIONS = 8
_CLASSES = 24

_ROWS = f"""INSERT INTO batches (batch, topic, topic_id, consumer_group, run_id, partitions, partition_start,
    partition_end, partition_consumed, partition_inserted, partition_duplicates, partition_dead_letters,
    partition_skipped, partition_lost, consumed, inserted, duplicates, dead_letters, size_bytes, first_event,
    last_event, first_message, last_message, started_at, visible_at, commit_duration_ms, look_up_duration_ms,
    insert_duration_ms, freshness_ms, freshness_events, minutes, minute_inserted)
WITH {EVENTS_PER_SECOND * _BATCH_MS // 1_000} AS size, intDiv(size, {_PARTITIONS}) AS each,
    toDateTime64({{start:UInt32}}, 3, 'UTC') + toIntervalMillisecond(number * {_BATCH_MS}) AS first
SELECT hex(sipHash128(number)), 'filled', 'filled', 'filled', toString(intDiv(number, 120)), range({_PARTITIONS}),
    arrayMap(p -> number * each, range({_PARTITIONS})), arrayMap(p -> (number + 1) * each, range({_PARTITIONS})),
    arrayWithConstant({_PARTITIONS}, each), arrayWithConstant({_PARTITIONS}, each),
    arrayWithConstant({_PARTITIONS}, 0), arrayWithConstant({_PARTITIONS}, 0), arrayWithConstant({_PARTITIONS}, 0),
    arrayWithConstant({_PARTITIONS}, 0), size,
    size - duplicates - dead_letters, rand(1) % 100 AS duplicates, rand(2) % 30 AS dead_letters,
    size * 294, first, first + toIntervalMillisecond({_BATCH_MS}), first,
    first + toIntervalMillisecond({_BATCH_MS}), first + toIntervalMillisecond({_BATCH_MS} + 20),
    first + toIntervalMillisecond({_BATCH_MS} + 200 + rand(3) % 400), 5 + rand(4) % 20, 30 + rand(5) % 60,
    100 + rand(6) % 300, arrayMap(i -> 100 + 40 * i + rand(7) % 20, range({_CLASSES})),
    arrayMap(i -> intDiv(size, {_CLASSES}) + rand(i) % 100, range({_CLASSES})),
    [toStartOfMinute(first)], [size]
FROM numbers({{rows:UInt64}})"""


def fill_ledger(client: Client, end_seconds: int, days: int) -> None:
    """`days` of batches that end at `end_seconds`."""
    seconds = days * 86_400
    parameters = {"start": end_seconds - seconds, "rows": seconds * 1_000 // _BATCH_MS}
    client.command(_ROWS, parameters=parameters)
