"""A run of chaos: load and faults side by side, then peace, then the comparison."""

import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from pydantic import SecretStr

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.lab.chaos.catalogue import Fault, faults
from metrics_pipeline.lab.chaos.compare import Comparison, compare
from metrics_pipeline.lab.chaos.drain_process import CRASHED
from metrics_pipeline.lab.chaos.fleet import Fleet
from metrics_pipeline.lab.chaos.journal import Injected, Journal, MissedError, Result
from metrics_pipeline.lab.chaos.load import ListedLoad, Sent, SideSender
from metrics_pipeline.lab.chaos.plan import Injection, make_plan
from metrics_pipeline.lab.chaos.proxy import Proxy
from metrics_pipeline.lab.chaos.staging import OwnEngines, Staging, altered, own_engines
from metrics_pipeline.lab.chaos.world import World
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.settings import Settings, clickhouse_url, load_settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import prepare

SETTLE_SECONDS = 600.0
"""After the faults, all that was sent has to land within this time."""
_DRAIN_SECONDS = 300.0
_LAST_FAULT_SECONDS = 90.0
_TICK_SECONDS = 0.05
_SHOW_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What the user asks for. `folder` holds logs and data; None for a temporary one, removed if all is well."""

    seconds: float
    seed: int
    rate: float = 2_000
    folder: Path | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went. `problems` are sentences; empty if the pipeline was exact and the kit worked."""

    options: ChaosOptions
    world: World
    """As the run left it: its drains are gone."""
    faults: dict[str, Fault]
    comparison: Comparison
    problems: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        return not self.problems

    @property
    def journal(self) -> Journal:
        return self.world.journal


def run_chaos(
    options: ChaosOptions,
    stop: threading.Event,
    say: Callable[[str], None] = lambda _text: None,
    show: Callable[[float, str], None] = lambda _elapsed_seconds, _figures: None,
) -> Outcome:
    """Inject faults for a while, settle, compare. Setting `stop` ends the faults early.

    `say` hears of what happens, `show` now and then of how far the run is: seconds, and the figures in words.

    With addresses of Kafka and ClickHouse in the settings these are used, in a topic and a database of the run's own;
    with neither, engines are started and stopped. Raises ConfigurationError with one of them only.
    """
    given = load_settings(with_local_engines=False)
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"chaos-{options.seed}-"))
    (folder / "drains").mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "chaos.log", say)
    with ExitStack() as stack:
        engines, cluster = _cluster(given, folder, stack)
        name = f"chaos-{options.seed}-{secrets.token_hex(4)}"
        staging = stack.enter_context(Staging(cluster, name).made())
        # What is not exact has to be looked into: it stays until a run ends well.
        staging.is_kept = True
        settings = staging.settings
        prepare(settings)
        proxy = stack.enter_context(closing(Proxy(clickhouse_url(settings))))
        through_proxy = altered(settings, clickhouse={"url": SecretStr(proxy.url)})
        fleet = stack.enter_context(closing(Fleet(through_proxy, folder / "drains", journal)))
        world = World(settings, folder, journal, fleet, proxy, SideSender(settings), engines, stop)
        journal.began_seconds = time.time()
        journal.note(f"seed {options.seed}, topic {name}, logs in {folder}")
        outcome = _Run(options, world, faults(with_own_engines=engines is not None), show).run()
        staging.is_kept = options.keep or not outcome.is_exact
        return outcome


def _cluster(given: Settings, folder: Path, stack: ExitStack) -> tuple[OwnEngines | None, Settings]:
    has_kafka, has_clickhouse = given.kafka.bootstrap_servers is not None, given.clickhouse.url is not None
    if has_kafka != has_clickhouse:
        raise ConfigurationError(
            "set both METRICS_KAFKA__BOOTSTRAP_SERVERS and METRICS_CLICKHOUSE__URL to run chaos on a cluster of yours, "
            "or neither, for engines that are started here"
        )
    if has_kafka:
        return None, _hastened(given)
    engines = stack.enter_context(own_engines(folder, given.local))
    kafka = {"bootstrap_servers": engines.kafka.address}
    clickhouse = {"url": SecretStr(engines.clickhouse.address)}
    return engines, _hastened(altered(given, kafka=kafka, clickhouse=clickhouse))


def _hastened(settings: Settings) -> Settings:
    """Small batches and short limits: many steps, and outages that last longer than patience, within minutes."""
    return altered(
        settings,
        drain={
            "shards": 2,
            "window_seconds": 15.0,
            "flush_seconds": 0.4,
            "flush_events": 2_000,
            "idle_seconds": 10.0,
            "handover_seconds": 5.0,
            "retry_seconds": 12.0,
            "zombie_seconds": 2.0,
        },
        kafka={"partitions": 8, "request_timeout_seconds": 5.0},
        clickhouse={"request_timeout_seconds": 3.0},
    )


@dataclass(slots=True)
class _Run:
    _options: ChaosOptions
    _world: World
    _catalogue: dict[str, Fault]
    _show: Callable[[float, str], None]
    _threads: dict[threading.Thread, Injection] = field(default_factory=dict)

    def run(self) -> Outcome:
        world = self._world
        sent = self._send_and_inject()
        problems = self._settle()
        # Nothing may move while it is looked at.
        world.fleet.close()
        self._world.journal.note("comparing")
        with connect(world.settings) as client:
            comparison = compare(client, sent, world.eaten, audit(world.settings))
        problems += [*comparison.differences, *self._failures()]
        for problem in problems:
            self._world.journal.note(f"PROBLEM: {problem}")
        return Outcome(self._options, world, self._catalogue, comparison, tuple(problems))

    def _send_and_inject(self) -> list[Sent]:
        """Raises LoadError unless it is known what was sent."""
        options, world = self._options, self._world
        plan = LoadPlan(rate=options.rate, duplicates=0.05, late=0.02, malformed=0.01, odd=0.01, seed=options.seed)
        load = ListedLoad(world.settings, plan, world.folder / "sent.parquet")
        try:
            world.fleet.release()
            self._inject_all()
            self._world.journal.note("no more faults: ending the load")
            load.stop()
            return [load.listed(), *(b.listed() for b in world.bursts), *world.sender.sent]
        except BaseException:
            for process in (load, *world.bursts):
                process.kill()
            raise

    @property
    def _under_way(self) -> list[Injection]:
        return [injection for thread, injection in self._threads.items() if thread.is_alive()]

    def _inject_all(self) -> None:
        """Start each fault at its time, when nothing that it needs is in use by an earlier one."""
        weights = {kind: fault.weight for kind, fault in self._catalogue.items()}
        pending = list(make_plan(weights, self._options.seed, self._options.seconds))
        began = time.monotonic()
        shown_seconds = -_SHOW_SECONDS
        while not self._world.stop.is_set():
            now_seconds = time.monotonic() - began
            if now_seconds >= self._options.seconds or (not pending and not self._under_way):
                break
            self._start_due(pending, now_seconds)
            if now_seconds - shown_seconds >= _SHOW_SECONDS:
                shown_seconds = now_seconds
                self._show(now_seconds, self._figures(now_seconds))
            self._world.stop.wait(_TICK_SECONDS)
        if pending:
            self._world.journal.note(f"no time for {', '.join(f'#{i.number} {i.kind}' for i in pending)}")
        deadline_seconds = time.monotonic() + _LAST_FAULT_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline_seconds - time.monotonic()))

    def _start_due(self, pending: list[Injection], now_seconds: float) -> None:
        taken = {target for injection in self._under_way for target in self._catalogue[injection.kind].targets}
        for injection in [i for i in pending if i.at_seconds <= now_seconds]:
            targets = self._catalogue[injection.kind].targets
            if not targets & taken:
                pending.remove(injection)
                name = f"{injection.number}-{injection.kind}"
                thread = threading.Thread(target=self._inject, args=(injection,), name=name, daemon=True)
                self._threads[thread] = injection
                thread.start()
            # One that has to wait is not overtaken by those that need the same.
            taken |= targets

    def _inject(self, injection: Injection) -> None:
        fault = self._catalogue[injection.kind]
        began_seconds = time.time()
        self._world.journal.note(f"#{injection.number} {injection.kind}")
        try:
            detail = fault.inject(self._world, Random(injection.seed))  # noqa: S311 - reproducible on purpose
            result = Result.INJECTED
        except MissedError as error:
            result, detail = Result.MISSED, str(error)
        except Exception as error:
            logging.getLogger(__name__).exception("fault %s", injection)
            result, detail = Result.FAILED, f"{type(error).__name__}: {error}"
        self._world.journal.add(Injected(injection, began_seconds, time.time(), result, detail))

    def _settle(self) -> list[str]:
        """Drain to the end, without faults; returns problems."""
        deadline_seconds = time.monotonic() + SETTLE_SECONDS
        self._world.journal.note("settling: draining to the last event")
        while True:
            try:
                ends = self._world.fleet.drain_once(_DRAIN_SECONDS)
            except MissedError as error:
                return [f"{error}: look at the logs of the drains"]
            lags = self._world.lags().values()
            lag = sum(lag.offsets for lag in lags)
            is_open = any(lag.commit is not None and lag.commit.intent is not None for lag in lags)
            if lag == 0 and not is_open and all(end.ending == Reason.CAUGHT_UP for end in ends):
                return []
            if time.monotonic() > deadline_seconds:
                endings = ", ".join(f"{end.ending} {end.detail}" for end in ends)
                return [f"{lag} offsets are left after {SETTLE_SECONDS:.0f} s without faults; drains ended: {endings}"]
            time.sleep(_TICK_SECONDS)

    def _failures(self) -> list[str]:
        """What went wrong beside the data: drains that crashed, faults that could not be injected."""
        crashed = [e for e in self._world.journal.drain_ends if e.ending == CRASHED or e.ending.startswith("exit code")]
        failed = [i for i in self._world.journal.injected if i.result is Result.FAILED]
        return [
            *(f"drain {end.drain} crashed ({end.ending}): {end.detail}" for end in crashed),
            *(f"fault {i.injection.kind} (#{i.injection.number}) failed: {i.detail}" for i in failed),
            *(f"fault {i.kind} (#{i.number}) did not end" for i in self._under_way),
        ]

    def _figures(self, elapsed_seconds: float) -> str:
        journal = self._world.journal
        under_way = ", ".join(i.kind for i in self._under_way) or "none"
        return (
            f"{elapsed_seconds:.0f} of {self._options.seconds:.0f} s: {journal.count(Result.INJECTED)} faults of "
            f"{len(journal.kinds())} kinds, {journal.count(Result.MISSED)} missed, {self._world.fleet.started} drains; "
            f"under way: {under_way}"
        )
