"""What is sent to the pipeline under chaos, and the account of it, which the end is judged by."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from metrics_pipeline.errors import PipelineError
from metrics_pipeline.kafka.config import calling, client_config
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.sent import SENT_SCHEMA, read_sent
from metrics_pipeline.lab.loadgen.stream import EventStream, Outgoing
from metrics_pipeline.lab.loadgen.summary import LoadSummary
from metrics_pipeline.runtime.variables import PREFIX
from metrics_pipeline.settings import Settings, kafka_address

_STOP_SECONDS = 180
_FLUSH_SECONDS = 30
_TRANSACTION_SECONDS = 30.0
_SPAN_MS = 2_000


class LoadError(PipelineError):
    """It is unknown what was sent, so nothing can be judged."""


@dataclass(frozen=True, slots=True)
class Sent:
    """`events` has SENT_SCHEMA: one row per unique event and how many messages held it."""

    events: pl.DataFrame
    malformed: int


class LoadProcess:
    """`metrics-pipeline produce` as a process of its own, which lists what was acknowledged."""

    def __init__(self, settings: Settings, plan: Mapping[str, float], file: Path) -> None:
        self._file = file
        options = [word for name, value in plan.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "metrics_pipeline", "produce", "--json", "--sent", str(file), *options]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        with file.with_suffix(".log").open("wb") as log:
            # A session of its own: Ctrl-C is for us, who end the producer in order.
            self._process = subprocess.Popen(
                command,
                env={**environment, **_environment(settings)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End it in good order; what it sent is acknowledged then."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def finish(self) -> Sent:
        """Wait for its end. Raises LoadError unless every message was acknowledged."""
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LoadError(f"the producer did not end in {_STOP_SECONDS} s: look at {self._file}.log") from None
        if code:
            raise LoadError(f"the producer ended with exit code {code}: look at {self._file.with_suffix('.log')}")
        events, summary = read_sent(self._file)
        return Sent(events, int(summary["malformed"]))


def _environment(settings: Settings) -> dict[str, str]:
    kafka = settings.kafka
    return {
        f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": kafka_address(settings),
        f"{PREFIX}KAFKA__TOPIC": kafka.topic,
        f"{PREFIX}KAFKA__OPTIONS": json.dumps(kafka.options),
    }


@dataclass(frozen=True, slots=True)
class Parcel:
    """Messages that are made, but not sent: `account` has the columns of `Block.account`."""

    messages: Outgoing
    account: pl.DataFrame


def make_parcel(plan: LoadPlan, partition_of: Callable[[int], int]) -> Parcel:
    """`plan.events` messages of now; `partition_of` turns the load's own partition, 0 to 7, into one of the topic.

    All messages of an event go to the same partition, as a producer that keys by event_id does.
    """
    now_ms = time.time_ns() // 1_000_000
    stream = EventStream(plan, now_ms, 8)
    made = stream.take(plan.events or 0, now_ms - _SPAN_MS, now_ms)
    messages = Outgoing(made.payloads, made.keys, [partition_of(p) for p in made.partitions])
    return Parcel(messages, pl.concat(list(stream.finish()), how="vertical_relaxed"))


class SideSender:
    """Sends parcels beside the load, and keeps the account of them. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sent: list[Sent] = []
        self._lock = threading.Lock()

    @property
    def sent(self) -> Sequence[Sent]:
        return tuple(self._sent)

    def send(self, parcel: Parcel, *, copies: int = 1) -> None:
        """Send all of it `copies` times, one after the other. Raises LoadError unless all is acknowledged."""
        producer, failed = self._producer()
        for _ in range(copies):
            self._produce(producer, parcel, failed)
        self._record(parcel, copies)

    def send_and_commit(self, parcel: Parcel, transactional_id: str, hold: Callable[[], None]) -> None:
        """Send it in a transaction that is committed after `hold`."""
        producer = self._open_transaction(parcel, transactional_id, _TRANSACTION_SECONDS)
        hold()
        calling("committing a transaction", producer.commit_transaction)
        self._record(parcel, 1)

    def send_and_abort(self, parcel: Parcel, transactional_id: str, hold: Callable[[], None]) -> None:
        """Send it in a transaction that is aborted after `hold`: it is never to be counted."""
        producer = self._open_transaction(parcel, transactional_id, _TRANSACTION_SECONDS)
        hold()
        calling("aborting a transaction", producer.abort_transaction)

    def send_and_die(self, parcel: Parcel, transactional_id: str, timeout_seconds: float) -> None:
        """Send it in a transaction that nobody ends, until the broker aborts it: it is never to be counted."""
        self._open_transaction(parcel, transactional_id, timeout_seconds)

    def _open_transaction(self, parcel: Parcel, transactional_id: str, timeout_seconds: float) -> Producer:
        producer, failed = self._producer(transactional_id, timeout_seconds)
        calling("starting a transaction", producer.init_transactions)
        producer.begin_transaction()
        self._produce(producer, parcel, failed)
        return producer

    def _producer(
        self, transactional_id: str | None = None, timeout_seconds: float = _TRANSACTION_SECONDS
    ) -> tuple[Producer, Counter[str]]:
        failed: Counter[str] = Counter()
        options: dict[str, Any] = {"enable.idempotence": True, "linger.ms": 5, "message.max.bytes": 1_048_588}
        if transactional_id is not None:
            options |= {"transactional.id": transactional_id, "transaction.timeout.ms": int(timeout_seconds * 1000)}
        kafka = self._settings.kafka
        return Producer(client_config(kafka_address(self._settings), kafka, **options)), failed

    def _produce(self, producer: Producer, parcel: Parcel, failed: Counter[str]) -> None:
        def report(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed[error.str()] += 1

        messages, topic = parcel.messages, self._settings.kafka.topic
        for payload, key, partition in zip(messages.payloads, messages.keys, messages.partitions, strict=True):
            try:
                producer.produce(topic, payload, key, partition, report)
            except (BufferError, KafkaException) as error:
                raise LoadError(f"could not queue a message for {topic}[{partition}]: {error}") from error
            producer.poll(0)
        left = producer.flush(_FLUSH_SECONDS)
        if left or failed:
            raise LoadError(
                f"{left + failed.total()} of {len(messages)} messages were not acknowledged: {dict(failed)}"
            )

    def _record(self, parcel: Parcel, copies: int) -> None:
        summary = LoadSummary(self._settings.kafka.topic, 0)
        events = summary.add(parcel.account).with_columns(pl.col("copies") * copies)
        with self._lock:
            self._sent.append(Sent(_as_sent(events), summary.malformed * copies))


def _as_sent(events: pl.DataFrame) -> pl.DataFrame:
    return events.select(SENT_SCHEMA.names()).cast(SENT_SCHEMA)


@dataclass(slots=True)
class Eaten:
    """What retention took before it was read. `events` counts messages per event_id."""

    ranges: list[OffsetRange] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    malformed: int = 0
