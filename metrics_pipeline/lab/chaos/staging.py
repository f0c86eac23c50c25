"""What a run has for itself: engines that it may kill, and a topic and a database; it touches no others."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.query import run_command
from metrics_pipeline.errors import LocalEngineError, PipelineError
from metrics_pipeline.kafka.config import calling, client_config
from metrics_pipeline.kafka.handover import GROUP_SUFFIX
from metrics_pipeline.lab.local.clickhouse import start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program, kafka_program
from metrics_pipeline.lab.local.kafka import start_kafka
from metrics_pipeline.lab.local.process import Engine, choose_port
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.retry import Retry
from metrics_pipeline.settings import LocalSettings, Settings, clickhouse_url, kafka_address

_DELETE_SECONDS = 30.0
_STOP_SECONDS = 20
_KAFKA_PROPERTIES = {
    # A killed broker is let in again when its last session is over: 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # Compaction within a fault's time, not a minute's.
    "log.cleaner.backoff.ms": "250",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
    "log.cleaner.threads": "1",
    # Likewise for transactions that nobody ends.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}


class OwnEngine:
    """`start` takes `preferred_port`, if there is one."""

    def __init__(self, start: Callable[..., Engine]) -> None:
        self._start = start
        self._engine = start()
        self.address = self._engine.address

    def kill(self) -> None:
        self._engine.process.kill()

    def restart(self) -> None:
        """Start the killed engine again. Raises LocalEngineError, also if a stranger has taken its port."""
        port = urlsplit(self.address if "//" in self.address else f"//{self.address}").port
        deadline_seconds = time.monotonic() + _STOP_SECONDS
        # On a busy machine it takes a moment until the system has let go of a killed program's port.
        while choose_port(port) != port and time.monotonic() < deadline_seconds:
            time.sleep(0.05)
        self._engine = self._start(preferred_port=port)
        if self._engine.address != self.address:
            raise LocalEngineError(f"{self.address} came back at {self._engine.address}: another program took its port")

    def close(self) -> None:
        self._engine.process.stop(_STOP_SECONDS)


@dataclass(frozen=True, slots=True)
class OwnEngines:
    kafka: OwnEngine
    clickhouse: OwnEngine
    kafka_data: Path


@contextmanager
def own_engines(folder: Path, local: LocalSettings) -> Iterator[OwnEngines]:
    """Running while it is open. Raises LocalEngineError if one doesn't start."""
    cache = cache_folder(local)
    start_broker = partial(start_kafka, kafka_program(cache), folder / "kafka", properties=_KAFKA_PROPERTIES)
    start_server = partial(start_clickhouse, clickhouse_program(cache), folder / "clickhouse")
    with closing(OwnEngine(start_broker)) as kafka, closing(OwnEngine(start_server)) as clickhouse:
        yield OwnEngines(kafka, clickhouse, folder / "kafka" / "data")


def altered(settings: Settings, **parts: Mapping[str, Any]) -> Settings:
    """A copy with other values in some parts: `altered(settings, kafka={"topic": name})`."""
    changed = {name: getattr(settings, name).model_copy(update=values) for name, values in parts.items()}
    return settings.model_copy(update=changed)


def administer(settings: Settings, doing: str, request: Callable[[AdminClient], Mapping[Any, Future[Any]]]) -> None:
    """Send a request to the brokers, and wait until all of it is done. Raises what their errors mean."""
    # The client must outlive its futures.
    admin = AdminClient(client_config(kafka_address(settings), settings.kafka))
    for future in request(admin).values():
        calling(doing, future.result)


class Staging:
    """A topic and a database, taken away at the end.

    `name` is that of the topic and the group; the database has underscores in it. `settings` say which cluster.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._cluster = settings
        self.is_kept = False
        self._topic = name
        self._database = name.replace("-", "_")
        url = urlsplit(clickhouse_url(settings))._replace(path=f"/{self._database}")
        own = {"url": SecretStr(urlunsplit(url))}
        self.settings = altered(settings, kafka={"topic": name, "group": name}, clickhouse=own)

    @contextmanager
    def made(self) -> Iterator["Staging"]:
        """Create topic and database; drop them at the end unless `is_kept` was set.

        Raises KafkaUnavailableError if the topic exists already, ClickHouseUnavailableError if the database does: what
        was there before is never dropped.
        """
        self._create_topic()
        try:
            with connect(self._cluster) as client:
                run_command(client, f"creating database {self._database}", f"CREATE DATABASE {self._database}")
        except BaseException:
            self._delete_topic()
            raise
        try:
            yield self
        finally:
            if not self.is_kept:
                self._drop()

    def recreate_topic(self) -> None:
        """Delete the topic and create it again: the same name, another id."""
        self._delete_topic()
        # A topic that was just deleted is in the way for a moment.
        Retry(SystemClock(), _DELETE_SECONDS, lambda: False, lambda *_: None).call(self._create_topic)

    def _drop(self) -> None:
        with connect(self._cluster) as client:
            client.command(f"DROP DATABASE IF EXISTS {self._database}")
        for group in (self._topic, self._topic + GROUP_SUFFIX):
            # A group without offsets doesn't exist, and one whose topic is gone soon won't.
            with suppress(PipelineError):
                administer(self._cluster, f"deleting group {group}", methodcaller("delete_consumer_groups", [group]))
        self._delete_topic()

    def _create_topic(self) -> None:
        kafka = self.settings.kafka
        new = NewTopic(self._topic, num_partitions=kafka.partitions, replication_factor=kafka.replication_factor)
        administer(self._cluster, f"creating topic {self._topic}", lambda admin: admin.create_topics([new]))

    def _delete_topic(self) -> None:
        administer(self._cluster, f"deleting topic {self._topic}", lambda admin: admin.delete_topics([self._topic]))
