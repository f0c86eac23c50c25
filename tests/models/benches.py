"""Two benches with the same handles: one has the real engines, the other one the models."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Protocol, TypeVar, cast
from unittest.mock import patch

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.audit.ports import BookReader
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import connect_shards
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.dead_letters.ports import LetterStore
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters
from metrics_pipeline.delivery.ports import StoredEvents, Warehouse
from metrics_pipeline.delivery.stored import ClickHouseEvents
from metrics_pipeline.delivery.warehouse import ClickHouseWarehouse
from metrics_pipeline.errors import StuckClientError
from metrics_pipeline.kafka.committed import FencedOffsets
from metrics_pipeline.kafka.intents import Commit, Owner, encode_metadata
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.kafka.ports import Log, OffsetStore
from metrics_pipeline.replay.books import ClickHouseReplayBooks
from metrics_pipeline.replay.ports import ReplayBooks
from metrics_pipeline.settings import Settings, kafka_address
from tests.models.clickhouse import ModelWarehouse, Server
from tests.models.kafka import Broker, ModelLog, ModelOffsets, Partition, Record
from tests.models.letters import ModelLetters
from tests.models.network import Faults, Network
from tests.models.replays import ModelEvents, ModelMinutes, ModelReplayBooks
from tests.models.scheduler import Scheduler

_T = TypeVar("_T")
PARTITIONS = 2


class Bench(Protocol):
    """Engines of a test's own, and what the ports don't show of them."""

    def warehouse(self, window: int = 1_000) -> Warehouse: ...

    def at_once(self, *actions: Callable[[], object]) -> None: ...

    def stored(self) -> tuple[int, int]:
        """Rows in raw_events, requests in rollup_1m."""
        ...

    def refuse(self, status: int, *, by_view: bool) -> None: ...

    def mend_view(self) -> None:
        """The view that throws is gone."""
        ...

    def offsets(self, owner: Owner) -> OffsetStore: ...

    def leave_commit_open(self, owner: Owner, commits: dict[int, Commit]) -> None:
        """A run of `owner` fences, begins to commit, and is gone before the commit is through."""
        ...

    def log(self) -> Log: ...

    def produce(self, partition: int, values: Sequence[bytes], *, is_aborted: bool = False) -> None: ...

    def delete_records(self, partition: int, before: int) -> None: ...

    def letters(self, page_letters: int) -> LetterStore: ...

    def events(self) -> StoredEvents: ...

    def books(self) -> ReplayBooks: ...

    def minutes(self) -> BookReader: ...

    def close(self) -> None: ...


class RealBench:
    """A topic, a group and a database of the running engines."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._client = self._stack.enter_context(connect(settings))

    def warehouse(self, window: int = 1_000) -> Warehouse:
        for table in ("raw_events", "rollup_1m"):
            self._client.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {window}")
        kafka = self._settings.kafka
        return ClickHouseWarehouse(
            self._client, partial(connect_shards, self._settings), kafka.topic, "topic-1", kafka.group, Storage(window)
        )

    def at_once(self, *actions: Callable[[], object]) -> None:
        with ThreadPoolExecutor(len(actions)) as pool:
            for future in [pool.submit(action) for action in actions]:
                future.result()

    def stored(self) -> tuple[int, int]:
        sql = "SELECT (SELECT count() FROM raw_events), (SELECT sum(requests) FROM rollup_1m)"
        raw, rollup = self._client.query(sql).result_rows[0]
        return int(raw), int(rollup)

    def refuse(self, status: int, *, by_view: bool) -> None:
        if by_view:
            self._client.command(
                f"CREATE MATERIALIZED VIEW refusing ENGINE = Null AS SELECT throwIf(status = {status}) FROM raw_events"
            )
        else:
            self._client.command(f"ALTER TABLE raw_events ADD CONSTRAINT refusing CHECK status != {status}")

    def mend_view(self) -> None:
        self._client.command("DROP VIEW refusing")

    def offsets(self, owner: Owner) -> OffsetStore:
        address = kafka_address(self._settings)
        return self._stack.enter_context(FencedOffsets(address, self._settings.kafka, owner, range(PARTITIONS)))

    def leave_commit_open(self, owner: Owner, commits: dict[int, Commit]) -> None:
        kafka, address = self._settings.kafka, kafka_address(self._settings)
        producer = Producer({"bootstrap.servers": address, "transactional.id": f"{kafka.group}.{owner}"})
        producer.init_transactions(30)
        producer.begin_transaction()
        slots = [TopicPartition(kafka.topic, p, c.offset, encode_metadata(c)) for p, c in commits.items()]
        group = Consumer({"bootstrap.servers": address, "group.id": kafka.group})
        producer.send_offsets_to_transaction(slots, group.consumer_group_metadata(), 30)
        group.close()
        self._left_open = producer

    def log(self) -> Log:
        return self._stack.enter_context(KafkaLog(kafka_address(self._settings), self._settings.kafka))

    def produce(self, partition: int, values: Sequence[bytes], *, is_aborted: bool = False) -> None:
        topic = self._settings.kafka.topic
        producer = Producer({"bootstrap.servers": kafka_address(self._settings), "transactional.id": f"{topic}.test"})
        producer.init_transactions(30)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=partition)
        producer.flush(30)
        if is_aborted:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)

    def delete_records(self, partition: int, before: int) -> None:
        slot = TopicPartition(self._settings.kafka.topic, partition, before)
        admin = AdminClient({"bootstrap.servers": kafka_address(self._settings)})
        for future in admin.delete_records([slot]).values():
            future.result()

    def letters(self, page_letters: int) -> LetterStore:
        self._stack.enter_context(patch("metrics_pipeline.dead_letters.store.MAX_PAGE_LETTERS", page_letters))
        return ClickHouseDeadLetters(self._client, self._settings.kafka.topic)

    def events(self) -> StoredEvents:
        return ClickHouseEvents(self._client)

    def books(self) -> ReplayBooks:
        kafka = self._settings.kafka
        return ClickHouseReplayBooks(self._client, kafka.topic, "topic-1", kafka.group)

    def minutes(self) -> BookReader:
        kafka = self._settings.kafka
        return ClickHouseBooks(self._client, kafka.topic, "topic-1", kafka.group)

    def close(self) -> None:
        self._stack.close()


class ModelBench:
    """The models, each call run to its end on the virtual clock."""

    def __init__(self) -> None:
        self._scheduler = Scheduler(seed=1)
        self._network = Network(self._scheduler, Faults())
        self._server = Server(self._scheduler, 1_000, time.time_ns() // 1_000_000)
        self._broker = Broker("topic-1", {p: Partition() for p in range(PARTITIONS)})

    def warehouse(self, window: int = 1_000) -> Warehouse:
        self._server.window = window
        return cast("Warehouse", _Inside(self, ModelWarehouse(self._server, self._network, "topic-1")))

    def at_once(self, *actions: Callable[[], object]) -> None:
        tasks = [self._scheduler.spawn(f"task {n}", action) for n, action in enumerate(actions)]
        self._scheduler.run()
        for task in tasks:
            task.result()

    def call(self, action: Callable[[], _T]) -> _T:
        if self._scheduler.is_running:
            return action()
        task = self._scheduler.spawn("test", action)
        self._scheduler.run()
        return cast("_T", task.result())

    def stored(self) -> tuple[int, int]:
        return sum(map(len, self._server.raw.values())), self._server.rollup.total()

    def refuse(self, status: int, *, by_view: bool) -> None:
        (self._server.failing_in_view if by_view else self._server.refused).add(status)

    def mend_view(self) -> None:
        self._server.failing_in_view.clear()

    def offsets(self, owner: Owner) -> OffsetStore:
        return cast("OffsetStore", _Inside(self, ModelOffsets(self._broker, self._network, owner)))

    def leave_commit_open(self, owner: Owner, commits: dict[int, Commit]) -> None:
        store = ModelOffsets(self._broker, Network(self._scheduler, Faults(kafka_hangs=1.0)), owner)

        def commit() -> None:
            store.fence(owner)
            with suppress(StuckClientError):
                store.commit(commits)

        self._scheduler.spawn("left open", commit)

    def log(self) -> Log:
        return cast("Log", _Inside(self, ModelLog(self._broker, self._network)))

    def produce(self, partition: int, values: Sequence[bytes], *, is_aborted: bool = False) -> None:
        """Like transactions: a control record ends each."""
        records = self._broker.partitions[partition].records
        records += [None if is_aborted else Record(1_000, value) for value in values]
        records.append(None)

    def delete_records(self, partition: int, before: int) -> None:
        self._broker.delete_records(partition, before)

    def letters(self, page_letters: int) -> LetterStore:
        return cast("LetterStore", _Inside(self, ModelLetters(self._server, self._network, page_letters)))

    def events(self) -> StoredEvents:
        return cast("StoredEvents", _Inside(self, ModelEvents(self._server, self._network)))

    def books(self) -> ReplayBooks:
        return cast("ReplayBooks", _Inside(self, ModelReplayBooks(self._server, self._network, "topic-1")))

    def minutes(self) -> BookReader:
        return cast("BookReader", _Inside(self, ModelMinutes(self._server, self._network)))

    def close(self) -> None:
        pass


class _Inside:
    """Calls of a model from outside of its scheduler."""

    def __init__(self, bench: ModelBench, model: object) -> None:
        self._bench = bench
        self._model = model

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        return (lambda *a, **k: self._bench.call(lambda: found(*a, **k))) if callable(found) else found
