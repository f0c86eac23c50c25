"""The demo: the whole pipeline on this machine under load, watched, drained, audited and stopped."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.canary_notes import count_landed
from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import LocalEngineError, RetryableError
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.process import LoadProcess
from metrics_pipeline.metrics.observe import Overview, look
from metrics_pipeline.metrics.statistics import Statistics
from metrics_pipeline.settings import Settings, local_home
from metrics_pipeline.wiring.audit import audit

WARM_UP_EVENTS = 100
FIRST_RUN_SECONDS = 120
DRAIN_SECONDS = 180
LOOK_SECONDS = 1.0


@dataclass(slots=True)
class Frame:
    """One look at the running demo. Rates per second, over the time since the look before."""

    elapsed_seconds: float
    produced_per_second: float
    landed_per_second: float
    overview: Overview


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; `is_exact` also holds what was produced against what landed."""

    produced: Counter[str]
    landed: Statistics
    verdict: Verdict
    canaries: int
    """That landed meanwhile, where they are on: events like any, which the demo did not send."""

    @property
    def is_exact(self) -> bool:
        return (
            self.verdict.is_ok
            and self.landed.inserted == self.produced["unique_events"] + self.canaries
            and self.landed.dead_letters == self.produced["malformed"]
        )


class Demo:
    """Runs the load against a stack that is up. `say` hears of phases, `show` of each look."""

    def __init__(self, settings: Settings, say: Callable[[str], None], show: Callable[[Frame], None]) -> None:
        self._settings = settings
        self._say = say
        self._show = show
        self._produced: Counter[str] = Counter()

    def run(self, plan: LoadPlan, sent: Path | None, stop: threading.Event) -> Outcome:
        """Produce until the plan is done or `stop` is set, then drain to the last event and audit."""
        with connect(self._settings) as client:
            before, canaries_before = self._look(client).statistics, count_landed(client)
            self._say("waiting for the first drain run")
            self._warm_up(client, plan.seed + 1, before.inserted)
            self._say("producing")
            started_ms = time.time_ns() // 1_000_000
            load = self._producer(plan, sent)
            self._watch(client, load, started_ms, stop)
            load.stop()
            self._finish(load)
            self._say("draining to the last event")
            self._await(
                lambda: self._look(client).lag == 0, DRAIN_SECONDS, "the drain runs did not reach the end of the topic"
            )
            after = look(self._settings, client, since_ms=started_ms, freshness_seconds=86_400).statistics
            landed = _difference(self._look(client).statistics, before, after)
            canaries = count_landed(client) - canaries_before
            self._say("auditing")
            return Outcome(self._produced, landed, audit(self._settings), canaries)

    def _warm_up(self, client: Client, seed: int, inserted_before: int) -> None:
        """A few events make the relay start its first run; freshness is measured from then on."""
        self._finish(self._producer(LoadPlan(events=WARM_UP_EVENTS, rate=WARM_UP_EVENTS, seed=seed)))
        self._await(
            lambda: self._look(client).statistics.inserted > inserted_before,
            FIRST_RUN_SECONDS,
            "no drain run landed anything",
        )

    def _watch(self, client: Client, load: LoadProcess, started_ms: int, stop: threading.Event) -> None:
        started_seconds = previous_seconds = time.monotonic()
        previous = self._look(client, started_ms)
        while load.is_running and not stop.wait(LOOK_SECONDS):
            now_seconds = time.monotonic()
            try:
                overview = self._look(client, started_ms)
            except RetryableError as error:
                self._say(str(error))
                continue
            passed_seconds = now_seconds - previous_seconds
            self._show(
                Frame(
                    elapsed_seconds=now_seconds - started_seconds,
                    produced_per_second=(overview.produced - previous.produced) / passed_seconds,
                    landed_per_second=(overview.statistics.consumed - previous.statistics.consumed) / passed_seconds,
                    overview=overview,
                )
            )
            previous, previous_seconds = overview, now_seconds

    def _look(self, client: Client, since_ms: int = 0) -> Overview:
        return look(self._settings, client, since_ms=since_ms)

    def _await(self, is_reached: Callable[[], bool], limit_seconds: float, failure: str) -> None:
        deadline_seconds = time.monotonic() + limit_seconds
        while not is_reached():
            if time.monotonic() > deadline_seconds:
                raise LocalEngineError(f"{failure} in {limit_seconds:.0f} s: look at the runs in the Dagster UI")
            time.sleep(LOOK_SECONDS)

    def _producer(self, plan: LoadPlan, sent: Path | None = None) -> LoadProcess:
        return LoadProcess(plan, local_home(self._settings.local) / "producer.log", sent)

    def _finish(self, load: LoadProcess) -> None:
        summary = load.finish()
        self._produced.update({name: summary[name] for name in ("unique_events", "duplicates", "malformed")})


def _difference(total: Statistics, before: Statistics, since_load: Statistics) -> Statistics:
    """Counts of this demo, warm-up included; freshness and batches of the load alone."""
    names = ("consumed", "inserted", "duplicates", "dead_letters", "lost")
    return replace(since_load, **{name: getattr(total, name) - getattr(before, name) for name in names})
