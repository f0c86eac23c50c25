"""40,000 events per second through the real pipeline into the benchmark's server, while questions are asked."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from pydantic import SecretStr

from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer
from metrics_pipeline.lab.local.fetch import cache_folder, kafka_program
from metrics_pipeline.lab.local.kafka import start_kafka
from metrics_pipeline.settings import ClickHouseSettings, KafkaSettings, LocalSettings, Settings
from metrics_pipeline.wiring.drain import prepare

_WINDOW_SECONDS = 3_600
_LAG_EVERY_SECONDS = 10


@contextmanager
def ingesting(home: Path, server: ClickHouseServer, events_per_second: int) -> Iterator[list[tuple[float, int]]]:
    """Broker, producer and drain as processes of their own; yields the lags seen: (seconds since start, offsets)."""
    broker = start_kafka(kafka_program(cache_folder(LocalSettings())), home / "kafka")
    topic = f"questions-{int(time.time())}"
    kafka = KafkaSettings(bootstrap_servers=broker.address, topic=topic, group=topic)
    settings = Settings(kafka=kafka, clickhouse=ClickHouseSettings(url=SecretStr(server.url)))
    environment = {
        **os.environ,
        "METRICS_KAFKA__BOOTSTRAP_SERVERS": broker.address,
        "METRICS_KAFKA__TOPIC": topic,
        "METRICS_KAFKA__GROUP": topic,
        "METRICS_CLICKHOUSE__URL": server.url,
        "METRICS_DRAIN__WINDOW_SECONDS": str(_WINDOW_SECONDS),
    }
    processes: list[subprocess.Popen[bytes]] = []
    lags: list[tuple[float, int]] = []
    stop = Event()
    watcher = Thread(target=_watch, args=(broker.address, kafka, lags, stop))
    try:
        prepare(settings)
        for arguments in (
            ["produce", "--duration", str(_WINDOW_SECONDS), "--rate", str(events_per_second), "--odd", "0"],
            ["drain"],
        ):
            log = (home / f"{arguments[0]}.log").open("wb")
            command = [sys.executable, "-m", "metrics_pipeline", *arguments]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        watcher.start()
        yield lags
    finally:
        stop.set()
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)
        if watcher.is_alive():
            watcher.join(30)
        broker.process.stop(20)


def _watch(address: str, kafka: KafkaSettings, lags: list[tuple[float, int]], stop: Event) -> None:
    began = time.monotonic()
    while not stop.wait(_LAG_EVERY_SECONDS):
        lag = sum(p.offsets for p in read_lag(address, kafka).values())
        lags.append((round(time.monotonic() - began, 1), lag))
