"""A broker and a server of the run's own, which it may kill and start again at the same addresses."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from metrics_pipeline.errors import LocalEngineError
from metrics_pipeline.lab.local.clickhouse import start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program, kafka_program
from metrics_pipeline.lab.local.kafka import start_kafka
from metrics_pipeline.lab.local.process import EngineProcess
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


class OwnEngine:
    """`start` takes the port that is wanted, if one is; it returns the process and the engine's address."""

    def __init__(self, start: Callable[[int | None], tuple[EngineProcess, str]]) -> None:
        self._start = start
        self._process, self.address = start(None)

    def kill(self) -> None:
        self._process.kill()

    def restart(self) -> None:
        """Start the killed engine again. Raises LocalEngineError, also if a stranger has taken its port."""
        before = self.address
        port = urlsplit(before if "//" in before else f"//{before}").port
        self._process, self.address = self._start(port)
        if self.address != before:
            raise LocalEngineError(f"{before} came back at {self.address}: another program took its port")

    def stop(self) -> None:
        self._process.stop(_STOP_SECONDS)


@dataclass(frozen=True, slots=True)
class OwnEngines:
    """Both, and the folder of the broker's log."""

    kafka: OwnEngine
    clickhouse: OwnEngine
    kafka_data: Path


@contextmanager
def own_engines(folder: Path, local: LocalSettings) -> Iterator[OwnEngines]:
    """Running while it is open. Raises LocalEngineError if one doesn't start."""
    cache = cache_folder(local)
    kafka, clickhouse = kafka_program(cache), clickhouse_program(cache)

    def start_broker(port: int | None) -> tuple[EngineProcess, str]:
        made = start_kafka(kafka, folder / "kafka", preferred_port=port, properties=_KAFKA_PROPERTIES)
        return made.process, made.address

    def start_server(port: int | None) -> tuple[EngineProcess, str]:
        made = start_clickhouse(clickhouse, folder / "clickhouse", preferred_port=port)
        return made.process, made.url

    with ExitStack() as stack:
        broker = OwnEngine(start_broker)
        stack.callback(broker.stop)
        server = OwnEngine(start_server)
        stack.callback(server.stop)
        yield OwnEngines(broker, server, folder / "kafka" / "data")
