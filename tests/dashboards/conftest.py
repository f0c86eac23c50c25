"""A drained load for tests of dashboards, in a database whose name the pages' links must hold."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

from metrics_pipeline.alerting.canary_notes import CanaryNotes
from metrics_pipeline.alerting.canary_rules import Canary, Sighting
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.kafka.intents import Owner
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer
from metrics_pipeline.lab.local.kafka import KafkaServer
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.settings import ClickHouseSettings, KafkaSettings, Settings, clickhouse_url
from metrics_pipeline.wiring.drain import prepare
from tests.worlds.pipeline import drain_once

LOAD = LoadPlan(rate=0, events=40_000, duplicates=0.02, late=0.02, malformed=0.05, seed=5)


@dataclass(frozen=True)
class Drained:
    """A database with events of the last minute and stragglers of the last days; choices with errors among them."""

    client: Client
    url: str
    end: datetime
    variables: dict[str, str]


def note_canaries(client: Client, name: str) -> None:
    """One in time, one late, one that was never seen, all of one point: a shard counts where it has one."""
    scope, minute_ms = LedgerScope(name, name), (time.time_ns() // 60_000_000_000 - 1) * 60_000
    canaries = [Canary(str(UUID(int=n)), Owner(2, n % 2), n % 2, minute_ms + n * 1_000) for n in range(3)]
    notes = CanaryNotes(client, scope, 30)
    notes.note(Sighting(canary, None) for canary in canaries)
    notes.note([Sighting(canaries[0], 0.8), Sighting(canaries[1], 40.0)])


@pytest.fixture(scope="package")
def drained(kafka: KafkaServer, clickhouse: ClickHouseServer) -> Iterator[Drained]:
    with drained_load(kafka, clickhouse) as made:
        yield made


@contextmanager
def drained_load(kafka: KafkaServer, clickhouse: ClickHouseServer) -> Iterator[Drained]:
    name = f"dashboards_{uuid.uuid4().hex[:8]}"
    made = Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka.address, topic=name, group=name),
        clickhouse=ClickHouseSettings(url=SecretStr(clickhouse.url)),
    )
    with connect(made) as client:
        client.command(f"CREATE DATABASE {name}")
    url = SecretStr(clickhouse.url.removesuffix("default") + name)
    made = made.model_copy(update={"clickhouse": ClickHouseSettings(url=url)})
    prepare(made)
    produce(LOAD, made)
    drain_once(made)
    with connect(made) as client:
        note_canaries(client, name)
        rows = client.query(
            "SELECT service, endpoint FROM raw_events WHERE status >= 500 AND timestamp > now() - 600 "
            "GROUP BY service, endpoint ORDER BY count() DESC LIMIT 1"
        ).result_rows
        variables = dict(zip(("service", "endpoint"), map(str, rows[0]), strict=True))
        yield Drained(client, clickhouse_url(made), datetime.now(UTC) + timedelta(seconds=1), variables)
        client.command(f"DROP DATABASE {name}")
