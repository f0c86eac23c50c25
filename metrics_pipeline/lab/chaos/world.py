"""What faults act on."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.kafka.lag import PartitionLag, read_lag
from metrics_pipeline.lab.chaos.fleet import DrainProcess, Fleet
from metrics_pipeline.lab.chaos.journal import Journal, MissedError, await_that
from metrics_pipeline.lab.chaos.load import Eaten, ListedLoad, SideSender
from metrics_pipeline.lab.chaos.proxy import Proxy
from metrics_pipeline.lab.chaos.staging import OwnEngines
from metrics_pipeline.settings import Settings, kafka_address


@dataclass(slots=True)
class World:
    """The pipeline under chaos. `settings` lead to the server itself, those of the fleet through the proxy."""

    settings: Settings
    folder: Path
    journal: Journal
    fleet: Fleet
    proxy: Proxy
    sender: SideSender
    engines: OwnEngines | None
    stop: threading.Event
    """The run is to end early: nothing is held on to any more."""
    bursts: list[ListedLoad] = field(default_factory=list)
    eaten: Eaten = field(default_factory=Eaten)
    compacted: dict[int, int] = field(default_factory=dict)
    """Partition -> offset before which only last copies may be left: retention must not eat those."""

    def need_engines(self) -> OwnEngines:
        if self.engines is None:
            raise MissedError("the engines are not ours")
        return self.engines

    def hold(self, seconds: float) -> None:
        """Let the fault last."""
        self.stop.wait(seconds)

    def await_that(self, is_reached: Callable[[], bool], limit_seconds: float, otherwise: str) -> None:
        """Raises MissedError, which says `otherwise`, if it doesn't come to pass."""
        await_that(is_reached, limit_seconds, otherwise, self.stop)

    def await_death(self, process: DrainProcess, limit_seconds: float, otherwise: str) -> str:
        """How the drain ended; MissedError if it doesn't."""
        self.await_that(lambda: process.end is not None, limit_seconds, otherwise)
        return process.end.ending if process.end else ""

    def any_drain(self, rng: Random) -> DrainProcess:
        """The present drain of some shard."""
        return self.fleet.await_current(rng.randrange(self.fleet.shards))

    def lags(self) -> Mapping[int, PartitionLag]:
        return read_lag(kafka_address(self.settings), self.settings.kafka)

    def database(self) -> Client:
        """A connection that no fault is in the way of."""
        return connect(self.settings)
