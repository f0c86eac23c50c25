"""Engines that die and come back while a drain is at work: it waits, says so, and goes on; nothing lost or doubled."""

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.steps import HourStep, Step
from metrics_pipeline.drain.drain import DrainReport
from metrics_pipeline.errors import ClickHouseUnavailableError, KafkaUnavailableError, StuckClientError
from metrics_pipeline.lab.chaos.staging import OwnEngines, altered, own_engines
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import LocalSettings, Settings, load_settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import DrainRun, prepare, run_drain, until_caught_up
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.worlds.events import events
from tests.worlds.hours import command, crash, past_events, replay
from tests.worlds.pipeline import CrashError, assert_exact, counts, crash_at, drain_once, send

BROKEN = (b"", b"{", b"[]")
LANDED = ("raw_events", "dead_letters", "batches")
"""Tables that a batch is inserted into, in this order."""


class Later(SystemClock):
    """Sees the units of now closed."""

    def now_ms(self) -> int:
        return super().now_ms() + 3_600_000


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[OwnEngines]:
    """A broker and a server of the test's own, which it may kill and start again at the same address."""
    with own_engines(tmp_path, LocalSettings()) as made:
        yield made


@pytest.fixture
def own_settings(engines: OwnEngines, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", engines.kafka.address)
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", engines.clickhouse.address)
    monkeypatch.setenv("METRICS_DRAIN__FLUSH_EVENTS", "100")
    monkeypatch.setenv("METRICS_KAFKA__REQUEST_TIMEOUT_SECONDS", "5")
    made = load_settings()
    prepare(made)
    return made


def drain_through(settings: Settings, step: Step, outage: Callable[[], None], end: Callable[[], None]) -> DrainReport:
    """Drain; right before the second `step` the outage begins, and `end` runs beside the waiting drain."""
    seen, begun = 0, threading.Event()

    def observe(at: Step) -> None:
        nonlocal seen
        seen += at is step
        if seen == 2 and not begun.is_set():
            outage()
            begun.set()

    def recover() -> None:
        assert begun.wait(60)
        end()

    with ThreadPoolExecutor(1) as pool:
        recovering = pool.submit(recover)
        report = run_drain(settings, DrainRun(str(uuid.uuid4())), until_caught_up, stop=lambda: False, observe=observe)
        recovering.result(timeout=60)
    return report


@pytest.mark.parametrize("step", [Step.LOOK_UP, Step.EVENTS, Step.LEDGER])
def test_clickhouse_is_killed_and_comes_back(
    engines: OwnEngines, own_settings: Settings, step: Step, caplog: pytest.LogCaptureFixture
) -> None:
    send(own_settings, events(400), partition=0)
    with caplog.at_level(logging.WARNING, "metrics_pipeline"):
        drain_through(own_settings, step, engines.clickhouse.kill, engines.clickhouse.restart)
    assert "trying again" in caplog.text
    assert_exact(own_settings, events=400)


def test_kafka_is_killed_and_comes_back(
    engines: OwnEngines, own_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    send(own_settings, events(400), partition=0)
    with caplog.at_level(logging.WARNING, "metrics_pipeline"), suppress(StuckClientError, KafkaUnavailableError):
        drain_through(own_settings, Step.INTENT, engines.kafka.kill, engines.kafka.restart)
    drain_once(own_settings)
    assert_exact(own_settings, events=400)


def test_a_run_gives_up_after_its_limit_and_the_next_one_finishes_its_batch(
    engines: OwnEngines, own_settings: Settings
) -> None:
    impatient = altered(own_settings, drain={"retry_seconds": 2.0})
    send(own_settings, events(400), partition=0)
    with pytest.raises(ClickHouseUnavailableError):
        drain_through(impatient, Step.EVENTS, engines.clickhouse.kill, lambda: None)
    engines.clickhouse.restart()
    drain_once(own_settings)
    assert_exact(own_settings, events=400)


def forget_rows(engines: OwnEngines, settings: Settings, tables: Sequence[str]) -> None:
    """What a kill between the note of a token and its part, which are microseconds apart, leaves on the disk."""
    sql = """SELECT path FROM system.parts
        WHERE active AND database = currentDatabase() AND table IN {tables:Array(String)}"""
    with connect(settings) as client:
        parts = client.query(sql, parameters={"tables": list(tables)}).result_rows
    engines.clickhouse.kill()
    for (path,) in parts:
        shutil.rmtree(path)
    engines.clickhouse.restart()


@pytest.mark.parametrize(("step", "tables"), [(Step.LEDGER, LANDED[:2]), (Step.CLOSE, LANDED)])
def test_rows_whose_token_outlived_them_are_inserted_once_more(
    engines: OwnEngines, own_settings: Settings, step: Step, tables: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    send(own_settings, [*events(80), *BROKEN], partition=0)
    with pytest.raises(CrashError):
        drain_once(own_settings, crash_at(step))
    forget_rows(engines, own_settings, tables)
    with caplog.at_level(logging.ERROR, "metrics_pipeline"):
        drain_once(own_settings)
    assert caplog.text.count("broke off after it had noted the token") == len(tables)
    with open_rollups(own_settings, Later()) as rollups:
        now = int(time.time())
        rollups.check(Span(now - 7_200, now + 3_600), repair=True)
    assert_exact(own_settings, events=80, dead=len(BROKEN))


def test_rows_of_a_replay_whose_token_outlived_them_are_inserted_once_more(
    engines: OwnEngines, own_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    send(own_settings, past_events(80), partition=0)
    drain_once(own_settings)
    command(own_settings, "DELETE FROM raw_events WHERE true")
    with pytest.raises(CrashError):
        replay(own_settings, observe=crash(HourStep.LEDGER))
    forget_rows(engines, own_settings, ["raw_events"])
    with caplog.at_level(logging.ERROR, "metrics_pipeline"):
        replay(own_settings)
    assert caplog.text.count("broke off after it had noted the token") == 1
    assert counts(own_settings).raw == 80
    assert audit(own_settings).problems == (), "a replay repairs the rollups of what it touched"
