"""Real engines for the tests: started once, on free ports, in folders of their own, and stopped at the end."""

import os
import socket
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer, start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program, kafka_program
from metrics_pipeline.lab.local.kafka import KafkaServer, start_kafka
from metrics_pipeline.settings import LocalSettings, Settings, load_settings
from metrics_pipeline.wiring.drain import prepare
from tests.suites import Until, mark, rank

hypothesis.settings.register_profile("seeded", deadline=None, derandomize=True)
hypothesis.settings.load_profile("seeded")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="keep the pictures of Dagster's pages in this folder")
    parser.addoption("--schedules", type=int, default=300, help="how many schedules the simulation runs")
    parser.addoption("--chaos-seconds", type=int, default=30, help="how long faults are made under load")
    parser.addoption("--until", type=float, metavar="EPOCH_SECONDS", help="begin no test after this moment")


def pytest_configure(config: pytest.Config) -> None:
    until = config.getoption("until")
    if until is not None:
        config.pluginmanager.register(Until(until))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        mark(item)
    if config.getoption("until") is not None:
        items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Without the marker no engine starts: neither a fixture of another name nor the test itself may hide one."""

    def refuse(name: str, *_: object) -> None:
        raise AssertionError(f"{name} is started, but the test is not marked with engines: see tests/suites.py")

    with pytest.MonkeyPatch.context() as patched:
        if item.get_closest_marker("engines") is None:
            patched.setattr("metrics_pipeline.lab.local.kafka.spawn", refuse)
            patched.setattr("metrics_pipeline.lab.local.clickhouse.spawn", refuse)
        return (yield)


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests see the settings that they set themselves, and no engines that happen to run."""
    for name in list(os.environ):
        if name.startswith("METRICS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("METRICS_LOCAL__HOME", str(tmp_path / "home"))


@pytest.fixture
def dead_address() -> Iterator[str]:
    """HOST:PORT that refuses connections: the port is taken, so that nobody else begins to listen there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing lands and nobody reads while books and rollups are checked and repaired: there is nothing to wait out."""
    monkeypatch.setattr("metrics_pipeline.audit.run.PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("metrics_pipeline.rollups.operate.PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("metrics_pipeline.rollups.operate.GRACE_SECONDS", 0.02)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    server = start_kafka(kafka_program(cache_folder(LocalSettings())), tmp_path_factory.mktemp("kafka"))
    yield server
    server.process.stop(20)


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    folder = tmp_path_factory.mktemp("clickhouse")
    # As many at once as a server has by itself. With the two of the local one a mutation waits a third of a second
    # between parts, of which each takes milliseconds.
    config = {"background_pool_size": "32"}
    server = start_clickhouse(clickhouse_program(cache_folder(LocalSettings())), folder, config=config)
    yield server
    server.process.stop(20)


@pytest.fixture
def database(clickhouse: ClickHouseServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """An empty database, also in the environment."""
    name = f"d{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", clickhouse.url)
    with connect(load_settings()) as client:
        client.command(f"CREATE DATABASE {name}")
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", clickhouse.url.removesuffix("default") + name)
    with connect(load_settings()) as client:
        yield client
        client.command(f"DROP DATABASE {name}")


@pytest.fixture
def settings(kafka: KafkaServer, clickhouse: ClickHouseServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A fresh topic, consumer group and database, with the schema applied; also set in the environment."""
    name = f"t{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", kafka.address)
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", clickhouse.url)
    with connect(load_settings()) as client:
        client.command(f"CREATE DATABASE {name}")
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", clickhouse.url.removesuffix("default") + name)
    monkeypatch.setenv("METRICS_KAFKA__TOPIC", name)
    monkeypatch.setenv("METRICS_KAFKA__GROUP", name)
    made = load_settings()
    prepare(made)
    yield made
    with connect(made) as client:
        client.command(f"DROP DATABASE {name}")
