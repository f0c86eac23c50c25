"""The demo: the whole pipeline on this machine under load, watched, drained, audited and stopped."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.canary_notes import count_landed
from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import LocalEngineError, RetryableError
from metrics_pipeline.metrics.observe import Overview, look
from metrics_pipeline.metrics.statistics import Statistics
from metrics_pipeline.settings import Settings, local_home
from metrics_pipeline.wiring.drain import audit

WARM_UP_EVENTS = 100
FIRST_RUN_SECONDS = 120
DRAIN_SECONDS = 180
LOOK_SECONDS = 1.0
_PRODUCER_STOP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What the demo sends: messages per second, fractions of them out of the ordinary, and where that is listed."""

    rate: float
    duration_seconds: float | None
    duplicates: float = 0.02
    late: float = 0.002
    malformed: float = 0.001
    seed: int = 0
    sent: Path | None = None


@dataclass(slots=True)
class Frame:
    """One look at the running demo. Rates per second, over the time since the look before."""

    elapsed_seconds: float
    produced_per_second: float
    landed_per_second: float
    overview: Overview


@dataclass(slots=True)
class Outcome:
    """What came of it; `is_exact` also holds what was produced against what landed."""

    produced: dict[str, int] = field(default_factory=dict)
    landed: Statistics | None = None
    verdict: Verdict | None = None
    canaries: int = 0
    """That landed meanwhile, where they are on: events like any, which the demo did not send."""

    @property
    def is_exact(self) -> bool:
        return (
            self.verdict is not None
            and self.verdict.is_ok
            and self.landed is not None
            and self.landed.inserted == self.produced["unique_events"] + self.canaries
            and self.landed.dead_letters == self.produced["malformed"]
        )


class Demo:
    """Runs the load against a stack that is up. `say` hears of phases, `show` of each look."""

    def __init__(
        self, settings: Settings, load: Load, say: Callable[[str], None], show: Callable[[Frame], None]
    ) -> None:
        self._settings = settings
        self._load = load
        self._say = say
        self._show = show
        self._stopping = False

    def run(self) -> Outcome:
        """Produce until the duration is over or a signal comes, then drain to the last event and audit."""
        outcome = Outcome()
        with connect(self._settings) as client, self._stop_on_signal():
            before, canaries_before = look(self._settings, client).statistics, count_landed(client)
            self._say("waiting for the first drain run")
            self._warm_up(client, outcome, before.inserted)
            self._say("producing")
            started_ms = time.time_ns() // 1_000_000
            self._add(outcome, self._produce(client, started_ms))
            self._say("draining to the last event")
            self._await_drained(client)
            after = look(self._settings, client, since_ms=started_ms, freshness_seconds=86_400).statistics
            total = look(self._settings, client).statistics
            outcome.canaries = count_landed(client) - canaries_before
            outcome.landed = _difference(total, before, after)
            self._say("auditing")
            outcome.verdict = audit(self._settings)
        return outcome

    def _warm_up(self, client: Client, outcome: Outcome, inserted_before: int) -> None:
        """A few events make the relay start its first run; freshness is measured from then on."""
        plan = ["--events", str(WARM_UP_EVENTS), "--rate", str(WARM_UP_EVENTS), "--seed", str(self._load.seed + 1)]
        self._add(outcome, self._summary(self._producer(plan)))

        def has_landed() -> bool:
            return look(self._settings, client).statistics.inserted > inserted_before

        self._await(has_landed, FIRST_RUN_SECONDS, "no drain run landed anything")

    def _produce(self, client: Client, started_ms: int) -> dict[str, int]:
        load = self._load
        plan = ["--rate", str(load.rate), "--seed", str(load.seed)]
        for name in ("duplicates", "late", "malformed"):
            plan += [f"--{name}", str(getattr(load, name))]
        plan += ["--duration", str(load.duration_seconds)] if load.duration_seconds else []
        plan += ["--sent", str(load.sent)] if load.sent else []
        producer = self._producer(plan)
        started_seconds = time.monotonic()
        previous, previous_seconds = look(self._settings, client, since_ms=started_ms), started_seconds
        while producer.poll() is None and not self._stopping:
            time.sleep(LOOK_SECONDS)
            now_seconds = time.monotonic()
            try:
                overview = look(self._settings, client, since_ms=started_ms)
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
        producer.send_signal(signal.SIGTERM)
        return self._summary(producer)

    def _await_drained(self, client: Client) -> None:
        def is_drained() -> bool:
            return look(self._settings, client).lag == 0

        self._await(is_drained, DRAIN_SECONDS, "the drain runs did not reach the end of the topic")

    def _await(self, is_reached: Callable[[], bool], limit_seconds: float, failure: str) -> None:
        deadline_seconds = time.monotonic() + limit_seconds
        while not is_reached():
            if time.monotonic() > deadline_seconds:
                raise LocalEngineError(f"{failure} in {limit_seconds:.0f} s: look at the runs in the Dagster UI")
            time.sleep(LOOK_SECONDS)

    def _producer(self, plan: list[str]) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "metrics_pipeline", "produce", "--json", *plan]
        # A session of its own: Ctrl-C is for us, who end the producer first and everything else in order.
        with self._producer_log.open("wb") as log:
            # Not a pipe: nobody reads while it runs, and an outage of the broker is worth many lines.
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)

    @property
    def _producer_log(self) -> Path:
        return local_home(self._settings.local) / "producer.log"

    def _summary(self, producer: "subprocess.Popen[str]") -> dict[str, int]:
        try:
            output, _ = producer.communicate(timeout=_PRODUCER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            producer.kill()
            raise LocalEngineError(f"the producer did not end in {_PRODUCER_STOP_SECONDS} s and was killed") from None
        if producer.returncode:
            said = self._producer_log.read_text(errors="replace").strip()[-1_000:]
            raise LocalEngineError(f"the producer failed; the end of {self._producer_log}:\n{said}")
        summary: dict[str, int] = json.loads(output)
        return summary

    def _add(self, outcome: Outcome, summary: dict[str, int]) -> None:
        for name in ("messages", "unique_events", "duplicates", "late", "malformed"):
            outcome.produced[name] = outcome.produced.get(name, 0) + summary[name]

    @contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        def stop(*_: object) -> None:
            self._stopping = True

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _difference(total: Statistics, before: Statistics, since_load: Statistics) -> Statistics:
    """Counts of this demo, warm-up included; freshness and batches of the load alone."""
    return Statistics(
        batches=since_load.batches,
        consumed=total.consumed - before.consumed,
        inserted=total.inserted - before.inserted,
        duplicates=total.duplicates - before.duplicates,
        dead_letters=total.dead_letters - before.dead_letters,
        lost=total.lost - before.lost,
        events_per_second=since_load.events_per_second,
        freshness=since_load.freshness,
    )
