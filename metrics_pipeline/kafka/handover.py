"""Handover through offset metadata of a side group: small, durable, and nothing else to run."""

import json

from confluent_kafka import Consumer, TopicPartition

from metrics_pipeline.kafka.committed import ask_committed
from metrics_pipeline.kafka.config import Closing, calling, new_client
from metrics_pipeline.settings import KafkaSettings

GROUP_SUFFIX = ".handover"


class KafkaHandover(Closing):
    """A `Handover`: one record per shard, {"next": run, "released": bool}. Close it, or use it as a context manager."""

    def __init__(self, bootstrap_servers: str, settings: KafkaSettings, shard: int, run_id: str) -> None:
        self._run_id = run_id
        self._timeout_seconds = settings.request_timeout_seconds
        self._slot = TopicPartition(settings.topic, shard)
        self._doing = f"handing over shard {shard} of group {settings.group}"
        self._consumer = new_client(
            Consumer,
            bootstrap_servers,
            settings,
            **{"group.id": settings.group + GROUP_SUFFIX, "enable.auto.commit": False},
        )
        self._seen_at_start = self._read().get("next")

    def close(self) -> None:
        self._consumer.close()

    def announce(self) -> None:
        self._write(self._run_id, released=False)

    def successor(self) -> str | None:
        announced = self._read().get("next")
        return None if announced in (self._run_id, self._seen_at_start) else announced

    def release(self, successor: str) -> None:
        self._write(successor, released=True)

    def is_released(self) -> bool:
        record = self._read()
        return record.get("next") == self._run_id and bool(record.get("released"))

    def _read(self) -> dict[str, str]:
        answer = ask_committed(self._consumer, [self._slot], self._timeout_seconds, self._doing)
        record: dict[str, str] = json.loads(answer[0].metadata or "{}")
        return record

    def _write(self, run_id: str, *, released: bool) -> None:
        record = json.dumps({"next": run_id, "released": released})
        slot = TopicPartition(self._slot.topic, self._slot.partition, 0, record)
        calling(self._doing, lambda: self._consumer.commit(offsets=[slot], asynchronous=False))
