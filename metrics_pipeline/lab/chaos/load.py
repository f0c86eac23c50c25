"""What is sent to the pipeline under chaos, and the account of it, which the end is judged by."""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import polars as pl
from confluent_kafka import Producer

from metrics_pipeline.kafka.config import calling
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.process import LoadError, LoadProcess
from metrics_pipeline.lab.loadgen.sender import EventSender
from metrics_pipeline.lab.loadgen.sent import SENT_SCHEMA, LoadSummary, read_sent
from metrics_pipeline.lab.loadgen.stream import EventStream, Outgoing
from metrics_pipeline.runtime.variables import PREFIX
from metrics_pipeline.settings import Settings, kafka_address

_FLUSH_SECONDS = 30
_TRANSACTION_SECONDS = 30.0
_SPAN_MS = 2_000


@dataclass(frozen=True, slots=True)
class Sent:
    """`events` has SENT_SCHEMA: one row per unique event and how many messages held it."""

    events: pl.DataFrame
    malformed: int


@dataclass(slots=True)
class Eaten:
    """What retention took before it was read. `events` counts messages per event_id."""

    ranges: list[OffsetRange] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    malformed: int = 0


class ListedLoad(LoadProcess):
    """Sends to the topic of the settings alone, and lists in `file` what was acknowledged."""

    def __init__(self, settings: Settings, plan: LoadPlan, file: Path) -> None:
        kafka = settings.kafka
        environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)} | {
            f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": kafka_address(settings),
            f"{PREFIX}KAFKA__TOPIC": kafka.topic,
            f"{PREFIX}KAFKA__OPTIONS": json.dumps(kafka.options),
        }
        super().__init__(plan, file.with_suffix(".log"), file, environment)
        self._file = file

    def listed(self) -> Sent:
        """Wait for its end. Raises LoadError unless every message was acknowledged."""
        summary = self.finish()
        events, _ = read_sent(self._file)
        return Sent(events, int(summary["malformed"]))


@dataclass(frozen=True, slots=True)
class Parcel:
    """Messages that are made, but not sent: `account` has the columns of `Block.account`."""

    messages: Outgoing
    account: pl.DataFrame


def parcel_of(
    rng: Random, messages: int, partitions: Sequence[int], *, malformed: float = 0, late: float = 0
) -> Parcel:
    """Messages of now that nothing else sends, spread over these partitions.

    All messages of an event go to the same one, as a producer that keys by event_id does.
    """
    # The load itself has small seeds.
    seed = (1 << 40) + rng.getrandbits(32)
    now_ms = time.time_ns() // 1_000_000
    stream = EventStream(LoadPlan(events=messages, malformed=malformed, late=late, odd=0.01, seed=seed), now_ms, 8)
    made = stream.take(messages, now_ms - _SPAN_MS, now_ms)
    outgoing = Outgoing(made.payloads, made.keys, [partitions[p % len(partitions)] for p in made.partitions])
    return Parcel(outgoing, pl.concat(list(stream.finish()), how="vertical_relaxed"))


class SideSender:
    """Sends parcels beside the load, and keeps the account of them. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.sent: list[Sent] = []

    def send(self, parcel: Parcel, *, copies: int = 1) -> None:
        """Send all of it `copies` times, one after the other. Raises LoadError unless all is acknowledged."""
        sender = EventSender(self._settings)
        for _ in range(copies):
            _send_all(sender, parcel.messages)
        self.record(parcel, copies)

    def send_in_transaction(self, parcel: Parcel, rng: Random, limit_seconds: float = _TRANSACTION_SECONDS) -> Producer:
        """Send it in a transaction that whoever calls commits, aborts, or leaves to the broker to abort.

        It counts, and has to be recorded, if it is committed.
        """
        own_id = f"{self._settings.kafka.topic}.producer-{rng.getrandbits(32):08x}"
        limits = dict.fromkeys(("transaction.timeout.ms", "message.timeout.ms"), int(limit_seconds * 1_000))
        sender = EventSender(self._settings, **{"transactional.id": own_id, **limits})
        calling("starting a transaction", sender.producer.init_transactions)
        sender.producer.begin_transaction()
        _send_all(sender, parcel.messages)
        return sender.producer

    def record(self, parcel: Parcel, copies: int = 1) -> None:
        """What was sent of it is in the log for good."""
        summary = LoadSummary(self._settings.kafka.topic, 0)
        events = summary.add(parcel.account).with_columns(pl.col("copies") * copies)
        self.sent.append(Sent(events.select(SENT_SCHEMA.names()).cast(SENT_SCHEMA), summary.malformed * copies))


def _send_all(sender: EventSender, messages: Outgoing) -> None:
    sender.send(messages, lambda: False)
    if not sender.settle(_FLUSH_SECONDS) or sender.reasons:
        missing = sender.outstanding + sender.reasons.total()
        raise LoadError(f"{missing} of {len(messages)} messages were not acknowledged: {dict(sender.reasons)}")
