"""The engines of a version with data in place, as an archive: python -m tests.system.upgrade.snapshot ARCHIVE

To be run with a version before it is released. What is in it: hours that are closed and have all grains of rollups,
dead letters, a batch that a run left open, and messages that nobody has read. The same calls make it in every version,
so that the test of the next one needs nothing else.
"""

import random
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Producer

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.lab.local.clickhouse import start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program, kafka_program
from metrics_pipeline.lab.local.kafka import start_kafka
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.settings import LocalSettings, Settings
from metrics_pipeline.wiring.drain import DrainRun, prepare, run_drain, until_caught_up
from metrics_pipeline.wiring.rollups import rollups as open_rollups

HOURS, PER_HOUR, OPEN, UNREAD, BROKEN = 5, 200, 150, 100, 3
"""Closed hours and events in each; events of the open batch; events that nobody has read; malformed messages."""
EVENTS = HOURS * PER_HOUR + OPEN + UNREAD
PARTITIONS = 2
_FOREVER = {
    "log.retention.ms": "-1",
    "offsets.retention.minutes": "2147483647",
    "transactional.id.expiration.ms": "2147483647",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
}
"""Whatever a broker would drop of a snapshot that is older than a week."""
_LOGS = "SELECT name FROM system.tables WHERE database = 'system' AND name LIKE '%_log%' AND engine LIKE '%MergeTree'"


@dataclass(frozen=True)
class Engines:
    """Addresses of running engines."""

    kafka: str
    clickhouse: str

    def settings(self) -> Settings:
        return Settings.model_validate(
            {
                "kafka": {"bootstrap_servers": self.kafka, "partitions": PARTITIONS},
                "clickhouse": {"url": self.clickhouse},
                "drain": {"shards": 1},
            }
        )


class CutError(Exception):
    """Ends a run between two steps."""


@contextmanager
def engines_in(folder: Path) -> Iterator[Engines]:
    """Engines whose data live in `folder`."""
    cache = cache_folder(LocalSettings())
    kafka = start_kafka(kafka_program(cache), folder / "kafka", properties=_FOREVER)
    try:
        clickhouse = start_clickhouse(clickhouse_program(cache), folder / "clickhouse")
        try:
            yield Engines(kafka.address, clickhouse.url)
        finally:
            clickhouse.process.stop(60)
    finally:
        kafka.process.stop(60)


def load(settings: Settings) -> None:
    """Give a new pipeline what the snapshot holds."""
    random_ = random.Random(1)
    prepare(settings)
    hour_ms = 3_600_000
    start_ms = (int(time.time() * 1_000) // hour_ms - HOURS - 1) * hour_ms
    closed = [
        _event(random_, start_ms + h * hour_ms + random_.randrange(hour_ms))
        for h in range(HOURS)
        for _ in range(PER_HOUR)
    ]
    _send(settings, closed + closed[:50] + [b"{"] * BROKEN)
    _drain(settings)
    with open_rollups(settings) as rollups:
        rollups.rebuild(Span(start_ms // 1_000, start_ms // 1_000 + HOURS * 3_600))
    now_ms = int(time.time() * 1_000)
    _send(settings, [_event(random_, now_ms - random_.randrange(60_000)) for _ in range(OPEN)])
    with suppress(CutError):
        _drain(settings, cut_before=Step.EVENTS)
    _send(settings, [_event(random_, now_ms - random_.randrange(60_000)) for _ in range(UNREAD)])


def pack(folder: Path, archive: Path) -> None:
    """What the engines keep, without their programs' configuration and logs."""
    with tarfile.open(archive, "w:xz") as tar:
        for name in ("kafka/data", "clickhouse/data"):
            tar.add(folder / name, name, filter=_kept)


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _drain(settings: Settings, cut_before: Step | None = None) -> None:
    def observe(step: Step) -> None:
        if step is cut_before:
            raise CutError

    run_drain(settings, DrainRun(str(uuid.uuid4())), until_caught_up, stop=lambda: False, observe=observe)


def _send(settings: Settings, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for number, value in enumerate(values):
        producer.produce(settings.kafka.topic, value, partition=number % PARTITIONS)
    if producer.flush(30):
        raise TimeoutError("the broker takes no messages")


def _event(random_: random.Random, timestamp_ms: int) -> bytes:
    event_id = uuid.UUID(int=random_.getrandbits(128), version=4)
    return (
        f'{{"event_id": "{event_id}", "timestamp": {timestamp_ms}, "service": "service-{random_.randrange(3)}", '
        f'"endpoint": "/{random_.randrange(4)}", "method": "GET", "status": {random_.choice((200, 200, 200, 503))}, '
        f'"latency_ms": {1 + random_.randrange(900)}, "region": "eu", "shelf": "s{random_.randrange(9)}", '
        f'"customer": {{"id": "c{random_.randrange(50)}", "tier": "{random_.choice(("free", "pro"))}"}}}}'
    ).encode()


def main() -> None:
    archive = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with engines_in(folder) as engines:
            settings = engines.settings()
            load(settings)
            with connect(settings) as client:
                for (log,) in client.query(_LOGS).result_rows:
                    client.command(f"DROP TABLE IF EXISTS system.{log} SYNC")
        pack(folder, archive)
    print(f"{archive}: {archive.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
