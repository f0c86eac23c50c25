"""Engines that die and come back while a drain is at work: it waits, says so, and goes on; nothing lost or doubled."""

import logging
import random
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.steps import HourStep, Step
from metrics_pipeline.drain.drain import DrainReport
from metrics_pipeline.errors import ClickHouseUnavailableError, KafkaUnavailableError, StuckClientError
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer, start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program, kafka_program
from metrics_pipeline.lab.local.kafka import KafkaServer, start_kafka
from metrics_pipeline.lab.local.process import choose_port
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import LocalSettings, Settings, load_settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import DrainRun, prepare, run_drain, until_caught_up
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.worlds.events import events
from tests.worlds.hours import command, crash, past_events, replay
from tests.worlds.pipeline import CrashError, assert_exact, counts, crash_at, drain_once, send
from tests.worlds.waiting import await_

CACHE = cache_folder(LocalSettings())
BROKEN = (b"", b"{", b"[]")
LANDED = ("raw_events", "dead_letters", "batches")
"""Tables that a batch is inserted into, in this order."""


class Later(SystemClock):
    """Sees the units of now closed."""

    def now_ms(self) -> int:
        return super().now_ms() + 3_600_000


def lasting_port() -> int:
    """A free port that no client is given while its server is away.

    Clients that try again and again to reach a port of the ephemeral range may be given that very port, connect to
    themselves, and keep the server from coming back.
    """
    random_ = random.Random()
    return next(port for port in iter(lambda: random_.randrange(20_000, 30_000), 0) if choose_port(port) == port)


def freed(port: int) -> int:
    """The port, once the server that was killed has let go of it: on a busy machine that takes a moment."""
    await_(f"port {port} is free", lambda: choose_port(port) == port)
    return port


class Engines:
    """A broker and a server of the test's own, which it may kill and start again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.kafka: KafkaServer = start_kafka(kafka_program(CACHE), folder / "kafka", preferred_port=lasting_port())
        self.clickhouse: ClickHouseServer = start_clickhouse(
            clickhouse_program(CACHE), folder / "clickhouse", preferred_port=lasting_port()
        )

    def restart_kafka(self) -> None:
        address = self.kafka.address
        port = freed(int(address.rpartition(":")[2]))
        self.kafka = start_kafka(kafka_program(CACHE), self._folder / "kafka", preferred_port=port)
        assert self.kafka.address == address

    def restart_clickhouse(self) -> None:
        port = freed(urlsplit(self.clickhouse.url).port or 0)
        self.clickhouse = start_clickhouse(clickhouse_program(CACHE), self._folder / "clickhouse", preferred_port=port)

    def stop(self) -> None:
        self.clickhouse.process.stop(20)
        self.kafka.process.stop(20)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    made = Engines(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def own_settings(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", engines.kafka.address)
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", engines.clickhouse.url)
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
    engines: Engines, own_settings: Settings, step: Step, caplog: pytest.LogCaptureFixture
) -> None:
    send(own_settings, events(400), partition=0)
    with caplog.at_level(logging.WARNING, "metrics_pipeline"):
        drain_through(own_settings, step, engines.clickhouse.process.kill, engines.restart_clickhouse)
    assert "trying again" in caplog.text
    assert_exact(own_settings, events=400)


def test_kafka_is_killed_and_comes_back(
    engines: Engines, own_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    send(own_settings, events(400), partition=0)
    with caplog.at_level(logging.WARNING, "metrics_pipeline"), suppress(StuckClientError, KafkaUnavailableError):
        drain_through(own_settings, Step.INTENT, engines.kafka.process.kill, engines.restart_kafka)
    drain_once(own_settings)
    assert_exact(own_settings, events=400)


def test_a_run_gives_up_after_its_limit_and_the_next_one_finishes_its_batch(
    engines: Engines, own_settings: Settings
) -> None:
    drain = own_settings.drain.model_copy(update={"retry_seconds": 2.0})
    impatient = own_settings.model_copy(update={"drain": drain})
    send(own_settings, events(400), partition=0)
    with pytest.raises(ClickHouseUnavailableError):
        drain_through(impatient, Step.EVENTS, engines.clickhouse.process.kill, lambda: None)
    engines.restart_clickhouse()
    drain_once(own_settings)
    assert_exact(own_settings, events=400)


def forget_rows(engines: Engines, settings: Settings, tables: Sequence[str]) -> None:
    """What a kill between the note of a token and its part, which are microseconds apart, leaves on the disk."""
    sql = """SELECT path FROM system.parts
        WHERE active AND database = currentDatabase() AND table IN {tables:Array(String)}"""
    with connect(settings) as client:
        parts = client.query(sql, parameters={"tables": list(tables)}).result_rows
    engines.clickhouse.process.kill()
    for (path,) in parts:
        shutil.rmtree(path)
    engines.restart_clickhouse()


@pytest.mark.parametrize(("step", "tables"), [(Step.LEDGER, LANDED[:2]), (Step.CLOSE, LANDED)])
def test_rows_whose_token_outlived_them_are_inserted_once_more(
    engines: Engines, own_settings: Settings, step: Step, tables: tuple[str, ...], caplog: pytest.LogCaptureFixture
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
    engines: Engines, own_settings: Settings, caplog: pytest.LogCaptureFixture
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
