"""Puts the replay of dead letters and its warnings together from settings. Command line and Dagster both start here."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.server_time import server_clock
from metrics_pipeline.dead_letters.expiry import expiry_warning, warning_end_ms
from metrics_pipeline.dead_letters.judge import GROUP_SUFFIX, LetterFilter
from metrics_pipeline.dead_letters.replay import Reading, Replay, ReplayReport, preview
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters
from metrics_pipeline.delivery.stored import ClickHouseEvents
from metrics_pipeline.drain.shards import rules_of
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.kafka.admin import TopicDescription, describe_topic, topic_retention_ms
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.retry import Retry
from metrics_pipeline.runtime.run import new_run
from metrics_pipeline.runtime.timerange import DAY_SECONDS
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import batches_under_way
from metrics_pipeline.wiring.engines import by_server_time, check_schema, slot_owner, warehouse_of
from metrics_pipeline.wiring.retention import load_policy

logger = logging.getLogger(__name__)


def preview_dead_letters(
    settings: Settings, wanted: LetterFilter, on_progress: Callable[[ReplayReport], None] = lambda _report: None
) -> ReplayReport:
    """What a replay would do now; writes nothing."""
    retry = new_run("preview", SystemClock(), settings.drain.retry_seconds).retry
    with connect(settings) as client:
        check_schema(client, settings)
        topic = describe_topic(kafka_address(settings), settings.kafka)
        return preview(_reading(settings, client, topic, retry), wanted, on_progress)


def replay_dead_letters(
    settings: Settings,
    wanted: LetterFilter,
    run_id: str,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[ReplayReport], None] = lambda _report: None,
    observe: Callable[[str], None] = lambda _step: None,
) -> ReplayReport:
    """Replay dead letters in the foreground; see `Replay.run` for what is raised."""
    run = new_run(run_id, SystemClock(), settings.drain.retry_seconds, stop, observe)
    with ExitStack() as stack:
        client = run.retry.call(lambda: stack.enter_context(connect(settings)))
        run.retry.call(lambda: check_schema(client, settings))
        run = run.retry.call(lambda: by_server_time(run, client))
        topic = run.retry.call(lambda: describe_topic(kafka_address(settings), settings.kafka))
        reading = _reading(settings, client, topic, run.retry)
        ownership = stack.enter_context(slot_owner(settings, GROUP_SUFFIX, run))
        warehouses = partial(warehouse_of, settings, client)
        return Replay(settings.kafka.group, reading, ownership, warehouses, run).run(wanted, on_progress)


def dead_letter_warnings(settings: Settings, client: Client) -> tuple[str, ...]:
    """Sentences on dead letters that no replay has looked at, and that Kafka or the table drops soon."""
    address, now_ms = kafka_address(settings), server_clock(client, SystemClock()).now_ms()
    letters = ClickHouseDeadLetters(client, settings.kafka.topic)
    found = []
    if (kept_ms := _topic_retention_ms(settings)) is not None:
        topic_id = describe_topic(address, settings.kafka).topic_id
        lows = {p: lag.low for p, lag in read_lag(address, settings.kafka).items()}
        count, oldest_ms = letters.never_replayed(warning_end_ms(now_ms, kept_ms), topic_id=topic_id, lows=lows)
        found.append(expiry_warning("Kafka", kept_ms, count, oldest_ms))
    kept_days = (load_policy(settings).dead_letters.days, letters.time_to_live_days())
    kept_ms = round(min(days for days in kept_days if days is not None) * DAY_SECONDS * 1_000)
    count, oldest_ms = letters.never_replayed(warning_end_ms(now_ms, kept_ms))
    found.append(expiry_warning("the table", kept_ms, count, oldest_ms))
    return tuple(warning for warning in found if warning)


def _topic_retention_ms(settings: Settings) -> int | None:
    """None also where the account may not read the topic's configuration: nothing else needs that grant."""
    try:
        return topic_retention_ms(kafka_address(settings), settings.kafka)
    except ConfigurationError as error:
        logger.warning("%s; nobody warns of dead letters that Kafka drops", error)
        return None


def _reading(settings: Settings, client: Client, topic: TopicDescription, retry: Retry) -> Reading:
    books = ClickHouseBooks(client, settings.kafka.topic, topic.topic_id, settings.kafka.group)
    return Reading(
        ClickHouseDeadLetters(client, settings.kafka.topic),
        ClickHouseEvents(client),
        rules_of(settings),
        lambda: frozenset(batch.token for batch in batches_under_way(settings, books, topic)),
        retry,
        read_retained_from(client).compared_from * 1_000,
    )
