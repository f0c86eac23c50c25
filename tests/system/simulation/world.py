"""Runs a plan: engines, drain runs, incidents; then heals everything and drains until caught up."""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from metrics_pipeline.clickhouse.server_time import ServerClock
from metrics_pipeline.dead_letters.judge import LetterFilter
from metrics_pipeline.delivery.batch import BatchLimits
from metrics_pipeline.delivery.ownership import Hold, Ownership, closing_commits
from metrics_pipeline.drain.backfill import Backfill
from metrics_pipeline.drain.drain import Drain, DrainPolicy
from metrics_pipeline.drain.ending import AtOffsets, AtWindowEnd, Ending, Reason
from metrics_pipeline.drain.takeover import reset_positions
from metrics_pipeline.errors import FencedError, RetryableError, TopicMismatchError
from metrics_pipeline.event.contract import Reason as DeadReason
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import Owner, decode_commit
from metrics_pipeline.ledger.deferred import DeferredEntry, still_deferred
from metrics_pipeline.ledger.entry import DEFERRED
from metrics_pipeline.replay.hours import hours_around
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.retry import Retry
from metrics_pipeline.runtime.run import Run, new_run
from metrics_pipeline.wiring.engines import ONE_OWNER
from tests.models.clickhouse import ModelWarehouse, Server
from tests.models.kafka import Broker, ModelHandover, ModelLog, ModelOffsets, Partition, Record
from tests.models.network import Faults, Network
from tests.models.scheduler import KilledError, Process, Scheduler, VirtualClock, VirtualWorker
from tests.system.simulation.plan import EPOCH_MS, BackfillPlan, Kind, Message, Plan, RunPlan
from tests.system.simulation.replaying import Bench, hours_replay, letters_replay, small_pieces
from tests.system.simulation.replays import RULES, SECOND_ACT_SECONDS, HoursPlan, LettersPlan, Loss

GROUP = "group"
ZOMBIE_SECONDS = 2.0
RETRY_SECONDS = 12.0
HEAL_AT_SECONDS = 12.0
FINAL_ROUNDS = 6


@dataclass(slots=True)
class Outcome:
    """How a run ended: a reason, an error, or neither if it was killed."""

    run: str
    reason: Reason | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class Produced:
    """What the topic of one id was given: (partition, offset) -> value, holes left out."""

    topic_id: str
    values: dict[tuple[int, int], bytes | None] = field(default_factory=dict)


class World:
    """One schedule. `run` it, then look at what is in it."""

    def __init__(self, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.scheduler = Scheduler(plan.seed)
        self.scheduler.trace = trace
        self.clock = VirtualClock(self.scheduler, EPOCH_MS)
        self.broker = Broker("topic-1", {p: Partition() for p in range(plan.partitions)})
        self.server = Server(self.scheduler, plan.window, EPOCH_MS)
        self.produced = [Produced("topic-1")]
        self.outcomes: list[Outcome] = []
        self.final_outcomes: list[Outcome] = []
        self.had_open_intent_when_cut = False
        self.side = Broker("side", {})
        """What the side group of backfills has committed."""
        self.letters_side = Broker("letters", {})
        self.hours_side = Broker("hours", {})
        replays = plan.replays
        self.rules = RULES if replays is None else replays.drains
        self.misread = {} if replays is None else replays.misread
        self.lost_letters: set[tuple[int, int]] = set()

    def run(self) -> None:
        with small_pieces(self.plan.replays):
            self._run()

    def _run(self) -> None:
        plan, replays = self.plan, self.plan.replays
        for message in plan.messages:
            self._at(message.at_seconds, "producer", lambda m=message: self.produce(m))  # type: ignore[misc]
        for seconds, rules in plan.rules:
            self._at(seconds, "rules", lambda r=rules: self._set_rules(r))  # type: ignore[misc]
        for seconds, partition, offset in plan.retention:
            self._at(seconds, "retention", lambda p=partition, o=offset: self._retain(p, o))  # type: ignore[misc]
        for seconds in plan.kills_at_seconds:
            self._at(seconds, "killer", self.server.kill)
        if plan.recreated_at_seconds is not None:
            self._at(plan.recreated_at_seconds, "recreation", self._recreate)
        if plan.new_partition_at_seconds is not None:
            self._at(plan.new_partition_at_seconds, "new partition", self._add_partition)
        for run in plan.runs:
            self.scheduler.spawn(run.name, lambda r=run: self._process(r), after_seconds=run.at_seconds)  # type: ignore[misc]
        for backfill in plan.backfills:
            self.scheduler.spawn(
                backfill.name, lambda f=backfill: self._fill_process(f), after_seconds=backfill.at_seconds
            )  # type: ignore[misc]
        self._plan_replays()
        acts = 0.0 if replays is None else SECOND_ACT_SECONDS
        self._at(acts + HEAL_AT_SECONDS, "healing", self._heal)
        self.scheduler.run()
        for number in range(FINAL_ROUNDS):
            self.final_outcomes = self._finish(number)
            if all(outcome.reason is Reason.CAUGHT_UP for outcome in self.final_outcomes):
                break
        self.server.repair()

    def may_have_cut_rollup(self) -> bool:
        """Where the log dropped a batch that had landed in part, nobody can complete its rollup."""
        return self.had_open_intent_when_cut

    def produce(self, message: Message) -> None:
        partition = self.broker.partitions[message.partition]
        if not message.is_hole:
            self.produced[-1].values[message.partition, partition.high] = message.value
        timestamp_ms = self.clock.now_ms()
        partition.records.append(None if message.is_hole else Record(timestamp_ms, message.value))

    def drain(self, run: RunPlan, process: Process, faults: Faults) -> Reason:
        """What `wiring.drain.run_drain` does, of models."""
        network = Network(self.scheduler, faults)
        by = self._run_of(run.name, process)
        hold = self._hold(GROUP, self.store(network, run.owner), run.owner, by, network)
        policy = DrainPolicy(
            BatchLimits(self.plan.flush_events, 1 << 20, 0.3),
            stall_seconds=RETRY_SECONDS,
            skip_lag_offsets=0 if run.is_skipping_to_head else None,
        )
        drain = Drain(
            hold,
            by,
            self.rules,
            policy,
            ModelHandover(self.broker, network, run.owner.shard, run.name),
            VirtualWorker(self.scheduler, process),
            lambda entry: self._say(process, f"landed {entry.token[:4]}"),
        )
        partitions = run.owner.partitions(hold.log.partitions())
        ending: Ending = AtWindowEnd(window_seconds=4.0, idle_seconds=1.5, handover_seconds=1.0)
        if run.ends_caught_up:
            marks = by.retry.call(lambda: hold.log.watermarks(partitions))
            ending = AtOffsets({p: m.high for p, m in marks.items()})
        return drain.run(partitions, ending, has_predecessor=run.has_predecessor)

    def backfill(self, name: str, process: Process, faults: Faults) -> Reason:
        """What `wiring.backfill.backfill_deferred` does, of models."""
        network = Network(self.scheduler, faults)
        by = self._run_of(name, process)
        store = ModelOffsets(self.side, network, ONE_OWNER)
        backfill = Backfill(
            self._hold(f"{GROUP}.deferred", store, ONE_OWNER, by, network),
            by,
            self.rules,
            BatchLimits(self.plan.flush_events, 1 << 20, float("inf")),
            VirtualWorker(self.scheduler, process),
            lambda: self._deferred(network),
            lambda: self._under_way(network),
            lambda _report: None,
        )
        try:
            backfill.run(None)
        except FencedError:
            return Reason.FENCED
        if backfill.report.taken_back:
            self._say(process, f"took {backfill.report.taken_back} events back")
        return Reason.STOPPED if backfill.report.left else Reason.CAUGHT_UP

    def _run_of(self, name: str, process: Process) -> Run:
        def say_waiting(error: RetryableError, _seconds: float) -> None:
            self._say(process, f"waits: {error}")

        def never() -> bool:
            return False

        retry = Retry(self._clock_of(name), RETRY_SECONDS, never, say_waiting)
        return Run(name, retry, lambda step: self.scheduler.step(f"[{step}]"))

    def _clock_of(self, run: str) -> Clock:
        """What `server_clock` makes of the clock of the run's host, which may be wrong by hours."""
        return ServerClock(self._host_of(run), self.clock.now_ms(), self.scheduler.now)

    def _host_of(self, run: str) -> VirtualClock:
        ahead_ms = random.Random(f"{self.plan.seed} {run}").choice(self.plan.hosts_ahead_ms)
        return VirtualClock(self.scheduler, EPOCH_MS + ahead_ms)

    def _hold(self, group: str, store: ModelOffsets, owner: Owner, run: Run, network: Network) -> Hold:
        log = ModelLog(self.broker, network, self.misread)
        ownership = Ownership(owner, store, run, zombie_seconds=ZOMBIE_SECONDS)
        return Hold(group, log, ownership, self.warehouse(network, log.topic_id))

    def replay_letters(self, plan: LettersPlan, process: Process, faults: Faults) -> Reason:
        """What `wiring.dead_letters.replay_dead_letters` does, of models."""
        rules = self.rules if plan.has_old_rules else None
        replay = letters_replay(self._bench(plan.name, process, faults, rules))
        try:
            report = replay.run(LetterFilter(), lambda _report: None)
        except FencedError:
            return Reason.FENCED
        self._say(process, f"did {report.figures}")
        is_idle = not (report.landed or report.duplicates or report.waiting or report.recovered)
        return Reason.CAUGHT_UP if is_idle else Reason.STOPPED

    def replay_hours(self, plan: HoursPlan, process: Process, faults: Faults) -> Reason:
        """What `wiring.replay.replay_hours` does, of models."""
        if self.plan.backfills and self._deferred(Network(self.scheduler, faults)):
            self.backfill(plan.name, process, faults)
        hours = hours_around(EPOCH_MS // 1_000, self.clock.now_ms() // 1_000 + 1)
        replay = hours_replay(self._bench(plan.name, process, faults))
        try:
            report = replay.run(hours, plan.mode, lambda _report: None)
        except FencedError:
            return Reason.FENCED
        self._say(process, f"did { {name: n for name, n in report.figures.items() if n} }")
        return Reason.STOPPED if report.changed or report.recovered else Reason.CAUGHT_UP

    def _bench(self, name: str, process: Process, faults: Faults, rules: Rules | None = None) -> Bench:
        assert self.plan.replays is not None
        return Bench(
            GROUP,
            self.server,
            Network(self.scheduler, faults),
            self._run_of(name, process),
            self.plan.replays,
            rules or self.plan.replays.today,
            ZOMBIE_SECONDS,
            self.broker,
            self.side,
            self.letters_side,
            self.hours_side,
        )

    def _plan_replays(self) -> None:
        replays = self.plan.replays
        if replays is None:
            return
        for loss in replays.losses:
            self._at(loss.at_seconds, "loss", lambda given=loss: self._lose(given))  # type: ignore[misc]
        for letters in replays.letters:
            self.scheduler.spawn(
                letters.name, lambda given=letters: self._letters_process(given), after_seconds=letters.at_seconds
            )  # type: ignore[misc]
        for hours in replays.hours:
            self.scheduler.spawn(
                hours.name, lambda given=hours: self._hours_process(given), after_seconds=hours.at_seconds
            )  # type: ignore[misc]

    def _lose(self, loss: Loss) -> None:
        """Not the rows of dead letters that have landed: nobody brings them back."""
        random_ = random.Random(loss.seed)
        places = {(d.partition, d.offset): d for d in self.server.dead if d.topic_id == self.broker.topic_id}
        if loss.is_of_letters:
            malformed = (p for p, d in sorted(places.items()) if d.reason in _FOR_EVER)
            lost = {place for place in malformed if random_.random() < 0.5}
            self.server.lose_letters({(self.broker.topic_id, *place) for place in lost})
            self.lost_letters |= lost
            self.scheduler.say("somebody", f"deletes the dead letters {sorted(lost)}")
            return
        rows = sorted((r for found in self.server.raw.values() for r in found), key=lambda r: (r.partition, r.offset))
        gone = [r for r in rows if (r.partition, r.offset) not in places and random_.random() < 0.5]
        self.scheduler.say("somebody", f"deletes the rows {[(r.partition, r.offset) for r in gone]}")
        self.server.lose(gone)

    def _under_way(self, network: Network) -> frozenset[str]:
        found = network.kafka("read what drains have open", lambda: dict(self.broker.committed))
        opened = {i.token for place in found.values() if (i := decode_commit(*place).intent) is not None}
        landed = network.clickhouse("look for their accounts", lambda: {e.token for e in self.server.ledger})
        return frozenset(opened - landed)

    def _deferred(self, network: Network) -> tuple[DeferredEntry, ...]:
        ledger = network.clickhouse("read what is deferred", lambda: list(self.server.ledger))
        skipped = [
            DeferredEntry(tuple(a.range for a in e.accounts), e.first_message_ms, e.last_message_ms)
            for e in ledger
            if e.source == DEFERRED
        ]
        return still_deferred(skipped, [a.range for e in ledger if e.source != DEFERRED for a in e.accounts])

    def store(self, network: Network, owner: Owner) -> ModelOffsets:
        return ModelOffsets(self.broker, network, owner)

    def warehouse(self, network: Network, topic_id: str) -> ModelWarehouse:
        return ModelWarehouse(self.server, network, topic_id)

    def _process(self, run: RunPlan, *, is_final: bool = False) -> Outcome:
        process = Process(run.name, dict(run.incidents))
        return self._outcome(process, lambda: self.drain(run, process, self.plan.faults), is_final=is_final)

    def _fill_process(self, backfill: BackfillPlan, *, is_final: bool = False) -> Outcome:
        process = Process(backfill.name, dict(backfill.incidents))
        return self._outcome(
            process, lambda: self.backfill(backfill.name, process, self.plan.faults), is_final=is_final
        )

    def _letters_process(self, letters: LettersPlan, *, is_final: bool = False) -> Outcome:
        process = Process(letters.name, dict(letters.incidents))
        return self._outcome(
            process, lambda: self.replay_letters(letters, process, self.plan.faults), is_final=is_final
        )

    def _hours_process(self, hours: HoursPlan, *, is_final: bool = False) -> Outcome:
        process = Process(hours.name, dict(hours.incidents))
        return self._outcome(process, lambda: self.replay_hours(hours, process, self.plan.faults), is_final=is_final)

    def _outcome(self, process: Process, run: Callable[[], Reason], *, is_final: bool) -> Outcome:
        outcome = Outcome(process.name)
        if not is_final:
            self.outcomes.append(outcome)

        def work() -> None:
            outcome.reason = run()

        task = self.scheduler.spawn(process.name, work, process=process)
        self.scheduler.wait(task, None)
        try:
            task.result()
            self._say(process, f"ends: {outcome.reason}")
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - judged at the end
            self._say(process, f"ends: {type(error).__name__}: {error}")
            outcome.error = error
        return outcome

    def _finish(self, number: int) -> list[Outcome]:
        """A plain drain of every shard, one after the other, of everything there is."""
        self.plan.faults.heal()
        outcomes: list[Outcome] = []

        def work() -> None:
            for shard in range(self.plan.shards_at_end):
                owner = Owner(self.plan.shards_at_end, shard)
                name = f"final{number}.{shard}"
                run = RunPlan(name, owner, 0, has_predecessor=False, ends_caught_up=True, incidents={})
                outcomes.append(self._process(run, is_final=True))
                if isinstance(outcomes[-1].error, TopicMismatchError) and self.plan.kind is Kind.RECREATED:
                    self._reset_offsets()
            if self.plan.backfills:
                outcomes.append(self._fill_process(BackfillPlan(f"final{number}.fill", 0, {}), is_final=True))
            if self.plan.replays:
                outcomes.append(self._letters_process(LettersPlan(f"final{number}.letters", 0, {}), is_final=True))
                mode = self.plan.replays.final_mode
                outcomes.append(self._hours_process(HoursPlan(f"final{number}.hours", 0, mode, {}), is_final=True))

        self.scheduler.spawn("final", work)
        self.scheduler.run()
        return outcomes

    def _reset_offsets(self) -> None:
        """What `wiring.drain.reset_offsets` does."""
        network = Network(self.scheduler, Faults())
        log = ModelLog(self.broker, network)
        run = new_run("reset", self.clock, RETRY_SECONDS)
        for shard in range(self.plan.shards_at_end):
            owner = Owner(self.plan.shards_at_end, shard)
            ownership = Ownership(owner, self.store(network, owner), run, zombie_seconds=1e9)
            commits = ownership.take_over(log.partitions())
            partitions = owner.partitions(log.partitions())
            landed = self.warehouse(network, log.topic_id).ledger_ends(partitions).get(log.topic_id, {})
            starts = reset_positions(log.watermarks(partitions), commits, landed, log.topic_id, to_latest=False)
            ownership.commit(closing_commits(starts, log.topic_id))

    def _heal(self) -> None:
        self.scheduler.say("world", "heals")
        self.plan.faults.heal()
        if self.plan.kind is Kind.CHANGING_RULES:
            self._set_rules(frozenset())

    def _set_rules(self, refused: frozenset[int]) -> None:
        self.scheduler.say("clickhouse", f"refuses {sorted(refused)}")
        if self.plan.are_views:
            self.server.failing_in_view = set(refused)
        else:
            self.server.refused = set(refused)

    def _retain(self, partition: int, offset: int) -> None:
        self._note_open_intents()
        self.broker.delete_records(partition, offset)
        self.scheduler.say("broker", f"partition {partition} begins at {self.broker.partitions[partition].low}")

    def _recreate(self) -> None:
        self.scheduler.say("broker", "the topic is deleted and recreated")
        self._note_open_intents()
        self.broker.recreate_topic("topic-2", forgets_offsets=self.plan.forgets_offsets)
        self.produced.append(Produced("topic-2"))

    def _note_open_intents(self) -> None:
        commits = (decode_commit(*found) for found in self.broker.committed.values())
        self.had_open_intent_when_cut |= any(commit.intent is not None for commit in commits)

    def _add_partition(self) -> None:
        partition = len(self.broker.partitions)
        self.scheduler.say("broker", f"partition {partition} is new")
        self.broker.partitions[partition] = Partition()

    def _at(self, seconds: float, name: str, action: Callable[[], None]) -> None:
        self.scheduler.spawn(name, lambda: _guarded(action), after_seconds=seconds)

    def _say(self, process: Process, what: str) -> None:
        self.scheduler.say(process.name, what)


_FOR_EVER = frozenset(DeadReason) - {DeadReason.REFUSED, DeadReason.TIMESTAMP_TOO_OLD}
"""Reasons of letters that are no events by any of a schedule's rules."""


def _guarded(action: Callable[[], None]) -> None:
    with suppress(KilledError):
        action()
