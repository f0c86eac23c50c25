"""Open batches that are hard to read again: a hole at the log's end, a partition that retention emptied, a reset."""

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import reset_offsets
from tests.worlds.events import events
from tests.worlds.pipeline import CrashError, assert_exact, counts, crash_at, drain_once, send


def send_in_a_transaction(settings: Settings, values: Sequence[bytes]) -> None:
    producer = Producer({"bootstrap.servers": kafka_address(settings), "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(settings.kafka.topic, value, partition=0)
    producer.commit_transaction(30)


def test_an_open_batch_that_ends_in_a_control_record_is_recovered(settings: Settings) -> None:
    """The log ends with the record that commits a transaction; no message will ever come at that offset."""
    impatient = settings.model_copy(update={"drain": settings.drain.model_copy(update={"retry_seconds": 10.0})})
    send_in_a_transaction(settings, events(50))
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(Step.LEDGER))
    drain_once(impatient)
    assert_exact(settings, events=50)


def test_an_open_batch_of_which_retention_ate_a_whole_partition_is_recovered(settings: Settings) -> None:
    send(settings, events(40), partition=0)
    send(settings, events(40, seed=1), partition=1)
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(Step.EVENTS))
    send(settings, events(20, seed=2), partition=1)
    admin = AdminClient({"bootstrap.servers": kafka_address(settings)})
    for future in admin.delete_records([TopicPartition(settings.kafka.topic, 1, 50)]).values():
        future.result()
    drain_once(settings)
    assert counts(settings).raw == counts(settings).rollup == 50
    assert [p for p in audit(settings).problems if not p.startswith("lost")] == []


@pytest.mark.parametrize("step", [Step.EVENTS, Step.DEAD, Step.LEDGER])
def test_an_open_batch_is_judged_by_the_rules_that_it_was_opened_with(settings: Settings, step: Step) -> None:
    """Stricter rules come into force between the crash and the recovery: what landed is an event all the same."""
    two_days_ago_ms = time.time_ns() // 1_000_000 - 2 * 86_400_000
    send(settings, [*events(30), *events(20, seed=1, timestamp=two_days_ago_ms), b"no event"])
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(step))
    stricter = settings.model_copy(update={"events": settings.events.model_copy(update={"max_age_days": 1})})
    send(settings, events(5, seed=2, timestamp=two_days_ago_ms))
    drain_once(stricter)
    assert_exact(settings, events=50, dead=1 + 5)


@pytest.mark.parametrize("step", [None, Step.LEDGER])
def test_a_reset_to_the_earliest_offset_doubles_nothing(settings: Settings, step: Step | None) -> None:
    send(settings, events(300), partition=0)
    with suppress(CrashError):
        drain_once(settings, crash_at(step) if step else lambda _: None)
    send(settings, events(100, seed=1), partition=0)
    reset_offsets(settings, to_latest=False)
    drain_once(settings)
    assert_exact(settings, events=400)
