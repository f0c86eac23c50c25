"""A broker and a server of the run's own, which it may kill and start again at the same addresses."""

from pathlib import Path
from urllib.parse import urlsplit

from metrics_pipeline.errors import LocalEngineError
from metrics_pipeline.lab.local.clickhouse import start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program, kafka_program
from metrics_pipeline.lab.local.kafka import start_kafka
from metrics_pipeline.settings import LocalSettings

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


class OwnEngines:
    """Starts both; raises LocalEngineError if one doesn't start."""

    def __init__(self, folder: Path, local: LocalSettings) -> None:
        self._folder = folder
        cache = cache_folder(local)
        self._kafka_program = kafka_program(cache)
        self._clickhouse_program = clickhouse_program(cache)
        self._kafka = start_kafka(self._kafka_program, folder / "kafka", properties=_KAFKA_PROPERTIES)
        try:
            self._clickhouse = start_clickhouse(self._clickhouse_program, folder / "clickhouse")
        except BaseException:
            self._kafka.process.stop(1)
            raise

    @property
    def kafka_address(self) -> str:
        return self._kafka.address

    @property
    def clickhouse_url(self) -> str:
        return self._clickhouse.url

    @property
    def kafka_data(self) -> Path:
        """The broker's log folder."""
        return self._folder / "kafka" / "data"

    def kill_kafka(self) -> None:
        self._kafka.process.kill()

    def kill_clickhouse(self) -> None:
        self._clickhouse.process.kill()

    def restart_kafka(self) -> None:
        """Start the killed broker again. Raises LocalEngineError, also if a stranger has taken its port."""
        address = self._kafka.address
        port = int(address.rpartition(":")[2])
        self._kafka = start_kafka(
            self._kafka_program, self._folder / "kafka", preferred_port=port, properties=_KAFKA_PROPERTIES
        )
        _check_address("Kafka", address, self._kafka.address)

    def restart_clickhouse(self) -> None:
        """Start the killed server again. Raises LocalEngineError, also if a stranger has taken its port."""
        url = self._clickhouse.url
        self._clickhouse = start_clickhouse(
            self._clickhouse_program, self._folder / "clickhouse", preferred_port=urlsplit(url).port
        )
        _check_address("ClickHouse", url, self._clickhouse.url)

    def stop(self) -> None:
        self._clickhouse.process.stop(_STOP_SECONDS)
        self._kafka.process.stop(_STOP_SECONDS)


def _check_address(name: str, before: str, after: str) -> None:
    if before != after:
        raise LocalEngineError(f"{name} came back at {after} instead of {before}: another program took its port")
