"""Signals read from the real engines, and what the command line says of them."""

import json
import random

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from metrics_pipeline.alerting.reading import read_flow, read_landed, read_storage
from metrics_pipeline.alerting.run import Copy, evaluate, standing
from metrics_pipeline.alerting.signals import RunSignal
from metrics_pipeline.cli import app
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.settings import Settings, kafka_address, load_settings
from tests.worlds.events import encode, event, events
from tests.worlds.pipeline import drain_once, send
from tests.worlds.receivers import http_receiver


def kinds(settings: Settings) -> set[str]:
    return {state.alert.kind for state in standing(settings).states}


def test_signals_are_those_of_the_ledger_and_the_server(settings: Settings) -> None:
    send(settings, [*events(300), b"{", b"nonsense"])
    drain_once(settings)
    scope = LedgerScope(settings.kafka.topic, settings.kafka.group)
    with connect(settings) as client:
        landed = read_landed(client, scope)
        flow = read_flow(client, scope, landed)
        storage = read_storage(client)
    assert set(landed) == set(range(settings.kafka.partitions))
    assert (flow.consumed, flow.dead_letters, sum(flow.reasons.values())) == (302, 2, 2)
    assert flow.freshness_p99_seconds is not None
    assert flow.freshness_p99_seconds > 0
    assert flow.landed_ago_seconds is not None
    assert flow.lost == {}
    (disk,) = [d for d in storage.disks if d.name == "default"]
    assert 0 < disk.free_bytes <= disk.total_bytes
    assert storage.most_parts["raw_events"] >= 1
    assert storage.bytes_per_day > 0


def test_an_empty_pipeline_is_healthy(settings: Settings) -> None:
    assert kinds(settings) - {"disk_space"} == set()


def test_lag_that_nobody_drains_and_dead_letters_show(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_ALERTS__LAG_OFFSETS", "100")
    monkeypatch.setenv("METRICS_ALERTS__DISK_FREE_SHARE", "0")
    monkeypatch.setenv("METRICS_ALERTS__DISK_DAYS", "0")
    random_ = random.Random(3)
    bad = [encode(event(random_, latency_ms="slow")) for _ in range(20)]
    send(settings, [*events(200), *bad])
    assert kinds(load_settings()) == {"lag", "no_drain"}
    drain_once(settings)
    assert kinds(load_settings()) == {"dead_letter_share"}


def test_offsets_that_the_topic_dropped_and_a_partition_that_stands_still_show(settings: Settings) -> None:
    send(settings, events(100), partition=0)
    drain_once(settings)
    send(settings, events(100, seed=1), partition=0)
    send(settings, events(10, seed=2), partition=1)
    admin = AdminClient({"bootstrap.servers": kafka_address(settings)})
    deleted = admin.delete_records([TopicPartition(settings.kafka.topic, 0, 150)])
    assert all(future.result().low_watermark == 150 for future in deleted.values())
    drain_once(settings)
    (lost,) = [s for s in standing(settings).states if s.alert.kind == "lost_offsets"]
    assert "50 offsets went unread" in lost.alert.summary
    assert "partition 0: 50" in lost.alert.summary
    send(settings, events(5, seed=3), partition=2)
    assert "stalled_partition" in kinds(settings), "2 never landed, 0 and 1 did"


def test_the_command_line_says_what_is_wrong_as_json(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_ALERTS__LAG_OFFSETS", "10")
    send(settings, events(100))
    done = CliRunner().invoke(app, ["alerts", "status", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert not said["ok"]
    assert said["engines"] == {"kafka": None, "clickhouse": None}
    (lag,) = [a for a in said["alerts"] if a["kind"] == "lag"]
    assert lag["subject"] == settings.kafka.topic
    assert lag["runbook"] == "docs/runbooks/lag.md"
    assert "100 offsets behind" in lag["summary"]
    assert "100 offsets behind" in CliRunner().invoke(app, ["alerts", "status"]).stdout


def test_failed_runs_that_the_sensor_saw_are_shown_as_it_left_them(settings: Settings) -> None:
    evaluate(settings, [RunSignal("nightly", "", 2, "some-run", "boom")], [], Copy())
    assert "failed_runs" in kinds(settings)
    evaluate(settings, [RunSignal("nightly", "", 0)], [], Copy())
    assert "failed_runs" not in kinds(settings)


def test_engines_that_are_down_are_alerts_and_no_traceback(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", f"http://{dead_address}/default")
    monkeypatch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", dead_address)
    monkeypatch.setenv("METRICS_KAFKA__REQUEST_TIMEOUT_SECONDS", "1")
    done = CliRunner().invoke(app, ["alerts", "status", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [(a["kind"], a["subject"]) for a in said["alerts"]] == [
        ("engine_down", "clickhouse"),
        ("engine_down", "kafka"),
    ]


def test_a_test_message_goes_to_each_destination_and_failures_are_named(
    monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    with http_receiver() as receiver:
        monkeypatch.setenv("METRICS_ALERTS__DESTINATIONS", receiver.url)
        assert CliRunner().invoke(app, ["alerts", "test"]).exit_code == 0
        monkeypatch.setenv("METRICS_ALERTS__DESTINATIONS", f"{receiver.url} json://{dead_address}")
        done = CliRunner().invoke(app, ["alerts", "test", "--json"])
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)["destinations"]
    assert first == {"destination": "destination 1 (JSON)", "problem": None}
    assert second["problem"]
    assert len(receiver.received) == 2
    assert "Nothing is wrong" in receiver.received[0]["message"]
