"""A topic and a database made for one run: it touches no others, and takes these away at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.query import run_command
from metrics_pipeline.errors import KafkaUnavailableError
from metrics_pipeline.kafka.config import calling, client_config
from metrics_pipeline.kafka.handover import GROUP_SUFFIX
from metrics_pipeline.settings import Settings, clickhouse_url, kafka_address

_DELETE_SECONDS = 30.0


class Staging:
    """`name` is that of the topic and the group; the database has underscores in it. `settings` say which cluster."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._cluster = settings
        self.is_kept = False
        self._topic = name
        self._database = name.replace("-", "_")
        kafka = settings.kafka.model_copy(update={"topic": name, "group": name})
        url = urlsplit(clickhouse_url(settings))
        own = SecretStr(urlunsplit(url._replace(path=f"/{self._database}")))
        clickhouse = settings.clickhouse.model_copy(update={"url": own})
        self.settings = settings.model_copy(update={"kafka": kafka, "clickhouse": clickhouse})

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
        deadline_seconds = time.monotonic() + _DELETE_SECONDS
        while True:
            try:
                return self._create_topic()
            except KafkaUnavailableError:
                # A topic that was just deleted is in the way for a moment.
                if time.monotonic() > deadline_seconds:
                    raise
                time.sleep(0.2)

    def _drop(self) -> None:
        with connect(self._cluster) as client:
            client.command(f"DROP DATABASE IF EXISTS {self._database}")
        admin = self._admin()
        for future in admin.delete_consumer_groups([self._topic, self._topic + GROUP_SUFFIX]).values():
            # A group without offsets doesn't exist, and one whose topic is gone soon won't.
            with suppress(KafkaException):
                future.result()
        self._delete_topic()

    def _create_topic(self) -> None:
        kafka, admin = self.settings.kafka, self._admin()
        new = NewTopic(self._topic, num_partitions=kafka.partitions, replication_factor=kafka.replication_factor)
        calling(f"creating topic {self._topic}", admin.create_topics([new])[self._topic].result)

    def _delete_topic(self) -> None:
        admin = self._admin()
        calling(f"deleting topic {self._topic}", admin.delete_topics([self._topic])[self._topic].result)

    def _admin(self) -> AdminClient:
        """The client must outlive its futures."""
        return AdminClient(client_config(kafka_address(self._cluster), self._cluster.kafka))
