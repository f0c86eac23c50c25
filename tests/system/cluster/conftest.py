"""Two real servers, each a shard of one cluster. `settings` spreads the tables over them."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import pytest

from metrics_pipeline.clickhouse.client import SHARD_SUFFIX, connect_to
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer, start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program
from metrics_pipeline.lab.local.kafka import KafkaServer
from metrics_pipeline.lab.local.process import choose_port
from metrics_pipeline.schema.roles import roles
from metrics_pipeline.settings import LocalSettings, Settings, load_settings
from metrics_pipeline.wiring.drain import prepare
from tests.system.security.test_roles import users_xml

CLUSTER = "lab"
OF_ROLES = "granted"
"""The database that the servers' users schema, writer and reader have their grants on."""


@dataclass(frozen=True)
class Shard:
    """A server that can be started again where it was, with what it had."""

    folder: Path
    ports: tuple[int, int]
    """Of HTTP and of queries of other servers."""
    config: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}/"

    def start(self) -> ClickHouseServer:
        program = clickhouse_program(cache_folder(LocalSettings()))
        http, tcp = self.ports
        started = start_clickhouse(
            program, self.folder, preferred_port=http, preferred_tcp_port=tcp, config=self.config
        )
        assert started.url.startswith(self.url), "another process took its port"
        return started


def cluster(folder: Path) -> tuple[Shard, Shard]:
    """Not started yet."""
    folder.mkdir(exist_ok=True)
    users = folder / "users.xml"
    users.write_text(users_xml(roles(OF_ROLES, OF_ROLES + SHARD_SUFFIX)))
    # Below those that the system gives to connections, so that one is still free when a server is started again.
    free = [p for p in SystemRandom().sample(range(20_000, 32_000), 40) if choose_port(p) == p]
    ports = [(free[0], free[1]), (free[2], free[3])]
    shards = "".join(f"<shard><replica><host>127.0.0.1</host><port>{tcp}</port></replica></shard>" for _, tcp in ports)
    config = {
        "background_pool_size": "32",
        "remote_servers": f"<{CLUSTER}>{shards}</{CLUSTER}>",
        "users_config": str(users),
    }
    first, second = (Shard(folder / f"shard-{number}", of, config) for number, of in enumerate(ports, 1))
    return first, second


@pytest.fixture(scope="package")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shard, Shard]]:
    made = cluster(tmp_path_factory.mktemp("cluster"))
    with ExitStack() as stack:
        for shard in made:
            stack.callback(shard.start().process.stop, 20)
        yield made


@pytest.fixture
def settings(kafka: KafkaServer, shards: tuple[Shard, Shard], monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A fresh topic, consumer group and databases, with the schema applied; also set in the environment."""
    with spread_over(shards, kafka, monkeypatch) as made:
        yield made


@contextmanager
def spread_over(shards: tuple[Shard, Shard], kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    name = f"t{uuid.uuid4().hex[:12]}"
    with databases(shards, name) as urls:
        monkeypatch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", kafka.address)
        monkeypatch.setenv("METRICS_KAFKA__TOPIC", name)
        monkeypatch.setenv("METRICS_KAFKA__GROUP", name)
        monkeypatch.setenv("METRICS_CLICKHOUSE__URL", urls[0])
        monkeypatch.setenv("METRICS_CLICKHOUSE__CLUSTER", CLUSTER)
        monkeypatch.setenv("METRICS_CLICKHOUSE__REPLICATED", "false")
        monkeypatch.setenv("METRICS_CLICKHOUSE__SERVERS", json.dumps(urls))
        made = load_settings()
        prepare(made)
        yield made


@contextmanager
def databases(shards: Sequence[Shard], name: str) -> Iterator[list[str]]:
    """Both databases on each server, empty; yields the URLs of the one that is over all shards."""
    with ExitStack() as stack:
        for shard in shards:
            client = stack.enter_context(connect_to(load_settings(), shard.url, "default"))
            for database in (name, name + SHARD_SUFFIX):
                client.command(f"CREATE DATABASE {database}")
                stack.callback(client.command, f"DROP DATABASE {database}")
        yield [shard.url + name for shard in shards]
