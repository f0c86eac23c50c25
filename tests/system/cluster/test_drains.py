"""Drains into two shards: what lands on which, exactly once whatever breaks, and books that agree."""

import random
from contextlib import suppress

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import connect_shards
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.errors import PipelineError, StopError
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.rollups import rollups
from tests.worlds.events import encode, event
from tests.worlds.hours import past_events, query
from tests.worlds.pipeline import CrashError, assert_exact, crash_at, drain_once, send


def on_shards(settings: Settings, sql: str) -> list[int]:
    """One figure of each shard's own tables."""
    with connect_shards(settings) as shards:
        return [int(shard.query(sql).result_rows[0][0]) for shard in shards]


def on_shard(settings: Settings, number: int, *statements: str) -> None:
    with connect_shards(settings, mutations_sync=1) as shards:
        for statement in statements:
            shards[number].command(statement)


def test_both_copies_of_a_duplicate_are_looked_for_where_they_would_be(settings: Settings) -> None:
    values = past_events(1_000)
    send(settings, [*values, *values[:200], b"no event"])
    drain_once(settings)
    send(settings, values[300:600])
    drain_once(settings)
    assert_exact(settings, events=1_000, dead=1)
    on_each = on_shards(settings, "SELECT count() FROM raw_events")
    assert min(on_each) > 400, on_each
    placed = "SELECT countIf(cityHash64(event_id) % 2 != {}) FROM raw_events"
    assert [on_shards(settings, placed.format(shard))[shard] for shard in (0, 1)] == [0, 0]
    # Rollups are those of the shard's own rows, and the ledger is in one place.
    assert on_shards(settings, "SELECT sum(requests) FROM rollup_1m") == on_each
    assert on_shards(settings, "SELECT count() FROM batches") == [2, 0]


@pytest.mark.parametrize("step", [Step.EVENTS, Step.DEAD, Step.LEDGER, Step.CLOSE])
def test_a_crash_between_any_two_steps_doubles_nothing(settings: Settings, step: Step) -> None:
    values = past_events(300)
    send(settings, [*values, b"no event"])
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(step))
    send(settings, values[:50])
    drain_once(settings)
    assert_exact(settings, events=300, dead=1)


def test_a_batch_that_only_one_shard_has_taken_is_finished(settings: Settings) -> None:
    """The insert broke off in between: one shard has its rows and the token, the other has neither."""
    with connect(settings) as client:
        client.command(f"RENAME TABLE {database(settings)}_shard.raw_events TO {database(settings)}_shard.aside")
    send(settings, past_events(300))
    impatient = settings.model_copy(update={"drain": settings.drain.model_copy(update={"retry_seconds": 1.0})})
    with pytest.raises(PipelineError):
        drain_once(impatient)
    on_shard(settings, 0, "RENAME TABLE aside TO raw_events")
    drain_once(settings)
    assert_exact(settings, events=300)


def test_a_token_that_outlived_the_rows_of_a_shard_is_seen_through(settings: Settings) -> None:
    """A server that is killed after it noted an insert's token, and before it has the rows."""
    send(settings, past_events(300))
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(Step.LEDGER))
    (lost,) = on_shards(settings, "SELECT count() FROM raw_events")[1:]
    on_shard(settings, 1, *[f"ALTER TABLE {table} DELETE WHERE true" for table in ("raw_events", "rollup_1m")])
    drain_once(settings)
    assert lost > 100
    assert query(settings, "SELECT count(), uniqExact(event_id) FROM raw_events") == [(300, 300)]


def test_rows_that_one_shard_refuses_while_the_other_takes_its_own_are_never_doubled(settings: Settings) -> None:
    """What a shard has taken can't be cut and given another token: the drain stops until the rule is dropped."""
    rule = "CONSTRAINT no_teapots"
    for shard in (0, 1):
        on_shard(settings, shard, f"ALTER TABLE raw_events ADD {rule} CHECK status != 418")
    random_ = random.Random(1)
    send(settings, [*past_events(200), *(encode(event(random_, status=418)) for _ in range(4))])
    with suppress(StopError):
        drain_once(settings)
    for shard in (0, 1):
        on_shard(settings, shard, f"ALTER TABLE raw_events DROP {rule}")
    drain_once(settings)
    # Whatever the server refused one by one before that is a dead letter.
    ((dead,),) = query(settings, "SELECT count() FROM dead_letters")
    assert dead <= 4
    assert_exact(settings, events=204 - dead, dead=dead)


def test_answers_are_those_of_one_server(settings: Settings) -> None:
    """Quantiles of all shards are merged from states, and a shard's builds stand for its own rows alone."""
    send(settings, past_events(2_000))
    drain_once(settings)
    asked = """SELECT sum(requests), uniqExact(service, endpoint) FROM
        rollup(start = toStartOfHour(now() - 8 * 3600), end = toStartOfHour(now()), step = {})"""
    before = query(settings, asked.format(60))
    with rollups(settings) as operated:
        span = Span(operated.closed_until() - 8 * 3_600, operated.closed_until())
        built = operated.rebuild(span)
        assert built.published > 0
        assert operated.check(span).is_exact
    ((_, endpoints),) = before
    assert before == query(settings, asked.format(3_600)) == [(2_000, endpoints)]
    assert audit(settings, deep=True).problems == ()


def database(settings: Settings) -> str:
    return settings.kafka.topic
