"""The drain against a real broker and a real server: exact whatever happens between two steps."""

import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.drain.drain import DrainReport
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.errors import ConfigurationError, TopicMismatchError
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import (
    DrainRun,
    prepare,
    reset_offsets,
    run_drain,
    until_caught_up,
    until_window_ends,
)
from tests.worlds.events import encode, event, events
from tests.worlds.pipeline import CrashError, assert_exact, counts, crash_at, drain_once, send

DAY_MS = 86_400_000


def with_batches_of(settings: Settings, flush_events: int, **changes: float) -> Settings:
    drain = settings.drain.model_copy(update={"flush_events": flush_events, **changes})
    return settings.model_copy(update={"drain": drain})


def test_events_duplicates_and_dead_letters_are_told_apart(settings: Settings) -> None:
    sent = events(1_000)
    send(settings, [*sent, *sent[:100], b"{", None, b"[]"])
    report = drain_once(settings)
    assert (report.consumed, report.inserted, report.duplicates, report.dead_letters) == (1_103, 1_000, 100, 3)
    assert_exact(settings, events=1_000, dead=3)


def test_duplicates_of_earlier_batches_are_found_also_when_late(settings: Settings) -> None:
    random_ = random.Random(1)
    late = [encode(event(random_, timestamp=event(random_)["timestamp"] - days * DAY_MS)) for days in (1, 2, 13)]
    sent = [*events(200), *late]
    send(settings, sent)
    drain_once(settings)
    send(settings, sent)
    report = drain_once(settings)
    assert (report.inserted, report.duplicates) == (0, 203)
    assert_exact(settings, events=203)


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("occurrence", [pytest.param(1, marks=pytest.mark.quick), 2])
def test_a_crash_before_any_step_loses_and_doubles_nothing(settings: Settings, step: Step, occurrence: int) -> None:
    small = with_batches_of(settings, 100)
    random_ = random.Random(2)
    yesterday = [encode(event(random_, timestamp=event(random_)["timestamp"] - DAY_MS)) for _ in range(20)]
    sent = [*events(300, seed=3), *yesterday]
    send(settings, [*sent, *sent[:20], b"not json", *sent[200:220], None], partition=0)
    if step is Step.RECOVER:
        with pytest.raises(CrashError):
            drain_once(small, crash_at(Step.EVENTS, 1))
    with suppress(CrashError):
        drain_once(small, crash_at(step, occurrence))
    drain_once(small)
    assert_exact(settings, events=320, dead=2)


def test_a_fenced_run_ends_quietly_and_its_successor_is_exact(settings: Settings) -> None:
    small = with_batches_of(settings, 50)
    send(settings, events(500), partition=0)
    overtaken = []

    def overtake(step: Step) -> None:
        if step is Step.LEDGER and not overtaken:
            overtaken.append(drain_once(settings))

    report = drain_once(small, overtake)
    assert report.reason is Reason.FENCED
    assert overtaken[0].reason is Reason.CAUGHT_UP
    assert_exact(settings, events=500)


def test_two_runs_at_once_on_one_shard_are_exact(settings: Settings) -> None:
    small = with_batches_of(settings, 50)
    send(settings, events(2_000))
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: drain_once(small), range(2)))
    drain_once(settings)
    assert Reason.CAUGHT_UP in {r.reason for r in reports}
    assert_exact(settings, events=2_000)


def test_a_late_insert_of_a_zombie_changes_nothing(settings: Settings) -> None:
    """The run is overtaken between its intent and its insert, and inserts all the same: the token catches it."""
    send(settings, events(300), partition=0)
    overtaken = []

    def overtake(step: Step) -> None:
        if step is Step.EVENTS and not overtaken:
            overtaken.append(drain_once(settings))

    drain_once(settings, overtake)
    assert_exact(settings, events=300)


def test_a_run_paused_for_too_long_proves_that_it_owns_the_shard_before_it_inserts(settings: Settings) -> None:
    impatient = with_batches_of(settings, 1_000, zombie_seconds=1e-9)
    send(settings, events(300), partition=0)
    inserted_before_proof = []

    def overtake(step: Step) -> None:
        if step is Step.EVENTS and not inserted_before_proof:
            inserted_before_proof.append(drain_once(settings))

    report = drain_once(impatient, overtake)
    assert report.reason is Reason.FENCED
    assert report.batches == 0
    assert_exact(settings, events=300)


def test_shards_share_the_partitions(settings: Settings) -> None:
    sharded = with_batches_of(settings, 1_000, shards=3)
    send(settings, events(800))
    for shard in range(3):
        run_drain(sharded, DrainRun(str(uuid.uuid4()), shard), until_caught_up, stop=lambda: False)
    assert_exact(settings, events=800)


def test_aborted_transactions_are_skipped_and_accounted_for(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": kafka_address(settings), "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    kept, aborted = events(50, seed=1), events(50, seed=2)
    for commits in (True, False, True):
        producer.begin_transaction()
        for value in kept if commits else aborted:
            producer.produce(settings.kafka.topic, value, partition=0)
        # Unless they are out, an abort drops its messages before the log sees them.
        producer.flush(30)
        if commits:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    report = drain_once(settings)
    assert (report.inserted, report.duplicates) == (50, 50)
    verdict = audit(settings)
    assert verdict.is_ok
    assert verdict.books.ledger.counts.skipped == 53, "50 aborted messages and a marker for each transaction"


def test_offsets_that_retention_ate_are_on_record(settings: Settings) -> None:
    send(settings, events(100), partition=0)
    drain_once(settings)
    send(settings, events(100, seed=1), partition=0)
    admin = AdminClient({"bootstrap.servers": kafka_address(settings)})
    deleted = admin.delete_records([TopicPartition(settings.kafka.topic, 0, 150)])
    assert all(f.result().low_watermark == 150 for f in deleted.values())
    report = drain_once(settings)
    assert (report.lost, report.inserted) == (50, 50)
    (problem,) = audit(settings).problems
    assert problem.startswith("lost to retention: partition 0, offsets 100 to 149")


def test_a_recreated_topic_stops_the_drain_until_offsets_are_reset(settings: Settings) -> None:
    send(settings, events(100))
    drain_once(settings)
    admin = AdminClient({"bootstrap.servers": kafka_address(settings)})
    admin.delete_topics([settings.kafka.topic])[settings.kafka.topic].result()
    prepare(settings)
    send(settings, events(50, seed=1))
    with pytest.raises(TopicMismatchError, match="reset-offsets"):
        drain_once(settings)
    reset_offsets(settings, to_latest=False)
    assert drain_once(settings).inserted == 50
    assert_exact(settings, events=150)


def test_a_missing_topic_and_a_missing_schema_are_named(settings: Settings) -> None:
    with connect(settings) as client:
        client.command("DROP TABLE rollup_1m_view")
    with pytest.raises(Exception, match="schema apply"):
        drain_once(settings)
    prepare(settings)
    absent = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"topic": "absent"})})
    with pytest.raises(ConfigurationError, match="METRICS_KAFKA__TOPIC"):
        drain_once(absent)


def test_batches_are_bounded_by_bytes(settings: Settings) -> None:
    padded = events(200, attributes={"padding": "x" * 4_000})
    send(settings, padded)
    report = drain_once(with_batches_of(settings, 1_000_000, flush_bytes=64 << 10, flush_seconds=60))
    assert report.batches >= len(padded) * 4_000 // (64 << 10)
    assert_exact(settings, events=200)


def test_a_run_hands_its_shard_to_a_successor_that_announced_itself(settings: Settings) -> None:
    """The first run would go on for an hour; the second one gets the shard, and both are exact."""
    patient = with_batches_of(settings, 1_000, window_seconds=3_600.0, idle_seconds=3_600.0)
    send(settings, events(500))
    stopping = threading.Event()

    def drain_until_handover() -> DrainReport:
        run = DrainRun(str(uuid.uuid4()))
        return run_drain(patient, run, until_window_ends(patient), stop=stopping.is_set)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(drain_until_handover)
        try:
            while counts(settings).raw < 500:
                assert not first.done(), first.result()
            send(settings, events(500, seed=1))
            successor = DrainRun(str(uuid.uuid4()), has_predecessor=True)
            second = run_drain(settings, successor, until_caught_up, stop=lambda: False)
            assert first.result(timeout=30).reason is Reason.HANDOVER
        finally:
            stopping.set()
    assert second.reason is Reason.CAUGHT_UP
    assert_exact(settings, events=1_000)
