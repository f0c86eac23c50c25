"""What faults act on."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.lab.chaos.engines import OwnEngines
from metrics_pipeline.lab.chaos.fleet import DrainProcess, Fleet
from metrics_pipeline.lab.chaos.journal import Journal, MissedError
from metrics_pipeline.lab.chaos.load import Eaten, LoadProcess, SideSender
from metrics_pipeline.lab.chaos.proxy import Hits, Proxy
from metrics_pipeline.settings import Settings

_CHECK_SECONDS = 0.02


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
    bursts: list[LoadProcess] = field(default_factory=list)
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
        deadline_seconds = time.monotonic() + limit_seconds
        while not is_reached():
            if time.monotonic() > deadline_seconds or self.stop.is_set():
                raise MissedError(f"{otherwise} in {limit_seconds:.0f} s")
            self.stop.wait(_CHECK_SECONDS)

    def await_death(self, process: DrainProcess, limit_seconds: float, otherwise: str) -> str:
        """How the drain ended; MissedError if it doesn't."""
        self.await_that(lambda: process.end is not None, limit_seconds, otherwise)
        return process.end.ending if process.end else ""

    def await_hits(self, hits: Hits, limit_seconds: float) -> None:
        self.await_that(lambda: hits.count > 0, limit_seconds, "no request that this fault is for came")

    def any_shard(self, rng: Random) -> int:
        return rng.randrange(self.fleet.shards)

    @contextmanager
    def database(self) -> Iterator[Client]:
        """A connection that no fault is in the way of."""
        with connect(self.settings) as client:
            yield client
