"""The load generator against a real broker: what its file lists is what the topic holds."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from metrics_pipeline.errors import ConfigurationError, KafkaUnavailableError
from metrics_pipeline.event.contract import IDENTITY
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import LoadProgress, produce
from metrics_pipeline.lab.loadgen.sent import SENT_SCHEMA, read_sent
from metrics_pipeline.lab.local.kafka import KafkaServer
from metrics_pipeline.settings import KafkaSettings, Settings

LIMITS = EventLimits(max_age_ms=396 * 86_400_000, max_future_ms=3_600_000)
PARTITIONS = 3
MIXED = LoadPlan(rate=0, events=20_000, duplicates=0.1, late=0.05, malformed=0.05, odd=0.05, seed=3)
_WAIT_SECONDS = 20


@pytest.fixture
def topic(kafka: KafkaServer) -> str:
    return new_topic(kafka)


def new_topic(kafka: KafkaServer, **config: str) -> str:
    name = f"t{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.create_topics([NewTopic(name, PARTITIONS, 1, config=config)])[name].result(_WAIT_SECONDS)
    return name


def configured(kafka: KafkaServer, topic: str, **options: str) -> Settings:
    return Settings(kafka=KafkaSettings(bootstrap_servers=kafka.address, topic=topic, options=options))


def read_topic(kafka: KafkaServer, topic: str) -> tuple[Messages, list[bytes]]:
    """All messages of the topic, and their keys."""
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": "none", "enable.auto.commit": False})
    places = [TopicPartition(topic, p, 0) for p in range(PARTITIONS)]
    left = sum(consumer.get_watermark_offsets(place, timeout=_WAIT_SECONDS)[1] for place in places)
    consumer.assign(places)
    messages, keys = Messages([], [], [], []), list[bytes]()
    while left:
        fetched = consumer.consume(min(left, 10_000), _WAIT_SECONDS)
        assert fetched, f"{left} messages did not come"
        for message in fetched:
            assert message.error() is None
            messages.partitions.append(message.partition() or 0)
            messages.offsets.append(message.offset() or 0)
            messages.timestamps_ms.append(message.timestamp()[1])
            messages.values.append(message.value())
            keys.append(message.key() or b"")
        left -= len(fetched)
    consumer.close()
    return messages, keys


def events_in(messages: Messages) -> tuple[pl.DataFrame, Counter[str]]:
    """The unique events in the form of a sent file, and how many dead letters of each reason."""
    found = decode(messages, LIMITS)
    rows = found.events.with_columns(pl.col("timestamp").cast(pl.Int64)).group_by(IDENTITY)
    unique = rows.agg(pl.col("tier", "status", "latency_ms").first(), copies=pl.len().cast(pl.UInt32))
    return ordered(unique), Counter(found.dead_letters["reason"])


def ordered(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(SENT_SCHEMA.names()).sort("event_id")


@pytest.mark.parametrize("name", ["sent.ndjson", "sent.parquet"])
def test_the_file_lists_what_the_topic_holds(kafka: KafkaServer, topic: str, tmp_path: Path, name: str) -> None:
    summary = produce(MIXED, configured(kafka, topic), tmp_path / name)
    messages, keys = read_topic(kafka, topic)
    unique, reasons = events_in(messages)
    listed, totals = read_sent(tmp_path / name)
    assert ordered(listed).equals(unique)
    assert totals == summary.as_dict()
    assert totals["malformed_reasons"] == dict(reasons)
    assert totals["partitions"] == {str(p): n for p, n in Counter(messages.partitions).items()}
    assert totals["messages"] == len(messages) == 20_000
    assert (totals["duplicates"], totals["late"], totals["malformed"], totals["odd"]) == (2_000, 1_000, 1_000, 1_000)
    assert totals["unique_events"] == len(unique) == 17_000
    assert totals["failed"] == 0
    assert len(set(zip(keys, messages.partitions, strict=True))) == len(set(keys))


def test_keys_go_where_librdkafka_would_send_them(kafka: KafkaServer, topic: str) -> None:
    produce(LoadPlan(rate=0, events=200), configured(kafka, topic))
    messages, keys = read_topic(kafka, topic)
    placed: dict[bytes, int] = {}
    producer = Producer({"bootstrap.servers": kafka.address})
    for key in keys:
        producer.produce(topic, b"x", key, on_delivery=lambda _, m: placed.update({m.key(): m.partition()}))
    assert producer.flush(_WAIT_SECONDS) == 0
    assert placed == dict(zip(keys, messages.partitions, strict=True))


def test_a_full_queue_makes_it_wait(kafka: KafkaServer, topic: str) -> None:
    small = {"queue.buffering.max.messages": "100", "linger.ms": "0", "batch.num.messages": "50"}
    summary = produce(LoadPlan(rate=0, events=5_000, duplicates=0.1), configured(kafka, topic, **small))
    messages, _ = read_topic(kafka, topic)
    assert (summary.messages, summary.failed) == (len(messages), 0) == (5_000, 0)


def test_what_the_client_refuses_is_counted_and_not_listed(kafka: KafkaServer, topic: str, tmp_path: Path) -> None:
    plan = LoadPlan(rate=0, events=3_000, malformed=0.1, duplicates=0.1)
    summary = produce(plan, configured(kafka, topic, **{"message.max.bytes": "4000"}), tmp_path / "sent.ndjson")
    assert_consistent_with_failures(kafka, topic, tmp_path / "sent.ndjson")
    assert [reason for reason in summary.failures if "Message size too large" not in reason] == []
    assert 0 < summary.failed < 30
    assert "long_text" not in summary.malformed_kinds


def test_what_the_broker_refuses_is_counted_and_not_listed(kafka: KafkaServer, tmp_path: Path) -> None:
    topic = new_topic(kafka, **{"max.message.bytes": "600"})
    alone = {"batch.num.messages": "1", "compression.type": "none"}
    plan = LoadPlan(rate=0, events=2_000, malformed=0.1, duplicates=0.2, odd=0.2)
    summary = produce(plan, configured(kafka, topic, **alone), tmp_path / "sent.ndjson")
    assert_consistent_with_failures(kafka, topic, tmp_path / "sent.ndjson")
    assert 0 < summary.failed < 500


def assert_consistent_with_failures(kafka: KafkaServer, topic: str, path: Path) -> None:
    messages, _ = read_topic(kafka, topic)
    unique, reasons = events_in(messages)
    listed, totals = read_sent(path)
    assert ordered(listed).equals(unique)
    assert totals["malformed_reasons"] == dict(reasons)
    assert totals["messages"] == len(messages)
    assert totals["failed"] == sum(totals["failures"].values())


@pytest.fixture
def broker(kafka: KafkaServer) -> Iterator[psutil.Process]:
    process = psutil.Process(kafka.process.pid)
    yield process
    process.resume()


def test_a_broker_that_hangs_is_waited_for(kafka: KafkaServer, broker: psutil.Process, topic: str) -> None:
    was_suspended = False

    def hang_for_a_while(progress: LoadProgress) -> None:
        nonlocal was_suspended
        if not was_suspended:
            was_suspended = True
            broker.suspend()
        elif progress.outstanding > 2_000:
            broker.resume()

    plan = LoadPlan(rate=5_000, events=10_000, duplicates=0.1)
    summary = produce(plan, configured(kafka, topic), on_progress=hang_for_a_while)
    messages, _ = read_topic(kafka, topic)
    unique, _ = events_in(messages)
    assert was_suspended
    assert (summary.messages, summary.failed) == (len(messages), 0) == (10_000, 0)
    assert len(unique) == summary.unique_events


def test_a_message_that_times_out_has_failed(kafka: KafkaServer, broker: psutil.Process, topic: str) -> None:
    stop = threading.Event()

    def suspend_then_stop(progress: LoadProgress) -> None:
        broker.suspend()
        if progress.failed:
            stop.set()

    options = {"message.timeout.ms": "1500"}
    summary = produce(LoadPlan(rate=1_000), configured(kafka, topic, **options), None, stop, suspend_then_stop)
    assert summary.failed > 100
    assert summary.messages == summary.unique_events


def test_stopping_it_completes_the_file(kafka: KafkaServer, topic: str, tmp_path: Path) -> None:
    stop = threading.Event()

    def stop_soon(progress: LoadProgress) -> None:
        if progress.sent > 2_000:
            stop.set()

    produce(LoadPlan(rate=10_000, duplicates=0.05), configured(kafka, topic), tmp_path / "s.ndjson", stop, stop_soon)
    messages, _ = read_topic(kafka, topic)
    unique, _ = events_in(messages)
    listed, totals = read_sent(tmp_path / "s.ndjson")
    assert totals["messages"] == len(messages) > 2_000
    assert ordered(listed).equals(unique)


def test_a_topic_that_is_missing_is_named(kafka: KafkaServer) -> None:
    with pytest.raises(ConfigurationError, match="no-such-topic"):
        produce(LoadPlan(events=1), configured(kafka, "no-such-topic"))


def test_a_broker_that_is_away_can_be_tried_again(dead_address: str) -> None:
    away = KafkaSettings(bootstrap_servers=dead_address, request_timeout_seconds=1)
    with pytest.raises(KafkaUnavailableError):
        produce(LoadPlan(events=1), Settings(kafka=away))


def started(kafka: KafkaServer, topic: str, *arguments: str, **more: str) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "METRICS_KAFKA__BOOTSTRAP_SERVERS": kafka.address,
        "METRICS_KAFKA__TOPIC": topic,
        **more,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "metrics_pipeline", "produce", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_in_order(
    kafka: KafkaServer, topic: str, tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "sent.ndjson"
    process = started(kafka, topic, "--rate", "2000", "--duplicates", "0.05", "--sent", str(path), "--json")
    await_messages(kafka, topic)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    messages, _ = read_topic(kafka, topic)
    listed, totals = read_sent(path)
    assert json.loads(output) == totals
    assert totals["messages"] == len(messages)
    assert ordered(listed).equals(events_in(messages)[0])


def await_messages(kafka: KafkaServer, topic: str) -> None:
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": "none", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    assert consumer.poll(60) is not None
    consumer.close()


def test_the_command_fails_if_a_message_did(kafka: KafkaServer, topic: str) -> None:
    options = json.dumps({"message.max.bytes": "4000"})
    arguments = ("--events", "1000", "--rate", "0", "--malformed", "0.1")
    process = started(kafka, topic, *arguments, METRICS_KAFKA__OPTIONS=options)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "messages acknowledged" in output
    assert "messages failed" in errors
    assert "Message size too large" in errors
