"""What faults act on."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from metrics_pipeline.kafka.lag import PartitionLag, read_lag
from metrics_pipeline.lab.chaos.fleet import DrainProcess, Fleet
from metrics_pipeline.lab.chaos.journal import Journal, MissedError, await_that
from metrics_pipeline.lab.chaos.load import Eaten, ListedLoad, SideSender
from metrics_pipeline.lab.chaos.proxy import Matches, Misbehaviour, Proxy
from metrics_pipeline.lab.chaos.staging import OwnEngine, OwnEngines
from metrics_pipeline.settings import Settings, kafka_address

_T = TypeVar("_T")

HIT_SECONDS = 10.0
"""A request of the wanted kind comes within this time."""


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
        self.stop.wait(seconds)

    def await_that(self, look: Callable[[], _T | None], limit_seconds: float, otherwise: str) -> _T:
        return await_that(look, limit_seconds, otherwise, self.stop)

    def await_death(self, process: DrainProcess, limit_seconds: float, otherwise: str) -> str:
        """How the drain ended; MissedError if it doesn't."""
        return self.await_that(lambda: process.end, limit_seconds, otherwise).ending

    def come_back(self, engine: OwnEngine, rng: Random) -> str:
        """Start an engine that was killed again, after a while."""
        began = time.monotonic()
        self.hold(rng.uniform(0, 2))
        engine.restart()
        return f"away for {time.monotonic() - began:.1f} s"

    def misbehave(self, matches: Matches, misbehaviour: Misbehaviour, longer_seconds: float) -> int:
        """Until a request that matches came, and longer; returns how many came."""
        with self.proxy.misbehaving(matches, misbehaviour) as rule:
            self.await_that(lambda: rule.count > 0, HIT_SECONDS, "no request that this fault is for came")
            self.hold(longer_seconds)
        return rule.count

    def any_drain(self, rng: Random) -> DrainProcess:
        return self.fleet.await_current(rng.randrange(self.fleet.shards))

    def lags(self) -> Mapping[int, PartitionLag]:
        return read_lag(kafka_address(self.settings), self.settings.kafka)
